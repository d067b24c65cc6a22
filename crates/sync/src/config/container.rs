//! ContainerConfig.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use cri::v1::{ContainerConfig, ContainerMetadata, ImageSpec, LinuxContainerConfig, Mount, MountPropagation};
use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};

use super::{Identity, Node, environment, resources, sandbox::identity_labels, security};
use crate::{
    decide::{Start, hash},
    labels,
};

/// What a container's configuration needs beyond its pod.
pub struct Surroundings<'a> {
    /// The node.
    pub node: &'a Node,
    /// The pod's addresses.
    pub pod_ips: &'a [String],
    /// Where on the host each volume is.
    pub volumes: &'a BTreeMap<String, PathBuf>,
    /// The id of the image to use.
    pub image_id: &'a str,
}

/// The configuration of the container that `start` decided on, or what is wrong with its spec.
pub fn config(
    pod: &Pod,
    container: &Container,
    start: &Start,
    around: &Surroundings<'_>,
) -> Result<ContainerConfig, String> {
    let spec = pod.spec.clone().unwrap_or_default();
    let identity = Identity::of(pod);
    let envs = environment::variables(pod, container, around.node, around.pod_ips)?;
    let mut labels: BTreeMap<String, String> = identity_labels(identity).into_iter().collect();
    labels.insert(labels::CONTAINER_NAME.into(), container.name.clone());
    let image = container.image.clone().unwrap_or_default();
    Ok(ContainerConfig {
        metadata: Some(ContainerMetadata {
            name: container.name.clone(),
            attempt: start.attempt,
        }),
        image: Some(ImageSpec {
            image: around.image_id.to_owned(),
            user_specified_image: image,
            ..ImageSpec::default()
        }),
        command: environment::command("command", container.command.as_ref(), &envs)?,
        args: environment::command("args", container.args.as_ref(), &envs)?,
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs,
        mounts: mounts(container, identity, start, around),
        labels,
        annotations: annotations(pod, container, start, around.node),
        log_path: format!("{}/{}.log", container.name, start.attempt),
        stdin: container.stdin.unwrap_or_default(),
        stdin_once: container.stdin_once.unwrap_or_default(),
        tty: container.tty.unwrap_or_default(),
        linux: Some(LinuxContainerConfig {
            resources: Some(resources::container(&spec, container, around.node)),
            security_context: Some(security::container(&spec, container)),
        }),
        ..ContainerConfig::default()
    })
}

/// `ROOT/pods/UID/containers/NAME/ATTEMPT`: the file behind terminationMessagePath.
pub fn termination_message(node: &Node, uid: &str, name: &str, attempt: u32) -> PathBuf {
    node.pods_root
        .join(uid)
        .join("containers")
        .join(name)
        .join(attempt.to_string())
}

/// `ROOT/pods/UID/etc-hosts`: the file behind /etc/hosts.
pub fn hosts_file(node: &Node, uid: &str) -> PathBuf {
    node.pods_root.join(uid).join("etc-hosts")
}

fn annotations(pod: &Pod, container: &Container, start: &Start, node: &Node) -> BTreeMap<String, String> {
    let identity = Identity::of(pod);
    let grace = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    let message = termination_message(node, identity.uid, &container.name, start.attempt);
    let policy = container.termination_message_policy.as_deref().unwrap_or("File");
    let mut annotations = BTreeMap::from([
        (labels::HASH.to_owned(), hash(container)),
        (labels::RESTART_COUNT.to_owned(), start.attempt.to_string()),
        (labels::RESTART_DELAY.to_owned(), start.restart_delay_s.to_string()),
        (
            labels::TERMINATION_MESSAGE_PATH.to_owned(),
            message.to_string_lossy().into_owned(),
        ),
        (labels::TERMINATION_MESSAGE_POLICY.to_owned(), policy.to_owned()),
    ]);
    annotations.extend(grace.map(|grace| (labels::GRACE_PERIOD.to_owned(), grace.to_string())));
    annotations
}

fn mounts(container: &Container, identity: Identity<'_>, start: &Start, around: &Surroundings<'_>) -> Vec<Mount> {
    // Validation has every mount refer to a volume, and sync prepares every volume first.
    let mut mounts: Vec<Mount> = container
        .volume_mounts
        .iter()
        .flatten()
        .filter_map(|mount| Some(volume_mount(mount, around.volumes.get(&mount.name)?)))
        .collect();
    let message = container.termination_message_path.as_deref().unwrap_or_default();
    let own = [
        ("/etc/hosts", hosts_file(around.node, identity.uid)),
        (
            message,
            termination_message(around.node, identity.uid, &container.name, start.attempt),
        ),
    ];
    for (inside, outside) in own {
        let is_taken = mounts.iter().any(|mount| mount.container_path == inside);
        if !inside.is_empty() && !is_taken {
            mounts.push(Mount {
                container_path: inside.to_owned(),
                host_path: outside.to_string_lossy().into_owned(),
                ..Mount::default()
            });
        }
    }
    mounts
}

fn volume_mount(mount: &VolumeMount, host_path: &Path) -> Mount {
    let propagation = match mount.mount_propagation.as_deref() {
        Some("HostToContainer") => MountPropagation::PropagationHostToContainer,
        Some("Bidirectional") => MountPropagation::PropagationBidirectional,
        _ => MountPropagation::PropagationPrivate,
    };
    // A path without a slash in front is below the root, as kubelet has it.
    let inside = if mount.mount_path.starts_with('/') {
        mount.mount_path.clone()
    } else {
        format!("/{}", mount.mount_path)
    };
    Mount {
        container_path: inside,
        host_path: host_path.to_string_lossy().into_owned(),
        readonly: mount.read_only.unwrap_or_default(),
        propagation: propagation as i32,
        ..Mount::default()
    }
}
