//! securityContext, of the pod and of a container, as the CRI's security contexts
//! (<https://kubernetes.io/docs/tasks/configure-pod-container/security-context/>).
//!
//! Where no seccompProfile is set, RuntimeDefault holds: kubelet's default is Unconfined unless it is started with
//! `--seccomp-default`, which every hardening guide asks for. A privileged container is unconfined.

use cri::v1::{
    Capability, Image, Int64Value, LinuxContainerSecurityContext, LinuxSandboxSecurityContext, NamespaceMode,
    NamespaceOption, SecurityProfile, SupplementalGroupsPolicy, security_profile::ProfileType,
};
use k8s_openapi::api::core::v1::{Container, PodSpec, SeccompProfile, SecurityContext};

use super::all_containers;

/// What a container must not see of /proc and /sys unless it is privileged, and what it must not write to: the defaults that
/// Kubernetes' procMount `Default` stands for.
const MASKED_PATHS: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The sandbox's.
pub fn sandbox(spec: &PodSpec) -> LinuxSandboxSecurityContext {
    let context = spec.security_context.clone().unwrap_or_default();
    LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(spec)),
        run_as_user: context.run_as_user.map(|value| Int64Value { value }),
        run_as_group: context
            .run_as_user
            .and(context.run_as_group)
            .map(|value| Int64Value { value }),
        supplemental_groups: groups(spec),
        supplemental_groups_policy: groups_policy(spec),
        privileged: all_containers(spec).any(is_privileged),
        seccomp: Some(seccomp(context.seccomp_profile.as_ref())),
        ..LinuxSandboxSecurityContext::default()
    }
}

/// A container's: its own fields first, then the pod's.
pub fn container(spec: &PodSpec, container: &Container) -> LinuxContainerSecurityContext {
    let pod = spec.security_context.clone().unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    let privileged = is_privileged(container);
    let paths = |paths: &[&str]| {
        if privileged {
            Vec::new()
        } else {
            paths.iter().map(|path| (*path).to_owned()).collect()
        }
    };
    let run_as_user = own.run_as_user.or(pod.run_as_user);
    LinuxContainerSecurityContext {
        capabilities: Some(capabilities(&own)),
        privileged,
        namespace_options: Some(namespaces(spec)),
        run_as_user: run_as_user.map(|value| Int64Value { value }),
        run_as_group: own.run_as_group.or(pod.run_as_group).map(|value| Int64Value { value }),
        readonly_rootfs: own.read_only_root_filesystem.unwrap_or_default(),
        supplemental_groups: groups(spec),
        supplemental_groups_policy: groups_policy(spec),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: paths(&MASKED_PATHS),
        readonly_paths: paths(&READONLY_PATHS),
        seccomp: Some(match privileged {
            true => profile(ProfileType::Unconfined),
            false => seccomp(own.seccomp_profile.as_ref().or(pod.seccomp_profile.as_ref())),
        }),
        ..LinuxContainerSecurityContext::default()
    }
}

/// runAsNonRoot, for a container whose user only the image knows. An error says what to do.
pub fn check_non_root(spec: &PodSpec, container: &Container, image: &Image) -> Result<(), String> {
    let pod = spec.security_context.as_ref();
    let own = container.security_context.as_ref();
    let non_root = own
        .and_then(|context| context.run_as_non_root)
        .or(pod.and_then(|context| context.run_as_non_root));
    let user = own
        .and_then(|context| context.run_as_user)
        .or(pod.and_then(|context| context.run_as_user));
    if non_root != Some(true) {
        return Ok(());
    }
    match (user, &image.uid, image.username.as_str()) {
        (Some(0), ..) => Err("container's runAsUser breaks non-root policy: it is 0; set another user".into()),
        (Some(_), ..) => Ok(()),
        (None, Some(uid), _) if uid.value != 0 => Ok(()),
        (None, None, name) if !name.is_empty() => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root; set runAsUser"
        )),
        _ => Err("container has runAsNonRoot and image will run as root; set runAsUser".into()),
    }
}

fn is_privileged(container: &Container) -> bool {
    container
        .security_context
        .as_ref()
        .and_then(|context| context.privileged)
        .unwrap_or_default()
}

fn namespaces(spec: &PodSpec) -> NamespaceOption {
    let on_host = |field: Option<bool>, otherwise: NamespaceMode| match field {
        Some(true) => NamespaceMode::Node as i32,
        _ => otherwise as i32,
    };
    let pid = if spec.share_process_namespace == Some(true) {
        NamespaceMode::Pod
    } else {
        NamespaceMode::Container
    };
    NamespaceOption {
        network: on_host(spec.host_network, NamespaceMode::Pod),
        ipc: on_host(spec.host_ipc, NamespaceMode::Pod),
        pid: on_host(spec.host_pid, pid),
        ..NamespaceOption::default()
    }
}

/// fsGroup is a group of every process too, so that it may write to the pod's volumes.
fn groups(spec: &PodSpec) -> Vec<i64> {
    let context = spec.security_context.as_ref();
    let fs_group = context.and_then(|context| context.fs_group);
    fs_group
        .into_iter()
        .chain(
            context
                .iter()
                .flat_map(|context| context.supplemental_groups.iter().flatten().copied()),
        )
        .collect()
}

fn groups_policy(spec: &PodSpec) -> i32 {
    match spec
        .security_context
        .as_ref()
        .and_then(|context| context.supplemental_groups_policy.as_deref())
    {
        Some("Strict") => SupplementalGroupsPolicy::Strict as i32,
        _ => SupplementalGroupsPolicy::Merge as i32,
    }
}

fn capabilities(context: &SecurityContext) -> Capability {
    let named = |list: Option<&Vec<String>>| {
        list.into_iter()
            .flatten()
            .map(|name| name.trim_start_matches("CAP_").to_owned())
            .collect()
    };
    let own = context.capabilities.as_ref();
    Capability {
        add_capabilities: named(own.and_then(|own| own.add.as_ref())),
        drop_capabilities: named(own.and_then(|own| own.drop.as_ref())),
        ..Capability::default()
    }
}

fn seccomp(spec: Option<&SeccompProfile>) -> SecurityProfile {
    match spec.map(|spec| (spec.type_.as_str(), spec)) {
        Some(("Unconfined", _)) => profile(ProfileType::Unconfined),
        Some(("Localhost", spec)) => SecurityProfile {
            profile_type: ProfileType::Localhost as i32,
            localhost_ref: spec.localhost_profile.clone().unwrap_or_default(),
        },
        _ => profile(ProfileType::RuntimeDefault),
    }
}

fn profile(type_: ProfileType) -> SecurityProfile {
    SecurityProfile {
        profile_type: type_ as i32,
        ..SecurityProfile::default()
    }
}
