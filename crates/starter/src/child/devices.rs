//! Device nodes and links in /dev.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Uid};
use rustix::io::{Errno, Result};
use sys::resolve::{Leaf, create_in_root};

use crate::plan::Device;

/// Makes the node; where that is not allowed (a user namespace), binds the host's of the same name.
pub(super) fn make(root: BorrowedFd<'_>, device: &Device) -> Result<()> {
    let directory = create_in_root(root, &device.directory, Leaf::Directory)?;
    let number = match device.kind {
        FileType::Fifo => 0,
        _ => rustix::fs::makedev(device.major, device.minor),
    };
    let mode = Mode::from_raw_mode(device.mode);
    match rustix::fs::mknodat(&directory, device.name.as_c_str(), device.kind, mode, number) {
        Ok(()) => {}
        // The image or a bind mount brought one.
        Err(Errno::EXIST) => return Ok(()),
        Err(Errno::PERM) if device.kind != FileType::Fifo => return bind(root, device),
        Err(errno) => return Err(errno),
    }
    if (device.uid, device.gid) != (0, 0) {
        let (uid, gid) = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(&directory, device.name.as_c_str(), Some(uid), Some(gid), flags)?;
    }
    Ok(())
}

fn bind(root: BorrowedFd<'_>, device: &Device) -> Result<()> {
    let tree = sys::mount::clone_tree(CWD, &device.path, false)?;
    let private = sys::mount::Attributes {
        propagation: 1 << 18,
        ..Default::default()
    };
    sys::mount::mount_setattr(tree.as_fd(), false, &private)?;
    let target = create_in_root(root, &device.path, Leaf::File)?;
    sys::mount::attach(tree.as_fd(), target.as_fd())
}

/// Makes a link; one that is there stays.
pub(super) fn symlink(root: BorrowedFd<'_>, target: &CStr, directory: &CStr, name: &CStr) -> Result<()> {
    let directory = create_in_root(root, directory, Leaf::Directory)?;
    match rustix::fs::symlinkat(target, &directory, name) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno),
    }
}
