//! The host's /proc, known to be one: what is written to it must not end up in a file that only looks like it.
//!
//! Runtimes have fallen to this: a label or a kernel parameter was written through a path on which somebody had mounted
//! another file (CVE-2019-16884, CVE-2025-52881). Everything here may be called between clone and exec: no allocation, no
//! lock; errors are a bare errno.

use std::ffi::CStr;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, Result};

/// `PROC_SUPER_MAGIC`
const MAGIC: u64 = 0x9fa0;

/// Opens a file of procfs for writing (and reading, where `flags` say so). `EMEDIUMTYPE`: the file is none of procfs's.
pub fn open(path: &CStr, flags: OFlags) -> Result<OwnedFd> {
    let file = rustix::fs::open(path, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())?;
    // Asked of the descriptor: whatever the path leads to later, this is the file that is written.
    match rustix::fs::fstatfs(&file)?.f_type as u64 {
        MAGIC => Ok(file),
        _ => Err(Errno::MEDIUMTYPE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_procfs_will_do() {
        open(c"/proc/self/oom_score_adj", OFlags::RDWR).expect("procfs");
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("oom_score_adj");
        std::fs::write(&path, "").expect("write");
        let path = std::ffi::CString::new(path.to_str().expect("UTF-8")).expect("no NUL");
        assert_eq!(open(&path, OFlags::WRONLY).map(drop), Err(Errno::MEDIUMTYPE));
    }

    #[test]
    fn a_file_that_is_mounted_over_one_of_procfs_will_not_do() {
        std::thread::spawn(|| {
            crate::netns::isolate_thread().expect("these tests need root");
            let file = tempfile::NamedTempFile::new().expect("a file");
            rustix::mount::mount_bind(file.path(), "/proc/sys/kernel/hostname").expect("mount");
            assert_eq!(
                open(c"/proc/sys/kernel/hostname", OFlags::WRONLY).map(drop),
                Err(Errno::MEDIUMTYPE)
            );
        })
        .join()
        .expect("no panic");
    }
}
