//! Removing a tree that somebody else wrote.
//!
//! Containers may have left anything in a volume: links out of it, directories a hundred thousand levels deep, mounts. So
//! every directory is opened relative to its parent's descriptor, without following links and without crossing into another mount, and at most
//! [`LEVELS_MAX`] directories are open at once: what lies deeper is first moved up.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::{Error, Result};

/// How many levels are descended, each holding a descriptor.
pub const LEVELS_MAX: usize = 64;
/// How many names are read before they are removed: bounds the memory that a huge directory takes.
const NAMES_MAX: usize = 4096;

/// Removes `parent/name` and everything in it. Idempotent; attempts everything and returns the first failure.
pub fn remove_tree(parent: &Path, name: &str) -> Result<()> {
    let path = parent.join(name);
    let failed = |call: &str, errno| sys::Error::new(format_args!("{call}({path:?})"), errno);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = match rustix::fs::open(parent, flags, Mode::empty()) {
        Ok(parent) => parent,
        Err(Errno::NOENT) => return Ok(()),
        Err(e) => return Err(failed("open", e).into()),
    };
    let c_name = CString::new(name).map_err(|_| failed("open", Errno::INVAL))?;
    let top = match open_directory(parent.as_fd(), &c_name) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Ok(()),
        // A file or a link: it goes itself, not what it leads to.
        Err(Errno::NOTDIR | Errno::LOOP) => return Ok(unlink(parent.as_fd(), &c_name, &path)?),
        Err(Errno::XDEV) => return Err(Error::StillMounted { path }),
        Err(e) => return Err(failed("openat2", e).into()),
    };
    let mut removal = Removal {
        top: top.as_fd(),
        path: path.clone(),
        moved_up: 0,
        first_error: None,
    };
    removal.empty(top.as_fd(), &path, 1);
    if let Some(error) = removal.first_error {
        return Err(error);
    }
    match rustix::fs::unlinkat(&parent, &c_name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(failed("unlinkat", e).into()),
    }
}

struct Removal<'a> {
    top: BorrowedFd<'a>,
    path: PathBuf,
    moved_up: u64,
    first_error: Option<Error>,
}

impl Removal<'_> {
    /// Empties `directory`. `path` is for messages alone.
    fn empty(&mut self, directory: BorrowedFd<'_>, path: &Path, level: usize) {
        loop {
            let names = match list(directory) {
                Ok(names) => names,
                Err(errno) => return self.fail(sys::Error::new(format_args!("getdents64({path:?})"), errno).into()),
            };
            let mut removed = 0;
            for (name, kind) in &names {
                let path = path.join(name.to_string_lossy().as_ref());
                if self.remove(directory, name, *kind, &path, level) {
                    removed += 1;
                }
            }
            // What can't be removed stays listed: done when a round achieves nothing. What was moved up to the top counts as achieved.
            if removed == 0 {
                return;
            }
        }
    }

    /// Whether the entry is gone from `directory`.
    fn remove(&mut self, directory: BorrowedFd<'_>, name: &CStr, kind: FileType, path: &Path, level: usize) -> bool {
        if kind != FileType::Directory {
            match unlink(directory, name, path) {
                Ok(()) => return true,
                Err(e) if e.errno == Errno::ISDIR => {}
                Err(e) => {
                    self.fail(e.into());
                    return false;
                }
            }
        }
        if level >= LEVELS_MAX {
            return self.move_up(directory, name, path);
        }
        let child = match open_directory(directory, name) {
            Ok(child) => child,
            Err(Errno::NOENT) => return true,
            Err(Errno::XDEV) => {
                self.fail(Error::StillMounted { path: path.to_owned() });
                return false;
            }
            Err(e) => {
                self.fail(sys::Error::new(format_args!("openat2({path:?})"), e).into());
                return false;
            }
        };
        self.empty(child.as_fd(), path, level + 1);
        drop(child);
        match rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => true,
            // EBUSY: a mount point of another mount namespace's making; ENOTEMPTY: what is in it has been reported.
            Err(e) => {
                self.fail(sys::Error::new(format_args!("unlinkat({path:?}, AT_REMOVEDIR)"), e).into());
                false
            }
        }
    }

    fn move_up(&mut self, directory: BorrowedFd<'_>, name: &CStr, path: &Path) -> bool {
        loop {
            let target = format!(".removing-{}", self.moved_up);
            self.moved_up += 1;
            match rustix::fs::renameat_with(
                directory,
                name,
                self.top,
                target.as_str(),
                rustix::fs::RenameFlags::NOREPLACE,
            ) {
                Ok(()) => return true,
                Err(Errno::EXIST) => {}
                Err(e) => {
                    let target = self.path.join(target);
                    self.fail(sys::Error::new(format_args!("renameat2({path:?}, {target:?})"), e).into());
                    return false;
                }
            }
        }
    }

    fn fail(&mut self, error: Error) {
        self.first_error.get_or_insert(error);
    }
}

fn open_directory(parent: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    rustix::fs::openat2(parent, name, flags, Mode::empty(), resolve)
}

fn unlink(directory: BorrowedFd<'_>, name: &CStr, path: &Path) -> sys::Result<()> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(sys::Error::new(format_args!("unlinkat({path:?})"), e)),
    }
}

/// The first names in the directory.
fn list(directory: BorrowedFd<'_>) -> rustix::io::Result<Vec<(CString, FileType)>> {
    // A descriptor of its own, so that reading begins at the start each time.
    let own = rustix::fs::openat(
        directory,
        ".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let mut names = Vec::new();
    for entry in Dir::new(own)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push((entry.file_name().to_owned(), entry.file_type()));
        }
        if names.len() >= NAMES_MAX {
            break;
        }
    }
    Ok(names)
}
