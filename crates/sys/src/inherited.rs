//! Descriptors that the caller's parent left open: one under an agreed number, or by mistake.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;

use crate::{Error, Result};

/// Whether what was inherited has been dealt with.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Closes all that the parent left open beside the standard streams: a process that outlives its parent would hold that one's locks
/// and pipes. Works once in a process, at its start, before it has opened anything itself.
pub fn close_all() -> Result<()> {
    let call = "close_range(3, ~0, 0)";
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Err(Error::new(call, Errno::INVAL));
    }
    // SAFETY: nobody in this process owns what is closed: it was inherited, and std owns no number above 2.
    if unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) } != 0 {
        return Err(Error::last(call));
    }
    Ok(())
}

/// Takes over descriptor `number`, which the parent left open for this process, and closes it on exec from now on. Works
/// once in a process, at its start, before it has opened anything itself.
pub fn take(number: RawFd) -> Result<OwnedFd> {
    let call = || format!("fcntl({number}, F_SETFD, FD_CLOEXEC)");
    if number < 3 || TAKEN.swap(true, Ordering::Relaxed) {
        return Err(Error::new(call(), Errno::INVAL));
    }
    // SAFETY: fcntl with F_SETFD touches no memory; a number that is not open is EBADF.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
        return Err(Error::last(call()));
    }
    // SAFETY: the descriptor is open (checked above) and nobody in this process owns it: it was inherited, std owns no
    // number above 2, and the flag above lets nobody take it twice.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
