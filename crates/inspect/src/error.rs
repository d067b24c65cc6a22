//! What can go wrong when looking.

use std::path::{Path, PathBuf};

/// The result of a look.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of /proc or /sys could not be read.
    #[error("read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel answered.
        source: std::io::Error,
    },
    /// The process has ended (or never was).
    #[error("process {pid} does not exist")]
    NoProcess {
        /// Its number.
        pid: u32,
    },
    /// A file of /proc that does not look like one.
    #[error("{} is not laid out as expected", path.display())]
    Layout {
        /// The file.
        path: PathBuf,
    },
    /// Netlink.
    #[error(transparent)]
    System(#[from] sys::Error),
}

/// Reads a file of process `pid`; a process that isn't there (any more) is `NoProcess`.
pub(crate) fn read_of(pid: u32, name: &str) -> Result<Vec<u8>> {
    let path = Path::new("/proc").join(pid.to_string()).join(name);
    std::fs::read(&path).map_err(|source| of_process(pid, path, source))
}

/// ESRCH is what an open file of a process that has ended answers.
pub(crate) fn of_process(pid: u32, path: PathBuf, source: std::io::Error) -> Error {
    const ESRCH: i32 = 3;
    if source.kind() == std::io::ErrorKind::NotFound || source.raw_os_error() == Some(ESRCH) {
        return Error::NoProcess { pid };
    }
    Error::Read { path, source }
}
