//! emptyDir.

use std::ffi::CString;
use std::fs::{DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::mount::MountFlags;

use crate::{Error, FsGroup, Medium, Result, mounts, ownership};

/// Containers run as whoever they like and all of them write here: kubelet makes it so too.
const MODE: u32 = 0o777;
/// With a group: what is made in here has the group too.
const MODE_OF_GROUP: u32 = 0o2777;

/// Makes the directory, mounts a tmpfs on it for `Medium::Memory`, and gives it to the group, where that has not been done.
/// Done once, like kubelet: from then on, modes and groups in there are what the pod's containers make of them.
pub fn make(path: &Path, medium: Medium, size_limit_bytes: Option<u64>, group: Option<FsGroup>) -> Result<()> {
    let failed = |call| {
        move |source| Error::File {
            call,
            path: path.to_owned(),
            source,
        }
    };
    let parent = path.parent().unwrap_or(path);
    DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(parent)
        .map_err(failed("make directory"))?;
    match DirBuilder::new().mode(MODE).create(path) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(failed("make directory")(e)),
        _ => {}
    }
    match medium {
        // Mode and group come with the mount.
        Medium::Memory if mounts::is_mount_point(path)? => Ok(()),
        Medium::Memory => mount_tmpfs(path, size_limit_bytes, group),
        Medium::Default => {
            let ready = ready_file(parent, path);
            if ready.try_exists().map_err(failed("look for the ready file of"))? {
                return Ok(());
            }
            // The umask has taken bits away.
            std::fs::set_permissions(path, Permissions::from_mode(MODE)).map_err(failed("chmod"))?;
            if let Some(group) = group {
                ownership::give(path, group)?;
            }
            std::fs::write(&ready, "").map_err(failed("write the ready file of"))
        }
    }
}

/// No volume has this name: none starts with a dot.
fn ready_file(parent: &Path, path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    parent.join(format!(".{name}.ready"))
}

fn mount_tmpfs(path: &Path, size_limit_bytes: Option<u64>, group: Option<FsGroup>) -> Result<()> {
    let size = size_limit_bytes.map_or(String::new(), |bytes| format!(",size={bytes}"));
    let options = match group {
        Some(group) => format!("mode={MODE_OF_GROUP:o},gid={}{size}", group.gid),
        None => format!("mode={MODE:o}{size}"),
    };
    // Digits and letters: there is no NUL in it.
    let data = CString::new(options.clone()).unwrap_or_default();
    rustix::mount::mount(
        "tmpfs",
        path,
        "tmpfs",
        MountFlags::NOSUID | MountFlags::NODEV,
        Some(data.as_c_str()),
    )
    .map_err(|e| sys::Error::new(format_args!("mount(\"tmpfs\", {path:?}, \"tmpfs\", {options:?})"), e))?;
    Ok(())
}
