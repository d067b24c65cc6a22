//! Descriptors that tasks wait for.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

/// Hands a descriptor to the reactor. It must be non-blocking if it is read or written.
//
// tokio deprecates its safe constructor because a type might answer with another number every time; an `OwnedFd` answers
// with its own as long as it is owned.
#[allow(deprecated)]
pub fn registered(fd: OwnedFd) -> sys::Result<AsyncFd<OwnedFd>> {
    AsyncFd::try_new(fd).map_err(|e| {
        let (fd, cause) = e.into_parts();
        let errno = Errno::from_io_error(&cause).unwrap_or(Errno::IO);
        sys::Error::new(format_args!("epoll_ctl(EPOLL_CTL_ADD, {fd:?})"), errno)
    })
}
