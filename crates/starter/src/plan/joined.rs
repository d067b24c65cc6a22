//! A container in a mount namespace that is there: it is taken as it is, root and all.

use oci_spec::runtime::Spec;

use super::namespaces::Namespaces;
use crate::request::Rootfs;
use crate::{Error, Result};

/// Refuses what would have to be mounted: it would show to everyone in that namespace. (`root.path` must be in every
/// config; it means nothing here.)
pub(crate) fn check(namespaces: &Namespaces, spec: &Spec, rootfs: &Rootfs<'_>) -> Result<()> {
    let Some(joined) = namespaces.joined_mount() else {
        return Ok(());
    };
    let linux = spec.linux().as_ref();
    let some = |count: usize| (count > 0).then(|| count.to_string());
    let root = spec.root().as_ref();
    let given = match rootfs {
        Rootfs::Mounts(mounts) => some(mounts.len()),
        Rootfs::Directory(_) => None,
        Rootfs::Empty => Some("empty".to_string()),
    };
    let asked = [
        ("rootfs", given),
        ("mounts", some(spec.mounts().as_ref().map_or(0, Vec::len))),
        (
            "root.readonly",
            root.filter(|r| r.readonly() == Some(true)).map(|_| "true".to_string()),
        ),
        (
            "linux.maskedPaths",
            some(linux.and_then(|l| l.masked_paths().as_ref()).map_or(0, Vec::len)),
        ),
        (
            "linux.readonlyPaths",
            some(linux.and_then(|l| l.readonly_paths().as_ref()).map_or(0, Vec::len)),
        ),
        (
            "linux.devices",
            some(linux.and_then(|l| l.devices().as_ref()).map_or(0, Vec::len)),
        ),
        (
            "linux.rootfsPropagation",
            linux.and_then(|l| l.rootfs_propagation().clone()),
        ),
    ];
    for (field, value) in asked {
        if let Some(value) = value {
            let rule =
                format!("must not be there: the container joins the mount namespace {joined}, which stays as it is");
            return Err(Error::spec(field, value, rule));
        }
    }
    Ok(())
}
