//! `mounts`: the file systems that every container has, the pod's own files, and the configuration's mounts.

use std::path::{Component, Path};

use cri::v1::{LinuxContainerSecurityContext, Mount as CriMount, MountPropagation, NamespaceMode, NamespaceOption};
use oci_spec::runtime::Mount;

use super::{ContainerInputs, Result, error::invalid, userns};

/// A container's mounts, in the order in which they are made. A configured mount takes the place of a default one
/// with the same destination; parents come before children.
pub(super) fn container(
    inputs: &ContainerInputs<'_>,
    security: &LinuxContainerSecurityContext,
    options: &NamespaceOption,
) -> Result<Vec<Mount>> {
    let configured = &inputs.config.mounts;
    let taken = |mount: &Mount| {
        configured
            .iter()
            .any(|m| same_path(Path::new(&m.container_path), mount.destination()))
    };
    let mut mounts = kernel_file_systems(security.privileged);
    mounts.push(shared_memory(inputs, options));
    mounts.extend(pod_files(inputs, security.readonly_rootfs));
    mounts.retain(|m| !taken(m));

    let mut own = Vec::new();
    for (index, mount) in configured.iter().enumerate() {
        own.push(bind(inputs, index, mount)?);
    }
    // Stable: mounts of equal depth stay in the configuration's order.
    own.sort_by_key(|m: &Mount| depth(m.destination()));
    mounts.extend(own);
    Ok(mounts)
}

/// What an image's program in pause's place may expect of any container: it has a /proc and an empty /dev.
pub(super) fn sandbox() -> Vec<Mount> {
    let all = kernel_file_systems(false).into_iter();
    let wanted = |mount: &Mount| ["/proc", "/dev"].contains(&mount.destination().to_str().unwrap_or_default());
    all.filter(wanted).collect()
}

/// How the container's root must be connected with the host's mounts, for the mounts' propagation to work.
pub(super) fn rootfs_propagation(mounts: &[CriMount]) -> Option<String> {
    let any = |p: MountPropagation| mounts.iter().any(|m| m.propagation == p as i32);
    if any(MountPropagation::PropagationBidirectional) {
        Some("rshared".into())
    } else if any(MountPropagation::PropagationHostToContainer) {
        Some("rslave".into())
    } else {
        None
    }
}

fn kernel_file_systems(privileged: bool) -> Vec<Mount> {
    let access = if privileged { "rw" } else { "ro" };
    vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access]),
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", access],
        ),
    ]
}

/// The pod's shared memory goes with its IPC namespace.
fn shared_memory(inputs: &ContainerInputs<'_>, options: &NamespaceOption) -> Mount {
    let source = if options.ipc == NamespaceMode::Node as i32 {
        "/dev/shm".into()
    } else {
        inputs.sandbox_dir.join("shm")
    };
    let mut mount = mount(
        "/dev/shm",
        "bind",
        "",
        &["rbind", "rprivate", "nosuid", "nodev", "noexec", "rw"],
    );
    mount.set_source(Some(source));
    mount
}

/// Files that are the same in each container of the pod. Containers may write to them unless their root is read-only.
fn pod_files(inputs: &ContainerInputs<'_>, readonly: bool) -> impl Iterator<Item = Mount> {
    let access = if readonly { "ro" } else { "rw" };
    ["hostname", "hosts", "resolv.conf"].into_iter().map(move |name| {
        let mut mount = mount(&format!("/etc/{name}"), "bind", "", &["rbind", "rprivate", access]);
        mount.set_source(Some(inputs.sandbox_dir.join(name)));
        mount
    })
}

/// A mount of the configuration.
fn bind(inputs: &ContainerInputs<'_>, index: usize, configured: &CriMount) -> Result<Mount> {
    let field = |name: &str| format!("mounts[{index}].{name}");
    if !configured.container_path.starts_with('/') {
        return Err(invalid(
            field("container_path"),
            format_args!("{:?} is not an absolute path", configured.container_path),
        ));
    }
    if inputs.userns.is_some() && configured.propagation == MountPropagation::PropagationBidirectional as i32 {
        return Err(invalid(
            field("propagation"),
            "a pod in a user namespace can't mount on the host: PRIVATE and HOST_TO_CONTAINER are possible",
        ));
    }
    let Some(source) = inputs.facts.mount_sources.get(index) else {
        return Err(invalid(field("host_path"), "a mount needs a path on the host"));
    };
    let mut mount = mount(&configured.container_path, "bind", "", &["rbind"]);
    let mut options = mount.options().clone().unwrap_or_default();
    options.push(propagation(configured, &field("propagation"))?.into());
    options.push(access(configured, &field("recursive_read_only"))?.into());
    mount.set_source(Some(source.clone())).set_options(Some(options));
    // An overlay, as an image's files are, can't be shown with other owners.
    if configured.image.is_none() {
        mount
            .set_uid_mappings(userns::of_mount(&configured.uid_mappings))
            .set_gid_mappings(userns::of_mount(&configured.gid_mappings));
    }
    Ok(mount)
}

fn propagation(configured: &CriMount, field: &str) -> Result<&'static str> {
    match MountPropagation::try_from(configured.propagation) {
        Ok(MountPropagation::PropagationPrivate) => Ok("rprivate"),
        Ok(MountPropagation::PropagationHostToContainer) => Ok("rslave"),
        Ok(MountPropagation::PropagationBidirectional) => Ok("rshared"),
        Err(_) => Err(invalid(
            field,
            format_args!("{} is not a mode of propagation", configured.propagation),
        )),
    }
}

/// Recursively read-only is a promise about everything below: what the host mounts there later would break it.
fn access(configured: &CriMount, field: &str) -> Result<&'static str> {
    match (configured.readonly, configured.recursive_read_only) {
        (readonly, false) => Ok(if readonly { "ro" } else { "rw" }),
        (false, true) => Err(invalid(field, "a recursively read-only mount must be readonly too")),
        (true, true) if configured.propagation != MountPropagation::PropagationPrivate as i32 => Err(invalid(
            field,
            "a recursively read-only mount must have PROPAGATION_PRIVATE",
        )),
        (true, true) => Ok("rro"),
    }
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(destination.into())
        .set_typ(Some(kind.into()))
        .set_source(Some(source.into()))
        .set_options(Some(options.iter().map(|o| (*o).to_owned()).collect()));
    mount
}

fn same_path(a: &Path, b: &Path) -> bool {
    a.components().eq(b.components())
}

fn depth(path: &Path) -> usize {
    path.components().filter(|c| matches!(c, Component::Normal(_))).count()
}
