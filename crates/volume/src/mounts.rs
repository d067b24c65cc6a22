//! Mounts below a pod's directory: its tmpfs volumes, and whatever a privileged container propagated out of itself.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use sys::mountinfo;

use crate::{Error, Result};

/// Mounts may be stacked on one point; so often a point is unmounted.
const STACKED_MAX: usize = 64;

/// Whether something is mounted on `path`.
pub fn is_mount_point(path: &Path) -> Result<bool> {
    let path = canonical(path);
    Ok(mount_points()?.contains(&path))
}

/// Unmounts everything below `directory`, the deepest first, lazily. Attempts everything and returns the first failure.
pub fn unmount_below(directory: &Path) -> Result<()> {
    let directory = canonical(directory);
    let mut below: Vec<_> = mount_points()?
        .into_iter()
        .filter(|point| point.starts_with(&directory) && *point != directory)
        .collect();
    if below.is_empty() {
        return Ok(());
    }
    below.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
    below.dedup();
    let base = open(CWD, &directory, ResolveFlags::NO_MAGICLINKS)
        .map_err(|e| sys::Error::new(format_args!("open({directory:?}, O_PATH)"), e))?;
    let mut outcome = Ok(());
    for point in below {
        // `below` holds what starts with the directory, so something is left of each.
        let Ok(relative) = point.strip_prefix(&directory) else {
            continue;
        };
        let unmounted = unmount(base.as_fd(), relative)
            .map_err(|e| Error::System(sys::Error::new(format_args!("umount2({point:?}, MNT_DETACH)"), e)));
        outcome = outcome.and(unmounted);
    }
    outcome
}

/// A container may swap a directory for a link while we look: the mount point is opened below `base` without following any,
/// and what was opened is what is unmounted.
fn unmount(base: BorrowedFd<'_>, relative: &Path) -> rustix::io::Result<()> {
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..STACKED_MAX {
        let point = open(base, relative, beneath)?;
        let link = format!("/proc/thread-self/fd/{}", point.as_raw_fd());
        match rustix::mount::unmount(link, UnmountFlags::DETACH) {
            // Nothing is mounted there (any more).
            Err(Errno::INVAL) => return Ok(()),
            other => other?,
        }
    }
    Ok(())
}

fn open(base: BorrowedFd<'_>, path: &Path, resolve: ResolveFlags) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat2(base, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
}

fn mount_points() -> Result<Vec<PathBuf>> {
    Ok(mountinfo::mounts()?
        .into_iter()
        .map(|mount| mount.mount_point)
        .collect())
}

/// As the kernel prints it: the node's root may lie behind a link.
fn canonical(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}
