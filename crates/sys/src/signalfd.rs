//! Signals read from a descriptor instead of interrupting whatever runs.

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use crate::{Error, Result};

/// Blocks these signals for the calling thread (and those that it starts) and returns a non-blocking descriptor that is
/// readable while one of them waits: see signalfd(2). Call it before the process has other threads. A child inherits
/// the mask across exec unless it resets it.
pub fn block(signals: &[i32]) -> Result<OwnedFd> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set that the other calls read; the numbers are checked by sigaddset; signalfd
    // makes a new descriptor that nobody else owns.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        let mut set = set.assume_init();
        for signal in signals {
            if libc::sigaddset(&mut set, *signal) != 0 {
                return Err(Error::last(format_args!("sigaddset({signal})")));
            }
        }
        let errno = libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        if errno != 0 {
            return Err(Error::new(
                "pthread_sigmask(SIG_BLOCK)",
                Errno::from_raw_os_error(errno),
            ));
        }
        let fd = libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 {
            return Err(Error::last(format_args!("signalfd({signals:?})")));
        }
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Takes one waiting signal's number; `None` when none waits.
pub fn next(fd: &OwnedFd) -> Result<Option<i32>> {
    let mut info = MaybeUninit::<libc::signalfd_siginfo>::uninit();
    let size = size_of::<libc::signalfd_siginfo>();
    loop {
        // SAFETY: the buffer is `size` bytes long, and the kernel writes whole records or nothing.
        let length = unsafe { libc::read(fd.as_raw_fd(), info.as_mut_ptr().cast(), size) };
        if length == size as isize {
            // SAFETY: a whole record was written.
            return Ok(Some(unsafe { info.assume_init() }.ssi_signo as i32));
        }
        match Errno::from_raw_os_error(std::io::Error::last_os_error().raw_os_error().unwrap_or(0)) {
            Errno::INTR => {}
            Errno::AGAIN => return Ok(None),
            errno => return Err(Error::new("read(signalfd)", errno)),
        }
    }
}
