//! The PodStatus that follows from what was observed. Pure. The words are Kubernetes'
//! (<https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/>).

use k8s_openapi::{
    api::core::v1::{
        Container as Spec, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
        ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodSpec, PodStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};

use crate::{
    config::resources::qos_class,
    decide::{hash, is_sidecar},
    memory::Memory,
    observed::{Container, PodStatusFromCri, State},
};

/// All that a status depends on.
pub struct Input<'a> {
    /// The pod, with the status it has now: times of transitions come from there.
    pub pod: &'a Pod,
    /// What the CRI says.
    pub observed: &'a PodStatusFromCri,
    /// Failed attempts.
    pub memory: &'a Memory,
    /// Containers that wait for the end of a back-off.
    pub waiting: &'a std::collections::BTreeMap<String, Timestamp>,
    /// The pod was taken down: whatever its restartPolicy says, its containers have ended for good.
    pub is_terminated: bool,
    /// The node's addresses.
    pub host_ips: &'a [String],
    /// Now.
    pub now: Timestamp,
}

/// Whether a phase is a pod's last.
pub fn is_over(phase: Option<&str>) -> bool {
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// The status.
pub fn pod_status(input: &Input<'_>) -> PodStatus {
    let Some(spec) = &input.pod.spec else {
        return PodStatus::default();
    };
    let old = input.pod.status.clone().unwrap_or_default();
    let init: Vec<ContainerStatus> = spec
        .init_containers
        .iter()
        .flatten()
        .map(|spec| input.container(spec, true))
        .collect();
    let containers: Vec<ContainerStatus> = spec
        .containers
        .iter()
        .map(|spec| input.container(spec, false))
        .collect();
    let phase = if is_over(old.phase.as_deref()) {
        old.phase.clone().unwrap_or_default()
    } else if input.is_terminated {
        let all_well = containers.iter().all(|status| exit_code(status) == Some(0));
        if all_well {
            "Succeeded".to_owned()
        } else {
            "Failed".to_owned()
        }
    } else if is_abandoned(spec, input.observed) {
        "Failed".to_owned()
    } else {
        phase(spec, &init, &containers).to_owned()
    };
    let sandbox = input.observed.newest_sandbox().filter(|sandbox| sandbox.ready);
    let host_network = spec.host_network.unwrap_or_default();
    let ips: Vec<String> = match sandbox {
        Some(_) if host_network => input.host_ips.to_vec(),
        Some(sandbox) => sandbox.ips.clone(),
        // The address of a pod that has ended stays readable.
        None => old.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect(),
    };
    let conditions = conditions(
        input,
        &phase,
        &init,
        &containers,
        sandbox.is_some() && (host_network || !ips.is_empty()),
    );
    PodStatus {
        message: input
            .memory
            .sandbox()
            .map(|failure| failure.message.clone())
            .or_else(|| old.message.clone().filter(|_| is_over(old.phase.as_deref()))),
        reason: input.memory.sandbox().map(|failure| failure.reason.to_owned()),
        phase: Some(phase),
        conditions: Some(conditions),
        init_container_statuses: (!init.is_empty()).then_some(init),
        container_statuses: Some(containers),
        host_ip: input.host_ips.first().cloned(),
        host_ips: (!input.host_ips.is_empty())
            .then(|| input.host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect()),
        pod_ip: ips.first().cloned(),
        pod_ips: (!ips.is_empty()).then(|| ips.iter().map(|ip| PodIP { ip: ip.clone() }).collect()),
        qos_class: Some(qos_class(spec).name().to_owned()),
        start_time: old.start_time.clone().or(Some(Time(input.now))),
        observed_generation: input.pod.metadata.generation,
        ..PodStatus::default()
    }
}

impl Input<'_> {
    fn container(&self, spec: &Spec, is_init: bool) -> ContainerStatus {
        let newest = self.observed.newest(&spec.name);
        let previous = newest.and_then(|newest| {
            self.observed
                .containers
                .iter()
                .find(|other| other.name == newest.name && other.attempt < newest.attempt)
        });
        let terminated = |container: Option<&Container>| {
            container
                .filter(|container| container.state == State::Exited)
                .map(|container| ContainerState {
                    terminated: Some(terminated(container)),
                    ..ContainerState::default()
                })
        };
        let ended = newest.filter(|container| container.state == State::Exited);
        let waiting = self.waiting_reason(spec, newest);
        let (state, last_state) = match (newest.map(|container| container.state), waiting) {
            (Some(State::Running), _) => (running(newest), terminated(previous)),
            (Some(State::Exited), Some(waiting)) => (waiting, terminated(ended)),
            (Some(State::Exited), None) => (terminated(newest).unwrap_or_default(), terminated(previous)),
            (_, waiting) => (
                waiting.unwrap_or_else(|| self.not_started(spec, is_init)),
                terminated(previous),
            ),
        };
        let is_running = state.running.is_some();
        let ready = match is_init && !is_sidecar(spec) {
            true => ended.is_some_and(Container::succeeded),
            false => is_running,
        };
        ContainerStatus {
            name: spec.name.clone(),
            image: newest
                .map(|container| container.image.clone())
                .filter(|image| !image.is_empty())
                .or_else(|| spec.image.clone())
                .unwrap_or_default(),
            image_id: newest.map(|container| container.image_id.clone()).unwrap_or_default(),
            container_id: newest.map(|container| format!("hove://{}", container.id)),
            restart_count: newest.map_or(0, |container| i32::try_from(container.attempt).unwrap_or(i32::MAX)),
            ready,
            started: Some(is_running),
            state: Some(state),
            last_state,
            ..ContainerStatus::default()
        }
    }

    /// Why a container that should run does not: a failed attempt, or the back-off after a crash.
    fn waiting_reason(&self, spec: &Spec, newest: Option<&Container>) -> Option<ContainerState> {
        if newest.is_some_and(|container| container.state == State::Running) {
            return None;
        }
        if let Some(failure) = self.memory.container(&spec.name, &hash(spec)) {
            let backs_off = self.waiting.contains_key(&spec.name) && failure.reason == "ErrImagePull";
            let reason = if backs_off { "ImagePullBackOff" } else { failure.reason };
            let image = spec.image.as_deref().unwrap_or_default();
            let message = match backs_off {
                true => format!("Back-off pulling image \"{image}\": {}", failure.message),
                false => failure.message.clone(),
            };
            return Some(waiting(reason, Some(message)));
        }
        let exited = newest.filter(|container| container.state == State::Exited)?;
        self.waiting.get(&spec.name)?;
        let metadata = &self.pod.metadata;
        let message = format!(
            "back-off {} restarting failed container={} pod={}_{}({})",
            duration(exited.restart_delay_s),
            spec.name,
            metadata.name.as_deref().unwrap_or_default(),
            metadata.namespace.as_deref().unwrap_or_default(),
            metadata.uid.as_deref().unwrap_or_default(),
        );
        Some(waiting("CrashLoopBackOff", Some(message)))
    }

    /// Why a container that never ran does not.
    fn not_started(&self, spec: &Spec, is_init: bool) -> ContainerState {
        let has_init = self
            .pod
            .spec
            .as_ref()
            .is_some_and(|spec| spec.init_containers.iter().flatten().next().is_some());
        let is_first = self
            .pod
            .spec
            .iter()
            .flat_map(|spec| spec.init_containers.iter().flatten())
            .next()
            .is_some_and(|first| first.name == spec.name);
        match has_init && !(is_init && is_first) {
            true => waiting("PodInitializing", None),
            false => waiting("ContainerCreating", None),
        }
    }
}

/// As Go writes durations: `10s`, `2m40s`.
fn duration(seconds: u64) -> String {
    match (seconds / 60, seconds % 60) {
        (0, seconds) => format!("{seconds}s"),
        (minutes, seconds) => format!("{minutes}m{seconds}s"),
    }
}

fn waiting(reason: &str, message: Option<String>) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(reason.to_owned()),
            message,
        }),
        ..ContainerState::default()
    }
}

fn running(container: Option<&Container>) -> ContainerState {
    let started_at = container.and_then(|container| container.started_at).map(Time);
    ContainerState {
        running: Some(ContainerStateRunning { started_at }),
        ..ContainerState::default()
    }
}

fn terminated(container: &Container) -> ContainerStateTerminated {
    let reason = match (container.reason.as_str(), container.exit_code) {
        ("", 0) => "Completed",
        ("", _) => "Error",
        (reason, _) => reason,
    };
    ContainerStateTerminated {
        container_id: Some(format!("hove://{}", container.id)),
        exit_code: container.exit_code,
        started_at: container.started_at.map(Time),
        finished_at: container.finished_at.map(Time),
        reason: Some(reason.to_owned()),
        message: Some(container.message.clone()).filter(|message| !message.is_empty()),
        signal: None,
    }
}

fn exit_code(status: &ContainerStatus) -> Option<i32> {
    Some(status.state.as_ref()?.terminated.as_ref()?.exit_code)
}

fn is_running(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|state| state.running.is_some())
}

fn has_ended_before(status: &ContainerStatus) -> bool {
    status
        .last_state
        .as_ref()
        .is_some_and(|state| state.terminated.is_some())
}

/// The sandbox of a pod that never restarts anything died before all of its containers were started: they never will be.
fn is_abandoned(spec: &PodSpec, observed: &PodStatusFromCri) -> bool {
    let has_run = |spec: &Spec| observed.newest(&spec.name).is_some();
    spec.restart_policy.as_deref() == Some("Never")
        && !observed.sandboxes.is_empty()
        && !observed.is_anything_alive()
        && spec.containers.iter().any(has_run)
        && !spec.containers.iter().all(has_run)
}

/// Pending until every container has been started once; then by how they ended and what the restartPolicy makes of it.
fn phase(spec: &PodSpec, init: &[ContainerStatus], containers: &[ContainerStatus]) -> &'static str {
    let policy = spec.restart_policy.as_deref().unwrap_or("Always");
    let specs = spec.init_containers.iter().flatten();
    let mut sidecar_runs = false;
    for (spec, status) in specs.zip(init) {
        if is_sidecar(spec) {
            sidecar_runs |= is_running(status);
        } else if let Some(code) = exit_code(status)
            && code != 0
            && policy == "Never"
        {
            return "Failed";
        }
    }
    let ended: Vec<i32> = containers.iter().filter_map(exit_code).collect();
    let in_back_off = containers
        .iter()
        .filter(|status| !is_running(status) && exit_code(status).is_none() && has_ended_before(status));
    let running = containers.iter().filter(|status| is_running(status)).count();
    let started = ended.len() + in_back_off.clone().count() + running;
    if started < containers.len() {
        return "Pending";
    }
    if running > 0 || policy == "Always" || in_back_off.count() > 0 {
        return "Running";
    }
    // The containers are done; the sidecars are about to be stopped.
    if sidecar_runs {
        return "Running";
    }
    match ended.iter().all(|code| *code == 0) {
        true => "Succeeded",
        false if policy == "Never" => "Failed",
        false => "Running",
    }
}

/// The conditions, in the order in which kubelet writes them.
fn conditions(
    input: &Input<'_>,
    phase: &str,
    init: &[ContainerStatus],
    containers: &[ContainerStatus],
    sandbox_is_ready: bool,
) -> Vec<PodCondition> {
    let names = |statuses: &[&ContainerStatus]| {
        statuses
            .iter()
            .map(|status| status.name.as_str())
            .collect::<Vec<_>>()
            .join(" ")
    };
    let init_specs = || {
        input
            .pod
            .spec
            .iter()
            .flat_map(|spec| spec.init_containers.iter().flatten())
    };
    // Once a container of the pod proper was started, initialisation is over.
    let begun = containers.iter().any(|status| status.container_id.is_some());
    let incomplete: Vec<&ContainerStatus> = init_specs()
        .zip(init)
        .filter(|(spec, status)| {
            !begun
                && !if is_sidecar(spec) {
                    status.started == Some(true)
                } else {
                    status.ready
                }
        })
        .map(|(_, status)| status)
        .collect();
    let sidecars = init_specs()
        .zip(init)
        .filter(|(spec, _)| is_sidecar(spec))
        .map(|(_, status)| status);
    let unready: Vec<&ContainerStatus> = sidecars.chain(containers).filter(|status| !status.ready).collect();
    let initialized = match incomplete.as_slice() {
        _ if phase == "Succeeded" => (true, Some("PodCompleted"), None),
        [] => (true, None, None),
        list => (
            false,
            Some("ContainersNotInitialized"),
            Some(format!("containers with incomplete status: [{}]", names(list))),
        ),
    };
    let ready = match unready.as_slice() {
        _ if phase == "Succeeded" => (false, Some("PodCompleted"), None),
        _ if phase == "Failed" => (false, Some("PodFailed"), None),
        [] => (true, None, None),
        list => (
            false,
            Some("ContainersNotReady"),
            Some(format!("containers with unready status: [{}]", names(list))),
        ),
    };
    // After the words of a pod that failed still say which containers are at fault.
    let ready = match ready {
        (false, Some("PodFailed"), None) if !unready.is_empty() => (
            false,
            Some("PodFailed"),
            Some(format!("containers with unready status: [{}]", names(&unready))),
        ),
        other => other,
    };
    [
        ("PodReadyToStartContainers", (sandbox_is_ready, None, None)),
        ("Initialized", initialized),
        ("Ready", ready.clone()),
        ("ContainersReady", ready),
        ("PodScheduled", (true, None, None)),
    ]
    .into_iter()
    .map(|(type_, (is_true, reason, message))| condition(input, type_, is_true, reason, message))
    .collect()
}

fn condition(
    input: &Input<'_>,
    type_: &str,
    is_true: bool,
    reason: Option<&str>,
    message: Option<String>,
) -> PodCondition {
    let status = if is_true { "True" } else { "False" };
    let old = input
        .pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .find(|old| old.type_ == type_);
    let since = old
        .filter(|old| old.status == status)
        .and_then(|old| old.last_transition_time.clone());
    PodCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: reason.map(str::to_owned),
        message,
        last_transition_time: since.or(Some(Time(input.now))),
        observed_generation: input.pod.metadata.generation,
        ..PodCondition::default()
    }
}
