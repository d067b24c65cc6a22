//! The engine: one worker per pod, and who is told what. Routes only; it does nothing to a pod itself.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use cri::{ImageService, RuntimeService, v1};
use futures_util::{StreamExt as _, stream::BoxStream};
use objects::{Kind, Object, Recorder, Scope, Store, Watch, WatchEvent};
use tokio::{
    sync::{Notify, watch},
    task::{Id, JoinSet},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use volume::Volumes;

use crate::{
    config::Node,
    labels,
    users::Choices,
    worker::{Desired, PodId, Worker},
};

/// What the node's operator decides.
#[derive(Debug, Clone)]
pub struct Config {
    /// What lasts: `/var/lib/hove`. Pods' files are below `pods`.
    pub root: PathBuf,
    /// Where pods' logs are: `/var/log/pods`.
    pub log_root: PathBuf,
    /// Below which cgroup each pod gets one of its own: `/hove`.
    pub cgroup_parent: String,
    /// The node's name.
    pub node_name: String,
    /// The node's addresses, the main one first.
    pub node_ips: Vec<String>,
    /// The resolv.conf that pods get.
    pub resolv_conf: PathBuf,
    /// How often all containers are listed while the runtime's events come in, in case one was lost.
    pub relist: Duration,
    /// How often without events.
    pub relist_without_events: Duration,
}

impl Config {
    /// The defaults, for a node whose root directory is `root`.
    pub fn new(root: impl Into<PathBuf>) -> Config {
        Config {
            root: root.into(),
            log_root: "/var/log/pods".into(),
            cgroup_parent: "/hove".into(),
            node_name: "localhost".into(),
            node_ips: Vec::new(),
            resolv_conf: "/etc/resolv.conf".into(),
            relist: Duration::from_secs(60),
            relist_without_events: Duration::from_secs(1),
        }
    }
}

/// How long the workers may take to end the step that they are at.
const END_LIMIT: Duration = Duration::from_secs(10);

/// The engine can't work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed.
    #[error("the engine can't read the node's objects: {0}")]
    Objects(#[from] objects::Error),
}

/// What all workers use.
pub(crate) struct Shared {
    pub runtime: Arc<dyn RuntimeService>,
    pub images: Arc<dyn ImageService>,
    pub store: Arc<Store>,
    pub recorder: Recorder,
    pub volumes: Volumes,
    pub users: Choices,
    pub node: Node,
}

/// Makes the pods in the store run on a CRI runtime.
pub struct Engine {
    shared: Arc<Shared>,
    relist: Duration,
    relist_without_events: Duration,
    settled: CancellationToken,
}

/// A worker, from the outside.
struct Handle {
    mailbox: watch::Sender<Desired>,
    poke: Arc<Notify>,
    /// Cancelled once it has looked at its pod.
    looked: CancellationToken,
    task: Id,
}

impl Engine {
    /// Reads what it needs to know of the machine. Touches no pod before [`Engine::run`].
    pub fn new(
        config: Config,
        runtime: Arc<dyn RuntimeService>,
        images: Arc<dyn ImageService>,
        store: Arc<Store>,
        volumes: Volumes,
    ) -> Result<Engine, Error> {
        // What can't be read is empty: a pod without name servers is better than none.
        let read = |path: &std::path::Path| std::fs::read_to_string(path).unwrap_or_default();
        let node = Node {
            name: config.node_name,
            ips: config.node_ips,
            memory_bytes: memory_bytes(&read("/proc/meminfo".as_ref())),
            cgroup_v2: std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists(),
            resolv_conf: read(&config.resolv_conf),
            hosts: read("/etc/hosts".as_ref()),
            cgroup_parent: config.cgroup_parent,
            log_root: config.log_root,
            pods_root: config.root.join("pods"),
        };
        let recorder = Recorder::new(Arc::clone(&store), "hove")?;
        let shared = Arc::new(Shared {
            runtime,
            images,
            store,
            recorder,
            volumes,
            users: Choices::default(),
            node,
        });
        Ok(Engine {
            shared,
            relist: config.relist,
            relist_without_events: config.relist_without_events,
            settled: CancellationToken::new(),
        })
    }

    /// Completes when every pod that [`Engine::run`] found has been looked at: from then on the statuses in the store are no older than
    /// the engine. Before, they may be what a former engine wrote long ago.
    pub fn settled(&self) -> WaitForCancellationFutureOwned {
        self.settled.clone().cancelled_owned()
    }

    /// Works until `shutdown`. Pods outlive it: whoever runs next finds them again.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let mut watch = self.shared.store.watch(Scope::all(Kind::Pod), None)?;
        let mut dispatch = Dispatch {
            shared: Arc::clone(&self.shared),
            shutdown: shutdown.child_token(),
            workers: HashMap::new(),
            tasks: JoinSet::new(),
            seen: HashMap::new(),
        };
        dispatch.reconcile_objects()?;
        tokio::spawn(all_looked(&dispatch, self.settled.clone()));
        self.shared.remove_leftovers(&dispatch).await;
        let mut events = None;
        loop {
            // The stream first, then the list: what happens in between is in the stream.
            if events.is_none() {
                events = self.subscribe().await;
            }
            dispatch.relist().await;
            let until_relist = if events.is_some() {
                self.relist
            } else {
                self.relist_without_events
            };
            let relist = tokio::time::sleep(until_relist);
            tokio::pin!(relist);
            loop {
                tokio::select! {
                    () = shutdown.cancelled() => return dispatch.end().await,
                    change = watch.next() => match change {
                        Some(Ok(change)) => dispatch.object(change),
                        Some(Err(error)) => {
                            tracing::warn!("{error}");
                            watch = self.rewatch(&mut dispatch)?;
                        }
                        None => return dispatch.end().await,
                    },
                    event = next_event(&mut events) => match event {
                        Some(event) => dispatch.event(&event),
                        None => {
                            events = None;
                            break;
                        }
                    },
                    Some(ended) = dispatch.tasks.join_next_with_id() => dispatch.ended(ended),
                    () = &mut relist => break,
                }
            }
        }
    }

    async fn subscribe(&self) -> Option<BoxStream<'static, cri::Result<v1::ContainerEventResponse>>> {
        match self.shared.runtime.get_container_events(v1::GetEventsRequest {}).await {
            Ok(stream) => Some(stream),
            Err(error) => {
                tracing::debug!(
                    "no events from the runtime: {error}; listing every {:?}",
                    self.relist_without_events
                );
                None
            }
        }
    }

    fn rewatch(&self, dispatch: &mut Dispatch) -> Result<Watch, Error> {
        let watch = self.shared.store.watch(Scope::all(Kind::Pod), None)?;
        dispatch.reconcile_objects()?;
        Ok(watch)
    }
}

/// Cancels `settled` when all of the present workers have looked at their pods, or ended.
fn all_looked(dispatch: &Dispatch, settled: CancellationToken) -> impl Future<Output = ()> + use<> {
    let looked: Vec<_> = dispatch.workers.values().map(|handle| handle.looked.clone()).collect();
    async move {
        for looked in looked {
            looked.cancelled().await;
        }
        settled.cancel();
    }
}

impl Shared {
    /// Files of pods that neither the store nor the runtime knows: an engine died between its last two steps.
    async fn remove_leftovers(&self, dispatch: &Dispatch) {
        if self.store.quarantined().is_some() {
            return;
        }
        let Ok(sandboxes) = dispatch.list_sandboxes().await else {
            return;
        };
        let known = |uid: &str| {
            dispatch.workers.contains_key(uid)
                || sandboxes
                    .iter()
                    .any(|sandbox| sandbox.labels.get(labels::POD_UID).is_some_and(|other| other == uid))
        };
        for uid in self.volumes.pods().unwrap_or_default().iter().filter(|uid| !known(uid)) {
            if let Err(error) = self.volumes.teardown(uid) {
                tracing::warn!("what is left of pod {uid} can't be taken away: {error}");
            }
        }
    }
}

/// The next event; `None` when the stream has ended. Pending while there is no stream.
async fn next_event(
    events: &mut Option<BoxStream<'static, cri::Result<v1::ContainerEventResponse>>>,
) -> Option<v1::ContainerEventResponse> {
    match events {
        Some(stream) => match stream.next().await {
            Some(Ok(event)) => Some(event),
            Some(Err(error)) => {
                tracing::warn!("the runtime's events broke off: {error}");
                None
            }
            None => None,
        },
        None => std::future::pending().await,
    }
}

struct Dispatch {
    shared: Arc<Shared>,
    shutdown: CancellationToken,
    /// By uid.
    workers: HashMap<String, Handle>,
    tasks: JoinSet<()>,
    /// What the last relist saw, by the container's or sandbox's id: (the pod's uid, state).
    seen: HashMap<String, (String, i32)>,
}

impl Dispatch {
    fn object(&mut self, change: WatchEvent) {
        match change {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => self.desire(object),
            WatchEvent::Deleted(object) => {
                // Usually finalised by its worker, which has ended. If not, somebody removed the object of a living pod.
                if let Some(handle) = self.workers.get(object.uid()) {
                    let _ = handle.mailbox.send(Desired::Nothing);
                }
            }
        }
    }

    fn desire(&mut self, object: Arc<Object>) {
        let id = PodId {
            namespace: object.namespace().into(),
            name: object.name().into(),
            uid: object.uid().into(),
        };
        match self.workers.get(&id.uid) {
            Some(handle) => self.tell(handle, object),
            None => self.spawn(id, Desired::Object(object)),
        }
    }

    /// A worker wakes for what its user did, not for the status that it wrote itself.
    fn tell(&self, handle: &Handle, object: Arc<Object>) {
        let is_news = |old: &Desired| match old {
            Desired::Object(old) => {
                let field = |object: &Object, name: &str| object.json()["metadata"].get(name).cloned();
                [
                    "generation",
                    "deletionTimestamp",
                    "deletionGracePeriodSeconds",
                    "labels",
                    "annotations",
                ]
                .iter()
                .any(|name| field(old, name) != field(&object, name))
            }
            Desired::Nothing => true,
        };
        handle.mailbox.send_if_modified(|desired| {
            let is_news = is_news(desired);
            *desired = Desired::Object(Arc::clone(&object));
            is_news
        });
    }

    fn spawn(&mut self, id: PodId, desired: Desired) {
        let (mailbox, receiver) = watch::channel(desired);
        let poke = Arc::new(Notify::new());
        let looked = CancellationToken::new();
        let worker = Worker {
            shared: Arc::clone(&self.shared),
            id: id.clone(),
            mailbox: receiver,
            poke: Arc::clone(&poke),
            looked: looked.clone(),
            shutdown: self.shutdown.child_token(),
        };
        let task = self.tasks.spawn(worker.run()).id();
        self.workers.insert(
            id.uid,
            Handle {
                mailbox,
                poke,
                looked,
                task,
            },
        );
    }

    /// A worker has ended: its pod is gone. Or it panicked: then the next relist, or change, starts another.
    fn ended(&mut self, ended: Result<(Id, ()), tokio::task::JoinError>) {
        let (task, panic) = match ended {
            Ok((task, ())) => (task, None),
            Err(error) => (error.id(), Some(error)),
        };
        let Some(uid) = self
            .workers
            .iter()
            .find(|(_, handle)| handle.task == task)
            .map(|(uid, _)| uid.clone())
        else {
            return;
        };
        self.workers.remove(&uid);
        if let Some(error) = panic {
            tracing::error!("the worker of pod {uid} failed: {error}; another one takes over");
            if let Err(error) = self.reconcile_objects() {
                tracing::error!("{error}");
            }
        }
    }

    /// A worker for every object, and no object for every other worker.
    fn reconcile_objects(&mut self) -> Result<(), Error> {
        let (objects, _) = self.shared.store.list(&Scope::all(Kind::Pod))?;
        let gone = self
            .workers
            .iter()
            .filter(|(uid, _)| !objects.iter().any(|object| object.uid() == uid.as_str()));
        for (_, handle) in gone {
            let _ = handle.mailbox.send(Desired::Nothing);
        }
        for object in objects {
            self.desire(object);
        }
        Ok(())
    }

    fn event(&mut self, event: &v1::ContainerEventResponse) {
        let of_sandbox = event
            .pod_sandbox_status
            .as_ref()
            .and_then(|status| status.labels.get(labels::POD_UID));
        let of_container = event
            .containers_statuses
            .first()
            .and_then(|status| status.labels.get(labels::POD_UID));
        if let Some(handle) = of_sandbox.or(of_container).and_then(|uid| self.workers.get(uid)) {
            handle.poke.notify_one();
        }
    }

    async fn list_sandboxes(&self) -> cri::Result<Vec<v1::PodSandbox>> {
        let filter = v1::PodSandboxFilter {
            label_selector: ours(),
            ..Default::default()
        };
        Ok(self
            .shared
            .runtime
            .list_pod_sandbox(v1::ListPodSandboxRequest { filter: Some(filter) })
            .await?
            .items)
    }

    async fn list_containers(&self) -> cri::Result<Vec<v1::Container>> {
        let filter = v1::ContainerFilter {
            label_selector: ours(),
            ..Default::default()
        };
        Ok(self
            .shared
            .runtime
            .list_containers(v1::ListContainersRequest { filter: Some(filter) })
            .await?
            .containers)
    }

    /// Compares what the runtime has with what it had, wakes the workers of what changed, and starts one for each sandbox of ours
    /// that has no object: to take it away.
    async fn relist(&mut self) {
        let (sandboxes, containers) = match (self.list_sandboxes().await, self.list_containers().await) {
            (Ok(sandboxes), Ok(containers)) => (sandboxes, containers),
            (Err(error), _) | (_, Err(error)) => {
                tracing::warn!("the runtime can't list what it has: {error}");
                return;
            }
        };
        let uid = |labels: &BTreeMap<String, String>| labels.get(labels::POD_UID).cloned().unwrap_or_default();
        let now: HashMap<String, (String, i32)> = sandboxes
            .iter()
            .map(|sandbox| (sandbox.id.clone(), (uid(&sandbox.labels), sandbox.state)))
            .chain(
                containers
                    .iter()
                    .map(|container| (container.id.clone(), (uid(&container.labels), container.state))),
            )
            .collect();
        let changed = now.iter().filter(|(id, state)| self.seen.get(*id) != Some(state));
        let gone = self.seen.iter().filter(|(id, _)| !now.contains_key(*id));
        for (_, (uid, _)) in changed.chain(gone) {
            if let Some(handle) = self.workers.get(uid) {
                handle.poke.notify_one();
            }
        }
        self.seen = now;
        for sandbox in &sandboxes {
            let uid = uid(&sandbox.labels);
            let metadata = sandbox.metadata.clone().unwrap_or_default();
            if self.workers.contains_key(&uid) {
                continue;
            }
            if let Some(quarantined) = self.shared.store.quarantined() {
                tracing::warn!(
                    "pod {}/{} runs and has no object, because the database was damaged ({}): it is left alone",
                    metadata.namespace,
                    metadata.name,
                    quarantined.path.display()
                );
                continue;
            }
            tracing::info!(
                "pod {}/{} ({uid}) has no object any more: it is taken down",
                metadata.namespace,
                metadata.name
            );
            self.spawn(
                PodId {
                    namespace: metadata.namespace,
                    name: metadata.name,
                    uid,
                },
                Desired::Nothing,
            );
        }
    }

    /// Waits for the workers, which notice the shutdown between two steps.
    async fn end(mut self) -> Result<(), Error> {
        self.shutdown.cancel();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(END_LIMIT, ended).await.is_err() {
            tracing::warn!("{} workers are cut off in the middle of a step", self.tasks.len());
        }
        Ok(())
    }
}

fn ours() -> BTreeMap<String, String> {
    BTreeMap::from([(labels::OWNER.to_owned(), labels::OWNER_SYNC.to_owned())])
}

fn memory_bytes(meminfo: &str) -> u64 {
    let kib = meminfo.lines().find_map(|line| {
        line.strip_prefix("MemTotal:")?
            .trim()
            .strip_suffix(" kB")?
            .parse::<u64>()
            .ok()
    });
    kib.unwrap_or_default() * 1024
}
