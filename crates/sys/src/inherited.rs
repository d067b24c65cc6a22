//! A descriptor that the caller's parent left open under an agreed number.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;

use crate::{Error, Result};

/// Takes over descriptor `number`, which the parent left open for this process, and closes it on exec from now on. Works
/// once in a process, at its start, before it has opened anything itself.
pub fn take(number: RawFd) -> Result<OwnedFd> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
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
