//! fsGroup: a volume that belongs to a group of the pod's.
//!
//! As Kubernetes has it (<https://kubernetes.io/docs/tasks/configure-pod-container/security-context/>): everything in the
//! volume gets the group and g+rw, directories also g+x and setgid, so that what is made in them later has the group too.
//!
//! What is in a volume may be changed by containers while it is walked. So nothing is reached by a path: each entry is opened relative
//! to its directory's descriptor, without following links and without crossing into another mount, and changed through its own descriptor.
//! The root comes last: while it lacks the group, the walk is not known to be done.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::{Error, Result};

/// How deep a volume may be, each level holding a descriptor.
pub const LEVELS_MAX: usize = 128;

/// What the group may do with a file.
const FILE_BITS: u32 = 0o660;
/// What it may do with a directory, and setgid.
const DIRECTORY_BITS: u32 = 0o2770;
/// The part of `st_mode` that chmod sets.
const PERMISSIONS: u32 = 0o7777;

/// When the content of a volume is walked (`fsGroupChangePolicy` in Kubernetes).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ChangePolicy {
    /// Whenever the volume is made for a pod.
    #[default]
    Always,
    /// Only if the volume's root lacks the group or its permissions.
    OnRootMismatch,
}

/// The group that a volume is given to (`fsGroup` in Kubernetes).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FsGroup {
    /// The group.
    pub gid: u32,
    /// When the content is given to it as well.
    pub policy: ChangePolicy,
}

/// Gives the directory `root` and everything in it to the group.
pub fn give(root: &Path, group: FsGroup) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let failed = |call: &str, errno| sys::Error::new(format_args!("{call}({root:?})"), errno);
    let directory = rustix::fs::open(root, flags, Mode::empty()).map_err(|e| failed("open", e))?;
    let stat = rustix::fs::fstat(&directory).map_err(|e| failed("fstat", e))?;
    let matches = stat.st_gid == group.gid && stat.st_mode & DIRECTORY_BITS == DIRECTORY_BITS;
    if group.policy == ChangePolicy::OnRootMismatch && matches {
        return Ok(());
    }
    let walk = Walk {
        gid: Gid::from_raw(group.gid),
    };
    walk.content(directory.as_fd(), root, 1)?;
    walk.change(directory.as_fd(), &stat, root)
}

struct Walk {
    gid: Gid,
}

impl Walk {
    /// Gives away what is in `directory`. `path` is for messages alone.
    fn content(&self, directory: BorrowedFd<'_>, path: &Path, level: usize) -> Result<()> {
        let failed = |call: &str, errno| sys::Error::new(format_args!("{call}({path:?})"), errno);
        for entry in Dir::read_from(directory).map_err(|e| failed("open", e))? {
            let entry = entry.map_err(|e| failed("getdents64", e))?;
            let name = entry.file_name();
            if !matches!(name.to_bytes(), b"." | b"..") {
                self.entry(directory, name, &path.join(name.to_string_lossy().as_ref()), level)?;
            }
        }
        Ok(())
    }

    fn entry(&self, parent: BorrowedFd<'_>, name: &CStr, path: &Path, level: usize) -> Result<()> {
        let entry = match open(parent, name, OFlags::PATH) {
            Ok(entry) => entry,
            // Gone meanwhile, or the root of another mount, which is not the volume's.
            Err(Errno::NOENT | Errno::XDEV) => return Ok(()),
            Err(e) => return Err(sys::Error::new(format_args!("openat2({path:?}, O_PATH)"), e).into()),
        };
        let failed = |call: &str, errno| sys::Error::new(format_args!("{call}({path:?})"), errno);
        let stat = rustix::fs::fstat(&entry).map_err(|e| failed("fstat", e))?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            if level >= LEVELS_MAX {
                return Err(Error::TooDeep {
                    path: path.to_owned(),
                    levels_max: LEVELS_MAX,
                });
            }
            // The same directory, whatever has its name by now.
            let readable = open(entry.as_fd(), c".", OFlags::RDONLY | OFlags::DIRECTORY);
            let readable = readable.map_err(|e| failed("openat2", e))?;
            self.content(readable.as_fd(), path, level + 1)?;
        }
        self.change(entry.as_fd(), &stat, path)
    }

    /// Changes one file through its descriptor, which may be an O_PATH one.
    fn change(&self, file: BorrowedFd<'_>, stat: &Stat, path: &Path) -> Result<()> {
        let failed = |call: &str, errno| sys::Error::new(format_args!("{call}({path:?})"), errno);
        rustix::fs::chownat(file, c"", None, Some(self.gid), AtFlags::EMPTY_PATH).map_err(|e| failed("fchownat", e))?;
        let bits = match FileType::from_raw_mode(stat.st_mode) {
            // A link has no permissions of its own.
            FileType::Symlink => return Ok(()),
            FileType::Directory => DIRECTORY_BITS,
            _ => FILE_BITS,
        };
        // fchmod refuses an O_PATH descriptor, and fchmodat2 came with Linux 6.6. The link in /proc leads to the open file itself, not to its name.
        // The mode from before chown, which takes setuid away from programs.
        let link = format!("/proc/self/fd/{}", file.as_raw_fd());
        rustix::fs::chmod(link, Mode::from_raw_mode(stat.st_mode & PERMISSIONS | bits))
            .map_err(|e| failed("chmod", e).into())
    }
}

fn open(parent: BorrowedFd<'_>, name: &CStr, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV;
    rustix::fs::openat2(
        parent,
        name,
        flags | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
        resolve,
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

    use super::*;

    fn group(policy: ChangePolicy) -> FsGroup {
        FsGroup { gid: 4242, policy }
    }

    fn set_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }

    fn mode_and_group(path: &Path) -> (u32, u32) {
        let metadata = path.symlink_metadata().unwrap();
        (metadata.mode() & PERMISSIONS, metadata.gid())
    }

    #[test]
    fn everything_in_it_gets_the_group_and_nothing_outside() {
        let top = tempfile::tempdir().unwrap();
        let root = top.path().join("volume");
        std::fs::create_dir_all(root.join("sub")).unwrap();
        let outside = top.path().join("outside");
        for file in [&outside, &root.join("file"), &root.join("sub/program")] {
            std::fs::write(file, "").unwrap();
        }
        set_mode(&outside, 0o600);
        set_mode(&root.join("file"), 0o400);
        set_mode(&root.join("sub"), 0o700);
        set_mode(&root.join("sub/program"), 0o4755);
        symlink(&outside, root.join("link")).unwrap();
        std::fs::hard_link(root.join("file"), root.join("same")).unwrap();
        let fifo = root.join("fifo");
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, mode, 0).unwrap();
        let before = mode_and_group(&outside);

        give(&root, group(ChangePolicy::OnRootMismatch)).unwrap();
        assert_eq!(mode_and_group(&root), (0o2775, 4242));
        assert_eq!(mode_and_group(&root.join("file")), (0o660, 4242));
        assert_eq!(mode_and_group(&fifo), (0o660, 4242), "and nobody waited for a reader");
        assert_eq!(mode_and_group(&root.join("sub")), (0o2770, 4242));
        assert_eq!(mode_and_group(&root.join("sub/program")), (0o4775, 4242));
        assert_eq!(mode_and_group(&root.join("link")).1, 4242);
        assert_eq!(mode_and_group(&outside), before, "no link is followed");
    }

    #[test]
    fn the_policy_decides_about_a_root_that_matches() {
        let top = tempfile::tempdir().unwrap();
        let file = top.path().join("file");
        std::fs::write(&file, "").unwrap();
        set_mode(&file, 0o600);
        chown(top.path(), None, Some(4242)).unwrap();
        set_mode(top.path(), 0o2770);
        give(top.path(), group(ChangePolicy::OnRootMismatch)).unwrap();
        assert_eq!(mode_and_group(&file).0, 0o600);
        give(top.path(), group(ChangePolicy::Always)).unwrap();
        assert_eq!(mode_and_group(&file), (0o660, 4242));
    }

    #[test]
    fn too_deep_a_volume_is_refused() {
        let top = tempfile::tempdir().unwrap();
        let deep: std::path::PathBuf = std::iter::repeat_n("d", LEVELS_MAX).collect();
        std::fs::create_dir_all(top.path().join(deep)).unwrap();
        let error = give(top.path(), group(ChangePolicy::Always)).unwrap_err();
        assert!(matches!(error, Error::TooDeep { .. }), "{error}");
    }
}
