//! Mounts, the root, masks.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::{Errno, Result};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, UnmountFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen,
};
use sys::mount::{Attributes, RDONLY, attach, clone_tree, mount_setattr};
use sys::resolve::{Leaf, create_in_root, open_in_root};

use super::Slots;
use crate::plan::{Bind, Filesystem};

/// `MS_PRIVATE`.
const PRIVATE: Attributes = Attributes {
    set: 0,
    clear: 0,
    propagation: 1 << 18,
};
/// `MS_SLAVE`.
const SLAVE: Attributes = Attributes {
    set: 0,
    clear: 0,
    propagation: 1 << 19,
};

/// Every mount of ours becomes a slave of the host's: what the host unmounts goes away here as well and is not held
/// open, and nothing goes the other way.
pub(super) fn receive_only() -> Result<()> {
    let root = rustix::fs::open(c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    mount_setattr(root.as_fd(), true, &SLAVE)
}

/// Binds a directory as the root. The copy is private, or pivot_root would refuse it.
pub(super) fn bind_root(source: &CStr, recursive: bool, attributes: &Attributes, target: &CStr) -> Result<()> {
    let tree = clone_tree(CWD, source, recursive)?;
    mount_setattr(tree.as_fd(), true, &PRIVATE)?;
    mount_setattr(tree.as_fd(), false, attributes)?;
    let target = rustix::fs::open(target, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    attach(tree.as_fd(), target.as_fd())
}

/// A copy of the mount at `path`. Where no link is to be followed, one that is met is an error (ELOOP).
pub(super) fn open_source(path: &CStr, recursive: bool, follow: bool) -> Result<OwnedFd> {
    if follow {
        return clone_tree(CWD, path, recursive);
    }
    let resolve = ResolveFlags::NO_SYMLINKS;
    let source = rustix::fs::openat2(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)?;
    clone_tree(source.as_fd(), c"", recursive)
}

/// Covers a directory with a copy of itself that shows other owners.
pub(super) fn cover_mapped(path: &CStr, map: BorrowedFd<'_>) -> Result<()> {
    let tree = clone_tree(CWD, path, false)?;
    mount_setattr(tree.as_fd(), false, &PRIVATE)?;
    sys::mount::mount_idmap(tree.as_fd(), false, map)?;
    let target = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    attach(tree.as_fd(), target.as_fd())
}

/// Gives a directory that is the host's root's to the container's root. One that is somebody else's is so already.
pub(super) fn own_upper(path: &CStr, uid: u32, gid: u32) -> Result<()> {
    let directory = rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let stat = rustix::fs::fstat(&directory)?;
    let uid = (stat.st_uid == 0).then_some(Uid::from_raw(uid));
    let gid = (stat.st_gid == 0).then_some(Gid::from_raw(gid));
    rustix::fs::fchown(&directory, uid, gid)
}

/// Mounts the container's root over "/": a place that is in reach whoever we are. Our own "/" stays what it was until
/// pivot_root.
pub(super) fn cover_root(root: BorrowedFd<'_>) -> Result<()> {
    let slash = rustix::fs::open(c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    attach(root, slash.as_fd())
}

/// An empty directory of one inode. Writable until the mounts in it are made.
pub(super) fn empty() -> Result<OwnedFd> {
    tmpfs(MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV)
}

/// One as the root.
pub(super) fn empty_root(target: &CStr) -> Result<()> {
    let root = empty()?;
    let target = rustix::fs::open(target, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    attach(root.as_fd(), target.as_fd())
}

fn tmpfs(attributes: MountAttrFlags) -> Result<OwnedFd> {
    let context = fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), c"mode", c"0755")?;
    fsconfig_set_string(context.as_fd(), c"size", c"64k")?;
    fsconfig_create(context.as_fd())?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Makes a file system and attaches it.
pub(super) fn filesystem(root: BorrowedFd<'_>, wanted: &Filesystem) -> Result<()> {
    let context = fsopen(wanted.kind.as_c_str(), FsOpenFlags::FSOPEN_CLOEXEC)?;
    if let Some(source) = &wanted.source {
        fsconfig_set_string(context.as_fd(), c"source", source.as_c_str())?;
    }
    for (key, value) in &wanted.parameters {
        match value {
            Some(value) => fsconfig_set_string(context.as_fd(), key.as_c_str(), value.as_c_str())?,
            None => fsconfig_set_flag(context.as_fd(), key.as_c_str())?,
        }
    }
    fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::from_bits_retain(wanted.attributes as u32);
    let mount = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    if wanted.propagation != 0 {
        let propagation = Attributes {
            propagation: wanted.propagation,
            ..Attributes::default()
        };
        mount_setattr(mount.as_fd(), false, &propagation)?;
    }
    let mut destination = create_in_root(root, &wanted.destination, Leaf::Directory)?;
    if matches!(wanted.kind.to_bytes(), b"proc" | b"sysfs") {
        // What is masked and protected below them is named by path: no image may have these mounted somewhere else.
        destination = open_plainly(root, &wanted.destination)?;
    }
    attach(mount.as_fd(), destination.as_fd())
}

/// Opens a path inside the root in which there must be no link at all (ELOOP).
fn open_plainly(root: BorrowedFd<'_>, path: &CStr) -> Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    rustix::fs::openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// Attaches a copy that was made early. A destination that is missing becomes what the source is: file or directory.
pub(super) fn bind(root: BorrowedFd<'_>, tree: OwnedFd, bind: &Bind) -> Result<()> {
    mount_setattr(tree.as_fd(), true, &bind.recursive)?;
    mount_setattr(tree.as_fd(), false, &bind.attributes)?;
    let leaf = match is_directory(tree.as_fd())? {
        true => Leaf::Directory,
        false => Leaf::File,
    };
    let destination = create_in_root(root, &bind.destination, leaf)?;
    match attach(tree.as_fd(), destination.as_fd()) {
        // The kernel's word for a directory on a file and the reverse. There are better ones.
        Err(Errno::INVAL) => match (leaf, is_directory(destination.as_fd())?) {
            (Leaf::File, true) => Err(Errno::ISDIR),
            (Leaf::Directory, false) => Err(Errno::NOTDIR),
            _ => Err(Errno::INVAL),
        },
        other => other,
    }
}

/// Covers a file with the host's /dev/null, a directory with an empty read-only one: the same for all of them.
pub(super) fn mask(slots: &mut Slots, path: &CStr) -> Result<()> {
    let Some(target) = existing(slots.root()?, path)? else {
        return Ok(());
    };
    if !is_directory(target.as_fd())? {
        let null = clone_tree(CWD, c"/dev/null", false)?;
        // The host's, since "/" is still the host's; and certainly that device (CVE-2025-31133).
        let device = rustix::fs::fstat(&null)?;
        if FileType::from_raw_mode(device.st_mode) != FileType::CharacterDevice
            || device.st_rdev != rustix::fs::makedev(1, 3)
        {
            return Err(Errno::NODEV);
        }
        mount_setattr(null.as_fd(), true, &PRIVATE)?;
        return attach(null.as_fd(), target.as_fd());
    }
    match &slots.empty {
        Some(empty) => {
            let copy = clone_tree(empty.as_fd(), c"", false)?;
            attach(copy.as_fd(), target.as_fd())
        }
        None => {
            let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
                | MountAttrFlags::MOUNT_ATTR_NOSUID
                | MountAttrFlags::MOUNT_ATTR_NODEV
                | MountAttrFlags::MOUNT_ATTR_NOEXEC;
            let empty = tmpfs(attributes)?;
            attach(empty.as_fd(), target.as_fd())?;
            slots.empty = Some(empty);
            Ok(())
        }
    }
}

/// Covers a path with a read-only copy of itself.
pub(super) fn make_readonly(root: BorrowedFd<'_>, path: &CStr) -> Result<()> {
    let Some(target) = existing(root, path)? else {
        return Ok(());
    };
    let tree = clone_tree(target.as_fd(), c"", true)?;
    mount_setattr(tree.as_fd(), true, &Attributes { set: RDONLY, ..PRIVATE })?;
    attach(tree.as_fd(), target.as_fd())
}

fn is_directory(fd: BorrowedFd<'_>) -> Result<bool> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode) == FileType::Directory)
}

fn existing(root: BorrowedFd<'_>, path: &CStr) -> Result<Option<OwnedFd>> {
    match open_in_root(root, path, OFlags::PATH) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// The old root ends up on top of the new one at the same place, and is taken off again (pivot_root(2), NOTES).
pub(super) fn pivot_root(root: BorrowedFd<'_>) -> Result<()> {
    rustix::process::fchdir(root)?;
    rustix::process::pivot_root(c".", c".")?;
    rustix::mount::unmount(c".", UnmountFlags::DETACH)?;
    rustix::process::chdir(c"/")
}
