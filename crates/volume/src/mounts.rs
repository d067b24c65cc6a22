//! Mounts below a pod's directory: its tmpfs volumes, and whatever a privileged container propagated out of itself.

use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

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

/// The mount points of this mount namespace: the fifth field of /proc/self/mountinfo (`proc_pid_mountinfo(5)`).
fn mount_points() -> Result<Vec<PathBuf>> {
    let path = Path::new("/proc/thread-self/mountinfo");
    let text = std::fs::read(path).map_err(|source| Error::File {
        call: "read",
        path: path.to_owned(),
        source,
    })?;
    Ok(parse(&text))
}

fn parse(text: &[u8]) -> Vec<PathBuf> {
    let fields = |line: &[u8]| line.split(|b| *b == b' ').nth(4).map(unescape);
    text.split(|b| *b == b'\n').filter_map(fields).collect()
}

/// Space, tab, newline and backslash are written as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        match (first, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// As the kernel prints it: the node's root may lie behind a link.
fn canonical(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_mountinfo() {
        let text =
            b"22 27 0:21 / /proc rw,relatime - proc proc rw\n30 22 0:9 / /a\\040b\\134c rw shared:1 - tmpfs tmpfs rw\n";
        assert_eq!(parse(text), [PathBuf::from("/proc"), PathBuf::from("/a b\\c")]);
        assert_eq!(parse(b"broken\n"), Vec::<PathBuf>::new());
    }
}
