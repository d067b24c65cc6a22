//! The image service, over the store.
//!
//! One identifier everywhere: an image's id is what PullImage returns and what a container's `image_ref` and `image_id`
//! say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cri::v1::*;
use cri::{Error, Result};
use image::Reference;
use image::registry::Credentials;

use crate::blocking::blocking;
use crate::clock::now_ns;
use crate::node::Node;

pub(super) fn list(node: &Node, filter: Option<ImageFilter>) -> Vec<Image> {
    let hidden = node.registry.images_of_hidden();
    match name(filter.and_then(|f| f.image)) {
        Ok(name) => {
            let found = node.images.get(&name).into_iter();
            found.map(|i| image(node, &i, &hidden)).collect()
        }
        Err(_) => node.images.list().iter().map(|i| image(node, i, &hidden)).collect(),
    }
}

/// An image that is not there is no error; the answer has none.
pub(super) fn status(node: &Node, request: ImageStatusRequest) -> Result<ImageStatusResponse> {
    let name = name(request.image)?;
    match node.images.get(&name) {
        Ok(found) => Ok(ImageStatusResponse {
            info: if request.verbose { info(&found) } else { BTreeMap::new() },
            image: Some(image(node, &found, &node.registry.images_of_hidden())),
        }),
        Err(image::Error::NotFound { .. }) => Ok(ImageStatusResponse::default()),
        Err(e) => Err(crate::Error::from(e).into()),
    }
}

/// From the reference's registry or its mirrors. A name of this machine's own is here or nowhere.
pub(super) async fn pull(node: &Node, request: PullImageRequest) -> Result<PullImageResponse> {
    let name = name(request.image)?;
    let reference: Reference = name
        .parse()
        .map_err(|e: image::reference::Error| Error::invalid(e.to_string()))?;
    let image = if reference.is_local() {
        node.images.get(&name).map_err(crate::Error::from)?
    } else {
        let credentials = request.auth.map(|auth| credentials(auth, &reference)).transpose()?;
        let pulled = node.registries.pull(&reference, credentials.flatten(), |_| {}).await;
        pulled.map_err(crate::Error::from)?
    };
    Ok(PullImageResponse {
        image_ref: image.id.to_string(),
    })
}

/// What the caller gives, if it is for this registry.
fn credentials(auth: AuthConfig, reference: &Reference) -> Result<Option<Credentials>> {
    let server = auth
        .server_address
        .split_once("://")
        .map_or(auth.server_address.as_str(), |(_, rest)| rest);
    let server = match server.split('/').next().unwrap_or_default() {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        other => other,
    };
    if !server.is_empty() && server != reference.registry() {
        return Ok(None);
    }
    Ok(if !auth.username.is_empty() {
        Some(Credentials::Password {
            name: auth.username,
            password: auth.password,
        })
    } else if !auth.identity_token.is_empty() {
        Some(Credentials::IdentityToken(auth.identity_token))
    } else if !auth.registry_token.is_empty() {
        Some(Credentials::RegistryToken(auth.registry_token))
    } else if !auth.auth.is_empty() {
        let read = Credentials::from_auth(reference.registry(), &auth.auth);
        Some(read.map_err(|e| Error::invalid(e.to_string()))?)
    } else {
        None
    })
}

/// The image goes with all of its names. What containers still stand on goes with the last of them.
pub(super) async fn remove(node: &Arc<Node>, request: RemoveImageRequest) -> Result<RemoveImageResponse> {
    let (name, images) = (name(request.image)?, node.images.clone());
    let removed = blocking(move || {
        let id = images.get(&name)?.id.to_string();
        images.remove(&id, true)
    });
    match removed.await {
        Ok(_) | Err(image::Error::NotFound { .. }) => Ok(RemoveImageResponse {}),
        Err(e) => Err(crate::Error::from(e).into()),
    }
}

pub(super) async fn fs_info(node: &Arc<Node>) -> Result<ImageFsInfoResponse> {
    let images = node.images.clone();
    let info = blocking(move || images.fs_info()).await.map_err(crate::Error::from)?;
    let usage = |usage: image::Usage| FilesystemUsage {
        timestamp: now_ns(),
        fs_id: Some(FilesystemIdentifier {
            mountpoint: info.mountpoint.to_string_lossy().into_owned(),
        }),
        used_bytes: Some(UInt64Value { value: usage.bytes }),
        inodes_used: Some(UInt64Value { value: usage.inodes }),
    };
    Ok(ImageFsInfoResponse {
        image_filesystems: vec![usage(info.images)],
        container_filesystems: vec![usage(info.containers)],
    })
}

fn name(spec: Option<ImageSpec>) -> Result<String> {
    let name = spec.map(|s| s.image).unwrap_or_default();
    if name.is_empty() {
        Err(Error::invalid("image.image: the image's name is missing"))
    } else {
        Ok(name)
    }
}

/// Whoever does not see the containers of an image would take it for unused: to a kubelet, it is pinned.
fn image(node: &Node, image: &image::Image, hidden: &BTreeSet<String>) -> Image {
    let id = image.id.to_string();
    let (uid, username) = user(image);
    Image {
        repo_tags: image.tags.clone(),
        repo_digests: image.digests.clone(),
        size: image.size_bytes,
        uid,
        username,
        spec: Some(ImageSpec {
            image: id.clone(),
            ..Default::default()
        }),
        pinned: node.images.is_pinned(image) || hidden.contains(&id),
        id,
    }
}

/// The user of an image's configuration, without the group: a number or a name; root when it says none.
fn user(image: &image::Image) -> (Option<Int64Value>, String) {
    let user = image
        .config
        .config()
        .as_ref()
        .and_then(|c| c.user().clone())
        .unwrap_or_default();
    let user = user.split(':').next().unwrap_or_default();
    match user.parse() {
        Ok(value) => (Some(Int64Value { value }), String::new()),
        Err(_) if user.is_empty() => (Some(Int64Value { value: 0 }), String::new()),
        Err(_) => (None, user.into()),
    }
}

fn info(image: &image::Image) -> BTreeMap<String, String> {
    let info = serde_json::json!({ "importedAt": image.imported_at, "imageSpec": image.config });
    BTreeMap::from([("info".to_owned(), info.to_string())])
}
