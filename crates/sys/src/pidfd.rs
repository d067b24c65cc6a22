//! Processes of one's own: waiting for children, signals that can't hit a stranger, and the adoption of orphans.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, WaitStatus};

use crate::{Error, Result};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It exited with this code, 0 to 255.
    Code(i32),
    /// It was killed by this signal.
    Signal(i32),
    /// It has ended, and nobody saw how.
    Unknown,
}

impl End {
    /// The status as a shell says it: 128 + signal when killed; 255 if it is unknown.
    pub fn shell_status(self) -> i32 {
        match self {
            End::Code(code) => code,
            End::Signal(signal) => 128 + signal,
            End::Unknown => 255,
        }
    }
}

/// Takes one child that has ended, if there is one: whichever it is, an adopted orphan too. Never waits.
pub fn reap() -> Result<Option<(Pid, End)>> {
    loop {
        // Not rustix's waitpid(None), which is waitpid(0): children in the caller's process group, where a container is not.
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => return Ok(Some((pid, end(status)))),
            Ok(None) | Err(Errno::CHILD) => return Ok(None),
            Err(Errno::INTR) => {}
            Err(e) => return Err(Error::new("waitpid(-1, WNOHANG)", e)),
        }
    }
}

fn end(status: WaitStatus) -> End {
    // Without WUNTRACED and WCONTINUED a child is reported only when it ended, one way or the other.
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => End::Code(code),
        (None, Some(signal)) => End::Signal(signal),
        (None, None) => End::Unknown,
    }
}

/// Opens a process by its number. The number must be one's own unreaped child's, else it may be a stranger's by now.
pub fn open(pid: Pid) -> Result<OwnedFd> {
    rustix::process::pidfd_open(pid, PidfdFlags::empty())
        .map_err(|e| Error::new(format_args!("pidfd_open({})", pid.as_raw_nonzero()), e))
}

/// Sends a signal. ESRCH: the process has ended, reaped or not.
pub fn send_signal(pidfd: impl AsFd, signal: Signal) -> Result<()> {
    rustix::process::pidfd_send_signal(pidfd, signal)
        .map_err(|e| Error::new(format_args!("pidfd_send_signal({signal:?})"), e))
}

/// Makes the caller the parent of all its descendants' orphans (prctl(2), PR_SET_CHILD_SUBREAPER).
pub fn adopt_orphans() -> Result<()> {
    // Any pid means "on".
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|e| Error::new("prctl(PR_SET_CHILD_SUBREAPER, 1)", e))
}
