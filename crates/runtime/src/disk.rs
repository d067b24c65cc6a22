//! Files, directories and mounts of the state directory: made, written, taken away.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use oci_spec::runtime::Spec;
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::error::{Error, Result};

/// Makes a directory that everyone may pass and only root may list; one that is there is as good as made.
pub(crate) fn make_dir(path: &Path) -> Result<()> {
    match fs::DirBuilder::new().mode(0o711).create(path) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(Error::file("make", path)(e)),
        _ => Ok(()),
    }
}

/// Writes an OCI document. For root alone: a container's environment is in it, with whatever secrets.
pub(crate) fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    // OCI's types are structs of strings, numbers and lists: they always have a JSON form.
    let text = serde_json::to_vec(value).expect("OCI types have a JSON form");
    let file = fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path);
    file.and_then(|mut file| file.write_all(&text))
        .map_err(Error::file("write", path))
}

/// Reads a spec that we wrote.
pub(crate) fn read_spec(path: &Path) -> Result<Spec> {
    let text = fs::read(path).map_err(Error::file("read", path))?;
    serde_json::from_slice(&text).map_err(|e| Error::file("read", path)(e.into()))
}

/// Makes a FIFO that only root can open.
pub(crate) fn make_fifo(path: &Path) -> Result<()> {
    match rustix::fs::mkfifoat(rustix::fs::CWD, path, Mode::RUSR | Mode::WUSR) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(e) => Err(Error::call(format_args!("mkfifo({path:?}, 0600)"))(e)),
    }
}

/// Unmounts, lazily: who still has the mount open keeps it; the name is free at once.
pub(crate) fn unmount(path: &Path) -> Result<()> {
    match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        // EINVAL: not a mount point.
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(e) => Err(Error::call(format_args!("umount2({path:?}, MNT_DETACH)"))(e)),
    }
}

/// Unmounts, lazily, all that is mounted at `dir` or below it.
pub(crate) fn unmount_below(dir: &Path) -> Result<()> {
    let mut points: Vec<_> = sys::mountinfo::mounts()?.into_iter().map(|m| m.mount_point).collect();
    points.retain(|point| point.starts_with(dir));
    // A path sorts before what is below it.
    points.sort();
    points.iter().rev().try_for_each(|point| unmount(point))
}

/// Removes a file, or a directory with what is in it; one that isn't there is as good as removed.
pub(crate) fn remove_tree(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(m) if m.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match removed {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::file("remove", path)(e)),
        _ => Ok(()),
    }
}

/// Removes a file; one that isn't there is as good as removed.
pub(crate) fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::file("remove", path)(e)),
        _ => Ok(()),
    }
}
