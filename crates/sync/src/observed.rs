//! What the CRI says about one pod, as plain data: the input of every decision.

use std::collections::BTreeMap;

use cri::v1;
use k8s_openapi::jiff::Timestamp;

use crate::{
    config::users::{self, UserIds},
    labels,
};

/// One pod's sandboxes and containers, of all attempts, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PodStatusFromCri {
    /// By attempt, the highest first.
    pub sandboxes: Vec<Sandbox>,
    /// By name, then by attempt, the highest first.
    pub containers: Vec<Container>,
}

/// A sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sandbox {
    /// The CRI's id.
    pub id: String,
    /// Which one of this pod's it is, counted from 0.
    pub attempt: u32,
    /// Whether containers can run in it.
    pub ready: bool,
    /// Its addresses; none on the host's network.
    pub ips: Vec<String>,
    /// Whether it is on the host's network, if the runtime says so.
    pub host_network: Option<bool>,
    /// Its ids on the host, if it has a user namespace of its own.
    pub users: Option<UserIds>,
}

/// What a container does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum State {
    /// Made, not started: someone was interrupted between the two.
    #[default]
    Created,
    /// It runs.
    Running,
    /// It ended.
    Exited,
    /// The runtime does not know.
    Unknown,
}

/// A container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Container {
    /// The CRI's id.
    pub id: String,
    /// The sandbox it is in.
    pub sandbox_id: String,
    /// Its name in the pod.
    pub name: String,
    /// How often it was restarted before.
    pub attempt: u32,
    /// What it does.
    pub state: State,
    /// When it was started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// How it ended.
    pub exit_code: i32,
    /// Why, in one word, if the runtime says so: `OOMKilled`.
    pub reason: String,
    /// Why, in words: the termination message, or what the runtime says.
    pub message: String,
    /// The image it was made from, as the pod names it.
    pub image: String,
    /// The image's id.
    pub image_id: String,
    /// Of what it was made from.
    pub hash: String,
    /// How many seconds must pass after its end before it is started again.
    pub restart_delay_s: u64,
    /// The pod's grace period when it was made.
    pub grace_s: Option<i64>,
    /// The host's path of its termination message, and the policy.
    pub termination_message: Option<(String, String)>,
    /// The host's path of its log.
    pub log_path: String,
}

impl PodStatusFromCri {
    /// Sorts what the CRI listed.
    pub fn new(mut sandboxes: Vec<Sandbox>, mut containers: Vec<Container>) -> PodStatusFromCri {
        sandboxes.sort_by_key(|sandbox| std::cmp::Reverse(sandbox.attempt));
        containers
            .sort_by(|a, b| (&a.name, std::cmp::Reverse(a.attempt)).cmp(&(&b.name, std::cmp::Reverse(b.attempt))));
        PodStatusFromCri { sandboxes, containers }
    }

    /// The newest sandbox, alive or not.
    pub fn newest_sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.first()
    }

    /// The newest container of a name, in any sandbox.
    pub fn newest(&self, name: &str) -> Option<&Container> {
        self.containers.iter().find(|container| container.name == name)
    }

    /// The newest container of a name in one sandbox.
    pub fn newest_in(&self, sandbox_id: &str, name: &str) -> Option<&Container> {
        self.containers
            .iter()
            .find(|container| container.name == name && container.sandbox_id == sandbox_id)
    }

    /// Whether anything of the pod may still run.
    pub fn is_anything_alive(&self) -> bool {
        self.sandboxes.iter().any(|sandbox| sandbox.ready) || self.containers.iter().any(Container::may_run)
    }
}

impl Container {
    /// Whether it runs, or may.
    pub fn may_run(&self) -> bool {
        matches!(self.state, State::Running | State::Unknown)
    }

    /// Whether it ended well.
    pub fn succeeded(&self) -> bool {
        self.state == State::Exited && self.exit_code == 0
    }
}

/// A sandbox as the CRI lists it, with what its status adds.
pub(crate) fn sandbox(listed: &v1::PodSandbox, status: Option<&v1::PodSandboxStatus>) -> Sandbox {
    let network = status.and_then(|status| status.network.as_ref());
    let options = status.and_then(namespace_options);
    let ips = network
        .into_iter()
        .flat_map(|network| std::iter::once(&network.ip).chain(network.additional_ips.iter().map(|ip| &ip.ip)))
        .filter(|ip| !ip.is_empty())
        .cloned()
        .collect();
    let state = status.map_or(listed.state, |status| status.state);
    Sandbox {
        id: listed.id.clone(),
        attempt: listed.metadata.as_ref().map_or(0, |metadata| metadata.attempt),
        ready: state == v1::PodSandboxState::SandboxReady as i32,
        ips,
        host_network: options.map(|options| options.network == v1::NamespaceMode::Node as i32),
        users: options.and_then(|options| users::ranges(options).next().map(|(first, _)| UserIds(first))),
    }
}

/// The namespaces that a sandbox has, if the runtime says so.
pub(crate) fn namespace_options(status: &v1::PodSandboxStatus) -> Option<&v1::NamespaceOption> {
    status.linux.as_ref()?.namespaces.as_ref()?.options.as_ref()
}

/// A container as the CRI describes it.
pub(crate) fn container(sandbox_id: &str, status: &v1::ContainerStatus) -> Container {
    let annotation = |name: &str| status.annotations.get(name).cloned().unwrap_or_default();
    let attempt = status.metadata.as_ref().map_or(0, |metadata| metadata.attempt);
    let path = annotation(labels::TERMINATION_MESSAGE_PATH);
    let state = match v1::ContainerState::try_from(status.state) {
        Ok(v1::ContainerState::ContainerCreated) => State::Created,
        Ok(v1::ContainerState::ContainerRunning) => State::Running,
        Ok(v1::ContainerState::ContainerExited) => State::Exited,
        _ => State::Unknown,
    };
    Container {
        id: status.id.clone(),
        sandbox_id: sandbox_id.to_owned(),
        name: label(&status.labels, labels::CONTAINER_NAME)
            .or_else(|| status.metadata.as_ref().map(|metadata| metadata.name.clone()))
            .unwrap_or_default(),
        attempt: annotation(labels::RESTART_COUNT).parse().unwrap_or(attempt),
        state,
        started_at: time(status.started_at),
        finished_at: time(status.finished_at),
        exit_code: status.exit_code,
        reason: status.reason.clone(),
        message: status.message.clone(),
        image: status
            .image
            .as_ref()
            .map_or_else(String::new, |image| match image.user_specified_image.as_str() {
                "" => image.image.clone(),
                specified => specified.to_owned(),
            }),
        image_id: if status.image_id.is_empty() {
            status.image_ref.clone()
        } else {
            status.image_id.clone()
        },
        hash: annotation(labels::HASH),
        restart_delay_s: annotation(labels::RESTART_DELAY).parse().unwrap_or_default(),
        grace_s: annotation(labels::GRACE_PERIOD).parse().ok(),
        termination_message: (!path.is_empty()).then(|| (path, annotation(labels::TERMINATION_MESSAGE_POLICY))),
        log_path: status.log_path.clone(),
    }
}

pub(crate) fn label(labels: &BTreeMap<String, String>, name: &str) -> Option<String> {
    labels.get(name).cloned()
}

/// The CRI's nanoseconds since 1970; 0 is never.
fn time(nanos: i64) -> Option<Timestamp> {
    (nanos != 0)
        .then(|| Timestamp::from_nanosecond(nanos.into()).ok())
        .flatten()
}
