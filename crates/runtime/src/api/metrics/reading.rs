//! What has to be looked up on the host for a container's metrics. What has gone meanwhile counts nothing.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use cgroup::block_io::BlockIo;
use cgroup::huge_pages::HugePages;
use cgroup::pressure::Pressure;
use cgroup::{Cgroup, Stats};
use rustix::fs::{major, minor};

use super::super::stats::{cgroup, counted};
use crate::clock::now_ns;
use crate::container::Container;
use crate::node::Node;
use crate::records::ProcessName;
use crate::sandbox::View;

/// A container's counters.
pub(super) struct Reading<'a> {
    pub(super) taken_at_ns: i64,
    pub(super) stats: Stats,
    pub(super) oom_kills: u64,
    pub(super) huge_pages: Vec<HugePages>,
    pub(super) block_io: BlockIo,
    pub(super) pressure: Pressure,
    pub(super) processes: Processes,
    pub(super) root: Option<Disk>,
    pub(super) disks: &'a Disks,
}

impl<'a> Reading<'a> {
    pub(super) fn take(node: &Node, view: &View, container: &Container, disks: &'a Disks) -> Self {
        let id = container.record.id.as_str();
        let cgroup = cgroup(node, view, id);
        let cgroup = cgroup.as_ref();
        Reading {
            taken_at_ns: now_ns(),
            stats: counted(cgroup, Cgroup::stats),
            oom_kills: counted(cgroup, Cgroup::oom_kills),
            huge_pages: counted(cgroup, Cgroup::huge_pages),
            block_io: counted(cgroup, Cgroup::block_io),
            pressure: counted(cgroup, Cgroup::pressure),
            processes: Processes::count(cgroup, container.process),
            root: Disk::below(node, id, disks),
            disks,
        }
    }
}

/// The processes of a container.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Processes {
    pub(super) count: u64,
    pub(super) descriptors: u64,
    pub(super) sockets: u64,
    /// How many files the first one may have open.
    pub(super) open_files_limit: Option<u64>,
}

impl Processes {
    fn count(cgroup: Option<&Cgroup>, first: Option<ProcessName>) -> Processes {
        let mut counts = Processes::default();
        for pid in counted(cgroup, Cgroup::pids) {
            counts.count += 1;
            for descriptor in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
                counts.descriptors += 1;
                let target = fs::read_link(descriptor.path()).unwrap_or_default();
                counts.sockets += u64::from(target.as_os_str().as_encoded_bytes().starts_with(b"socket:"));
            }
        }
        let limits = first.and_then(|p| fs::read_to_string(format!("/proc/{}/limits", p.pid)).ok());
        counts.open_files_limit = limits.and_then(|text| open_files_limit(&text));
        counts
    }
}

/// The soft limit in the line `Max open files            1024                 4096                 files`. (The kernel
/// knows no `unlimited` here: fs.nr_open is the most.)
fn open_files_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// The file system that a container writes to.
pub(super) struct Disk {
    pub(super) device: String,
    /// What the container wrote.
    pub(super) used_bytes: u64,
    pub(super) size_bytes: u64,
    pub(super) inodes: u64,
    pub(super) free_inodes: u64,
}

impl Disk {
    fn below(node: &Node, container: &str, disks: &Disks) -> Option<Disk> {
        let upper = node.images.overlay(container).ok()?.upper;
        let statistics = rustix::fs::statvfs(&upper).ok()?;
        let device = fs::metadata(&upper).ok()?.dev();
        Some(Disk {
            device: disks.name((major(device), minor(device))),
            used_bytes: node.images.usage(container).ok()?.bytes,
            size_bytes: statistics.f_blocks * statistics.f_frsize,
            inodes: statistics.f_files,
            free_inodes: statistics.f_ffree,
        })
    }
}

/// Devices by their numbers, as the mount table names them: also those that are no block devices, such as btrfs has.
pub(super) struct Disks(BTreeMap<String, String>);

impl Disks {
    pub(super) fn find() -> Disks {
        let mounts = sys::mountinfo::mounts().unwrap_or_default().into_iter();
        let devices = mounts.filter(|m| m.source.starts_with("/dev/"));
        Disks(devices.map(|m| (m.device, m.source)).collect())
    }

    /// `/dev/sda1`; the numbers where nobody knows a name.
    pub(super) fn name(&self, (major, minor): (u32, u32)) -> String {
        let number = format!("{major}:{minor}");
        if let Some(name) = self.0.get(&number) {
            return name.clone();
        }
        // A whole disk is rarely mounted itself.
        let block = fs::read_link(Path::new("/sys/dev/block").join(&number));
        match block.as_deref().ok().and_then(Path::file_name) {
            Some(name) => format!("/dev/{}", name.to_string_lossy()),
            None => number,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_of_open_files() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max cpu time              unlimited            unlimited            seconds   \n\
                    Max open files            1024                 524288               files     \n";
        assert_eq!(open_files_limit(text), Some(1024));
        assert_eq!(open_files_limit(""), None);
    }

    #[test]
    fn what_has_no_name_is_a_number() {
        let disks = Disks([("8:1".to_owned(), "/dev/sda1".to_owned())].into());
        assert_eq!(disks.name((8, 1)), "/dev/sda1");
        assert_eq!(disks.name((4095, 1)), "4095:1");
    }
}
