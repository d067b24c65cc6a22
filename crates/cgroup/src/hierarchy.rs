//! What is mounted where: found in `/proc/self/mountinfo` (proc_pid_mountinfo(5), cgroups(7)).

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sys::mountinfo::{self, Mount};

use crate::error::{Error, Result};
use crate::file;

/// A controller that Hove sets limits with or reads statistics from. v1's `blkio` is v2's `io`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Controller {
    Cpu,
    Cpuacct,
    Cpuset,
    Memory,
    Pids,
    Devices,
    Freezer,
    Io,
    Hugetlb,
    Rdma,
}

impl Controller {
    /// Every controller there is a word for.
    pub const ALL: [Controller; 10] = [
        Controller::Cpu,
        Controller::Cpuacct,
        Controller::Cpuset,
        Controller::Memory,
        Controller::Pids,
        Controller::Devices,
        Controller::Freezer,
        Controller::Io,
        Controller::Hugetlb,
        Controller::Rdma,
    ];

    /// Its name in a v1 mount's options.
    pub fn v1_name(self) -> &'static str {
        match self {
            Controller::Io => "blkio",
            other => other.v2_name(),
        }
    }

    /// Its name in `cgroup.controllers`.
    pub fn v2_name(self) -> &'static str {
        match self {
            Controller::Cpu => "cpu",
            Controller::Cpuacct => "cpuacct",
            Controller::Cpuset => "cpuset",
            Controller::Memory => "memory",
            Controller::Pids => "pids",
            Controller::Devices => "devices",
            Controller::Freezer => "freezer",
            Controller::Io => "io",
            Controller::Hugetlb => "hugetlb",
            Controller::Rdma => "rdma",
        }
    }

    fn from_v1(name: &str) -> Option<Self> {
        Controller::ALL.into_iter().find(|c| c.v1_name() == name)
    }

    fn from_v2(name: &str) -> Option<Self> {
        Controller::ALL.into_iter().find(|c| c.v2_name() == name)
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.v2_name())
    }
}

/// The dialect of a controller's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Version {
    V1,
    V2,
}

/// How the machine has its cgroups mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// v1 hierarchies only.
    V1,
    /// v1 hierarchies and a v2 one beside them.
    Hybrid,
    /// One v2 hierarchy.
    V2,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::V1 => "v1",
            Mode::Hybrid => "hybrid",
            Mode::V2 => "v2",
        })
    }
}

/// A v1 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct V1 {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// The controllers bound to it, of those Hove knows. Empty for a named hierarchy (`name=systemd`) and for
    /// controllers that only classify (net_cls, perf_event): a container's processes are placed there nonetheless.
    pub controllers: BTreeSet<Controller>,
}

/// The v2 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct V2 {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// The controllers available at its root, of those Hove knows.
    pub controllers: BTreeSet<Controller>,
}

/// The cgroup hierarchies of this machine. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchies(Arc<Inner>);

#[derive(Debug, PartialEq, Eq)]
struct Inner {
    v1: Vec<V1>,
    v2: Option<V2>,
}

impl Hierarchies {
    /// Finds the hierarchies that this process sees.
    pub fn detect() -> Result<Self> {
        let (v1, v2_mount) = find(mountinfo::mounts()?);
        let v2 = match v2_mount {
            None => None,
            Some(mount) => {
                let names = file::read(&mount.join("cgroup.controllers"))?;
                Some(V2 {
                    controllers: names.split_whitespace().filter_map(Controller::from_v2).collect(),
                    mount,
                })
            }
        };
        Hierarchies::from_parts(v1, v2)
    }

    /// Hierarchies known from elsewhere (tests give v2 controllers of their own).
    pub fn from_parts(v1: Vec<V1>, v2: Option<V2>) -> Result<Self> {
        if v1.is_empty() && v2.is_none() {
            return Err(Error::NotMounted);
        }
        Ok(Hierarchies(Arc::new(Inner { v1, v2 })))
    }

    /// Whether the machine is v1, hybrid or v2.
    pub fn mode(&self) -> Mode {
        match (self.0.v1.is_empty(), &self.0.v2) {
            (true, _) => Mode::V2,
            (false, Some(_)) => Mode::Hybrid,
            (false, None) => Mode::V1,
        }
    }

    /// The v1 hierarchies, in the order they were mounted.
    pub fn v1(&self) -> &[V1] {
        &self.0.v1
    }

    /// The v2 hierarchy.
    pub fn v2(&self) -> Option<&V2> {
        self.0.v2.as_ref()
    }

    /// Which dialect `controller` speaks here; `None` if the machine lacks it. (v2 has no devices and no freezer
    /// controller: both are part of its core, one as an eBPF hook, the other as `cgroup.freeze`.)
    pub fn version(&self, controller: Controller) -> Option<Version> {
        if self.0.v1.iter().any(|h| h.controllers.contains(&controller)) {
            return Some(Version::V1);
        }
        self.v2().and_then(|v2| {
            let core = matches!(controller, Controller::Devices | Controller::Freezer);
            (v2.controllers.contains(&controller) || (core && self.mode() == Mode::V2)).then_some(Version::V2)
        })
    }

    /// Whether swap is counted, so that a swap limit can be set. Without it a container may swap without a limit.
    pub fn swap_accounting(&self) -> bool {
        match self.version(Controller::Memory) {
            Some(Version::V1) => self
                .v1()
                .iter()
                .filter(|h| h.controllers.contains(&Controller::Memory))
                .any(|h| h.mount.join("memory.memsw.limit_in_bytes").exists()),
            // v2 counts swap whenever the kernel has swap at all.
            Some(Version::V2) => Path::new("/proc/swaps").exists(),
            None => false,
        }
    }

    /// The v1 hierarchy whose `cgroup.procs` says who is in a container: the freezer's, since it can also stop them.
    pub(crate) fn membership(&self) -> Option<usize> {
        let with = |c| self.0.v1.iter().position(|h| h.controllers.contains(&c));
        with(Controller::Freezer)
            .or_else(|| with(Controller::Pids))
            .or_else(|| (!self.0.v1.is_empty() && self.0.v2.is_none()).then_some(0))
    }
}

/// The v1 hierarchies and the v2 mount among `mounts`. A hierarchy mounted several times counts once: by its mount of the
/// root if there is one, and the shortest path among those.
fn find(mounts: Vec<Mount>) -> (Vec<V1>, Option<PathBuf>) {
    let rank = |mount: &Mount| (mount.root != Path::new("/"), mount.mount_point.as_os_str().len());
    let mut seen: Vec<Mount> = Vec::new();
    for new in mounts {
        if !matches!(new.fs_type.as_str(), "cgroup" | "cgroup2") {
            continue;
        }
        match seen.iter_mut().find(|old| old.device == new.device) {
            None => seen.push(new),
            Some(old) if rank(&new) < rank(old) => *old = new,
            Some(_) => {}
        }
    }
    let (v1, v2): (Vec<Mount>, Vec<Mount>) = seen.into_iter().partition(|mount| mount.fs_type == "cgroup");
    let v1 = v1.into_iter().map(|mount| V1 {
        controllers: mount.super_options.split(',').filter_map(Controller::from_v1).collect(),
        mount: mount.mount_point,
    });
    (v1.collect(), v2.into_iter().next().map(|mount| mount.mount_point))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find_in(mountinfo: &str) -> (Vec<V1>, Option<PathBuf>) {
        find(mountinfo::parse(mountinfo.as_bytes()))
    }

    fn names(h: &V1) -> Vec<&'static str> {
        h.controllers.iter().map(|c| c.v1_name()).collect()
    }

    #[test]
    fn hybrid_with_joined_controllers_and_a_named_hierarchy() {
        let (v1, v2) = find_in(
            "24 1 0:22 / /sys rw - sysfs sysfs rw\n\
             31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
             32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:4 - cgroup cgroup rw,cpu,cpuacct\n\
             33 31 0:30 / /sys/fs/cgroup/blkio rw - cgroup cgroup rw,blkio\n\
             40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
        );
        assert_eq!(v2.as_deref(), Some(Path::new("/sys/fs/cgroup/unified")));
        assert_eq!(
            v1.iter().map(names).collect::<Vec<_>>(),
            [vec!["cpu", "cpuacct"], vec!["blkio"], vec![]]
        );
    }

    #[test]
    fn a_hierarchy_mounted_twice_counts_once_by_its_whole_mount() {
        let (v1, v2) = find_in(
            "50 1 0:40 /kube/pod1 /a rw - cgroup cgroup rw,memory\n\
             51 1 0:40 / /sys/fs/cgroup/memory\\040x rw - cgroup cgroup rw,memory\n\
             52 1 0:40 / /some/much/longer/path/elsewhere rw - cgroup cgroup rw,memory\n",
        );
        assert_eq!(v2, None);
        assert_eq!(v1.len(), 1);
        assert_eq!(v1[0].mount, Path::new("/sys/fs/cgroup/memory x"));
    }

    #[test]
    fn modes_and_dialects() {
        let v1 = V1 {
            mount: "/m".into(),
            controllers: [Controller::Memory].into(),
        };
        let v2 = V2 {
            mount: "/u".into(),
            controllers: [Controller::Hugetlb, Controller::Memory].into(),
        };
        let hybrid = Hierarchies::from_parts(vec![v1.clone()], Some(v2.clone())).unwrap();
        assert_eq!(hybrid.mode(), Mode::Hybrid);
        assert_eq!(hybrid.version(Controller::Memory), Some(Version::V1));
        assert_eq!(hybrid.version(Controller::Hugetlb), Some(Version::V2));
        assert_eq!(hybrid.version(Controller::Devices), None);
        let pure = Hierarchies::from_parts(vec![], Some(v2)).unwrap();
        assert_eq!(pure.mode(), Mode::V2);
        assert_eq!(pure.version(Controller::Devices), Some(Version::V2));
        assert_eq!(pure.version(Controller::Pids), None);
        assert_eq!(Hierarchies::from_parts(vec![v1], None).unwrap().mode(), Mode::V1);
        assert!(matches!(Hierarchies::from_parts(vec![], None), Err(Error::NotMounted)));
    }
}
