//! A node: the only place that composes one.
//!
//! ```text
//!  lock STATE/lock ─► images, network ─► runtime (recovery) ─► streaming server ─► CRI on STATE/hove.sock
//!    ─► sync (a first look) ─► API on STATE/api.sock
//! ```
//!
//! Each arrow is a line of [`run`]. What a node leaves when it stops is what its pods need; when it stops because it is
//! idle, nothing.

mod idle;
mod notices;
mod pod_cgroups;

use std::{
    fs::Permissions,
    net::Ipv4Addr,
    os::{fd::OwnedFd, unix::fs::PermissionsExt},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use rustix::fs::FlockOperation;
use tokio::{
    net::UnixListener,
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use self::idle::Connections;
use crate::{
    client::Client,
    config::Settings,
    node_api::{self, Leases, NodeApi, RETURN_TIMEOUT},
    reach,
};

/// How long the former node of a state directory may take to end.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a new node waits for the first look at the pods that are there.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long open requests may take when the node stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Runs a node until a signal comes, or, with `until_idle`, until nothing is left to do. Calls `ready` when it serves.
/// Returns the lock of the state directory, to be kept until nothing of the node is left in this process.
pub async fn run(settings: Settings, until_idle: bool, ready: impl FnOnce() -> Result<()>) -> Result<OwnedFd> {
    if !rustix::process::geteuid().is_root() {
        bail!("a node needs root: run `hove daemon` as root");
    }
    let mut signals = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    reach::create_state_directory(&settings.state)?;
    let lock = own_state(&settings, until_idle).await?;
    let (node, engine) = match Node::compose(&settings).await {
        Ok(composed) => composed,
        Err(error) => {
            // What another one's --root is used with by mistake is left as it was found.
            remove_lock(&settings.state);
            return Err(error);
        }
    };
    let stop = CancellationToken::new();
    // Nobody's kubelet works with a runtime that ends when it has nothing to do.
    let cri = match until_idle {
        true => None,
        false => Some(node.serve_cri(&settings, stop.clone())?),
    };
    let retirement = until_idle.then(CancellationToken::new);
    let leases = Leases::new(node.objects.clone(), stop.clone());
    leases.end_those_of_other_boots()?;
    let settled = engine.settled();
    let mut engine = tokio::spawn(engine.run(stop.clone()));
    // Nobody can ask before the pods that are there have been looked at.
    if timeout(SETTLE_TIMEOUT, settled).await.is_err() {
        tracing::warn!("not all pods were looked at within {SETTLE_TIMEOUT:?}: what is shown of them may be old");
    }

    let connections = Connections::new();
    let listener = connections.listen(bind(&settings.api_socket())?);
    leases.await_clients(RETURN_TIMEOUT)?;
    let server = tokio::spawn(streaming::serve::serve(
        listener,
        node.router(&settings, leases, retirement.clone()),
        stop.clone(),
    ));
    tracing::info!(state = %settings.state.display(), root = %settings.root.display(), "the node is ready");
    ready()?;

    let idle = async {
        match until_idle {
            true => idle::until_idle(&connections, &node.objects, || node.is_needed()).await,
            false => std::future::pending().await,
        }
    };
    let retired = async {
        match &retirement {
            Some(retirement) => retirement.cancelled().await,
            None => std::future::pending().await,
        }
    };
    let is_idle = tokio::select! {
        idle = idle => { idle?; true }
        () = retired => { tracing::info!("a daemon takes over"); false }
        _ = signals.0.recv() => false,
        _ = signals.1.recv() => false,
        ended = &mut engine => bail!("the engine ended: {}", match ended {
            Ok(Ok(())) => "nobody told it to".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(panicked) => panicked.to_string(),
        }),
    };
    // First the name, so that nobody connects who would not be served.
    let _ = std::fs::remove_file(settings.api_socket());
    // A killed daemon may have left this one, to a node that does not serve there.
    let _ = std::fs::remove_file(settings.cri_socket());
    stop.cancel();
    // Followed logs and watches have no end of their own.
    let _ = timeout(DRAIN_TIMEOUT, server).await;
    let _ = timeout(DRAIN_TIMEOUT, engine).await;
    if let Some(cri) = cri {
        let _ = timeout(DRAIN_TIMEOUT, cri).await;
    }
    if let Err(error) = node.objects.flush() {
        tracing::warn!(%error, "what happened last is not on the disk");
    }
    if let Err(error) = node.images.unmount_all() {
        tracing::warn!(%error, "a mounted image is left");
    }
    if is_idle {
        tracing::info!("nothing is left to do");
        node.leave_nothing(&settings).await;
    }
    if is_idle {
        remove_state(&settings.state);
    }
    Ok(lock)
}

/// The parts that requests and the end of the node need.
struct Node {
    objects: Arc<objects::Store>,
    images: Arc<image::Store>,
    network: Arc<network::Network>,
    runtime: Arc<runtime::Runtime>,
    /// Who runs the node's own pods: that runtime, or another one behind its socket.
    pods: Cri,
}

/// Both of the CRI's services.
#[derive(Clone)]
struct Cri {
    runtime: Arc<dyn cri::RuntimeService>,
    images: Arc<dyn cri::ImageService>,
}

impl Cri {
    fn of<T: cri::RuntimeService + cri::ImageService + 'static>(one: Arc<T>) -> Cri {
        Cri {
            runtime: one.clone(),
            images: one,
        }
    }
}

impl Node {
    /// From the bottom up; what was running before is found again here.
    async fn compose(settings: &Settings) -> Result<(Node, sync::Engine)> {
        check_shim(&settings.shim)?;
        // What containers write, and what they are told, is root's alone.
        let pods = settings.root.join("pods");
        std::fs::create_dir_all(&pods)
            .and_then(|()| std::fs::set_permissions(&pods, Permissions::from_mode(0o700)))
            .with_context(|| pods.display().to_string())?;
        let images = image::Store::with_limits(
            &settings.root,
            image::limits::Limits {
                store_bytes: settings.images.quota_bytes,
                keep_free_bytes: settings.images.keep_free_bytes,
                ..Default::default()
            },
        )?;
        let pinned: Vec<_> = settings
            .images
            .pinned
            .iter()
            .chain(&settings.sandbox_image)
            .cloned()
            .collect();
        images.pin(&pinned);
        let images = Arc::new(images);
        if let Err(error) = images.unmount_all() {
            tracing::warn!(%error, "an image that a killed node mounted is left");
        }
        let network = Arc::new(network::Network::open(network::Config {
            bridge: settings.bridge.clone(),
            subnet: settings.subnet.parse()?,
            ..network::Config::below(&settings.state)
        })?);
        let objects = Arc::new(objects::Store::open(&settings.root.join("objects.redb"))?);
        let mut config = runtime::Config {
            cgroup_parent: settings.cgroup_parent.clone(),
            handlers: settings.handlers.clone(),
            default_handler: settings.default_handler.clone(),
            sandbox_image: settings.sandbox_image.clone(),
            ..runtime::Config::below(&settings.state, &settings.shim)
        };
        if let Some(hosts_dirs) = &settings.hosts_dirs {
            config.registries.hosts_dirs.clone_from(hosts_dirs);
        }
        let trust = image::registry::Trust::read(&settings.images.trust);
        config.registries.trust =
            trust.map_err(|error| anyhow::anyhow!("[[images.trust]] in the configuration: {error}"))?;
        let runtime = runtime::Runtime::open(config, images.clone(), network.clone()).await?;
        let recorder = objects::Recorder::new(objects.clone(), env!("CARGO_PKG_NAME"))?;
        tokio::spawn(notices::record(runtime.notices(), recorder));
        let loopback = (Ipv4Addr::LOCALHOST, 0).into();
        let streaming = streaming::Server::bind(loopback, runtime.clone())
            .await
            .context("the streaming server")?;
        runtime.set_streaming_urls(Arc::new(streaming));
        let pods = match &settings.runtime_endpoint {
            None => Cri::of(runtime.clone()),
            Some(endpoint) => {
                let parent = settings.cgroup_parent.clone();
                let client = cri_grpc::Client::connect(endpoint).await?;
                tokio::spawn(pod_cgroups::remove_with_their_pods(objects.clone(), parent));
                Cri::of(Arc::new(client))
            }
        };
        let engine = sync::Engine::new(
            sync::Config {
                log_root: settings.log_dir.clone(),
                cgroup_parent: settings.cgroup_parent.clone(),
                node_name: node_name(),
                ..sync::Config::new(&settings.root)
            },
            pods.runtime.clone(),
            pods.images.clone(),
            objects.clone(),
            volume::Volumes::new(&settings.root),
        )?;
        Ok((
            Node {
                objects,
                images,
                network,
                runtime,
                pods,
            },
            engine,
        ))
    }

    /// Whether something is here that no pod of the node's own explains.
    fn is_needed(&self) -> bool {
        !self.images.mounts().is_empty() || self.runtime.has_sandboxes()
    }

    /// kubelet, crictl and critest come in here.
    fn serve_cri(&self, settings: &Settings, stop: CancellationToken) -> Result<JoinHandle<()>> {
        let runtime = match settings.cri_shows_local {
            true => self.runtime.clone(),
            false => self.runtime.for_guests(),
        };
        let services = cri_grpc::Services {
            runtime: runtime.clone(),
            images: runtime,
        };
        let serving = cri_grpc::serve(bind(&settings.cri_socket())?, services, stop.cancelled_owned());
        Ok(tokio::spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, "the CRI is not served any more");
            }
        }))
    }

    fn router(&self, settings: &Settings, leases: Leases, retirement: Option<CancellationToken>) -> axum::Router {
        let kubernetes = apiserver::router(apiserver::Api {
            objects: self.objects.clone(),
            runtime: self.pods.runtime.clone(),
            log_root: settings.log_dir.clone(),
            groups: vec![node_api::GROUP],
        });
        let own = node_api::router(NodeApi {
            objects: self.objects.clone(),
            images: self.images.clone(),
            registries: self.runtime.registries(),
            leases,
            retirement,
            network: self.network.clone(),
            pulls: self.pods.images.clone(),
            runtime: self.pods.runtime.clone(),
        });
        apiserver::with_status_refusals(kubernetes.merge(own))
    }

    /// What no pod needs any more goes from the machine: bridge, nf_tables table, cgroups.
    async fn leave_nothing(&self, settings: &Settings) {
        let network = self.network.clone();
        let parent = settings.cgroup_parent.clone();
        let removed = tokio::task::spawn_blocking(move || {
            if let Err(error) = network.close_if_unused() {
                tracing::warn!(%error, "the bridge or its rules are left");
            }
            let hierarchies = cgroup::Hierarchies::detect()?;
            for path in [format!("{parent}/shims"), parent] {
                cgroup::remove::remove_if_empty(&hierarchies, &path)?;
            }
            Ok::<_, cgroup::Error>(())
        });
        if let Ok(Err(error)) = removed.await {
            tracing::warn!(%error, "cgroups are left");
        }
    }
}

/// One node per state directory. A former one that ends right now is waited for; one that serves is not, unless a command has started
/// it and this one comes to stay: a command that found a daemon dead must not keep the next one out.
async fn own_state(settings: &Settings, until_idle: bool) -> Result<OwnedFd> {
    let path = settings.state.join("lock");
    if let Some(lock) = reach::try_lock(&path)? {
        return Ok(lock);
    }
    let taken = || {
        let state = settings.state.display();
        anyhow!("another node owns {state}: stop it, or choose another --state and --root")
    };
    // An ending node takes its name away first. That somebody holds a dead one's lock and socket is no sign of life: a
    // supervisor that was just being started does, until it is its own program.
    let former = Client::new(settings.api_socket());
    if reach::answers(&former).await? && (until_idle || !reach::retire(&former).await?) {
        return Err(taken());
    }
    tracing::info!(
        "another node has {}: it may take {LOCK_TIMEOUT:?} to end",
        path.display()
    );
    tokio::select! {
        lock = reach::lock(&path, FlockOperation::LockExclusive) => lock,
        () = tokio::time::sleep(LOCK_TIMEOUT) => Err(taken()),
        // It did not end, it began.
        began = reach::begins(&former), if until_idle => began.and(Err(taken())),
    }
}

/// The socket for root alone.
fn bind(path: &Path) -> Result<UnixListener> {
    let named = || path.display().to_string();
    // Whoever left it is dead: the lock is ours.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).with_context(named),
        _ => {}
    }
    // Nobody can connect before the mode is set: the listener exists from here on, and its directory may be open to all.
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(path);
    rustix::process::umask(before);
    let listener = listener.with_context(named)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).with_context(named)?;
    Ok(listener)
}

/// Removes what an idle node leaves of its state directory. The lock goes last; a command that waits for it makes a new one.
fn remove_state(state: &Path) {
    for directory in ["sandboxes", "netns", "userns"] {
        let _ = std::fs::remove_dir(state.join(directory));
    }
    let _ = std::fs::remove_dir_all(state.join("network"));
    let _ = std::fs::remove_file(state.join("node.log"));
    let starting = reach::try_lock(&state.join("start.lock"));
    if let Ok(Some(_starting)) = &starting {
        let _ = std::fs::remove_file(state.join("start.lock"));
    }
    remove_lock(state);
}

/// And the directory, if nothing else is in it.
fn remove_lock(state: &Path) {
    let _ = std::fs::remove_file(state.join("lock"));
    let _ = std::fs::remove_dir(state);
}

/// Without its supervisor no pod can start: said now, not pod by pod.
fn check_shim(path: &Path) -> Result<()> {
    rustix::fs::access(path, rustix::fs::Access::EXEC_OK).with_context(|| {
        format!(
            "the pods' supervisor {}: build it (cargo build), or name it by --shim",
            path.display()
        )
    })
}

/// The host's name, as kubelet names its node.
fn node_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().to_lowercase()
}
