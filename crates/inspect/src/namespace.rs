//! Namespaces: which kinds there are, and which one of each a process is in.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::of_process;
use crate::{Error, Result};

/// A kind of namespace (`namespaces(7)`), in the order in which a pod is explained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Links, addresses, routes, ports.
    Net,
    /// System V and POSIX message queues, shared memory, semaphores.
    Ipc,
    /// Host name.
    Uts,
    /// Process numbers.
    Pid,
    /// Mounts: what the file system looks like.
    Mnt,
    /// User and group numbers, capabilities.
    User,
    /// What /proc/self/cgroup begins at.
    Cgroup,
    /// Offsets of the boot and monotonic clocks.
    Time,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 8] = [
        Kind::Net,
        Kind::Ipc,
        Kind::Uts,
        Kind::Pid,
        Kind::Mnt,
        Kind::User,
        Kind::Cgroup,
        Kind::Time,
    ];

    /// Its file below /proc/PID/ns.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Net => "net",
            Kind::Ipc => "ipc",
            Kind::Uts => "uts",
            Kind::Pid => "pid",
            Kind::Mnt => "mnt",
            Kind::User => "user",
            Kind::Cgroup => "cgroup",
            Kind::Time => "time",
        }
    }

    /// What is shared by whoever shares it, in a few words.
    pub fn what(self) -> &'static str {
        match self {
            Kind::Net => "links, addresses, ports",
            Kind::Ipc => "shared memory, queues",
            Kind::Uts => "host name",
            Kind::Pid => "process numbers",
            Kind::Mnt => "file system",
            Kind::User => "user numbers",
            Kind::Cgroup => "cgroup root",
            Kind::Time => "clock offsets",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The namespaces of a process: the inode number of each kind that this kernel has.
pub fn of(pid: u32) -> Result<BTreeMap<Kind, u64>> {
    let directory = Path::new("/proc").join(pid.to_string()).join("ns");
    let mut found = BTreeMap::new();
    for kind in Kind::ALL {
        let path = directory.join(kind.name());
        match std::fs::read_link(&path) {
            Ok(target) => {
                let inode = target.to_str().and_then(parse).ok_or(Error::Layout { path })?;
                found.insert(kind, inode);
            }
            Err(e) => match of_process(pid, path, e) {
                // The kernel may lack a kind; the process may also be gone.
                Error::NoProcess { .. } if directory.exists() => {}
                error => return Err(error),
            },
        }
    }
    Ok(found)
}

/// `net:[4026531840]`.
fn parse(target: &str) -> Option<u64> {
    target.split_once(":[")?.1.strip_suffix(']')?.parse().ok()
}

/// The processes that are in namespace `inode` of `kind`.
pub fn members(kind: Kind, inode: u64) -> Result<Vec<u32>> {
    let mut members = Vec::new();
    for pid in crate::process::pids()? {
        let target = std::fs::read_link(Path::new("/proc").join(pid.to_string()).join("ns").join(kind.name()));
        if target.ok().as_deref().and_then(Path::to_str).and_then(parse) == Some(inode) {
            members.push(pid);
        }
    }
    Ok(members)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_namespaces() {
        let own = of(std::process::id()).unwrap();
        assert!(own.len() >= 7, "{own:?}");
        assert!(
            members(Kind::Net, own[&Kind::Net])
                .unwrap()
                .contains(&std::process::id())
        );
        assert!(matches!(of(u32::MAX), Err(Error::NoProcess { .. })));
    }

    #[test]
    fn links_of_proc() {
        assert_eq!(parse("net:[4026531840]"), Some(4_026_531_840));
        assert_eq!(parse("/dev/null"), None);
    }
}
