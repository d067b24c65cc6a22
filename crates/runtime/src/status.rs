//! The runtime's state in the CRI's words. Pure.

use cri::v1::{
    Container as CriContainer, ContainerResources, ContainerState, ContainerStatus, ContainerUser, ImageSpec,
    LinuxContainerUser, LinuxPodSandboxStatus, Mount, Namespace, NamespaceOption, PodIp, PodSandbox,
    PodSandboxNetworkStatus, PodSandboxState, PodSandboxStatus,
};

use crate::container::{Attendance, Container};
use crate::records::{ContainerRecord, Life};
use crate::sandbox::{Phase, View};

/// READY only while pause runs and nothing is being taken down.
pub(crate) fn sandbox_state(view: &View) -> PodSandboxState {
    match view.phase {
        Phase::Ready => PodSandboxState::SandboxReady,
        _ => PodSandboxState::SandboxNotready,
    }
}

pub(crate) fn sandbox(view: &View) -> PodSandboxStatus {
    let record = &view.record;
    PodSandboxStatus {
        id: record.id.to_string(),
        metadata: record.config.metadata.clone(),
        state: sandbox_state(view).into(),
        created_at: record.created_at_ns,
        network: Some(network(view)),
        linux: Some(LinuxPodSandboxStatus {
            namespaces: Some(Namespace {
                options: Some(namespace_options(view)),
            }),
        }),
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        runtime_handler: record.runtime_handler.clone(),
    }
}

pub(crate) fn sandbox_item(view: &View) -> PodSandbox {
    let record = &view.record;
    PodSandbox {
        id: record.id.to_string(),
        metadata: record.config.metadata.clone(),
        state: sandbox_state(view).into(),
        created_at: record.created_at_ns,
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        runtime_handler: record.runtime_handler.clone(),
    }
}

pub(crate) fn container(container: &Container) -> ContainerStatus {
    let record = &container.record;
    let mut status = ContainerStatus {
        id: record.id.to_string(),
        metadata: record.config.metadata.clone(),
        state: container_state(container).into(),
        created_at: record.created_at_ns,
        image: Some(image(container)),
        image_ref: record.image_id.clone(),
        image_id: record.image_id.clone(),
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        mounts: mounts(record),
        log_path: record
            .log
            .as_ref()
            .map(|p| p.to_string_lossy().into_owned())
            .unwrap_or_default(),
        resources: record.resources.clone().map(|linux| ContainerResources {
            linux: Some(linux),
            windows: None,
        }),
        user: record.user.as_ref().map(|(uid, gid, groups)| ContainerUser {
            linux: Some(LinuxContainerUser {
                uid: (*uid).into(),
                gid: (*gid).into(),
                supplemental_groups: groups.iter().map(|g| (*g).into()).collect(),
            }),
        }),
        stop_signal: crate::container::signal::to_cri(record.stop_signal).into(),
        ..Default::default()
    };
    match &record.life {
        Life::Created => {}
        Life::Running { started_at_ns } => status.started_at = *started_at_ns,
        Life::Exited(exit) => {
            status.started_at = exit.started_at_ns;
            status.finished_at = exit.finished_at_ns;
            status.exit_code = exit.exit_code;
            status.reason = exit.reason.clone();
            status.message = exit.message.clone();
        }
    }
    status
}

pub(crate) fn container_item(container: &Container) -> CriContainer {
    let record = &container.record;
    CriContainer {
        id: record.id.to_string(),
        pod_sandbox_id: record.sandbox_id.to_string(),
        metadata: record.config.metadata.clone(),
        image: Some(image(container)),
        image_ref: record.image_id.clone(),
        state: container_state(container).into(),
        created_at: record.created_at_ns,
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        image_id: record.image_id.clone(),
    }
}

pub(crate) fn container_state(container: &Container) -> ContainerState {
    match container.record.life {
        Life::Created => ContainerState::ContainerCreated,
        Life::Running { .. } if container.attendance == Attendance::Lost => ContainerState::ContainerUnknown,
        Life::Running { .. } => ContainerState::ContainerRunning,
        Life::Exited(_) => ContainerState::ContainerExited,
    }
}

/// The configured mounts; an image volume says which image was found.
fn mounts(record: &ContainerRecord) -> Vec<Mount> {
    let mut mounts = record.config.mounts.clone();
    for (number, id) in &record.image_volumes {
        if let Some(image) = mounts.get_mut(*number).and_then(|mount| mount.image.as_mut()) {
            image.image_ref.clone_from(id);
        }
    }
    mounts
}

/// The image by the name that the container's creator used.
fn image(container: &Container) -> ImageSpec {
    let configured = container.record.config.image.clone().unwrap_or_default();
    if configured.user_specified_image.is_empty() {
        return configured;
    }
    ImageSpec {
        image: configured.user_specified_image.clone(),
        ..configured
    }
}

fn network(view: &View) -> PodSandboxNetworkStatus {
    let mut ips = view.record.ips.iter().map(ToString::to_string);
    PodSandboxNetworkStatus {
        ip: ips.next().unwrap_or_default(),
        additional_ips: ips.map(|ip| PodIp { ip }).collect(),
    }
}

fn namespace_options(view: &View) -> NamespaceOption {
    let linux = view.record.config.linux.as_ref();
    let security = linux.and_then(|l| l.security_context.as_ref());
    security.and_then(|s| s.namespace_options.clone()).unwrap_or_default()
}
