//! The way of an image from its servers into the store.

mod signed;

use std::collections::HashMap;
use std::future::pending;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt;
use futures_util::stream::FuturesUnordered;
use oci_spec::image::ImageConfiguration;
use reqwest::StatusCode;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::JoinError;

use super::client::{Server, body, transport};
use super::credentials::{self, Credentials};
use super::error::{Error, Failure, Result};
use super::manifest::{self, DEPTH_MAX, Descriptor, Manifest};
use super::trust::Demand;
use super::{Registries, hosts};
use crate::arrival::{Arrival, Writer};
use crate::digest::Digest;
use crate::import::{diff_ids, platform_mismatch};
use crate::limits;
use crate::model::{Image, Layer};
use crate::progress::{Progress, Stage};
use crate::reference::Reference;
use crate::store::{LayerBytes, Store, reach};

/// How often a server is asked again whose connection breaks without a byte more than before.
const ATTEMPTS: u32 = 4;
/// How long to wait before the second attempt; each further one waits twice as long.
const PAUSE: Duration = Duration::from_millis(200);
/// Parts of a layer that wait to be written: each may be a connection's whole buffer, 400 kB.
const CHUNKS: usize = 1;

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

/// Held by each thread of a pull.
type Alive = mpsc::Sender<()>;

/// `work`, with `alive` held until all that it has is dropped.
fn holding<T>(alive: Alive, work: impl FnOnce() -> T) -> impl FnOnce() -> T {
    move || {
        let result = work();
        drop(alive);
        result
    }
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
    let demand = pull.registries.config.trust.demand(&pull.reference).clone();
    if matches!(demand, Demand::Impossible) {
        return Err(pull.untrusted("images of this name are refused on this node"));
    }
    let resolved = pull.resolve().await?;
    if let Demand::SignatureOf(keys) = demand {
        pull.check_signature(&resolved, &keys).await?;
    }
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
pub async fn servers(
    registries: &Registries,
    reference: &Reference,
    credentials: Option<Credentials>,
) -> Result<Servers> {
    let registry = reference.registry();
    let hosts = hosts::hosts(registry, &registries.config.hosts_dirs)?;
    let mut servers = Vec::new();
    let mut unusable = Vec::new();
    for host in hosts {
        let name = host.name();
        let credentials = match &credentials {
            _ if !host.is_own => docker(registries, &name).await?,
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

    /// For messages.
    fn task(&self) -> String {
        format!("pull {}", self.reference)
    }

    fn malformed(&self, what: impl ToString, rule: impl ToString) -> Error {
        Error::Malformed {
            task: self.task(),
            what: what.to_string(),
            rule: rule.to_string(),
        }
    }

    fn stored<T>(&self, result: crate::error::Result<T>) -> Result<T> {
        result.map_err(|error| Error::Store {
            task: self.task(),
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
                        task: self.task(),
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
        Err(Error::of(&self.task(), failures))
    }

    fn untrusted(&self, reason: &str) -> Error {
        Error::Untrusted {
            task: self.task(),
            reason: reason.to_owned(),
        }
    }

    /// Configuration and layers, then the image. What a broken connection leaves stays for the next attempt; what a full disk
    /// leaves does not.
    async fn bring_in(&self, resolved: Resolved) -> Result<Arc<Image>> {
        let (alive, mut threads) = mpsc::channel(1);
        let result = self.bring_in_leased(resolved, alive).await;
        if let Err(Error::Store { .. }) = &result {
            // A file that is still open takes its space. No thread sends: the last one's end closes the channel.
            let _: Option<()> = threads.recv().await;
            let store = self.store().clone();
            let collected = tokio::task::spawn_blocking(move || store.collect()).await;
            if let Ok(Err(error)) = collected {
                tracing::warn!(%error, "what a failed pull left could not be collected");
            }
        }
        result
    }

    async fn bring_in_leased(&self, resolved: Resolved, alive: Alive) -> Result<Arc<Image>> {
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

        let missing = layers
            .iter()
            .filter(|layer| store.content.size(&layer.digest).is_none());
        let missing = missing.map(|layer| layer.size_bytes).sum();
        let keeper = store.clone();
        self.stored(blocking(move || keeper.make_room(missing)).await)?;

        // Both halves are driven at once: a layer is unpacked while it arrives, the next ones arrive meanwhile.
        let arrivals: Vec<_> = layers.iter().map(|_| Arrival::new()).collect();
        let download = async {
            let mut downloads: FuturesUnordered<_> = layers
                .iter()
                .zip(&arrivals)
                .enumerate()
                .map(|(index, (layer, arrival))| self.layer(layer, (index + 1, layers.len()), arrival.writer(), &alive))
                .collect();
            while downloads.try_next().await?.is_some() {}
            Ok(())
        };
        tokio::try_join!(download, self.unpack(&layers, &arrivals, &alive))?;

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
        let image = self.stored(added.await)?;
        let store = self.store().clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = store.settle() {
                tracing::warn!(%error, "an image that was pulled may not be on the disk yet");
            }
        });
        Ok(image)
    }

    /// Unpacks the layers, from the bottom up, each while it arrives.
    async fn unpack(&self, layers: &[Layer], arrivals: &[Arc<Arrival>], alive: &Alive) -> Result<()> {
        let (store, progress) = (self.store().clone(), self.progress.clone());
        let pairs: HashMap<_, _> = layers.iter().map(|layer| layer.digest).zip(arrivals.to_vec()).collect();
        let layers = layers.to_vec();
        let work = move || {
            let lease = store.lease();
            let open = |layer: &Layer| Ok(LayerBytes::Arriving(pairs[&layer.digest].clone()));
            store.unpack_all(&lease, &layers, open, &|report| {
                // Nobody may listen.
                let _ = progress.send(*report);
            })
        };
        let unpacked = blocking(holding(alive.clone(), work));
        match unpacked.await {
            // The download knows why, and says it.
            Err(_) if arrivals.iter().any(|arrival| arrival.is_given_up()) => pending().await,
            unpacked => self.stored(unpacked),
        }
    }

    /// Downloads a layer, or what is missing of it. `place` is which one it is, of how many.
    async fn layer(&self, layer: &Layer, place: (usize, usize), writer: Writer, alive: &Alive) -> Result<()> {
        let Layer { digest, size_bytes, .. } = *layer;
        // Another image may bring it right now.
        let turn = self.registries.turns.wait(digest).await;
        let progress = self.progress.clone();
        let report = move |done_bytes| {
            let _ = progress.send(Progress {
                stage: Stage::Storing,
                layer: place.0,
                layers: place.1,
                digest,
                done_bytes,
                total_bytes: size_bytes,
            });
        };
        // Its size counts from now on.
        report(0);
        let store = self.store().clone();
        if store.content.size(&digest) == Some(size_bytes) {
            let file = self.stored(store.content.read(&digest))?;
            writer.has(&Arc::new(file), size_bytes);
            writer.verified();
            report(size_bytes);
            return Ok(());
        }
        // Never closed.
        let _slot = self.registries.downloads.acquire().await;
        let (sink, mut chunks) = mpsc::channel::<Bytes>(CHUNKS);
        let (begin, begins) = oneshot::channel();
        let what = format!("layer {digest}");
        let work = move || {
            // However the download ends, nobody else writes there before this thread is done.
            let _turn = turn;
            let mut partial = store.content.resume(&digest, size_bytes)?;
            writer.has(partial.file(), partial.bytes());
            let _ = begin.send(partial.bytes());
            while let Some(chunk) = chunks.blocking_recv() {
                partial.append(&chunk)?;
                reach(sys::failpoint!("image.blob.part"))?;
                writer.has(partial.file(), partial.bytes());
                report(partial.bytes());
            }
            if partial.bytes() == size_bytes {
                store.content.finish(partial, &digest, &what)?;
                reach(sys::failpoint!("image.blob.whole"))?;
                writer.verified();
            }
            Ok(())
        };
        let stored = tokio::task::spawn_blocking(holding(alive.clone(), work));
        let downloaded = match begins.await {
            Ok(begin) => self.download(digest, size_bytes, begin, &sink).await,
            // The thread knows why.
            Err(_) => Ok(()),
        };
        drop(sink);
        let stored = stored.await.unwrap_or_else(|panicked| Err(panic_error(panicked)));
        // A store that refuses ends the download, which then knows nothing.
        self.stored(stored)?;
        downloaded
    }

    /// Sends a blob's bytes to `sink`, from whichever server has them, each taken up where the last one broke off.
    async fn download(&self, digest: Digest, size: u64, mut done: u64, sink: &mpsc::Sender<Bytes>) -> Result<()> {
        let mut failures = self.unusable.clone();
        if done == size {
            return Ok(());
        }
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
        Err(Error::of(&self.task(), failures))
    }

    /// What one connection gives of a blob, from the byte `done` on.
    async fn part(
        &self,
        server: &Server,
        digest: Digest,
        size: u64,
        done: &mut u64,
        sink: &mpsc::Sender<Bytes>,
    ) -> Result<(), Failure> {
        let path = format!("blobs/{digest}");
        let mut response = server.get(self.reference.repository(), &path, "*/*", *done).await?;
        // A server that knows no ranges begins at the beginning.
        let mut known = match response.status() {
            StatusCode::PARTIAL_CONTENT => 0,
            _ => *done,
        };
        loop {
            // First a place for them, then bytes: nothing waits here, where it would only take memory.
            let Ok(place) = sink.reserve().await else {
                // The store refuses; what it says is what counts.
                return Ok(());
            };
            let chunk = response.chunk().await.map_err(|error| match error.is_timeout() {
                true => Failure::Stalled(self.registries.config.stall),
                false => transport(&error),
            })?;
            let Some(mut chunk) = chunk else { break };
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
            place.send(chunk);
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
    done.unwrap_or_else(|panicked| Err(panic_error(panicked)))
}

fn panic_error(panicked: JoinError) -> crate::error::Error {
    crate::error::Error::io("working on", Path::new("the store"))(io::Error::other(panicked))
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
