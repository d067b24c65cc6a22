//! Descriptors 0, 1 and 2, and the terminal.

use std::os::fd::{AsRawFd, OwnedFd};

use super::step::{Inherited, Step};
use crate::Result;
use crate::request::Stdio;

/// The terminal is opened on the container's own devpts: its name must mean something inside.
pub(crate) fn open_terminal(stdio: &Stdio, console: bool, steps: &mut Vec<Step>) {
    if let Stdio::Terminal { size } = stdio {
        steps.push(Step::OpenTerminal { size: *size });
        if console {
            steps.push(Step::Console);
        }
    }
}

/// What becomes 0, 1 and 2.
pub(crate) fn place(stdio: Stdio, inherited: &mut Inherited<'_>, steps: &mut Vec<Step>) -> Result<()> {
    match stdio {
        Stdio::Terminal { .. } => steps.push(Step::ControllingTerminal),
        Stdio::Fds { stdin, stdout, stderr } => {
            let mut keep = |fd| above_stdio(fd).map(|fd| inherited.own(fd));
            let (stdin, stdout, stderr) = (keep(stdin)?, keep(stdout)?, keep(stderr)?);
            steps.push(Step::Stdio { stdin, stdout, stderr });
        }
    }
    Ok(())
}

/// The same file under a number above 2: otherwise placing one would overwrite another.
pub(crate) fn above_stdio(fd: OwnedFd) -> Result<OwnedFd> {
    if fd.as_raw_fd() > 2 {
        return Ok(fd);
    }
    rustix::io::fcntl_dupfd_cloexec(&fd, 3)
        .map_err(|errno| sys::Error::new(format_args!("fcntl({}, F_DUPFD_CLOEXEC, 3)", fd.as_raw_fd()), errno).into())
}
