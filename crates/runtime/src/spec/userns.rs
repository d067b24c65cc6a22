//! The pod's user namespace (`hostUsers: false`): its maps, and what can't be had together with it.

use cri::v1::{IdMapping, NamespaceMode, NamespaceOption, PodSandboxConfig, UserNamespace};
use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder};
use sys::userns::Maps;

use super::{Result, error::invalid, error::unsupported, namespaces};

/// A pod's user namespace: root in it is `host_uid` and `host_gid` outside, and so on for `uids` and `gids` ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserMaps {
    /// What root in it is outside.
    pub host_uid: u32,
    /// What its root's group is outside.
    pub host_gid: u32,
    uids: u32,
    gids: u32,
}

impl UserMaps {
    /// As the kernel takes them.
    pub fn maps(&self) -> Maps {
        Maps {
            uid: format!("0 {} {}\n", self.host_uid, self.uids),
            gid: format!("0 {} {}\n", self.host_gid, self.gids),
        }
    }

    /// The options by which a snapshot's mount is told of them.
    pub fn mount_options(&self) -> [String; 2] {
        [
            format!("uidmap=0:{}:{}", self.host_uid, self.uids),
            format!("gidmap=0:{}:{}", self.host_gid, self.gids),
        ]
    }

    /// The last group that there is in it.
    pub(super) fn last_gid(&self) -> u32 {
        self.gids - 1
    }

    /// The last user that there is in it.
    pub(super) fn last_uid(&self) -> u32 {
        self.uids - 1
    }

    /// `linux.uidMappings` and `linux.gidMappings`.
    pub(super) fn mappings(&self) -> [Vec<LinuxIdMapping>; 2] {
        [
            mapping(0, self.host_uid, self.uids),
            mapping(0, self.host_gid, self.gids),
        ]
        .map(|m| vec![m])
    }
}

/// The user namespace that a sandbox asks for; none: it stays in the host's.
pub fn user_maps(config: &PodSandboxConfig) -> Result<Option<UserMaps>> {
    let options = namespaces::of_sandbox(config);
    let Some(user) = own(&options)? else { return Ok(None) };
    let field = |name: &str| format!("namespace_options.userns_options.{name}");
    let (host_uid, uids) = one(&field("uids"), &user.uids)?;
    let (host_gid, gids) = one(&field("gids"), &user.gids)?;
    if namespaces::host_network(config) {
        return Err(unsupported(
            field("mode"),
            "a user namespace on the host's network can't be had: the pod would have no /sys",
        ));
    }
    for (name, mode) in [("pid", options.pid), ("ipc", options.ipc)] {
        if mode == NamespaceMode::Node as i32 {
            return Err(invalid(
                format_args!("namespace_options.{name}"),
                "NODE can't be had in a user namespace, which may not mount what belongs to the host's namespaces",
            ));
        }
    }
    Ok(Some(UserMaps {
        host_uid,
        host_gid,
        uids,
        gids,
    }))
}

/// The options, if they ask for a user namespace of the pod's own.
fn own(options: &NamespaceOption) -> Result<Option<&UserNamespace>> {
    match &options.userns_options {
        Some(user) if user.mode == NamespaceMode::Pod as i32 => Ok(Some(user)),
        Some(user) if user.mode != NamespaceMode::Node as i32 => Err(invalid(
            "namespace_options.userns_options.mode",
            format_args!("{} can't be had: it is POD or NODE", namespaces::mode_name(user.mode)),
        )),
        _ => Ok(None),
    }
}

/// A container is in its pod's user namespace, whether it says so or nothing.
pub(super) fn agree(container: &NamespaceOption, sandbox: &NamespaceOption) -> Result<()> {
    if container.userns_options.is_none() || own(container)? == own(sandbox)? {
        return Ok(());
    }
    Err(invalid(
        "namespace_options.userns_options",
        "differs from the sandbox's",
    ))
}

/// The CRI's rule: one range, of container id 0.
fn one(field: &str, ranges: &[IdMapping]) -> Result<(u32, u32)> {
    let [range] = ranges else {
        return Err(invalid(
            field,
            format_args!("{} ranges: there must be one", ranges.len()),
        ));
    };
    if range.container_id != 0 {
        return Err(invalid(
            field,
            format_args!("maps id {}: it must map 0", range.container_id),
        ));
    }
    // The last id, -1, is none.
    if range.length == 0 || u64::from(range.host_id) + u64::from(range.length) > u64::from(u32::MAX) {
        return Err(invalid(
            field,
            format_args!(
                "{} ids from {} on are not ids (0 to {})",
                range.length,
                range.host_id,
                u32::MAX - 1
            ),
        ));
    }
    if range.host_id == 0 {
        return Err(invalid(field, "the host's root would be the pod's"));
    }
    Ok((range.host_id, range.length))
}

/// The maps of a mount, if it has any.
pub(super) fn of_mount(ranges: &[IdMapping]) -> Option<Vec<LinuxIdMapping>> {
    let mapped = ranges.iter().map(|r| mapping(r.container_id, r.host_id, r.length));
    (!ranges.is_empty()).then(|| mapped.collect())
}

fn mapping(inside: u32, outside: u32, count: u32) -> LinuxIdMapping {
    LinuxIdMappingBuilder::default()
        .container_id(inside)
        .host_id(outside)
        .size(count)
        .build()
        // Each field has a default, so nothing can be missing.
        .unwrap_or_default()
}
