//! SyncPod: the eight steps.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, Instant},
};

use cri::v1;
use k8s_openapi::{
    api::core::v1::{Container as Spec, Pod},
    jiff::Timestamp,
};
use objects::EventType;
use tokio_util::sync::CancellationToken;

use crate::{
    config::{sandbox, users::UserIds},
    decide::{self, Kill, PodActions, Start},
    engine::Shared,
    files,
    memory::Memory,
    observed::{PodStatusFromCri, Sandbox, State},
    report::{Reporter, took},
    start::{Place, start_container},
    stop,
};

/// One pass over one pod.
pub(crate) struct Pass<'a> {
    pub shared: &'a Shared,
    pub pod: &'a Pod,
    pub status: &'a PodStatusFromCri,
    pub memory: &'a mut Memory,
    pub actions: &'a PodActions,
    /// What takes long ends when this is cancelled.
    pub interrupt: &'a CancellationToken,
}

/// Brings a pod one look closer to its spec. The steps are kubelet's; the first one, to compute what should change, has been
/// taken: [`decide::compute_pod_actions`] is pure, and its answer is in the pass. What fails is in the events and the memory, and the next
/// look decides again; an error is the CRI failing to answer at all.
pub(crate) async fn sync_pod(mut pass: Pass<'_>) -> cri::Result<()> {
    // 1. Compute what should change.
    let actions = pass.actions;
    // 2. Kill the sandbox if it changed, is dead, or has nothing left to do.
    if let Some(why) = actions.kill_sandbox {
        pass.kill_sandbox(why).await?;
    }
    // 3. Kill the containers that should not run.
    for kill in &actions.kill_containers {
        pass.kill_container(kill).await?;
    }
    // 4. Create the sandbox.
    let Some(sandbox) = pass.sandbox().await? else {
        return Ok(());
    };
    // 5. Ephemeral containers: refused by pod::supported.
    // 6. Init containers.
    for start in &actions.start_init_containers {
        pass.start(start, &sandbox).await;
    }
    // 7. In-place resize: refused by pod::validate_update.
    // 8. Containers.
    for start in &actions.start_containers {
        pass.start(start, &sandbox).await;
    }
    Ok(())
}

/// The sandbox in which the containers of this pass start.
struct Ready {
    id: String,
    config: v1::PodSandboxConfig,
    ips: Vec<String>,
    volumes: BTreeMap<String, PathBuf>,
    users: Option<UserIds>,
}

impl Pass<'_> {
    fn reporter(&self) -> Reporter<'_> {
        Reporter::of(&self.shared.recorder, self.pod)
    }

    fn grace(&self) -> Duration {
        let seconds = self
            .pod
            .spec
            .as_ref()
            .and_then(|spec| spec.termination_grace_period_seconds)
            .unwrap_or(30);
        Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
    }

    async fn kill_sandbox(&self, why: &str) -> cri::Result<()> {
        if self.actions.create_sandbox.is_some() {
            let message = format!("Pod sandbox changed ({why}), it will be killed and re-created.");
            self.reporter().pod(EventType::Normal, "SandboxChanged", &message);
        }
        let reporter = self.reporter();
        let stop = stop::stop_pod(
            &*self.shared.runtime,
            &reporter,
            self.pod.spec.as_ref(),
            self.status,
            self.grace(),
        );
        self.interrupt.run_until_cancelled(stop).await.unwrap_or(Ok(()))
    }

    async fn kill_container(&self, kill: &Kill) -> cri::Result<()> {
        let Some(container) = self.status.containers.iter().find(|container| container.id == kill.id) else {
            return Ok(());
        };
        let why = format!("{}, will be restarted: stopping container", kill.why);
        let reporter = self.reporter();
        let stop = stop::stop_container(&*self.shared.runtime, &reporter, container, self.grace(), &why);
        self.interrupt.run_until_cancelled(stop).await.unwrap_or(Ok(()))
    }

    /// The sandbox that is there, or a new one. `None`: nothing is to be started, or what a sandbox needs could not be made.
    async fn sandbox(&mut self) -> cri::Result<Option<Ready>> {
        let starts = self.actions.start_init_containers.len() + self.actions.start_containers.len();
        if self.actions.create_sandbox.is_none() && starts == 0 || self.interrupt.is_cancelled() {
            return Ok(None);
        }
        let volumes = match self.volumes().await {
            Ok(volumes) => volumes,
            Err(message) => {
                self.reporter().pod(EventType::Warning, "FailedMount", &message);
                self.memory.sandbox_failed("FailedMount", message, Timestamp::now());
                return Ok(None);
            }
        };
        let Some(attempt) = self.actions.create_sandbox else {
            // The decision to start containers presupposes a sandbox that is ready.
            return Ok(self.status.newest_sandbox().map(|sandbox| Ready {
                id: sandbox.id.clone(),
                config: self.sandbox_config(sandbox.attempt, sandbox.users),
                ips: self.ips(sandbox.ips.clone()),
                volumes,
                users: sandbox.users,
            }));
        };
        match self.create_sandbox(attempt).await {
            Ok(created) => {
                self.memory.sandbox_started();
                Ok(Some(Ready {
                    ips: self.ips(created.ips),
                    id: created.id,
                    config: self.sandbox_config(attempt, created.users),
                    volumes,
                    users: created.users,
                }))
            }
            Err(message) => {
                let message = format!("Failed to create pod sandbox: {message}");
                self.reporter()
                    .pod(EventType::Warning, "FailedCreatePodSandBox", &message);
                self.memory
                    .sandbox_failed("FailedCreatePodSandBox", message, Timestamp::now());
                Ok(None)
            }
        }
    }

    fn sandbox_config(&self, attempt: u32, users: Option<UserIds>) -> v1::PodSandboxConfig {
        let mut config = sandbox::config(self.pod, attempt, &self.shared.node);
        if let Some(users) = users {
            users.give_to_sandbox(&mut config);
        }
        config
    }

    async fn create_sandbox(&self, attempt: u32) -> Result<Sandbox, String> {
        let begin = Instant::now();
        let runtime = &self.shared.runtime;
        files::make_log_directory(crate::config::Identity::of(self.pod), &self.shared.node)
            .map_err(|error| error.to_string())?;
        let handler = self
            .pod
            .spec
            .as_ref()
            .and_then(|spec| spec.runtime_class_name.clone())
            .unwrap_or_default();
        let host_users = self.pod.spec.as_ref().and_then(|spec| spec.host_users);
        let users = match host_users {
            Some(false) => Some(self.shared.users.choose(&**runtime, &handler).await?),
            _ => None,
        };
        let request = v1::RunPodSandboxRequest {
            config: Some(self.sandbox_config(attempt, users.as_ref().map(|users| users.ids))),
            runtime_handler: handler,
        };
        let id = runtime
            .run_pod_sandbox(request)
            .await
            .map_err(|error| error.message)?
            .pod_sandbox_id;
        let request = v1::PodSandboxStatusRequest {
            pod_sandbox_id: id.clone(),
            ..Default::default()
        };
        let status = runtime
            .pod_sandbox_status(request)
            .await
            .map_err(|error| error.message)?
            .status;
        let listed = v1::PodSandbox {
            id: id.clone(),
            ..Default::default()
        };
        let sandbox = crate::observed::sandbox(&listed, status.as_ref());
        let place = if sandbox.ips.is_empty() {
            String::new()
        } else {
            format!(" with address {}", sandbox.ips.join(", "))
        };
        let message = format!("Started pod sandbox{place} in {}", took(begin.elapsed()));
        self.reporter().pod(EventType::Normal, "SandboxStarted", &message);
        Ok(sandbox)
    }

    /// The pod's addresses: on the host's network, the host's.
    fn ips(&self, ips: Vec<String>) -> Vec<String> {
        let on_host = self
            .pod
            .spec
            .as_ref()
            .and_then(|spec| spec.host_network)
            .unwrap_or_default();
        if on_host { self.shared.node.ips.clone() } else { ips }
    }

    /// A hostPath may be on a file system that hangs: on a thread of its own.
    async fn volumes(&self) -> Result<BTreeMap<String, PathBuf>, String> {
        if self
            .pod
            .spec
            .as_ref()
            .is_none_or(|spec| spec.volumes.iter().flatten().next().is_none())
        {
            return Ok(BTreeMap::new());
        }
        let (pod, volumes) = (self.pod.clone(), self.shared.volumes.clone());
        match tokio::task::spawn_blocking(move || files::make_volumes(&pod, &volumes)).await {
            Ok(result) => result.map_err(|error| error.to_string()),
            Err(error) => Err(format!("making the volumes was cut off: {error}")),
        }
    }

    async fn start(&mut self, start: &Start, sandbox: &Ready) {
        let Some(spec) = self.spec(&start.name).filter(|_| !self.interrupt.is_cancelled()) else {
            return;
        };
        let place = Place {
            sandbox_id: &sandbox.id,
            sandbox_config: &sandbox.config,
            pod_ips: &sandbox.ips,
            volumes: &sandbox.volumes,
            users: sandbox.users,
            interrupt: self.interrupt,
        };
        match start_container(self.shared, self.pod, spec, start, &place).await {
            Ok(()) => self.memory.container_started(&start.name),
            Err(failure) if failure.has_ended => self.memory.container_started(&start.name),
            Err(failure) => {
                self.memory.container_failed(
                    &start.name,
                    decide::hash(spec),
                    failure.reason,
                    failure.message,
                    Timestamp::now(),
                );
            }
        }
    }

    fn spec(&self, name: &str) -> Option<&'_ Spec> {
        crate::config::all_containers(self.pod.spec.as_ref()?).find(|spec| spec.name == name)
    }
}

/// Says once per wait that a container waits.
pub(crate) fn report_back_off(shared: &Shared, pod: &Pod, status: &PodStatusFromCri, actions: &PodActions) {
    let reporter = Reporter::of(&shared.recorder, pod);
    for name in actions.waiting.keys() {
        if status
            .newest(name)
            .is_some_and(|container| container.state == State::Exited)
        {
            let message = format!(
                "Back-off restarting failed container {name} in pod {}",
                reporter.pod.name
            );
            reporter.container(name, EventType::Warning, "BackOff", &message);
        }
    }
}
