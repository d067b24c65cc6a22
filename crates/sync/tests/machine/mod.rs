//! A runtime in memory: the CRI's traits as a state machine, for tests of the engine.
//!
//! It keeps the rules that the engine relies on: a container is created only in a sandbox that is ready, is started once, and ends with
//! its sandbox, whose user namespace it has; stops and removes are idempotent; RunPodSandbox repeated for the same attempt answers the same sandbox; every change is
//! announced. Breaking a rule is an error of the call, and is noted ([`Machine::broken_rules`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use cri::{Error, ErrorKind, ImageService, Result, RuntimeService, v1::*};
use futures_util::{StreamExt, stream::BoxStream};
use tokio::sync::{Notify, broadcast};

#[derive(Default)]
struct State {
    sandboxes: BTreeMap<String, SandboxEntry>,
    containers: BTreeMap<String, ContainerEntry>,
    images: BTreeSet<String>,
    /// What a container does when it is started, by name: runs (absent), or ends at once with this code.
    endings: BTreeMap<String, i32>,
    /// Containers that do not obey their stop signal.
    stubborn: BTreeSet<String>,
    /// Calls that fail once: RPC → error.
    failures: BTreeMap<String, Error>,
    journal: Vec<String>,
    broken_rules: Vec<String>,
    next: u64,
    /// The engine dies at this many changing calls: (how many, before or after the call's effect).
    fuse: Option<(usize, bool)>,
}

struct SandboxEntry {
    config: PodSandboxConfig,
    ready: bool,
    ip: String,
}

struct ContainerEntry {
    sandbox: String,
    config: ContainerConfig,
    state: ContainerState,
    started_at: i64,
    finished_at: i64,
    exit_code: i32,
    reason: String,
}

/// The runtime.
pub struct Machine {
    state: Mutex<State>,
    events: broadcast::Sender<ContainerEventResponse>,
    /// Notified when the fuse has burnt.
    pub crash: Notify,
    clock: AtomicU64,
    serves_events: bool,
    /// Whether sandboxes can have user namespaces.
    pub knows_users: AtomicBool,
    /// Calls that only ask.
    pub questions: AtomicU64,
}

impl Machine {
    pub fn new(serves_events: bool) -> Machine {
        let state = State {
            images: BTreeSet::from(["i".to_owned(), "i:2".to_owned()]),
            ..State::default()
        };
        Machine {
            state: Mutex::new(state),
            events: broadcast::channel(1024).0,
            crash: Notify::new(),
            clock: AtomicU64::new(0),
            serves_events,
            knows_users: AtomicBool::new(true),
            questions: AtomicU64::new(0),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The changing calls so far: `StartContainer web 0`.
    pub fn journal(&self) -> Vec<String> {
        self.state().journal.clone()
    }

    pub fn broken_rules(&self) -> Vec<String> {
        self.state().broken_rules.clone()
    }

    pub fn is_empty(&self) -> bool {
        let state = self.state();
        state.sandboxes.is_empty() && state.containers.is_empty()
    }

    pub fn ready_sandboxes(&self) -> usize {
        self.state().sandboxes.values().filter(|sandbox| sandbox.ready).count()
    }

    pub fn ends_at_once(&self, name: &str, code: i32) {
        self.state().endings.insert(name.to_owned(), code);
    }

    pub fn is_stubborn(&self, name: &str) {
        self.state().stubborn.insert(name.to_owned());
    }

    pub fn fail_once(&self, rpc: &str, kind: ErrorKind, message: &str) {
        self.state().failures.insert(rpc.to_owned(), Error::new(kind, message));
    }

    /// The engine is to die at the `n`th changing call from now.
    pub fn burn(&self, n: usize, before_the_effect: bool) {
        self.state().fuse = Some((n, before_the_effect));
    }

    /// Whether the engine got past the last crash that was asked for.
    pub fn put_fuse_out(&self) -> bool {
        self.state().fuse.take().is_some()
    }

    /// The newest container of a name ends.
    pub fn end(&self, name: &str, code: i32, reason: &str) {
        let (sandbox, id) = {
            let mut state = self.state();
            let now = self.now();
            let (id, entry) = state
                .containers
                .iter_mut()
                .rfind(|(_, entry)| container_name(entry) == name && entry.state == ContainerState::ContainerRunning)
                .expect("the container runs");
            entry.state = ContainerState::ContainerExited;
            entry.exit_code = code;
            entry.reason = reason.to_owned();
            entry.finished_at = now;
            (entry.sandbox.clone(), id.clone())
        };
        self.announce(&sandbox, &id, ContainerEventType::ContainerStoppedEvent);
    }

    /// A sandbox dies with all that is in it.
    pub fn kill_sandboxes(&self) {
        let ids: Vec<String> = self.state().sandboxes.keys().cloned().collect();
        for id in ids {
            self.stop_all(&id, 137);
            self.announce(&id, &id, ContainerEventType::ContainerStoppedEvent);
        }
    }

    /// The ids on the host that pods have, by their names.
    pub fn users(&self) -> BTreeMap<String, IdMapping> {
        let state = self.state();
        let of = |entry: &SandboxEntry| {
            let name = entry.config.metadata.as_ref().unwrap().name.clone();
            Some((name, sandbox_namespaces(entry)?.userns_options?.uids[0]))
        };
        state.sandboxes.values().filter_map(of).collect()
    }

    fn stop_all(&self, sandbox: &str, code: i32) {
        let mut state = self.state();
        let now = self.now();
        for entry in state.containers.values_mut().filter(|entry| entry.sandbox == sandbox) {
            if entry.state == ContainerState::ContainerRunning {
                entry.state = ContainerState::ContainerExited;
                entry.exit_code = code;
                entry.finished_at = now;
            }
        }
        if let Some(sandbox) = state.sandboxes.get_mut(sandbox) {
            sandbox.ready = false;
        }
    }

    /// Nanoseconds, never the same twice.
    fn now(&self) -> i64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
        let last = self.clock.fetch_max(now, Ordering::SeqCst);
        now.max(last + 1) as i64
    }

    fn announce(&self, sandbox: &str, container: &str, type_: ContainerEventType) {
        let status = self
            .state()
            .sandboxes
            .get(sandbox)
            .map(|entry| sandbox_status(sandbox, entry));
        let _ = self.events.send(ContainerEventResponse {
            container_id: container.to_owned(),
            container_event_type: type_ as i32,
            pod_sandbox_status: status,
            ..Default::default()
        });
    }

    /// Every changing call passes here, before and after its effect.
    async fn gate(&self, line: &str, before: bool) -> Result<()> {
        tokio::task::yield_now().await;
        let rpc = line.split(' ').next().unwrap().to_owned();
        let dies = {
            let mut state = self.state();
            if before {
                state.journal.push(line.to_owned());
                if let Some(error) = state.failures.remove(&rpc) {
                    return Err(error);
                }
            }
            match &mut state.fuse {
                Some((left, at_before)) if *at_before == before => {
                    *left -= 1;
                    *left == 0
                }
                _ => false,
            }
        };
        if dies {
            self.state().fuse = None;
            self.crash.notify_one();
            std::future::pending::<()>().await;
        }
        tokio::task::yield_now().await;
        Ok(())
    }

    fn breaks_rule<T>(&self, rule: String) -> Result<T> {
        self.state().broken_rules.push(rule.clone());
        Err(Error::new(ErrorKind::FailedPrecondition, rule))
    }

    fn new_id(&self) -> String {
        let mut state = self.state();
        state.next += 1;
        format!("{:032x}", state.next)
    }

    fn container_line(&self, rpc: &str, id: &str) -> String {
        match self.state().containers.get(id) {
            Some(entry) => format!(
                "{rpc} {} {}",
                container_name(entry),
                entry.config.metadata.as_ref().unwrap().attempt
            ),
            None => format!("{rpc} gone"),
        }
    }

    fn sandbox_line(&self, rpc: &str, id: &str) -> String {
        match self.state().sandboxes.get(id) {
            Some(entry) => format!("{rpc} {}", entry.config.metadata.as_ref().unwrap().attempt),
            None => format!("{rpc} gone"),
        }
    }
}

fn container_name(entry: &ContainerEntry) -> &str {
    &entry.config.metadata.as_ref().unwrap().name
}

fn sandbox_namespaces(entry: &SandboxEntry) -> Option<NamespaceOption> {
    let linux = entry.config.linux.as_ref()?;
    linux.security_context.as_ref()?.namespace_options.clone()
}

fn sandbox_status(id: &str, entry: &SandboxEntry) -> PodSandboxStatus {
    PodSandboxStatus {
        id: id.to_owned(),
        metadata: entry.config.metadata.clone(),
        state: if entry.ready {
            PodSandboxState::SandboxReady as i32
        } else {
            PodSandboxState::SandboxNotready as i32
        },
        network: Some(PodSandboxNetworkStatus {
            ip: entry.ip.clone(),
            ..Default::default()
        }),
        linux: Some(LinuxPodSandboxStatus {
            namespaces: Some(Namespace {
                options: sandbox_namespaces(entry),
            }),
        }),
        labels: entry.config.labels.clone(),
        annotations: entry.config.annotations.clone(),
        ..Default::default()
    }
}

fn matches(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

#[async_trait]
impl RuntimeService for Machine {
    async fn status(&self, _: StatusRequest) -> Result<StatusResponse> {
        let features = RuntimeHandlerFeatures {
            user_namespaces: self.knows_users.load(Ordering::Relaxed),
            ..Default::default()
        };
        Ok(StatusResponse {
            runtime_handlers: vec![RuntimeHandler {
                name: String::new(),
                features: Some(features),
            }],
            ..Default::default()
        })
    }

    async fn run_pod_sandbox(&self, request: RunPodSandboxRequest) -> Result<RunPodSandboxResponse> {
        let config = request.config.unwrap();
        let metadata = config.metadata.clone().unwrap();
        self.gate(&format!("RunPodSandbox {}", metadata.attempt), true).await?;
        let same = |entry: &SandboxEntry| entry.config.metadata.as_ref() == Some(&metadata);
        let existing = self
            .state()
            .sandboxes
            .iter()
            .find(|(_, entry)| same(entry))
            .map(|(id, entry)| (id.clone(), entry.ready));
        let id = match existing {
            Some((id, true)) => id,
            Some((_, false)) => {
                return self.breaks_rule(format!("attempt {} is used again after its end", metadata.attempt));
            }
            None => {
                let alive = self.state().sandboxes.values().any(|entry| {
                    entry.ready && entry.config.metadata.as_ref().map(|other| &other.uid) == Some(&metadata.uid)
                });
                if alive {
                    return self.breaks_rule("a second sandbox while the first is alive".into());
                }
                let id = self.new_id();
                let ip = format!("10.0.0.{}", self.state().next % 250 + 2);
                self.state().sandboxes.insert(
                    id.clone(),
                    SandboxEntry {
                        config,
                        ready: true,
                        ip,
                    },
                );
                id
            }
        };
        self.announce(&id, &id, ContainerEventType::ContainerStartedEvent);
        self.gate("RunPodSandbox", false).await?;
        Ok(RunPodSandboxResponse { pod_sandbox_id: id })
    }

    async fn stop_pod_sandbox(&self, request: StopPodSandboxRequest) -> Result<StopPodSandboxResponse> {
        let id = request.pod_sandbox_id;
        self.gate(&self.sandbox_line("StopPodSandbox", &id), true).await?;
        self.stop_all(&id, 137);
        self.announce(&id, &id, ContainerEventType::ContainerStoppedEvent);
        self.gate("StopPodSandbox", false).await?;
        Ok(StopPodSandboxResponse {})
    }

    async fn remove_pod_sandbox(&self, request: RemovePodSandboxRequest) -> Result<RemovePodSandboxResponse> {
        let id = request.pod_sandbox_id;
        self.gate(&self.sandbox_line("RemovePodSandbox", &id), true).await?;
        self.stop_all(&id, 137);
        self.state().containers.retain(|_, entry| entry.sandbox != id);
        self.state().sandboxes.remove(&id);
        self.gate("RemovePodSandbox", false).await?;
        Ok(RemovePodSandboxResponse {})
    }

    async fn pod_sandbox_status(&self, request: PodSandboxStatusRequest) -> Result<PodSandboxStatusResponse> {
        self.questions.fetch_add(1, Ordering::Relaxed);
        tokio::task::yield_now().await;
        let state = self.state();
        let entry = state
            .sandboxes
            .get(&request.pod_sandbox_id)
            .ok_or_else(|| Error::not_found("sandbox"))?;
        Ok(PodSandboxStatusResponse {
            status: Some(sandbox_status(&request.pod_sandbox_id, entry)),
            ..Default::default()
        })
    }

    async fn list_pod_sandbox(&self, request: ListPodSandboxRequest) -> Result<ListPodSandboxResponse> {
        self.questions.fetch_add(1, Ordering::Relaxed);
        tokio::task::yield_now().await;
        let filter = request.filter.unwrap_or_default();
        let state = self.state();
        let items = state
            .sandboxes
            .iter()
            .filter(|(_, entry)| matches(&filter.label_selector, &entry.config.labels))
            .map(|(id, entry)| {
                let status = sandbox_status(id, entry);
                PodSandbox {
                    id: id.clone(),
                    metadata: status.metadata,
                    state: status.state,
                    labels: status.labels,
                    annotations: status.annotations,
                    ..Default::default()
                }
            })
            .collect();
        Ok(ListPodSandboxResponse { items })
    }

    async fn create_container(&self, request: CreateContainerRequest) -> Result<CreateContainerResponse> {
        let config = request.config.unwrap();
        let metadata = config.metadata.clone().unwrap();
        self.gate(&format!("CreateContainer {} {}", metadata.name, metadata.attempt), true)
            .await?;
        if !self
            .state()
            .sandboxes
            .get(&request.pod_sandbox_id)
            .is_some_and(|sandbox| sandbox.ready)
        {
            return self.breaks_rule(format!("{} is created in a sandbox that is not ready", metadata.name));
        }
        let is_taken =
            self.state().containers.values().any(|entry| {
                entry.sandbox == request.pod_sandbox_id && entry.config.metadata.as_ref() == Some(&metadata)
            });
        if is_taken {
            return self.breaks_rule(format!("{} {} exists already", metadata.name, metadata.attempt));
        }
        let users = |options: Option<NamespaceOption>| options.and_then(|options| options.userns_options);
        let linux = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        let own = users(linux.and_then(|security| security.namespace_options.clone()));
        if own != users(sandbox_namespaces(&self.state().sandboxes[&request.pod_sandbox_id])) {
            return self.breaks_rule(format!("{} has not its sandbox's user namespace", metadata.name));
        }
        if !self.state().images.contains(&config.image.as_ref().unwrap().image) {
            return self.breaks_rule(format!("{} has no image", metadata.name));
        }
        let id = self.new_id();
        let entry = ContainerEntry {
            sandbox: request.pod_sandbox_id.clone(),
            config,
            state: ContainerState::ContainerCreated,
            started_at: 0,
            finished_at: 0,
            exit_code: 0,
            reason: String::new(),
        };
        self.state().containers.insert(id.clone(), entry);
        self.announce(&request.pod_sandbox_id, &id, ContainerEventType::ContainerCreatedEvent);
        self.gate("CreateContainer", false).await?;
        Ok(CreateContainerResponse { container_id: id })
    }

    async fn start_container(&self, request: StartContainerRequest) -> Result<StartContainerResponse> {
        let id = request.container_id;
        self.gate(&self.container_line("StartContainer", &id), true).await?;
        let now = self.now();
        let sandbox = {
            let mut guard = self.state();
            let state = &mut *guard;
            let Some(entry) = state.containers.get_mut(&id) else {
                return Err(Error::not_found("container"));
            };
            if entry.state != ContainerState::ContainerCreated {
                let rule = format!("{} is started twice", container_name(entry));
                drop(guard);
                return self.breaks_rule(rule);
            }
            entry.state = ContainerState::ContainerRunning;
            entry.started_at = now;
            if let Some(code) = state.endings.get(&entry.config.metadata.as_ref().unwrap().name) {
                entry.state = ContainerState::ContainerExited;
                entry.exit_code = *code;
                entry.finished_at = now + 1;
            }
            entry.sandbox.clone()
        };
        self.announce(&sandbox, &id, ContainerEventType::ContainerStartedEvent);
        self.gate("StartContainer", false).await?;
        Ok(StartContainerResponse {})
    }

    async fn stop_container(&self, request: StopContainerRequest) -> Result<StopContainerResponse> {
        let id = request.container_id;
        self.gate(
            &format!(
                "{} within {}",
                self.container_line("StopContainer", &id),
                request.timeout
            ),
            true,
        )
        .await?;
        let stubborn = {
            let state = self.state();
            state
                .containers
                .get(&id)
                .is_some_and(|entry| state.stubborn.contains(container_name(entry)))
        };
        if stubborn {
            tokio::time::sleep(std::time::Duration::from_secs(request.timeout as u64)).await;
        }
        let now = self.now();
        let sandbox = {
            let mut state = self.state();
            let Some(entry) = state.containers.get_mut(&id) else {
                return Ok(StopContainerResponse {});
            };
            if entry.state == ContainerState::ContainerRunning {
                entry.state = ContainerState::ContainerExited;
                entry.exit_code = if stubborn { 137 } else { 0 };
                entry.finished_at = now;
            }
            entry.sandbox.clone()
        };
        self.announce(&sandbox, &id, ContainerEventType::ContainerStoppedEvent);
        self.gate("StopContainer", false).await?;
        Ok(StopContainerResponse {})
    }

    async fn remove_container(&self, request: RemoveContainerRequest) -> Result<RemoveContainerResponse> {
        self.gate(&self.container_line("RemoveContainer", &request.container_id), true)
            .await?;
        self.state().containers.remove(&request.container_id);
        self.gate("RemoveContainer", false).await?;
        Ok(RemoveContainerResponse {})
    }

    async fn list_containers(&self, request: ListContainersRequest) -> Result<ListContainersResponse> {
        self.questions.fetch_add(1, Ordering::Relaxed);
        tokio::task::yield_now().await;
        let filter = request.filter.unwrap_or_default();
        let state = self.state();
        let containers = state
            .containers
            .iter()
            .filter(|(_, entry)| matches(&filter.label_selector, &entry.config.labels))
            .map(|(id, entry)| Container {
                id: id.clone(),
                pod_sandbox_id: entry.sandbox.clone(),
                metadata: entry.config.metadata.clone(),
                state: entry.state as i32,
                labels: entry.config.labels.clone(),
                annotations: entry.config.annotations.clone(),
                ..Default::default()
            })
            .collect();
        Ok(ListContainersResponse { containers })
    }

    async fn container_status(&self, request: ContainerStatusRequest) -> Result<ContainerStatusResponse> {
        self.questions.fetch_add(1, Ordering::Relaxed);
        tokio::task::yield_now().await;
        let state = self.state();
        let entry = state
            .containers
            .get(&request.container_id)
            .ok_or_else(|| Error::not_found("container"))?;
        let status = ContainerStatus {
            id: request.container_id.clone(),
            metadata: entry.config.metadata.clone(),
            state: entry.state as i32,
            started_at: entry.started_at,
            finished_at: entry.finished_at,
            exit_code: entry.exit_code,
            reason: entry.reason.clone(),
            image: entry.config.image.clone(),
            image_id: "sha256:0".into(),
            labels: entry.config.labels.clone(),
            annotations: entry.config.annotations.clone(),
            log_path: entry.config.log_path.clone(),
            ..Default::default()
        };
        Ok(ContainerStatusResponse {
            status: Some(status),
            ..Default::default()
        })
    }

    async fn get_container_events(
        &self,
        _: GetEventsRequest,
    ) -> Result<BoxStream<'static, Result<ContainerEventResponse>>> {
        if !self.serves_events {
            return Err(Error::unimplemented("GetContainerEvents"));
        }
        let events = self.events.subscribe();
        let stream = futures_util::stream::unfold(events, |mut events| async {
            let event = events.recv().await.ok()?;
            Some((Ok(event), events))
        });
        Ok(stream.boxed())
    }
}

#[async_trait]
impl ImageService for Machine {
    async fn image_status(&self, request: ImageStatusRequest) -> Result<ImageStatusResponse> {
        tokio::task::yield_now().await;
        let name = request.image.unwrap().image;
        let image = self.state().images.contains(&name).then(|| Image {
            id: name.clone(),
            uid: Some(Int64Value { value: 0 }),
            ..Default::default()
        });
        Ok(ImageStatusResponse {
            image,
            ..Default::default()
        })
    }
}
