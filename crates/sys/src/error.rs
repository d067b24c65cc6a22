//! The error of a system call, as strace would print it.

use std::fmt;

use rustix::io::Errno;

/// A system call that failed: the call with its arguments, and errno.
///
/// Displays as `openat2("/x/y", O_PATH): No such file or directory (os error 2)`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{call}: {errno}")]
pub struct Error {
    /// The call and its arguments.
    pub call: String,
    /// What the kernel answered.
    pub errno: Errno,
}

/// The result of a system call.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// `call` failed with `errno`.
    pub fn new(call: impl fmt::Display, errno: Errno) -> Self {
        Error {
            call: call.to_string(),
            errno,
        }
    }

    /// The error that errno describes after a raw call.
    pub fn last(call: impl fmt::Display) -> Self {
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
        Error::new(call, Errno::from_raw_os_error(errno))
    }
}

impl From<Error> for std::io::Error {
    fn from(e: Error) -> Self {
        std::io::Error::new(std::io::Error::from(e.errno).kind(), e.to_string())
    }
}
