//! The way of an image from the store to its registry.

use std::io;

use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Body, Method, Response, StatusCode, Url};
use tokio::sync::broadcast;
use tokio_util::io::ReaderStream;

use super::Registries;
use super::client::{Request, Server};
use super::credentials::Credentials;
use super::error::{Error, Failure, Result};
use super::pull::servers;
use crate::digest::Digest;
use crate::model::Image;
use crate::progress::{Progress, Stage};
use crate::reference::Reference;

/// Blobs that are sent at once.
const UPLOADS: usize = 4;
/// What is read of a blob at once, in bytes.
const CHUNK: usize = 256 << 10;

/// One push.
struct Push<'a> {
    registries: &'a Registries,
    destination: &'a Reference,
    server: Server,
    /// Repositories of the same registry that have the image's blobs.
    origins: Vec<String>,
    progress: broadcast::Sender<Progress>,
}

/// A blob to send, and which layer it is, of how many; none for a configuration.
#[derive(Clone, Copy)]
struct Blob {
    digest: Digest,
    size: u64,
    place: Option<(usize, usize)>,
}

/// Pushes `image` as `destination`; answers its manifest's digest.
pub async fn run(
    registries: &Registries,
    image: &Image,
    destination: &Reference,
    credentials: Option<Credentials>,
    progress: broadcast::Sender<Progress>,
) -> Result<Digest> {
    let task = format!("push {destination}");
    let stored = |error: crate::error::Error| Error::Store {
        task: task.clone(),
        message: error.to_string(),
    };
    let store = &registries.store;
    let lease = store.lease();
    lease.keep(
        image
            .layers
            .iter()
            .map(|layer| layer.digest)
            .chain([image.id])
            .chain(image.manifest),
        [],
    );
    let (manifest, media_type) = store.manifest(image).map_err(stored)?;

    let (mut servers, unusable) = servers(registries, destination, credentials).await?;
    // The registry itself comes last, after its mirrors.
    let server = match servers.pop() {
        Some(server) if unusable.is_empty() || server.is_own() => server,
        _ => return Err(Error::of(&task, unusable)),
    };
    let push = Push {
        origins: origins(image, destination),
        registries,
        destination,
        server,
        progress,
    };
    let config = store.content.size(&image.id).unwrap_or_default();
    let count = image.layers.len();
    let layers = image.layers.iter().enumerate().map(|(index, layer)| Blob {
        digest: layer.digest,
        size: layer.size_bytes,
        place: Some((index + 1, count)),
    });
    let config = Blob {
        digest: image.id,
        size: config,
        place: None,
    };
    let blobs: Vec<_> = layers.chain([config]).collect();
    let failed = |failure| Error::of(&task, vec![(push.server.name(), failure)]);
    stream::iter(blobs)
        .map(|blob| push.blob(blob))
        .buffer_unordered(UPLOADS)
        .try_collect::<()>()
        .await
        .map_err(failed)?;
    push.manifest(manifest, &media_type).await.map_err(failed)
}

/// Where else in the registry of `destination` the image is, by its names.
fn origins(image: &Image, destination: &Reference) -> Vec<String> {
    let names = image.digests.iter().filter_map(|name| name.parse::<Reference>().ok());
    let others = names.filter(|name| name.registry() == destination.registry());
    let mut origins: Vec<_> = others.map(|name| name.repository().to_owned()).collect();
    origins.retain(|origin| origin != destination.repository());
    origins.dedup();
    origins
}

impl Push<'_> {
    fn repository(&self) -> &str {
        self.destination.repository()
    }

    /// Sends a blob unless it is there.
    async fn blob(&self, blob: Blob) -> Result<(), Failure> {
        self.report(blob, Stage::Sending, 0);
        if !self.has(blob).await?
            && let Some(upload) = self.begin(blob).await?
        {
            self.send(blob, upload).await?;
        }
        self.report(blob, Stage::Ready, blob.size);
        Ok(())
    }

    fn report(&self, blob: Blob, stage: Stage, done_bytes: u64) {
        let Some((layer, layers)) = blob.place else { return };
        // Nobody may listen.
        let _ = self.progress.send(Progress {
            stage,
            layer,
            layers,
            digest: blob.digest,
            done_bytes,
            total_bytes: blob.size,
        });
    }

    async fn has(&self, blob: Blob) -> Result<bool, Failure> {
        let url = self.server.url(self.repository(), &format!("blobs/{}", blob.digest));
        let request = Request::new(Method::HEAD, url, HeaderMap::new());
        let response = self.server.send(self.repository(), request).await?;
        match response.status() {
            StatusCode::NOT_FOUND => Ok(false),
            // Where it is kept is none of our business.
            status if status.is_success() || status.is_redirection() => Ok(true),
            _ => self.server.answered(response).await.map(|_| false),
        }
    }

    /// A request that succeeds.
    async fn answered(&self, request: Request) -> Result<Response, Failure> {
        let response = self.server.send(self.repository(), request).await?;
        self.server.answered(response).await
    }

    /// Asks where a blob may be sent to; nothing when the registry has it in another repository.
    async fn begin(&self, blob: Blob) -> Result<Option<Url>, Failure> {
        let mut url = self.server.url(self.repository(), "blobs/uploads/");
        if let Some(origin) = self.origins.first() {
            let mut query = url.query_pairs_mut();
            query
                .append_pair("mount", &blob.digest.to_string())
                .append_pair("from", origin);
        }
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        let request = Request::new(Method::POST, url.clone(), headers);
        let response = self.answered(request).await?;
        if response.status() == StatusCode::CREATED {
            return Ok(None);
        }
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let location = location.and_then(|location| url.join(location).ok());
        let mut upload = location.ok_or_else(|| Failure::Refused("does not say where a blob goes to".to_owned()))?;
        upload.query_pairs_mut().append_pair("digest", &blob.digest.to_string());
        Ok(Some(upload))
    }

    async fn send(&self, blob: Blob, upload: Url) -> Result<(), Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_LENGTH, HeaderValue::from(blob.size));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        let (store, progress) = (self.registries.store.clone(), self.progress.clone());
        let request = Request::new(Method::PUT, upload, headers).with_body(move || {
            let file = store.content.read(&blob.digest).map_err(io::Error::other)?;
            let chunks = ReaderStream::with_capacity(tokio::fs::File::from_std(file), CHUNK);
            let progress = progress.clone();
            let mut sent = 0;
            Ok(Body::wrap_stream(chunks.inspect_ok(move |chunk| {
                sent += chunk.len() as u64;
                if let Some((layer, layers)) = blob.place {
                    let _ = progress.send(Progress {
                        stage: Stage::Sending,
                        layer,
                        layers,
                        digest: blob.digest,
                        done_bytes: sent,
                        total_bytes: blob.size,
                    });
                }
            })))
        });
        self.answered(request).await?;
        Ok(())
    }

    async fn manifest(&self, manifest: Vec<u8>, media_type: &str) -> Result<Digest, Failure> {
        let digest = Digest::of(&manifest);
        let name = match (self.destination.digest(), self.destination.tag()) {
            (Some(asked), _) if *asked != digest => {
                return Err(Failure::Refused(format!(
                    "the image's manifest here is {digest}: a name with another digest can't be its own"
                )));
            }
            (Some(asked), None) => asked.to_string(),
            (_, tag) => tag.unwrap_or_default().to_owned(),
        };
        let url = self.server.url(self.repository(), &format!("manifests/{name}"));
        let mut headers = HeaderMap::new();
        let media_type = HeaderValue::from_str(media_type);
        headers.insert(
            CONTENT_TYPE,
            media_type.map_err(|_| Failure::Refused("the manifest's media type is none".to_owned()))?,
        );
        let manifest = bytes::Bytes::from(manifest);
        let request = Request::new(Method::PUT, url, headers).with_body(move || Ok(manifest.clone().into()));
        self.answered(request).await?;
        Ok(digest)
    }
}
