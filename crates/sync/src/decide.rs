//! What should happen to a pod now. Pure: no clock, no I/O; [`compute_pod_actions`] is computePodActions of kubelet
//! (<https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/>), and [`garbage`] says what is left over.
//!
//! ```text
//!             sandbox missing, dead, doubled or changed           all containers are done
//!                  │                                                    │
//!                  ▼                                                    ▼
//!   kill what is left, create a new one ──► init containers,    kill the sandbox: the pod
//!   (unless the pod has nothing to run)     one after another    has succeeded or failed
//!                                                  │
//!                                                  ▼
//!                            containers: start those that don't run and should (after their
//!                            back-off), kill and start anew those whose image changed
//! ```
//!
//! Init containers are seen in the newest sandbox only: a new sandbox begins at the first one again. Once a container of
//! the pod proper exists in it, initialisation is over, whatever became of the init containers since.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container as Spec, Pod, PodSpec},
    jiff::Timestamp,
};

use crate::{
    backoff,
    memory::Memory,
    observed::{Container, PodStatusFromCri, State},
};

/// What should happen, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PodActions {
    /// Stop the pod's sandboxes and all that runs in them; why.
    pub kill_sandbox: Option<&'static str>,
    /// Make a sandbox, as this attempt.
    pub create_sandbox: Option<u32>,
    /// Stop these.
    pub kill_containers: Vec<Kill>,
    /// Start these init containers: one, or the sidecars that ended.
    pub start_init_containers: Vec<Start>,
    /// Start these.
    pub start_containers: Vec<Start>,
    /// Containers that wait for the end of a back-off, and when that is.
    pub waiting: BTreeMap<String, Timestamp>,
    /// When to decide again though nothing happened.
    pub wake_at: Option<Timestamp>,
}

/// A container to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kill {
    /// The CRI's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Why, for the event.
    pub why: String,
}

/// A container to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// Its name.
    pub name: String,
    /// How often it was restarted before.
    pub attempt: u32,
    /// What its successor is to wait after its end.
    pub restart_delay_s: u64,
    /// It was made already, by someone who was interrupted: start this one.
    pub made: Option<String>,
}

/// Decides. `memory` holds the pod's failed attempts, `is_over` whether its phase is Succeeded or Failed already.
pub fn compute_pod_actions(
    pod: &Pod,
    status: &PodStatusFromCri,
    memory: &Memory,
    is_over: bool,
    now: Timestamp,
) -> PodActions {
    let mut actions = PodActions::default();
    let Some(spec) = &pod.spec else { return actions };
    if is_over {
        actions.kill_sandbox = status.is_anything_alive().then_some("the pod has ended");
        return actions;
    }
    let view = View {
        spec,
        status,
        memory,
        now,
    };
    match sandbox_to_create(spec, status) {
        Some((attempt, why)) => view.begin_anew(attempt, why, &mut actions),
        None => view.go_on(&mut actions),
    }
    actions
}

/// The attempt of the sandbox that must be made, and why the ones there won't do; `None` if one is fine.
fn sandbox_to_create(spec: &PodSpec, status: &PodStatusFromCri) -> Option<(u32, &'static str)> {
    let Some(newest) = status.newest_sandbox() else {
        return Some((0, "there is none"));
    };
    let host_network = spec.host_network.unwrap_or_default();
    let why = if status.sandboxes.iter().filter(|sandbox| sandbox.ready).count() > 1 {
        "there are several"
    } else if !newest.ready {
        "it is not ready"
    } else if newest.host_network.is_some_and(|is| is != host_network) {
        "the pod's hostNetwork changed"
    } else if !host_network && newest.ips.is_empty() {
        "it has no address"
    } else {
        return None;
    };
    Some((newest.attempt + 1, why))
}

struct View<'a> {
    spec: &'a PodSpec,
    status: &'a PodStatusFromCri,
    memory: &'a Memory,
    now: Timestamp,
}

/// What the look at the init containers found.
enum Initialised {
    Yes,
    /// Not yet, or never: the containers have to wait.
    No,
    /// An init container failed and won't be tried again.
    Failed,
}

impl View<'_> {
    /// There is no sandbox to go on with.
    fn begin_anew(&self, attempt: u32, why: &'static str, actions: &mut PodActions) {
        actions.kill_sandbox = self.status.is_anything_alive().then_some(why);
        let never_again = attempt != 0 && self.has_begun_for_good();
        let to_start: Vec<&Spec> = self
            .spec
            .containers
            .iter()
            .filter(|spec| self.should_run(spec))
            .collect();
        if never_again || to_start.is_empty() {
            return;
        }
        if let Some(until) = self.memory.sandbox_held_until(self.now) {
            actions.wake_at = Some(until);
            return;
        }
        // A dead sandbox is stopped again before it is replaced: its addresses and ports must be free.
        actions.kill_sandbox = (!self.status.sandboxes.is_empty()).then_some(why);
        actions.create_sandbox = Some(attempt);
        // In a new sandbox initialisation begins with the first one.
        match self.spec.init_containers.as_deref().unwrap_or_default().first() {
            Some(first) => {
                let start = self.start(first, None, actions);
                actions.start_init_containers.extend(start);
            }
            None => {
                for spec in to_start {
                    let start = self.start(spec, None, actions);
                    actions.start_containers.extend(start);
                }
            }
        }
    }

    /// There is a sandbox, and it is fine.
    fn go_on(&self, actions: &mut PodActions) {
        let sandbox_id = self.status.newest_sandbox().map_or("", |sandbox| sandbox.id.as_str());
        match self.init_containers(sandbox_id, actions) {
            Initialised::Failed => {
                *actions = PodActions {
                    kill_sandbox: Some("an init container failed"),
                    ..PodActions::default()
                };
                return;
            }
            Initialised::No => return,
            Initialised::Yes => {}
        }
        let mut kept = 0;
        for spec in &self.spec.containers {
            let newest = self.status.newest_in(sandbox_id, &spec.name);
            match newest.map(|container| (container.state, container)) {
                Some((State::Running, container)) if container.hash == hash(spec) => kept += 1,
                Some((State::Running, container)) => {
                    actions
                        .kill_containers
                        .push(kill(container, format!("Container {} definition changed", spec.name)));
                    // Its place is taken at once: no back-off for a change that the user made.
                    actions
                        .start_containers
                        .push(start_next(&spec.name, Some(container), 0));
                }
                Some((State::Unknown, container)) => {
                    actions
                        .kill_containers
                        .push(kill(container, format!("Container {} is in unknown state", spec.name)));
                    kept += 1;
                }
                Some((State::Created, container)) => {
                    kept += 1;
                    let start = self.start(spec, Some(container), actions);
                    actions.start_containers.extend(start);
                }
                Some((State::Exited, _)) | None => {
                    if self.should_run(spec) {
                        kept += 1;
                        let start = self.start(spec, None, actions);
                        actions.start_containers.extend(start);
                    }
                }
            }
        }
        if kept == 0 && actions.start_containers.is_empty() {
            *actions = PodActions {
                kill_sandbox: Some("all containers have ended"),
                ..PodActions::default()
            };
        }
    }

    /// One after another, each to completion; a sidecar (restartPolicy Always) only has to be started, and is kept running.
    fn init_containers(&self, sandbox_id: &str, actions: &mut PodActions) -> Initialised {
        let initialised = self
            .spec
            .containers
            .iter()
            .any(|spec| self.status.newest_in(sandbox_id, &spec.name).is_some());
        for spec in self.spec.init_containers.iter().flatten() {
            let newest = self.status.newest_in(sandbox_id, &spec.name);
            let is_sidecar = is_sidecar(spec);
            match newest.map(|container| (container.state, container)) {
                Some((State::Running, container)) if is_sidecar && container.hash != hash(spec) => {
                    actions
                        .kill_containers
                        .push(kill(container, format!("Container {} definition changed", spec.name)));
                    actions
                        .start_init_containers
                        .push(start_next(&spec.name, Some(container), 0));
                }
                Some((State::Running, _)) if is_sidecar => continue,
                _ if initialised && !is_sidecar => continue,
                Some((State::Running, _)) => return Initialised::No,
                Some((State::Unknown, container)) => {
                    actions
                        .kill_containers
                        .push(kill(container, format!("Container {} is in unknown state", spec.name)));
                }
                Some((State::Exited, container)) if !is_sidecar && container.exit_code == 0 => continue,
                Some((State::Exited, _)) if !is_sidecar && self.policy() == "Never" => return Initialised::Failed,
                Some((State::Created, container)) => {
                    let start = self.start(spec, Some(container), actions);
                    actions.start_init_containers.extend(start);
                }
                Some((State::Exited, _)) | None => {
                    let start = self.start(spec, None, actions);
                    actions.start_init_containers.extend(start);
                }
            }
            if !initialised {
                return Initialised::No;
            }
        }
        Initialised::Yes
    }

    /// Whether a pod that never restarts anything has begun: a new sandbox would run some of it a second time, or only a part.
    fn has_begun_for_good(&self) -> bool {
        let has_run = |spec: &Spec| self.status.newest(&spec.name).is_some();
        let has_failed = |init: &Spec| {
            self.status
                .newest(&init.name)
                .is_some_and(|last| last.state == State::Exited && last.exit_code != 0)
        };
        self.policy() == "Never"
            && (self.spec.containers.iter().any(has_run)
                || self
                    .spec
                    .init_containers
                    .iter()
                    .flatten()
                    .any(|init| !is_sidecar(init) && has_failed(init)))
    }

    /// Whether a container that does not run should, by the pod's restartPolicy.
    fn should_run(&self, spec: &Spec) -> bool {
        match self.status.newest(&spec.name) {
            Some(container) if container.state == State::Exited => match self.policy() {
                "Never" => false,
                "OnFailure" => container.exit_code != 0,
                _ => true,
            },
            _ => true,
        }
    }

    /// The start of a container, unless it has to wait.
    fn start(&self, spec: &Spec, made: Option<&Container>, actions: &mut PodActions) -> Option<Start> {
        let last = self.status.newest(&spec.name);
        let crashed = match made {
            Some(_) => None,
            None => last.filter(|last| last.state == State::Exited),
        };
        let crash_loop = crashed.and_then(|last| {
            if last.hash == hash(spec) {
                backoff::restart_at(last)
            } else {
                None
            }
        });
        let held = self.memory.held_until(&spec.name, &hash(spec), self.now);
        if let Some(until) = crash_loop.max(held).filter(|until| *until > self.now) {
            actions.waiting.insert(spec.name.clone(), until);
            actions.wake_at = Some(actions.wake_at.map_or(until, |other| other.min(until)));
            return None;
        }
        if let Some(made) = made {
            return Some(Start {
                name: spec.name.clone(),
                attempt: made.attempt,
                restart_delay_s: made.restart_delay_s,
                made: Some(made.id.clone()),
            });
        }
        let delay = match crashed {
            Some(last) if last.hash == hash(spec) => backoff::delay_of_next_s(last),
            _ => 0,
        };
        Some(start_next(&spec.name, last, delay))
    }

    fn policy(&self) -> &str {
        self.spec.restart_policy.as_deref().unwrap_or("Always")
    }
}

fn start_next(name: &str, last: Option<&Container>, restart_delay_s: u64) -> Start {
    Start {
        name: name.to_owned(),
        attempt: last.map_or(0, |last| last.attempt + 1),
        restart_delay_s,
        made: None,
    }
}

fn kill(container: &Container, why: String) -> Kill {
    Kill {
        id: container.id.clone(),
        name: container.name.clone(),
        why,
    }
}

/// Whether an init container runs beside the pod's containers instead of before them.
pub fn is_sidecar(init: &Spec) -> bool {
    init.restart_policy.as_deref() == Some("Always")
}

/// A hash of what a container can't be changed in without being made anew: its name and image, as kubelet's. Not of the other fields:
/// they can't change in a pod that exists, and a later version that knows more of them must not restart anything.
pub fn hash(spec: &Spec) -> String {
    /// FNV-1a, 64 bits.
    const PRIME: u64 = 0x0100_0000_01b3;
    let text = format!("{}\0{}", spec.name, spec.image.as_deref().unwrap_or_default());
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(PRIME)
    });
    format!("{hash:016x}")
}

/// Containers and sandboxes that nobody needs any more: of each name all but the newest container and the one before it (its
/// lastState), and sandboxes that are neither the newest nor hold a container that is kept.
pub fn garbage(status: &PodStatusFromCri) -> (Vec<&str>, Vec<&str>) {
    let mut containers = Vec::new();
    let mut kept_sandboxes: Vec<&str> = status
        .newest_sandbox()
        .map(|sandbox| sandbox.id.as_str())
        .into_iter()
        .collect();
    let mut kept: BTreeMap<&str, usize> = BTreeMap::new();
    for container in &status.containers {
        let count = kept.entry(&container.name).or_default();
        *count += 1;
        if *count <= 2 || container.may_run() {
            kept_sandboxes.push(&container.sandbox_id);
        } else {
            containers.push(container.id.as_str());
        }
    }
    let sandboxes = status
        .sandboxes
        .iter()
        .filter(|sandbox| !sandbox.ready && !kept_sandboxes.contains(&sandbox.id.as_str()));
    (containers, sandboxes.map(|sandbox| sandbox.id.as_str()).collect())
}
