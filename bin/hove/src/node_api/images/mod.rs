//! Images over the API.

mod lines;
mod transfer;

use std::{
    io::{self, Read},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use apiserver::{Failure, Query};
use axum::{
    Json,
    body::Body,
    extract::{Path, State},
};
use futures_util::TryStreamExt;
use http::StatusCode;
use image::{Error, Image, ImageConfig, Mounted, Reference, Source, Store};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_stream::StreamExt;
use tokio_util::io::{StreamReader, SyncIoBridge};

use super::NodeApi;

pub use lines::{ImageLine, LayerStage};
pub use transfer::{Login, export, pull, push};

/// How long the next bytes of an archive may take to come.
const IMPORT_IDLE: Duration = Duration::from_secs(60);

type Result<T> = std::result::Result<T, Failure>;

/// `GET images`.
pub async fn list(State(api): State<NodeApi>) -> Result<Json<Value>> {
    with_store(api, |store| Ok(items(&store.list()))).await
}

/// `POST images:import`, the archive as the body.
pub async fn import(State(api): State<NodeApi>, query: Query, body: Body) -> Result<Json<Value>> {
    let reference = query.get("reference").map(parse_name).transpose()?;
    let pieces = body
        .into_data_stream()
        .map_err(io::Error::other)
        .timeout(IMPORT_IDLE)
        .map(|piece| piece.unwrap_or_else(|_| Err(stalled())));
    let stream = StreamReader::new(pieces);
    let mut stream = SyncIoBridge::new(Box::pin(stream));
    with_store(api, move |store| {
        let result = store.import(Source::Stream(&mut stream), reference.as_ref(), &|_| {});
        // A client that is still sending would not read why its archive was refused.
        drain(&mut stream);
        Ok(items(&result?))
    })
    .await
}

/// A directory of this machine.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FromDirectory {
    directory: PathBuf,
    reference: Option<String>,
    #[serde(default)]
    config: ImageConfig,
}

/// `POST images:importLayout`.
pub async fn import_layout(State(api): State<NodeApi>, Json(from): Json<FromDirectory>) -> Result<Json<Value>> {
    let reference = from.reference.as_deref().map(parse_name).transpose()?;
    with_store(api, move |store| {
        Ok(items(&store.import(
            Source::OciLayout(from.directory),
            reference.as_ref(),
            &|_| {},
        )?))
    })
    .await
}

/// `POST images:importRootfs`.
pub async fn import_rootfs(State(api): State<NodeApi>, Json(from): Json<FromDirectory>) -> Result<Json<Value>> {
    let reference = from
        .reference
        .as_deref()
        .ok_or_else(|| Failure::bad_request("reference is missing"))?;
    let reference = parse_name(reference)?;
    with_store(api, move |store| {
        Ok(items(&[store.import_rootfs(
            &from.directory,
            &reference,
            &from.config,
        )?]))
    })
    .await
}

/// An image, and a name that it gets.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewName {
    image: String,
    reference: String,
}

/// `POST images:tag`.
pub async fn tag(State(api): State<NodeApi>, Json(new): Json<NewName>) -> Result<Json<Value>> {
    let reference = parse_reference(&new.reference)?;
    with_store(api, move |store| Ok(summary(&*store.tag(&new.image, &reference)?))).await
}

/// `POST images:prune`, with `all=true` of named images as well.
pub async fn prune(State(api): State<NodeApi>, query: Query) -> Result<Json<Value>> {
    let named = query.flag("all")?;
    with_store(api, move |store| {
        let (images, collected) = store.prune(named)?;
        let images: Vec<_> = images.iter().map(ToString::to_string).collect();
        Ok(json!({"deleted": images, "bytes": collected.bytes}))
    })
    .await
}

/// An image, and a directory of this machine.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MountAt {
    image: String,
    directory: PathBuf,
}

/// `POST images:mount`.
pub async fn mount(State(api): State<NodeApi>, Json(at): Json<MountAt>) -> Result<Json<Value>> {
    with_store(api, move |store| Ok(mounted(&store.mount(&at.image, &at.directory)?))).await
}

/// A directory where an image is mounted.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MountedAt {
    directory: PathBuf,
}

/// `POST images:unmount`.
pub async fn unmount(State(api): State<NodeApi>, Json(at): Json<MountedAt>) -> Result<Json<Value>> {
    with_store(api, move |store| store.unmount(&at.directory).map(|()| json!({}))).await
}

/// `GET images:mounts`.
pub async fn mounts(State(api): State<NodeApi>) -> Result<Json<Value>> {
    let items: Vec<_> = api.images.mounts().iter().map(mounted).collect();
    Ok(Json(json!({"items": items})))
}

fn mounted(mount: &Mounted) -> Value {
    json!({"image": mount.image.to_string(), "directory": mount.directory})
}

/// `GET images/NAME`.
pub async fn inspect(State(api): State<NodeApi>, Path(name): Path<String>) -> Result<Json<Value>> {
    with_store(api, move |store| store.get(&name).map(|image| whole(&image))).await
}

/// `DELETE images/NAME`.
pub async fn remove(State(api): State<NodeApi>, Path(name): Path<String>, query: Query) -> Result<Json<Value>> {
    let force = query.flag("force")?;
    let (images, named) = (api.images.clone(), name.clone());
    match tokio::task::spawn_blocking(move || images.remove(&named, force)).await {
        Ok(Ok(removed)) => Ok(Json(json!({
            "untagged": removed.untagged,
            "deleted": removed.deleted.map(|id| id.to_string()),
        }))),
        Ok(Err(Error::InUse { users, .. })) => Err(in_use(&api, &name, &users).await),
        Ok(Err(error)) => Err(failure(&error)),
        Err(panicked) => Err(Failure::internal(panicked.to_string())),
    }
}

/// Why an image stays. The store knows ids of containers; whose those are is in their labels.
async fn in_use(api: &NodeApi, image: &str, ids: &[String]) -> Failure {
    let request = cri::v1::ListContainersRequest::default();
    let containers = match api.runtime.list_containers(request).await {
        Ok(response) => response.containers,
        Err(error) => return error.into(),
    };
    let user = |id: &String| {
        if id.starts_with('/') {
            return format!("a mount at {id}");
        }
        let labels = containers
            .iter()
            .find(|container| container.id == *id)
            .map(|container| &container.labels);
        let label = |name: &str| labels.and_then(|labels| labels.get(&format!("io.kubernetes.{name}")));
        match (label("pod.namespace"), label("pod.name"), label("container.name")) {
            (Some(namespace), Some(pod), Some(container)) => format!("container {container} of pod {namespace}/{pod}"),
            _ => format!("container {id}"),
        }
    };
    let users: Vec<_> = ids.iter().map(user).collect();
    Failure::conflict(format!(
        "image {image} is used by {}: it can be removed when that is gone",
        users.join(", ")
    ))
}

/// Why an operation on images failed, for a client.
pub fn failure(error: &Error) -> Failure {
    let message = error.to_string();
    match error {
        Error::NotFound { .. } => Failure::not_found(message),
        Error::Ambiguous { .. } | Error::Reference(_) | Error::Digest(_) => Failure::bad_request(message),
        Error::InUse { .. } | Error::MountPoint { .. } => Failure::conflict(message),
        Error::Malformed { .. } | Error::Mismatch { .. } | Error::Limit { .. } | Error::Entry { .. } => {
            Failure::with_code(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message)
        }
        _ => Failure::internal(message),
    }
}

/// The store's calls block.
async fn with_store(
    api: NodeApi,
    work: impl FnOnce(&Store) -> image::Result<Value> + Send + 'static,
) -> Result<Json<Value>> {
    match tokio::task::spawn_blocking(move || work(&api.images)).await {
        Ok(Ok(value)) => Ok(Json(value)),
        Ok(Err(error)) => Err(failure(&error)),
        Err(panicked) => Err(Failure::internal(panicked.to_string())),
    }
}

fn parse_reference(text: &str) -> Result<Reference> {
    text.parse()
        .map_err(|error: image::reference::Error| Failure::bad_request(error.to_string()))
}

/// A name that is given to what comes.
fn parse_name(text: &str) -> Result<Reference> {
    let name = parse_reference(text)?;
    match name.digest() {
        None => Ok(name),
        Some(_) => Err(Failure::bad_request(format!(
            "{text}: a digest can't be given: it follows from the image's content"
        ))),
    }
}

fn stalled() -> io::Error {
    let message = format!("no byte of it came for {IMPORT_IDLE:?}");
    io::Error::new(io::ErrorKind::TimedOut, message)
}

fn drain(stream: &mut impl Read) {
    // The client is gone: then nobody needs it.
    let _ = io::copy(stream, &mut io::sink());
}

fn items(images: &[Arc<Image>]) -> Value {
    let items: Vec<_> = images.iter().map(|image| summary(image)).collect();
    json!({"apiVersion": "hove.dev/v1", "kind": "ImageList", "items": items})
}

fn summary(image: &Image) -> Value {
    json!({
        "id": image.id.to_string(),
        "tags": image.tags,
        "digests": image.digests,
        "sizeBytes": image.size_bytes,
        "importedAt": image.imported_at,
    })
}

fn whole(image: &Image) -> Value {
    let mut value = summary(image);
    value["apiVersion"] = "hove.dev/v1".into();
    value["kind"] = "Image".into();
    value["config"] = json!(image.config);
    value["layers"] = json!(image.layers);
    value
}
