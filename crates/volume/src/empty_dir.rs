//! emptyDir.

use std::ffi::CString;
use std::fs::{DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use rustix::mount::MountFlags;

use crate::{Error, Medium, Result, mounts};

/// Containers run as whoever they like and all of them write here: kubelet makes it so too.
const MODE: u32 = 0o777;

/// Makes the directory, and mounts a tmpfs on it for `Medium::Memory`, where that has not been done.
pub fn make(path: &Path, medium: Medium, size_limit_bytes: Option<u64>) -> Result<()> {
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
        Ok(()) => {}
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            if medium == Medium::Memory && mounts::is_mount_point(path)? {
                return Ok(());
            }
        }
        Err(e) => return Err(failed("make directory")(e)),
    }
    match medium {
        // The umask has taken bits away.
        Medium::Default => std::fs::set_permissions(path, Permissions::from_mode(MODE)).map_err(failed("chmod")),
        Medium::Memory => mount_tmpfs(path, size_limit_bytes),
    }
}

fn mount_tmpfs(path: &Path, size_limit_bytes: Option<u64>) -> Result<()> {
    let size = size_limit_bytes.map_or(String::new(), |bytes| format!(",size={bytes}"));
    let options = format!("mode=0777{size}");
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
