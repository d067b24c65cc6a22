//! `linux.namespaces`: which a container has of its own, shares with its pod, or shares with the host.
//!
//! The sandbox's network namespace is a path that exists. The others are names below the sandbox's directory that only
//! the shim understands: it holds those namespaces as file descriptors.

use std::path::PathBuf;

use cri::v1::{NamespaceMode, NamespaceOption, PodSandboxConfig};
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType};

use super::{ContainerInputs, Result, error::invalid, userns};

/// The namespace options of a sandbox; by default each namespace is the pod's.
pub(super) fn of_sandbox(config: &PodSandboxConfig) -> NamespaceOption {
    config
        .linux
        .as_ref()
        .and_then(|l| l.security_context.as_ref())
        .and_then(|s| s.namespace_options.clone())
        .unwrap_or_default()
}

/// Whether the sandbox uses the host's network.
pub fn host_network(config: &PodSandboxConfig) -> bool {
    of_sandbox(config).network == NamespaceMode::Node as i32
}

/// Refuses namespace options that mean nothing, before anything is made of them.
pub fn check(config: &PodSandboxConfig) -> Result<()> {
    let options = of_sandbox(config);
    for (field, value) in [("network", options.network), ("ipc", options.ipc)] {
        match NamespaceMode::try_from(value) {
            Ok(NamespaceMode::Pod | NamespaceMode::Node) => {}
            _ => {
                return Err(invalid(
                    format_args!("namespace_options.{field}"),
                    format_args!("{} can't be had: it is POD or NODE", mode_name(value)),
                ));
            }
        }
    }
    if options.pid == NamespaceMode::Target as i32 {
        return Err(invalid(
            "namespace_options.pid",
            "TARGET is for containers; a sandbox has POD, CONTAINER or NODE",
        ));
    }
    userns::user_maps(config).map(drop)
}

/// A sandbox's own namespaces, as pause gets them.
pub(super) fn sandbox(
    options: &NamespaceOption,
    netns: Option<PathBuf>,
    userns: Option<PathBuf>,
) -> Vec<LinuxNamespace> {
    let mut namespaces = vec![new(LinuxNamespaceType::Mount)];
    if let Some(path) = userns {
        namespaces.push(joined(LinuxNamespaceType::User, path));
    }
    if options.pid != NamespaceMode::Node as i32 {
        namespaces.push(new(LinuxNamespaceType::Pid));
    }
    if options.ipc != NamespaceMode::Node as i32 {
        namespaces.push(new(LinuxNamespaceType::Ipc));
    }
    if let Some(path) = netns {
        namespaces.push(new(LinuxNamespaceType::Uts));
        namespaces.push(joined(LinuxNamespaceType::Network, path));
    }
    namespaces
}

/// A container's namespaces.
pub(super) fn container(
    inputs: &ContainerInputs<'_>,
    options: &NamespaceOption,
    privileged: bool,
) -> Result<Vec<LinuxNamespace>> {
    agree(options, &of_sandbox(inputs.sandbox))?;
    let pinned = |name: &str| inputs.sandbox_dir.join("ns").join(name);
    let mut namespaces = vec![new(LinuxNamespaceType::Mount)];
    if let Some(userns) = inputs.userns {
        namespaces.push(joined(LinuxNamespaceType::User, userns.into()));
    }
    // The host's name goes with the host's network: a program that asks for its own address by its own name must find it.
    if let Some(netns) = inputs.netns {
        namespaces.push(joined(LinuxNamespaceType::Network, netns.into()));
        namespaces.push(joined(LinuxNamespaceType::Uts, pinned("uts")));
    }
    if options.ipc != NamespaceMode::Node as i32 {
        namespaces.push(joined(LinuxNamespaceType::Ipc, pinned("ipc")));
    }
    match NamespaceMode::try_from(options.pid) {
        Ok(NamespaceMode::Pod) => namespaces.push(joined(LinuxNamespaceType::Pid, pinned("pid"))),
        Ok(NamespaceMode::Container) => namespaces.push(new(LinuxNamespaceType::Pid)),
        Ok(NamespaceMode::Node) => {}
        Ok(NamespaceMode::Target) => {
            namespaces.push(joined(LinuxNamespaceType::Pid, target(inputs, &options.target_id)?));
        }
        Err(_) => {
            return Err(invalid(
                "namespace_options.pid",
                format_args!("{} is not a mode", options.pid),
            ));
        }
    }
    if inputs.facts.cgroup_v2 && !privileged {
        namespaces.push(new(LinuxNamespaceType::Cgroup));
    }
    Ok(namespaces)
}

/// The name by which the shim knows the PID namespace of container `target`.
fn target(inputs: &ContainerInputs<'_>, target: &str) -> Result<PathBuf> {
    if target.is_empty() || target.contains('/') {
        return Err(invalid(
            "namespace_options.target_id",
            format_args!("{target:?} is not a container's id"),
        ));
    }
    Ok(inputs.sandbox_dir.join("containers").join(target).join("ns/pid"))
}

/// A container can't differ from its sandbox in what the sandbox made.
fn agree(container: &NamespaceOption, sandbox: &NamespaceOption) -> Result<()> {
    for (field, own, of_sandbox) in [
        ("network", container.network, sandbox.network),
        ("ipc", container.ipc, sandbox.ipc),
    ] {
        if own != of_sandbox {
            return Err(invalid(
                format_args!("namespace_options.{field}"),
                format_args!(
                    "{} differs from the sandbox's {}",
                    mode_name(own),
                    mode_name(of_sandbox)
                ),
            ));
        }
    }
    userns::agree(container, sandbox)
}

pub(super) fn mode_name(mode: i32) -> String {
    NamespaceMode::try_from(mode).map_or_else(|_| mode.to_string(), |m| m.as_str_name().to_owned())
}

fn new(kind: LinuxNamespaceType) -> LinuxNamespace {
    let mut namespace = LinuxNamespace::default();
    namespace.set_typ(kind);
    namespace
}

fn joined(kind: LinuxNamespaceType, path: PathBuf) -> LinuxNamespace {
    let mut namespace = new(kind);
    namespace.set_path(Some(path));
    namespace
}
