//! The parent's side of a start: follows the child's reports, and never waits for it.
//!
//! ```text
//!  create()/exec() ─► Creating ──Created──► Created ──start()──► Starting ──► Running
//!                        │ Failed, Closed      │ dropped            │ Failed
//!                        ▼                     ▼                    ▼
//!                     Error; the child is killed and reaped (within REAP_LIMIT)
//! ```

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use crate::handshake::{Kind, Packed, ParentEnd, Received, Report};
use crate::identity::{Identity, Wanted};
use crate::plan::Story;
use crate::{Error, Result};

/// How long a killed child is waited for. One that hangs in the kernel (a dead NFS server) is left to whoever reaps the
/// caller's children. A caller that reaps none had better not get there: the first process of the PID namespace that the
/// child joined does not end before the child is reaped.
const REAP_LIMIT: Duration = Duration::from_millis(250);

/// The largest /etc/passwd or /etc/group that is read from a container.
const MAX_DATABASE_BYTES: u64 = 1 << 20;

/// How far the child has come.
#[derive(Debug)]
pub enum Progress {
    /// It is at work; wait until `as_fd()` is readable and ask again.
    Pending,
    /// It is ready. The [`Creating`] is spent.
    Created(Created),
}

/// How far the start has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Started {
    /// Wait until `as_fd()` is readable and ask again.
    Pending,
    /// The program runs (or has already run). The process is now the caller's alone.
    Running,
}

/// A child that is getting ready.
#[derive(Debug)]
pub struct Creating {
    child: Arc<Child>,
    wanted: Wanted,
    identity: Identity,
    notices: Vec<String>,
    terminal: Option<OwnedFd>,
}

/// A child that is ready and waits to become the program.
#[derive(Debug)]
pub struct Created {
    /// As whom it runs.
    pub identity: Identity,
    /// The master of its terminal.
    pub terminal: Option<OwnedFd>,
    /// What could not be done to the letter and was done as far as the caller's own privileges go, for a log.
    pub notices: Vec<String>,
    child: Arc<Child>,
}

/// A child that is about to become the program.
#[derive(Debug)]
pub struct Starting {
    child: Arc<Child>,
}

/// What all three hold: the process, and the way to it. Killed when dropped, unless it has become the program.
#[derive(Debug)]
struct Child {
    process: sys::process::Child,
    /// The process that opens for it what is out of its reach, if there is one. Done when the child is.
    errand: Option<sys::process::Child>,
    socket: ParentEnd,
    story: Story,
    running: AtomicBool,
}

impl Creating {
    pub(crate) fn new(
        process: sys::process::Child,
        errand: Option<sys::process::Child>,
        socket: ParentEnd,
        story: Story,
        wanted: Wanted,
        identity: Identity,
    ) -> Self {
        let child = Arc::new(Child {
            process,
            errand,
            socket,
            story,
            running: AtomicBool::new(false),
        });
        Creating {
            child,
            wanted,
            identity,
            notices: Vec::new(),
            terminal: None,
        }
    }

    /// What was said before there was this child.
    pub(crate) fn with_notices(self, notices: Vec<String>) -> Self {
        Creating { notices, ..self }
    }

    /// The child's number in the caller's PID namespace.
    pub fn pid(&self) -> Pid {
        self.child.process.pid
    }

    /// The child's pidfd.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.child.process.pidfd.as_fd()
    }

    /// Readable when [`advance`](Self::advance) has something to do.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.child.socket.as_fd()
    }

    /// Takes what the child has reported. Never waits. After `Created` or an error the value is spent.
    pub fn advance(&mut self) -> Result<Progress> {
        loop {
            match self.child.socket.receive()? {
                Received::Nothing => return Ok(Progress::Pending),
                Received::Closed | Received::Reset => return Err(self.child.ended()),
                Received::Report(report, fd) => match (report.kind, fd) {
                    (Kind::Failed, _) => return Err(self.child.story.failure(&report)),
                    (Kind::Notice, _) => self.notices.push(self.child.story.notice(&report)),
                    (Kind::Terminal, master) => self.terminal = master,
                    (Kind::Rooted, Some(root)) => self.identify(root.as_fd())?,
                    (Kind::Rooted, None) | (Kind::Heir, _) => return Err(bad_message()),
                    (Kind::Clocks, _) => self.set_clocks()?,
                    (Kind::Created, _) => return Ok(Progress::Created(self.created())),
                },
            }
        }
    }

    /// Waits until the child is ready: for callers that have nothing else to do.
    pub fn wait(mut self) -> Result<Created> {
        loop {
            match self.advance()? {
                Progress::Pending => wait_readable(self.as_fd())?,
                Progress::Created(created) => return Ok(created),
            }
        }
    }

    /// The child has made its time namespace; inside a user namespace its own file in /proc is not its own to write.
    fn set_clocks(&self) -> Result<()> {
        let clocks = self.child.story.clocks.as_deref().unwrap_or_default();
        let path = format!("/proc/{}/timens_offsets", self.pid().as_raw_nonzero());
        std::fs::write(&path, clocks).map_err(|e| Error::Step {
            step: format!("write {path} ({})", clocks.trim_end().replace('\n', ", ")),
            errno: e.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error),
        })?;
        self.child.socket.go_on().map(drop)
    }

    fn created(&mut self) -> Created {
        if let Some(errand) = &self.child.errand {
            // It has handed everything over and is about to end, or has.
            end(errand);
        }
        Created {
            identity: self.identity.clone(),
            terminal: self.terminal.take(),
            notices: std::mem::take(&mut self.notices),
            child: Arc::clone(&self.child),
        }
    }

    /// The child has its root: only now can a name be looked up in it.
    fn identify(&mut self, root: BorrowedFd<'_>) -> Result<()> {
        let passwd = read_database(root, c"etc/passwd")?;
        let group = read_database(root, c"etc/group")?;
        self.identity = self.wanted.resolve(&passwd, &group)?;
        let packed = Packed::new(&self.identity).ok_or_else(|| Error::User {
            user: self.identity.uid.to_string(),
            reason: "more than 1024 groups, or a home directory of more than 1024 bytes".into(),
        })?;
        self.child.socket.send_identity(&packed).map(drop)
    }
}

impl Created {
    /// The child's number in the caller's PID namespace.
    pub fn pid(&self) -> Pid {
        self.child.process.pid
    }

    /// The child's pidfd.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.child.process.pidfd.as_fd()
    }

    /// Its user and group as the host sees them: in a user namespace other numbers than in [`Created::identity`].
    pub fn host_ids(&self) -> (u32, u32) {
        let same = (self.identity.uid, self.identity.gid);
        // /proc shows ids as the reader's own user namespace has them.
        let path = format!("/proc/{}/status", self.pid().as_raw_nonzero());
        let Ok(status) = std::fs::read_to_string(path) else {
            // It has ended: it owns nothing any more.
            return same;
        };
        let effective = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key))?;
            line.split_whitespace().nth(1)?.parse().ok()
        };
        match (effective("Uid:"), effective("Gid:")) {
            (Some(uid), Some(gid)) => (uid, gid),
            _ => same,
        }
    }

    /// Readable when the child has ended without being started.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.child.socket.as_fd()
    }

    /// Lets the child become the program.
    pub fn start(self) -> Result<Starting> {
        match self.child.socket.go_on()? {
            true => Ok(Starting { child: self.child }),
            false => Err(self.child.ended()),
        }
    }
}

impl Starting {
    /// The child's number in the caller's PID namespace.
    pub fn pid(&self) -> Pid {
        self.child.process.pid
    }

    /// The child's pidfd.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.child.process.pidfd.as_fd()
    }

    /// Readable when [`advance`](Self::advance) has something to do.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.child.socket.as_fd()
    }

    /// Whether the program runs. Never waits.
    pub fn advance(&mut self) -> Result<Started> {
        match self.child.socket.receive()? {
            Received::Nothing => Ok(Started::Pending),
            Received::Report(report, _) if report.kind == Kind::Failed => Err(self.child.story.failure(&report)),
            Received::Report(..) => Err(bad_message()),
            Received::Reset => Err(self.child.ended()),
            Received::Closed => {
                self.child.running.store(true, Ordering::Relaxed);
                Ok(Started::Running)
            }
        }
    }

    /// Waits until the program runs: for callers that have nothing else to do.
    pub fn wait(mut self) -> Result<sys::process::Child> {
        while self.advance()? == Started::Pending {
            wait_readable(self.as_fd())?;
        }
        let pidfd = rustix::io::fcntl_dupfd_cloexec(self.pidfd(), 3)
            .map_err(|errno| sys::Error::new("fcntl(pidfd, F_DUPFD_CLOEXEC)", errno))?;
        Ok(sys::process::Child { pid: self.pid(), pidfd })
    }
}

impl Child {
    /// The socket closed before the child was ready: what became of it? Reads the status but leaves it to be reaped.
    fn ended(&self) -> Error {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let status = waitid(WaitId::PidFd(self.process.pidfd.as_fd()), options)
            .ok()
            .flatten();
        let how = match status.as_ref().map(|s| (s.terminating_signal(), s.exit_status())) {
            Some((Some(signal), _)) => format!(": killed by signal {signal}"),
            Some((_, Some(status))) => format!(": exit status {status}"),
            _ => String::new(),
        };
        Error::Ended { how }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if *self.running.get_mut() {
            return;
        }
        end(&self.process);
        if let Some(errand) = &self.errand {
            end(errand);
        }
    }
}

/// Kills and reaps a child. Whatever fails here: it is gone already, or the caller reaps it with its other children.
pub(crate) fn end(child: &sys::process::Child) {
    let pidfd = child.pidfd.as_fd();
    let _ = pidfd_send_signal(pidfd, Signal::KILL);
    let limit = Timespec {
        tv_sec: 0,
        tv_nsec: REAP_LIMIT.as_nanos() as _,
    };
    let _ = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&limit));
    let _ = waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
}

fn wait_readable(fd: BorrowedFd<'_>) -> Result<()> {
    match poll(&mut [PollFd::new(&fd, PollFlags::IN)], None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(sys::Error::new("poll(handshake)", errno).into()),
    }
}

fn bad_message() -> Error {
    sys::Error::new("recvmsg(handshake)", Errno::BADMSG).into()
}

/// A file that is missing, or is none, has no entries. What is there comes from an image: it may be a FIFO (so the open
/// does not wait), and it may be huge (so it is cut).
pub(crate) fn read_database(root: BorrowedFd<'_>, path: &std::ffi::CStr) -> Result<String> {
    use std::io::Read;
    let what = || format!("openat2({path:?})");
    let fd = match sys::resolve::open_in_root(root, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY) {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => return Ok(String::new()),
        Err(errno) => return Err(sys::Error::new(what(), errno).into()),
    };
    let stat = rustix::fs::fstat(&fd).map_err(|errno| sys::Error::new(what(), errno))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(String::new());
    }
    let mut bytes = Vec::new();
    let read = std::fs::File::from(fd).take(MAX_DATABASE_BYTES).read_to_end(&mut bytes);
    read.map_err(|e| {
        let errno = e.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error);
        sys::Error::new(format_args!("read({path:?})"), errno)
    })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

impl Story {
    /// The sentence for a step that failed.
    pub(crate) fn failure(&self, report: &Report) -> Error {
        self.describe_failure(
            report.step as usize,
            Errno::from_raw_os_error(report.errno.max(1)),
            report.detail,
        )
    }

    /// The sentence for a step that was done as far as possible.
    pub(crate) fn notice(&self, report: &Report) -> String {
        self.describe_notice(report.step as usize, report.detail)
    }
}
