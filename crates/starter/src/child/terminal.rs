//! The process's terminal.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{OFlags, Uid};
use rustix::io::Result;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use sys::resolve::{Leaf, create_in_root, open_in_root};

use crate::request::Size;

/// Opens a pair on the container's devpts: (master, terminal). The terminal comes from the master and not by its name
/// (TIOCGPTPEER, Linux 4.13), so it cannot be another.
pub(super) fn open(root: BorrowedFd<'_>, size: Size) -> Result<(OwnedFd, OwnedFd)> {
    let master = open_in_root(root, c"dev/pts/ptmx", OFlags::RDWR | OFlags::NOCTTY)?;
    unlockpt(&master)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let terminal = ioctl_tiocgptpeer(&master, flags)?;
    if size != Size::default() {
        let size = Winsize {
            ws_row: size.rows,
            ws_col: size.columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&master, size)?;
    }
    Ok((master, terminal))
}

/// Binds it at /dev/console (OCI: a container with a terminal has one).
pub(super) fn console(root: BorrowedFd<'_>, terminal: BorrowedFd<'_>) -> Result<()> {
    let tree = sys::mount::clone_tree(terminal, c"", false)?;
    let target = create_in_root(root, c"dev/console", Leaf::File)?;
    sys::mount::attach(tree.as_fd(), target.as_fd())
}

/// The user owns it; its group stays the devpts' (`gid=5`).
pub(super) fn give(terminal: BorrowedFd<'_>, uid: u32) -> Result<()> {
    rustix::fs::fchown(terminal, Some(Uid::from_raw(uid)), None)
}

/// Makes it the session's, and 0, 1 and 2.
pub(super) fn control(terminal: OwnedFd) -> Result<()> {
    rustix::process::ioctl_tiocsctty(&terminal)?;
    rustix::stdio::dup2_stdin(terminal.as_fd())?;
    rustix::stdio::dup2_stdout(terminal.as_fd())?;
    rustix::stdio::dup2_stderr(terminal.as_fd())
}
