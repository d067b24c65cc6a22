//! The way of an image from its servers into the store.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt;
use futures_util::stream::FuturesUnordered;
use oci_spec::image::ImageConfiguration;
use reqwest::StatusCode;
use tokio::sync::{broadcast, mpsc};

use super::client::{Server, body, transport};
use super::credentials::{self, Credentials};
use super::error::{Error, Failure, Result};
use super::manifest::{self, DEPTH_MAX, Descriptor, Manifest};
use super::{Registries, hosts};
use crate::digest::Digest;
use crate::import::{diff_ids, platform_mismatch};
use crate::limits;
use crate::model::{Image, Layer};
use crate::progress::{Progress, Stage};
use crate::reference::Reference;
use crate::store::Store;

/// How often a server is asked again whose connection breaks without a byte more than before.
const ATTEMPTS: u32 = 4;
/// How long to wait before the second attempt; each further one waits twice as long.
const PAUSE: Duration = Duration::from_millis(200);
/// Parts of a layer that wait to be written.
const CHUNKS: usize = 16;

/// One pull.
struct Pull {
    registries: Arc<Registries>,
    reference: Reference,
    servers: Vec<Server>,
    /// Servers that can't even be asked.
    unusable: Vec<(String, Failure)>,
    progress: broadcast::Sender<Progress>,
}

/// An image's manifest, as it came.
struct Resolved {
    /// By which the registry knows it: the index's, where there is one.
    digest: Digest,
    bytes: Vec<u8>,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// Pulls `reference`.
pub async fn run(
    registries: Arc<Registries>,
    reference: Reference,
    credentials: Option<Credentials>,
    progress: broadcast::Sender<Progress>,
) -> Result<Arc<Image>> {
    let (servers, unusable) = servers(&registries, &reference, credentials).await?;
    let pull = Pull {
        registries,
        reference,
        servers,
        unusable,
        progress,
    };
    let resolved = pull.resolve().await?;
    pull.bring_in(resolved).await
}

/// Something small that servers are asked for.
struct Question {
    /// Below the repository.
    path: String,
    accept: &'static str,
    /// How large it may be, in bytes.
    limit: u64,
    /// What it must be, where that is known: then any server that has content may answer.
    digest: Option<Digest>,
}

impl Question {
    async fn ask(&self, server: &Server, repository: &str) -> Result<Vec<u8>, Failure> {
        let response = server.get(repository, &self.path, self.accept, 0).await?;
        let bytes = body(response, self.limit).await?;
        match self.digest.is_none_or(|expected| Digest::of(&bytes) == expected) {
            true => Ok(bytes),
            false => Err(Failure::Refused(format!("its {} has another digest", self.path))),
        }
    }
}

type Servers = (Vec<Server>, Vec<(String, Failure)>);

/// Mirrors, then the registry. The caller's credentials are the registry's own: a mirror never sees them.
async fn servers(registries: &Registries, reference: &Reference, credentials: Option<Credentials>) -> Result<Servers> {
    let registry = reference.registry();
    let hosts = hosts::hosts(registry, &registries.config.hosts_dirs)?;
    let own = hosts.last().map(|host| host.base.clone());
    let mut servers = Vec::new();
    let mut unusable = Vec::new();
    for host in hosts {
        let name = host.base.host_str().unwrap_or_default().to_owned();
        let name = host.base.port().map_or(name.clone(), |port| format!("{name}:{port}"));
        let credentials = match &credentials {
            _ if Some(&host.base) != own.as_ref() => docker(registries, &name).await?,
            Some(credentials) => Some(credentials.clone()),
            None => docker(registries, registry).await?,
        };
        match Server::new(host, credentials.map(Arc::new), registries.config.stall) {
            Ok(server) => servers.push(server),
            Err(failure) => unusable.push((name, failure)),
        }
    }
    Ok((servers, unusable))
}

async fn docker(registries: &Registries, server: &str) -> Result<Option<Credentials>> {
    match &registries.config.docker_config {
        Some(path) => credentials::from_docker(path, server).await,
        None => Ok(None),
    }
}

impl Pull {
    fn store(&self) -> &Arc<Store> {
        &self.registries.store
    }

    fn malformed(&self, what: impl ToString, rule: impl ToString) -> Error {
        Error::Malformed {
            reference: self.reference.to_string(),
            what: what.to_string(),
            rule: rule.to_string(),
        }
    }

    fn stored<T>(&self, result: crate::error::Result<T>) -> Result<T> {
        result.map_err(|error| Error::Store {
            reference: self.reference.to_string(),
            message: error.to_string(),
        })
    }

    /// The manifest for this machine.
    async fn resolve(&self) -> Result<Resolved> {
        let asked = match (self.reference.digest(), self.reference.tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.unwrap_or_default().to_owned(),
        };
        let by_tag = self.reference.digest().is_none();
        let mut bytes = self.manifest(&asked, by_tag).await?;
        let digest = Digest::of(&bytes);
        for _ in 0..DEPTH_MAX {
            match manifest::parse(&bytes).map_err(|rule| self.malformed("manifest", rule))? {
                Manifest::Image { config, layers } => {
                    return Ok(Resolved {
                        digest,
                        bytes,
                        config,
                        layers,
                    });
                }
                Manifest::Index(manifests) => {
                    let chosen = manifest::for_this_machine(&manifests).map_err(|offered| Error::Platform {
                        reference: self.reference.to_string(),
                        offered,
                    })?;
                    bytes = self.manifest(&chosen.digest.to_string(), false).await?;
                }
            }
        }
        Err(self.malformed(
            "manifest",
            format!("indexes lie in indexes, more than {DEPTH_MAX} deep"),
        ))
    }

    /// A manifest's bytes, which are what `name` says if that is a digest.
    async fn manifest(&self, name: &str, by_tag: bool) -> Result<Vec<u8>> {
        let question = Question {
            path: format!("manifests/{name}"),
            accept: manifest::TYPES,
            limit: limits::MANIFEST_BYTES,
            digest: if by_tag { None } else { name.parse().ok() },
        };
        self.small(&question).await
    }

    /// A small answer, verified, from the first server that has one. A server whose connection breaks is asked again.
    async fn small(&self, question: &Question) -> Result<Vec<u8>> {
        let mut failures = self.unusable.clone();
        for server in &self.servers {
            if !(if question.digest.is_some() {
                server.pulls()
            } else {
                server.resolves()
            }) {
                continue;
            }
            let mut attempt = 1;
            let failure = loop {
                match question.ask(server, self.reference.repository()).await {
                    Ok(answer) => return Ok(answer),
                    Err(Failure::Unreachable(_)) if attempt < ATTEMPTS => pause(attempt).await,
                    Err(failure) => break failure,
                }
                attempt += 1;
            };
            failures.push((server.name(), failure));
        }
        Err(Error::of(&self.reference, failures))
    }

    /// Configuration and layers, then the image. What a broken connection leaves stays for the next attempt; what a full disk
    /// leaves does not.
    async fn bring_in(&self, resolved: Resolved) -> Result<Arc<Image>> {
        let result = self.bring_in_leased(resolved).await;
        if let Err(Error::Store { .. }) = &result {
            let store = self.store().clone();
            let collected = tokio::task::spawn_blocking(move || store.collect()).await;
            if let Ok(Err(error)) = collected {
                tracing::warn!(%error, "what a failed pull left could not be collected");
            }
        }
        result
    }

    async fn bring_in_leased(&self, resolved: Resolved) -> Result<Arc<Image>> {
        let store = self.store();
        let lease = store.lease();
        let Resolved {
            digest,
            bytes: manifest_bytes,
            config: config_descriptor,
            layers: descriptors,
        } = resolved;
        let question = Question {
            path: format!("blobs/{}", config_descriptor.digest),
            accept: "*/*",
            limit: limits::CONFIG_BYTES,
            digest: Some(config_descriptor.digest),
        };
        let config_bytes = self.small(&question).await?;
        let config: ImageConfiguration =
            serde_json::from_slice(&config_bytes).map_err(|error| self.malformed("configuration", error))?;
        if let Some(rule) = platform_mismatch(&config) {
            return Err(self.malformed("configuration", rule));
        }
        let diff_ids = diff_ids(&config, descriptors.len()).map_err(|rule| self.malformed("configuration", rule))?;
        let layers = layers(&descriptors, &diff_ids);
        let id = config_descriptor.digest;
        let manifest = Digest::of(&manifest_bytes);
        lease.keep(
            layers.iter().map(|layer| layer.digest).chain([id, manifest]),
            layers.iter().map(|l| l.chain_id),
        );

        // Both halves are driven at once: an unpacked layer never waits for a download of a later one, nor holds one up.
        let (arrived, arrivals) = mpsc::channel(layers.len().max(1));
        let download = async {
            let mut downloads: FuturesUnordered<_> = (0..descriptors.len())
                .map(|index| self.layer(&descriptors, index))
                .collect();
            while let Some(index) = downloads.try_next().await? {
                // Its receiver lives as long as this does.
                let _ = arrived.send(index).await;
            }
            drop(arrived);
            Ok(())
        };
        tokio::try_join!(download, self.unpack(&layers, arrivals))?;

        let small = [(id, config_bytes.clone()), (manifest, manifest_bytes.clone())];
        let image = Image {
            id,
            tags: self.reference.tagged().into_iter().collect(),
            digests: vec![self.reference.with_digest(&digest)],
            manifest: Some(manifest),
            size_bytes: layers.iter().map(|layer| layer.size_bytes).sum::<u64>()
                + (config_bytes.len() + manifest_bytes.len()) as u64,
            layers,
            imported_at: jiff::Timestamp::now().to_string(),
            config,
        };
        let store = self.store().clone();
        let added = blocking(move || {
            for (digest, bytes) in &small {
                store
                    .content
                    .put(bytes.as_slice(), Some(digest), "small blob", |_| (), |_| ())?;
            }
            store.add_image(image)
        });
        self.stored(added.await)
    }

    /// Unpacks each layer when it and all below it have arrived.
    async fn unpack(&self, layers: &[Layer], mut arrivals: mpsc::Receiver<usize>) -> Result<()> {
        let mut arrived = vec![false; layers.len()];
        let mut unpacked = 0;
        while let Some(index) = arrivals.recv().await {
            arrived[index] = true;
            let ready = arrived.iter().take_while(|arrived| **arrived).count();
            if ready == unpacked {
                continue;
            }
            unpacked = ready;
            let (store, layers, progress) = (self.store().clone(), layers[..ready].to_vec(), self.progress.clone());
            let total = arrived.len();
            let done = blocking(move || {
                let lease = store.lease();
                store.unpack_all(&lease, &layers, &|report| {
                    // Nobody may listen.
                    let _ = progress.send(Progress {
                        layers: total,
                        ..*report
                    });
                })
            });
            self.stored(done.await)?;
        }
        Ok(())
    }

    /// Downloads a layer unless it is there; answers `index`.
    async fn layer(&self, descriptors: &[Descriptor], index: usize) -> Result<usize> {
        let Descriptor { digest, size, .. } = descriptors[index];
        if self.store().content.size(&digest) == Some(size) {
            return Ok(index);
        }
        // Never closed.
        let _slot = self.registries.downloads.acquire().await;
        let (sender, receiver) = mpsc::channel(CHUNKS);
        let (store, progress, count) = (self.store().clone(), self.progress.clone(), descriptors.len());
        let what = format!("layer {digest}");
        let put = tokio::task::spawn_blocking(move || {
            let report = |done_bytes| {
                let _ = progress.send(Progress {
                    stage: Stage::Storing,
                    layer: index + 1,
                    layers: count,
                    digest,
                    done_bytes,
                    total_bytes: size,
                });
            };
            let reader = Chunks {
                receiver,
                rest: Bytes::new(),
            };
            store.content.put(reader, Some(&digest), &what, |_| (), report)
        });
        let downloaded = self.download(digest, size, &sender).await;
        if let Err(error) = &downloaded {
            let _ = sender.send(Err(io::Error::other(error.to_string()))).await;
        }
        drop(sender);
        let put = put.await.map_err(io::Error::other);
        downloaded?;
        let put = put.map_err(|error| Error::Store {
            reference: self.reference.to_string(),
            message: error.to_string(),
        })?;
        self.stored(put)?;
        Ok(index)
    }

    /// Sends a blob's bytes to `sink`, from whichever server has them, each taken up where the last one broke off.
    async fn download(&self, digest: Digest, size: u64, sink: &mpsc::Sender<io::Result<Bytes>>) -> Result<()> {
        let mut failures = self.unusable.clone();
        let mut done = 0;
        for server in self.servers.iter().filter(|server| server.pulls()) {
            let mut attempt = 1;
            let failure = loop {
                let before = done;
                match self.part(server, digest, size, &mut done, sink).await {
                    Ok(()) => return Ok(()),
                    Err(Failure::Unreachable(_)) if done > before => attempt = 1,
                    Err(Failure::Unreachable(_)) if attempt < ATTEMPTS => attempt += 1,
                    Err(failure) => break failure,
                }
                tracing::debug!(%digest, done, size, server = server.name(), "a download broke off and is taken up again");
                pause(attempt).await;
            };
            failures.push((server.name(), failure));
        }
        Err(Error::of(&self.reference, failures))
    }

    /// What one connection gives of a blob, from the byte `done` on.
    async fn part(
        &self,
        server: &Server,
        digest: Digest,
        size: u64,
        done: &mut u64,
        sink: &mpsc::Sender<io::Result<Bytes>>,
    ) -> Result<(), Failure> {
        let path = format!("blobs/{digest}");
        let mut response = server.get(self.reference.repository(), &path, "*/*", *done).await?;
        // A server that knows no ranges begins at the beginning.
        let mut known = match response.status() {
            StatusCode::PARTIAL_CONTENT => 0,
            _ => *done,
        };
        while let Some(mut chunk) = response.chunk().await.map_err(|error| match error.is_timeout() {
            true => Failure::Stalled(self.registries.config.stall),
            false => transport(&error),
        })? {
            let skipped = known.min(chunk.len() as u64);
            known -= skipped;
            let chunk = chunk.split_off(usize::try_from(skipped).unwrap_or_default());
            if chunk.is_empty() {
                continue;
            }
            *done += chunk.len() as u64;
            if *done > size {
                return Err(Failure::Refused(format!(
                    "sends more than the {size} bytes of layer {digest}"
                )));
            }
            if sink.send(Ok(chunk)).await.is_err() {
                // The store refuses; what it says is what counts.
                return Ok(());
            }
        }
        match *done == size {
            true => Ok(()),
            false => Err(Failure::Unreachable(format!(
                "the connection ended after {done} of {size} bytes"
            ))),
        }
    }
}

async fn pause(attempt: u32) {
    tokio::time::sleep(PAUSE * 2_u32.pow(attempt - 1)).await;
}

/// The store's work blocks.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> crate::error::Result<T> + Send + 'static,
) -> crate::error::Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panicked| {
        Err(crate::error::Error::io("working on", Path::new("the store"))(
            io::Error::other(panicked),
        ))
    })
}

fn layers(descriptors: &[Descriptor], diff_ids: &[Digest]) -> Vec<Layer> {
    let mut chain: Option<Digest> = None;
    let stacked = descriptors.iter().zip(diff_ids).map(|(descriptor, diff_id)| {
        let chain_id = Digest::chain(chain.as_ref(), diff_id);
        chain = Some(chain_id);
        Layer {
            digest: descriptor.digest,
            size_bytes: descriptor.size,
            media_type: descriptor.media_type.clone(),
            diff_id: *diff_id,
            chain_id,
        }
    });
    stacked.collect()
}

/// What a download sends, read by the thread that stores it.
struct Chunks {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    rest: Bytes,
}

impl io::Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.receiver.blocking_recv() {
                Some(chunk) => self.rest = chunk?,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.rest.len());
        buffer[..count].copy_from_slice(&self.rest.split_to(count));
        Ok(count)
    }
}
