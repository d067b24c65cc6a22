//! `linux.devices` and the device rules of the cgroup. The handful that every container has (/dev/null and its like)
//! are the starter's to make; here are those that the configuration adds.

use std::path::PathBuf;

use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType};

use super::ContainerInputs;

/// A device node of the host that a container gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostDevice {
    /// Where it appears in the container.
    pub container_path: PathBuf,
    /// `C` or `B`.
    pub kind: LinuxDeviceType,
    /// Its driver's number.
    pub major: u32,
    /// Its own.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// What the container may do with it: letters of `rwm`.
    pub access: String,
}

/// The nodes to make.
pub(super) fn nodes(inputs: &ContainerInputs<'_>) -> Option<Vec<LinuxDevice>> {
    let nodes: Vec<_> = inputs.facts.devices.iter().map(node).collect();
    (!nodes.is_empty()).then_some(nodes)
}

fn node(device: &HostDevice) -> LinuxDevice {
    let mut node = LinuxDevice::default();
    node.set_path(device.container_path.clone())
        .set_typ(device.kind)
        .set_major(device.major.into())
        .set_minor(device.minor.into())
        .set_file_mode(Some(device.mode))
        .set_uid(Some(device.uid))
        .set_gid(Some(device.gid));
    node
}

/// The rules of the cgroup, later ones first in force: everything for a privileged container; else nothing but
/// mknod, the devices that every container has, and the listed ones.
pub(super) fn rules(inputs: &ContainerInputs<'_>, privileged: bool) -> Vec<LinuxDeviceCgroup> {
    if privileged {
        return vec![rule(true, LinuxDeviceType::A, None, None, "rwm")];
    }
    let mut rules = vec![
        rule(false, LinuxDeviceType::A, None, None, "rwm"),
        rule(true, LinuxDeviceType::C, None, None, "m"),
        rule(true, LinuxDeviceType::B, None, None, "m"),
    ];
    // null, zero, full, random, urandom; tty, console, ptmx; pts/*.
    for (major, minor) in [
        (1, Some(3)),
        (1, Some(5)),
        (1, Some(7)),
        (1, Some(8)),
        (1, Some(9)),
        (5, Some(0)),
        (5, Some(1)),
        (5, Some(2)),
        (136, None),
    ] {
        rules.push(rule(true, LinuxDeviceType::C, Some(major), minor, "rwm"));
    }
    let listed = inputs.facts.devices.iter();
    rules.extend(listed.map(|d| rule(true, d.kind, Some(d.major.into()), Some(d.minor.into()), &d.access)));
    rules
}

fn rule(allow: bool, kind: LinuxDeviceType, major: Option<i64>, minor: Option<i64>, access: &str) -> LinuxDeviceCgroup {
    let mut builder = LinuxDeviceCgroupBuilder::default()
        .allow(allow)
        .typ(kind)
        .access(access);
    if let Some(major) = major {
        builder = builder.major(major);
    }
    if let Some(minor) = minor {
        builder = builder.minor(minor);
    }
    // No field is required, so there is nothing that `build` could miss.
    builder.build().unwrap_or_default()
}
