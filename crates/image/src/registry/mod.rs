//! Images from registries, by the OCI distribution specification.
//!
//! ```text
//!  pull ─► hosts: mirrors and the registry, as hosts.toml says ─► client: requests, challenges, tokens
//!            │                                                       ▲ credentials: the caller's, docker's
//!            ├─ manifest: what a tag means, for this machine ────────┤
//!            └─ layers, side by side ─► content (verified) ─► unpacked in order, each while it arrives
//! ```
//!
//! - [`hosts`]: which servers have a registry's images, in which order, and how they are recognised.
//! - [`client`], [`challenge`], [`credentials`]: one server, and who we are to it.
//! - [`manifest`]: indexes and manifests (pure).
//! - [`trust`], [`signature`], [`bundle`]: whose images may come in (pure).
//! - [`pull`]: the way of an image into the store; [`push`]: the way out.
//!
//! Whoever asks for an image that is being pulled waits for that pull. It ends when nobody waits any more. A connection that
//! breaks is taken up where it broke; a server that sends nothing for [`Config::stall`] is given up; how long the whole takes
//! is nobody's business.

mod bundle;
mod challenge;
mod client;
mod credentials;
mod error;
mod hosts;
mod manifest;
mod pull;
mod push;
mod signature;
mod trust;
mod turns;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use tokio::sync::{Semaphore, broadcast};

pub use credentials::Credentials;
pub use error::{Error, Result};
pub use trust::{Trust, TrustRule, Verdict};

use crate::digest::Digest;
use crate::model::Image;
use crate::progress::Progress;
use crate::reference::Reference;
use crate::store::Store;
use turns::Turns;

/// Reports of progress that a slow listener may be behind; it misses the oldest.
const PROGRESS_BACKLOG: usize = 64;

/// How registries are reached.
#[derive(Debug, Clone)]
pub struct Config {
    /// Directories of `REGISTRY/hosts.toml`; the first that has one for a registry counts.
    pub hosts_dirs: Vec<PathBuf>,
    /// Docker's `config.json`, for callers that bring no credentials.
    pub docker_config: Option<PathBuf>,
    /// Whose images may come in.
    pub trust: Trust,
    /// How long a server may send nothing.
    pub stall: Duration,
    /// Layers that are downloaded at once, over all pulls.
    pub downloads: usize,
}

/// Where docker keeps this process's user's credentials.
fn docker_config() -> Option<PathBuf> {
    let directory = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let docker = directory("DOCKER_CONFIG").or_else(|| directory("HOME").map(|home| home.join(".docker")));
    docker.map(|docker| docker.join("config.json"))
}

/// What docker's configuration of this process's user has for the registry of `reference`.
pub async fn own_credentials(reference: &Reference) -> Result<Option<Credentials>> {
    match docker_config() {
        Some(path) => credentials::from_docker(&path, reference.registry()).await,
        None => Ok(None),
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            hosts_dirs: vec!["/etc/hove/certs.d".into(), "/etc/containerd/certs.d".into()],
            docker_config: docker_config(),
            trust: Trust::default(),
            stall: Duration::from_secs(60),
            downloads: 6,
        }
    }
}

/// The way from registries to a store. Calls need a tokio runtime.
pub struct Registries {
    store: Arc<Store>,
    config: Config,
    downloads: Semaphore,
    turns: Turns,
    running: Mutex<HashMap<Wish, Running>>,
}

/// What is asked for, and by whom: other credentials may see another image.
type Wish = (Reference, Option<Credentials>);
type Outcome = Result<Arc<Image>>;

/// A pull that somebody waits for.
struct Running {
    outcome: WeakShared<BoxFuture<'static, Outcome>>,
    progress: broadcast::Sender<Progress>,
}

impl Registries {
    /// For images that go to `store`.
    pub fn new(store: Arc<Store>, config: Config) -> Arc<Registries> {
        Arc::new(Registries {
            store,
            downloads: Semaphore::new(config.downloads),
            turns: Turns::default(),
            config,
            running: Mutex::default(),
        })
    }

    /// Brings an image into the store, or finds that all of it is there. `progress` hears of each layer that must be
    /// fetched. Dropped, it gives the pull up, unless another caller waits for it too.
    ///
    /// # Errors
    /// What the servers, the way to them, or the store said; see [`Error`].
    pub async fn pull(
        self: &Arc<Self>,
        reference: &Reference,
        credentials: Option<Credentials>,
        mut progress: impl FnMut(&Progress),
    ) -> Outcome {
        let (mut outcome, mut heard) = self.join((reference.clone(), credentials));
        loop {
            tokio::select! {
                biased;
                Ok(report) = heard.recv() => progress(&report),
                outcome = &mut outcome => return outcome,
            }
        }
    }

    /// Sends an image to the registry of `destination`, under that name. What is there is not sent again. `progress` hears of
    /// each layer. Mirrors are not asked.
    ///
    /// # Errors
    /// What the registry, the way to it, or the store said; see [`Error`].
    pub async fn push(
        &self,
        image: &Image,
        destination: &Reference,
        credentials: Option<Credentials>,
        mut progress: impl FnMut(&Progress),
    ) -> Result<Digest> {
        let (sender, mut heard) = broadcast::channel(PROGRESS_BACKLOG);
        let pushed = push::run(self, image, destination, credentials, sender);
        tokio::pin!(pushed);
        loop {
            tokio::select! {
                biased;
                Ok(report) = heard.recv() => progress(&report),
                pushed = &mut pushed => return pushed,
            }
        }
    }

    /// The running pull of `wish`, or a new one.
    fn join(self: &Arc<Self>, wish: Wish) -> (Shared<BoxFuture<'static, Outcome>>, broadcast::Receiver<Progress>) {
        // Nothing in here panics half-way through a change.
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|_, pull| pull.outcome.upgrade().is_some());
        if let Some(pull) = running.get(&wish)
            && let Some(outcome) = pull.outcome.upgrade()
        {
            return (outcome, pull.progress.subscribe());
        }
        let (progress, heard) = broadcast::channel(PROGRESS_BACKLOG);
        let (reference, credentials) = wish.clone();
        let pull = pull::run(self.clone(), reference, credentials, progress.clone());
        let outcome = pull.boxed().shared();
        if let Some(weak) = outcome.downgrade() {
            running.insert(
                wish,
                Running {
                    outcome: weak,
                    progress,
                },
            );
        }
        (outcome, heard)
    }
}
