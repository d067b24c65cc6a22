//! What can go wrong with a log file.

use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// The result of an operation on a log.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a log could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no log at this path (yet).
    #[error("no log at {}", .path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// No room for the next entry. Nothing is lost: it is kept, and [`Writer::flush`](crate::Writer::flush) tries again.
    #[error("no room for the log {}: {errno}; the container waits until there is some", .path.display())]
    Full {
        /// The log.
        path: PathBuf,
        /// ENOSPC, EDQUOT or EFBIG.
        errno: Errno,
    },
    /// The kernel refused otherwise.
    #[error(transparent)]
    System(#[from] sys::Error),
}

impl Error {
    /// The error of a call on the log at `path`.
    pub(crate) fn of(path: &Path, call: &str, errno: Errno) -> Error {
        match errno {
            Errno::NOENT => Error::Missing {
                path: path.to_path_buf(),
            },
            Errno::NOSPC | Errno::DQUOT | Errno::FBIG => Error::Full {
                path: path.to_path_buf(),
                errno,
            },
            errno => sys::Error::new(format_args!("{call}({path:?})"), errno).into(),
        }
    }
}
