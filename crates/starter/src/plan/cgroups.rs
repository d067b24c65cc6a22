//! The process's place in the cgroups, and the view of them that a container gets.

use std::ffi::CString;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use cgroup::{Hierarchies, Mode, Placement};
use oci_spec::runtime::Spec;

use super::step::{Handle, Inherited, Step};
use super::text::c_path;
use crate::{Error, Result};

/// v1: the child writes "0" into each `tasks` file itself. A single thread that moves itself does not take the lock
/// that would wait for an RCU grace period (0.6 ms for eight hierarchies against 12). v2: returned, for clone3.
pub(crate) fn enter<'a>(
    placement: Option<&'a Placement>,
    inherited: &mut Inherited<'a>,
    steps: &mut Vec<Step>,
) -> Option<Handle> {
    let placement = placement?;
    for (number, tasks) in placement.v1_tasks.iter().enumerate() {
        steps.push(Step::EnterCgroup {
            tasks: inherited.borrow(tasks.as_fd()),
            number,
        });
    }
    placement.v2_dir.as_ref().map(|dir| inherited.borrow(dir.as_fd()))
}

/// What a mount of type `cgroup` is made of.
#[derive(Debug)]
pub(crate) enum View {
    /// v2 in a cgroup namespace of its own: a fresh mount shows the container's cgroup as its root.
    Unified,
    /// v2 without such a namespace: the container's own cgroup, bound.
    Bound(CString),
    /// v1 and hybrid: a tmpfs with each hierarchy's own cgroup bound at its usual name, and links for the other names
    /// of a hierarchy with several controllers.
    Tree {
        binds: Vec<(String, CString)>,
        links: Vec<(String, String)>,
    },
}

/// The view for this spec. `field`: the mount that asks for it.
pub(crate) fn view(field: &str, spec: &Spec, own_namespace: bool) -> Result<View> {
    let hierarchies = hierarchies()?;
    if let (Mode::V2, Some(v2)) = (hierarchies.mode(), hierarchies.v2()) {
        return match own_namespace {
            true => Ok(View::Unified),
            false => Ok(View::Bound(own(&v2.mount, spec, field)?)),
        };
    }
    let mut binds = Vec::new();
    let mut links = Vec::new();
    for hierarchy in hierarchies.v1() {
        let Some(name) = hierarchy.mount.file_name().and_then(|n| n.to_str()) else {
            continue;
        };
        binds.push((name.to_owned(), own(&hierarchy.mount, spec, field)?));
        if hierarchy.controllers.len() > 1 {
            let other = hierarchy.controllers.iter().map(|c| c.v1_name()).filter(|c| *c != name);
            links.extend(other.map(|c| (c.to_owned(), name.to_owned())));
        }
    }
    if let Some(v2) = hierarchies.v2()
        && let Some(name) = v2.mount.file_name().and_then(|n| n.to_str())
    {
        binds.push((name.to_owned(), own(&v2.mount, spec, field)?));
    }
    Ok(View::Tree { binds, links })
}

/// The container's own cgroup in the hierarchy that is mounted at `mount`.
fn own(mount: &Path, spec: &Spec, field: &str) -> Result<CString> {
    let path = spec.linux().as_ref().and_then(|l| l.cgroups_path().as_ref());
    let path =
        path.ok_or_else(|| Error::spec(field, "cgroup", "needs linux.cgroupsPath, the container's own cgroup"))?;
    if path.components().any(|c| c == std::path::Component::ParentDir) {
        return Err(Error::spec("linux.cgroupsPath", path.display(), "must not contain .."));
    }
    let relative: PathBuf = path
        .components()
        .filter(|c| matches!(c, std::path::Component::Normal(_)))
        .collect();
    c_path("linux.cgroupsPath", &mount.join(relative))
}

/// Hierarchies are mounted at boot: looked at once.
fn hierarchies() -> Result<Hierarchies> {
    static DETECTED: OnceLock<Hierarchies> = OnceLock::new();
    if let Some(hierarchies) = DETECTED.get() {
        return Ok(hierarchies.clone());
    }
    let detected = Hierarchies::detect()?;
    Ok(DETECTED.get_or_init(|| detected).clone())
}
