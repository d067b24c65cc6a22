//! Overlays of many layers. The options of mount(2) fit one page, and 500 absolute paths don't: they are named relative to the
//! directory that they share, by a thread that has a working directory of its own.

use std::path::Path;
use std::thread;

use rustix::mount::MountFlags;
use rustix::thread::UnshareFlags;

use crate::{Error, Result};

/// Mounts a read-only overlay of the directories `lower` (topmost first, at least two, relative to `base`) at the absolute path
/// `target`. `source` is what the mount table shows as its source.
pub fn mount_read_only(base: &Path, lower: &[String], source: &str, target: &Path) -> Result<()> {
    let options = std::ffi::CString::new(format!("lowerdir={}", lower.join(":")));
    let options = options.map_err(|_| Error::new("a path with a zero byte", rustix::io::Errno::INVAL))?;
    let mount = || -> Result<()> {
        // SAFETY: CLONE_FS gives this thread, which ends below, a working directory of its own; nothing else is unshared.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }.map_err(|e| Error::new("unshare(CLONE_FS)", e))?;
        rustix::process::chdir(base).map_err(|e| Error::new(format_args!("chdir({})", base.display()), e))?;
        let flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID;
        rustix::mount::mount(source, target, "overlay", flags, options.as_c_str())
            .map_err(|e| Error::new(format_args!("mount(overlay, {})", target.display()), e))
    };
    thread::scope(|scope| scope.spawn(mount).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
