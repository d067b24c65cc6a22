//! Mounts by file descriptor: the part of the new mount API that rustix lacks, and short forms of the rest.
//!
//! Everything here may be called between clone and exec: no allocation, no lock; errors are a bare errno.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, Result};
use rustix::mount::{MoveMountFlags, OpenTreeFlags};

/// What [`mount_setattr`] changes. Zero changes nothing.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// `MOUNT_ATTR_…` bits to set.
    pub set: u64,
    /// `MOUNT_ATTR_…` bits to clear. To set an atime mode, clear `MOUNT_ATTR__ATIME`.
    pub clear: u64,
    /// `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE`, `MS_UNBINDABLE`, or 0 to leave it.
    pub propagation: u64,
}

impl Attributes {
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        *self == Attributes::default()
    }
}

/// `MOUNT_ATTR_RDONLY`.
pub const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;

/// `mount_setattr(2)` (Linux 5.12) on the mount that `mount` is the root of, and on all below it if `recursive`:
/// atomically, where a remount would race, and without resetting the other attributes, which a bind remount would.
pub fn mount_setattr(mount: BorrowedFd<'_>, recursive: bool, attributes: &Attributes) -> Result<()> {
    if attributes.is_empty() {
        return Ok(());
    }
    setattr(mount, recursive, attributes, 0)
}

/// Maps the owners of the files below a detached mount through a user namespace (`MOUNT_ATTR_IDMAP`).
pub fn mount_idmap(mount: BorrowedFd<'_>, recursive: bool, user_namespace: BorrowedFd<'_>) -> Result<()> {
    let attributes = Attributes {
        set: libc::MOUNT_ATTR_IDMAP,
        ..Attributes::default()
    };
    setattr(mount, recursive, &attributes, user_namespace.as_raw_fd() as u64)
}

fn setattr(mount: BorrowedFd<'_>, recursive: bool, attributes: &Attributes, userns_fd: u64) -> Result<()> {
    const AT_RECURSIVE: i32 = 0x8000;
    let attr = libc::mount_attr {
        attr_set: attributes.set,
        attr_clr: attributes.clear,
        propagation: attributes.propagation,
        userns_fd,
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: attr is a valid mount_attr of the size given; the path is a NUL-terminated empty string.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    if returned < 0 {
        // SAFETY: errno's location is this thread's own.
        return Err(Errno::from_raw_os_error(unsafe { *libc::__errno_location() }));
    }
    Ok(())
}

/// `open_tree(dir, path, OPEN_TREE_CLONE)`: a detached copy of the mount at `path`, as `mount --bind` makes one
/// (`--rbind` if `recursive`). An empty path means `dir` itself.
pub fn clone_tree(dir: BorrowedFd<'_>, path: &CStr, recursive: bool) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    rustix::mount::open_tree(dir, path, flags)
}

/// `move_mount(tree, "", target, "")`: attaches a detached mount at the place that `target` (O_PATH) refers to.
pub fn attach(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(tree, c"", target, c"", flags)
}
