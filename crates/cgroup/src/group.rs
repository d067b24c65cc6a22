//! One cgroup: a path made in every hierarchy, and how a process gets into it.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::file;
use crate::hierarchy::{Controller, Hierarchies, Mode, Version};

/// A cgroup: the same path in every hierarchy of the machine.
///
/// A leaf of a container (see [`Cgroup::exec_leaf`]) is a cgroup of its own only where membership is kept; elsewhere it
/// is its container's, and `remove` leaves that alone.
#[derive(Debug, Clone)]
pub struct Cgroup {
    hierarchies: Hierarchies,
    path: String,
    /// One per v1 hierarchy, in their order.
    v1: Vec<Dir>,
    v2: Option<Dir>,
}

#[derive(Debug, Clone)]
pub(crate) struct Dir {
    pub(crate) path: PathBuf,
    /// False for a directory of the container that a leaf borrows.
    own: bool,
}

/// What a new process needs to get into a cgroup. All of it is prepared by the parent; the child allocates nothing.
///
/// v2: pass the directory to clone3 with `CLONE_INTO_CGROUP`: the child is born there, at no cost. v1 has no such
/// thing: the child, while it is still single-threaded, writes "0" into each of the `tasks` files itself. That moves
/// one thread, so the kernel skips the lock on whole thread groups, which costs an RCU grace period per hierarchy
/// (0.6 ms for eight hierarchies against 12 ms, measured).
#[derive(Debug)]
pub struct Placement {
    /// The v2 directory, for `CLONE_INTO_CGROUP`.
    pub v2_dir: Option<OwnedFd>,
    /// The `tasks` file of each v1 hierarchy, open for writing.
    pub v1_tasks: Vec<OwnedFd>,
}

impl Placement {
    /// Moves the calling thread, the child's only one: writes "0" into each `tasks` file. Allocates nothing and takes
    /// no lock, so it may be called between clone and exec. (The v2 side is done by clone3.)
    pub fn enter_v1(&self) -> std::result::Result<(), Errno> {
        for tasks in &self.v1_tasks {
            rustix::io::retry_on_intr(|| rustix::io::write(tasks, b"0"))?;
        }
        Ok(())
    }
}

impl Cgroup {
    /// Makes the cgroup at `path`, such as "/hove/CONTAINER", with its parents, in every hierarchy. Does nothing
    /// where it is there already. On v2 the controllers are enabled on the way down; on v1 an empty cpuset inherits
    /// its parent's (a process can't enter an empty one).
    pub fn create(hierarchies: &Hierarchies, path: &str) -> Result<Cgroup> {
        let group = Cgroup::at(hierarchies, path)?;
        for (hierarchy, dir) in hierarchies.v1().iter().zip(&group.v1) {
            make_below(&hierarchy.mount, path)?;
            if hierarchy.controllers.contains(&Controller::Cpuset) {
                inherit_cpuset(&hierarchy.mount, &dir.path)?;
            }
        }
        if let Some(v2) = hierarchies.v2() {
            make_below(&v2.mount, path)?;
            if hierarchies.mode() == Mode::V2 {
                // Statistics and limits want every controller. One that can't be enabled is missed only by who
                // sets a limit with it, and is named there. Those that refuse a parent with processes go first: after a
                // refusal, a threaded one must not be enabled, or the kernel would take the parent for the root of a
                // threaded tree, and no process into this cgroup.
                let is_threaded = |c: &Controller| matches!(c, Controller::Cpu | Controller::Cpuset | Controller::Pids);
                let (threaded, mut wanted): (Vec<_>, Vec<_>) = v2.controllers.iter().copied().partition(is_threaded);
                wanted.extend(threaded);
                let _ = group.enable_v2(&wanted);
            }
        }
        Ok(group)
    }

    /// The cgroup at `path`, made earlier by [`Cgroup::create`].
    pub fn open(hierarchies: &Hierarchies, path: &str) -> Result<Cgroup> {
        let group = Cgroup::at(hierarchies, path)?;
        if group.own_dirs().any(Path::is_dir) {
            Ok(group)
        } else {
            Err(Error::NotFound { path: path.to_owned() })
        }
    }

    /// The path below the hierarchies' roots.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The hierarchies it is in.
    pub fn hierarchies(&self) -> &Hierarchies {
        &self.hierarchies
    }

    /// Opens what a new process needs to get into this cgroup.
    pub fn placement(&self) -> Result<Placement> {
        use rustix::fs::{Mode, OFlags};
        let v2_dir = match &self.v2 {
            None => None,
            Some(dir) => {
                let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
                Some(
                    rustix::fs::open(&dir.path, flags, Mode::empty())
                        .map_err(|e| sys::Error::new(format_args!("open({:?}, O_PATH|O_DIRECTORY)", dir.path), e))?,
                )
            }
        };
        let tasks = self
            .v1
            .iter()
            .map(|dir| file::open_for_write(&dir.path.join("tasks")).map(OwnedFd::from));
        Ok(Placement {
            v2_dir,
            v1_tasks: tasks.collect::<sys::Result<_>>()?,
        })
    }

    /// Moves a running process into the cgroup, from outside. Slow (an RCU grace period for each hierarchy): for
    /// processes that Hove did not start itself, and never on the way of a pod.
    pub fn adopt(&self, pid: rustix::process::Pid) -> Result<()> {
        for dir in self.v1.iter().chain(&self.v2) {
            file::write(&dir.path.join("cgroup.procs"), &pid.as_raw_nonzero().to_string())?;
        }
        Ok(())
    }

    /// A leaf for one exec below a container's cgroup, so that what it starts can be killed whole while the
    /// container's limits apply to it as to the rest. It is a cgroup of its own on v2 and in the v1 hierarchy that
    /// keeps membership (the freezer's); in the others the exec joins the container's own cgroup.
    pub fn exec_leaf(&self, name: &str) -> Result<Cgroup> {
        if name.contains('/') {
            return Err(Error::BadPath {
                path: name.to_owned(),
                rule: "a leaf's name is one component",
            });
        }
        let leaf_path = format!("{}/{name}", self.path);
        let leaf = Cgroup::at(&self.hierarchies, &leaf_path)?;
        let membership = self.hierarchies.membership();
        let v1 = leaf
            .v1
            .into_iter()
            .zip(&self.v1)
            .enumerate()
            .map(|(i, (own, container))| {
                if Some(i) == membership {
                    own
                } else {
                    Dir {
                        path: container.path.clone(),
                        own: false,
                    }
                }
            });
        let leaf = Cgroup {
            v1: v1.collect(),
            ..leaf
        };
        for dir in leaf.own_dirs() {
            make(dir)?;
        }
        Ok(leaf)
    }

    /// The processes in it and below it, by their ids in the caller's PID namespace. A process that has ended but is
    /// not waited for yet is not counted.
    pub fn pids(&self) -> Result<BTreeSet<i32>> {
        let mut pids = BTreeSet::new();
        for dir in [self.freezer_dir(), self.v2_dir()].into_iter().flatten() {
            collect_pids(dir, &mut pids)?;
        }
        Ok(pids)
    }

    /// The directory of this cgroup that has the controller's files, and their dialect.
    pub(crate) fn dir(&self, controller: Controller) -> Option<(Version, &Path)> {
        match self.hierarchies.version(controller)? {
            Version::V1 => {
                let i = self
                    .hierarchies
                    .v1()
                    .iter()
                    .position(|h| h.controllers.contains(&controller))?;
                Some((Version::V1, &self.v1[i].path))
            }
            Version::V2 => Some((Version::V2, self.v2_dir()?)),
        }
    }

    pub(crate) fn v2_dir(&self) -> Option<&Path> {
        self.v2.as_ref().map(|d| d.path.as_path())
    }

    /// The v1 directory that keeps membership.
    pub(crate) fn freezer_dir(&self) -> Option<&Path> {
        self.hierarchies.membership().map(|i| self.v1[i].path.as_path())
    }

    /// The directories that go when this cgroup goes.
    pub(crate) fn own_dirs(&self) -> impl Iterator<Item = &Path> {
        self.v1
            .iter()
            .chain(&self.v2)
            .filter(|d| d.own)
            .map(|d| d.path.as_path())
    }

    /// Enables v2 controllers for this cgroup: in `cgroup.subtree_control` of every ancestor, from the root down. Ends at the
    /// first that is refused. Those that the machine does not have are passed over.
    pub(crate) fn enable_v2(&self, controllers: &[Controller]) -> sys::Result<()> {
        let (Some(v2), Some(dir)) = (self.hierarchies.v2(), self.v2_dir()) else {
            return Ok(());
        };
        let mut ancestors: Vec<&Path> = dir
            .ancestors()
            .skip(1)
            .take_while(|a| a.starts_with(&v2.mount))
            .collect();
        ancestors.reverse();
        for ancestor in ancestors {
            let control = ancestor.join("cgroup.subtree_control");
            let enabled = file::read(&control)?;
            for controller in controllers.iter().filter(|c| v2.controllers.contains(c)) {
                // Writing what is set already takes the kernel's global cgroup lock for nothing.
                if !enabled.split_whitespace().any(|c| c == controller.v2_name()) {
                    file::write(&control, &format!("+{}", controller.v2_name()))?;
                }
            }
        }
        Ok(())
    }

    /// The value, without anything made.
    fn at(hierarchies: &Hierarchies, path: &str) -> Result<Cgroup> {
        check_path(path)?;
        let below = |mount: &Path| Dir {
            path: mount.join(&path[1..]),
            own: true,
        };
        Ok(Cgroup {
            hierarchies: hierarchies.clone(),
            path: path.to_owned(),
            v1: hierarchies.v1().iter().map(|h| below(&h.mount)).collect(),
            v2: hierarchies.v2().map(|h| below(&h.mount)),
        })
    }
}

pub(crate) fn check_path(path: &str) -> Result<()> {
    let bad = |rule| {
        Err(Error::BadPath {
            path: path.to_owned(),
            rule,
        })
    };
    let Some(relative) = path.strip_prefix('/') else {
        return bad("must begin with /");
    };
    if relative.is_empty() {
        return bad("must not be the root cgroup");
    }
    if relative.split('/').any(|c| c.is_empty() || c == "." || c == "..") {
        return bad("must not have empty components, . or ..");
    }
    if relative.contains(['\0', '\n']) {
        return bad("must not have NUL or newline (the kernel refuses them)");
    }
    Ok(())
}

fn make(dir: &Path) -> sys::Result<()> {
    match fs::create_dir(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(sys::Error::new(
            format_args!("mkdir({dir:?})"),
            Errno::from_io_error(&e).unwrap_or(Errno::IO),
        )),
        _ => Ok(()),
    }
}

/// How often making a path starts anew because someone removed an empty parent meanwhile.
const MAKE_ATTEMPTS: usize = 10;

fn make_below(mount: &Path, path: &str) -> sys::Result<()> {
    let mut attempt = 1;
    loop {
        let mut dir = mount.to_owned();
        let made = path.split('/').skip(1).try_for_each(|component| {
            dir.push(component);
            make(&dir)
        });
        match made {
            Err(e) if e.errno == Errno::NOENT && attempt < MAKE_ATTEMPTS => attempt += 1,
            other => return other,
        }
    }
}

/// Fills the empty cpusets from the hierarchy's root down to `dir`, each from its parent: v1 makes them empty, and
/// refuses processes in an empty one (cpuset(7)). The parents are told to do that by themselves for the cgroups that are
/// made in them later (`cgroup.clone_children`), so that it costs the first container of a parent something and the
/// others two reads.
fn inherit_cpuset(mount: &Path, dir: &Path) -> sys::Result<()> {
    const FILES: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];
    let is_empty = |dir: &Path, name| file::read(&dir.join(name)).map(|list| list.trim().is_empty());
    if !is_empty(dir, FILES[0])? && !is_empty(dir, FILES[1])? {
        return Ok(());
    }
    let mut below: Vec<&Path> = dir.ancestors().take_while(|a| *a != mount).collect();
    below.reverse();
    for name in FILES {
        let mut inherited = file::read(&mount.join(name))?;
        for dir in &below {
            let own = file::read(&dir.join(name))?;
            if own.trim().is_empty() {
                file::write(&dir.join(name), inherited.trim())?;
            } else {
                inherited = own;
            }
        }
    }
    for parent in &below[..below.len() - 1] {
        file::write(&parent.join("cgroup.clone_children"), "1")?;
    }
    Ok(())
}

pub(crate) fn collect_pids(dir: &Path, into: &mut BTreeSet<i32>) -> Result<()> {
    match file::read_optional(&dir.join("cgroup.procs")) {
        // 0 is a process that this PID namespace can't see.
        Ok(text) => {
            let listed = text
                .iter()
                .flat_map(|t| t.lines())
                .filter_map(|line| line.parse::<i32>().ok());
            into.extend(listed.filter(|pid| *pid != 0));
        }
        // A threaded cgroup's processes are listed by its domain, an ancestor of it.
        Err(e) if e.errno == Errno::OPNOTSUPP => {}
        Err(e) => return Err(e.into()),
    }
    for child in children(dir) {
        collect_pids(&child, into)?;
    }
    Ok(())
}

/// The cgroups directly below `dir`; none if it is gone.
pub(crate) fn children(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .map(|e| e.path())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        for good in ["/hove", "/hove/0123", "/kubepods.slice/a b"] {
            assert!(check_path(good).is_ok(), "{good}");
        }
        for bad in ["", "/", "hove", "/hove/", "/hove//x", "/hove/../x", "/./x", "/a\nb"] {
            assert!(check_path(bad).is_err(), "{bad:?}");
        }
    }
}
