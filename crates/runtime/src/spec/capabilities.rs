//! `process.capabilities`: the default fourteen, with what the configuration adds and drops.

use cri::v1::LinuxContainerSecurityContext;
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};

use super::{Result, error::invalid};

/// What a container may do unless its configuration says otherwise: the set that container runtimes have agreed on.
const DEFAULT: [Capability; 14] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Mknod,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// A container's five sets. Inheritable holds no more than ambient: anything else there would let a program with file
/// capabilities gain what the process itself lacks.
pub(super) fn container(security: &LinuxContainerSecurityContext, all: &Capabilities) -> Result<LinuxCapabilities> {
    let change = security.capabilities.clone().unwrap_or_default();
    let ambient = parse(
        "capabilities.add_ambient_capabilities",
        &change.add_ambient_capabilities,
        all,
    )?;
    let mut granted = if security.privileged {
        all.clone()
    } else {
        granted(&change.add_capabilities, &change.drop_capabilities, all)?
    };
    granted.extend(&ambient);
    Ok(sets(granted, ambient))
}

/// No capability at all.
pub(super) fn none() -> LinuxCapabilities {
    sets(Capabilities::new(), Capabilities::new())
}

/// “ALL” first, then the names: adding ALL and dropping one leaves all but one; dropping ALL and adding one leaves one.
fn granted(add: &[String], drop: &[String], all: &Capabilities) -> Result<Capabilities> {
    let mut granted: Capabilities = match (has_all(add), has_all(drop)) {
        (_, true) => Capabilities::new(),
        (true, false) => all.clone(),
        (false, false) => DEFAULT.into_iter().collect(),
    };
    for name in add.iter().filter(|n| !is_all(n)) {
        granted.insert(capability("capabilities.add_capabilities", name)?);
    }
    for name in drop.iter().filter(|n| !is_all(n)) {
        granted.remove(&capability("capabilities.drop_capabilities", name)?);
    }
    Ok(granted)
}

fn parse(field: &str, names: &[String], all: &Capabilities) -> Result<Capabilities> {
    if has_all(names) {
        return Ok(all.clone());
    }
    names.iter().map(|name| capability(field, name)).collect()
}

fn has_all(names: &[String]) -> bool {
    names.iter().any(|n| is_all(n))
}

fn is_all(name: &str) -> bool {
    name.eq_ignore_ascii_case("ALL")
}

/// `NET_ADMIN`, `cap_net_admin` and `CAP_NET_ADMIN` are the same.
fn capability(field: &str, name: &str) -> Result<Capability> {
    let upper = name.to_ascii_uppercase();
    upper
        .strip_prefix("CAP_")
        .unwrap_or(&upper)
        .parse()
        .map_err(|_| invalid(field, format_args!("{name:?} is not a capability")))
}

fn sets(granted: Capabilities, ambient: Capabilities) -> LinuxCapabilities {
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(granted.clone()))
        .set_effective(Some(granted.clone()))
        .set_permitted(Some(granted))
        .set_inheritable(Some(ambient.clone()))
        .set_ambient(Some(ambient));
    sets
}
