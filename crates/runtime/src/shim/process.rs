//! The shim's process: started with its socket in hand, waited for through a pidfd, found again after a restart.

use std::ffi::OsStr;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};
use sys::spawn::{Detached, start_time_ticks};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::error::{Error, Result};
use crate::id::SandboxId;
use crate::layout::SandboxDir;
use crate::records::ProcessName;

/// How much of the shim's standard error goes into an error message.
const LOG_TAIL_BYTES: u64 = 1024;

/// A running shim. Clones name the same process.
#[derive(Debug, Clone)]
pub(crate) struct ShimProcess {
    name: ProcessName,
    pidfd: Arc<AsyncFd<OwnedFd>>,
}

impl ShimProcess {
    /// Starts `binary` for a sandbox, inside the cgroup that `placement` opens. The socket listens before the shim
    /// lives, so that a client can connect at once and the path is never missing. Blocks for as long as a fork.
    pub(crate) fn spawn(
        binary: &Path,
        id: &SandboxId,
        dir: &SandboxDir,
        placement: &cgroup::Placement,
    ) -> Result<(ProcessName, OwnedFd)> {
        let listener = OwnedFd::from(listen(&dir.socket())?);
        start(binary, id, dir, placement, &["--socket-fd"], &listener)
    }

    /// Starts `binary` to take over a sandbox whose supervisor has died: it gets a socket to listen on, and pidfds of the
    /// sandbox's processes, each with its container's id.
    pub(crate) fn adopt(
        binary: &Path,
        id: &SandboxId,
        dir: &SandboxDir,
        placement: &cgroup::Placement,
        processes: &[(String, OwnedFd)],
    ) -> Result<(ProcessName, OwnedFd)> {
        let listener = listen(&dir.socket())?;
        let (ours, theirs) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::SEQPACKET,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )
        .map_err(Error::call("socketpair(AF_UNIX, SOCK_SEQPACKET)"))?;
        let hand_over = |name: &str, fd| {
            sys::scm::send(ours.as_fd(), name.as_bytes(), Some(fd)).map_err(Error::call("sendmsg(handover)"))
        };
        hand_over("socket", listener.as_fd())?;
        for (container, pidfd) in processes {
            hand_over(&format!("process {container}"), pidfd.as_fd())?;
        }
        // What was sent waits in the socket; its other end's is the end of it.
        drop(ours);
        start(binary, id, dir, placement, &["--adopt", "--handover-fd"], &theirs)
    }

    /// The process that [`ShimProcess::spawn`] started. Must be called on tokio's runtime.
    pub(crate) fn new(name: ProcessName, pidfd: OwnedFd) -> Result<ShimProcess> {
        // Deprecated for what a type could do to its own descriptor behind tokio's back; an OwnedFd keeps it to the end.
        #[allow(deprecated)]
        let pidfd = AsyncFd::with_interest(pidfd, Interest::READABLE).map_err(|source| Error::File {
            doing: format!("watch the supervisor {}", name.pid),
            source,
        })?;
        Ok(ShimProcess {
            name,
            pidfd: Arc::new(pidfd),
        })
    }

    /// The process that was recorded as `name`, if it still lives. The pidfd is opened first and the start time read
    /// after, so that the two are of one process.
    pub(crate) fn find(name: ProcessName) -> Result<Option<ShimProcess>> {
        let Some(pid) = Pid::from_raw(name.pid) else {
            return Ok(None);
        };
        let pidfd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(Errno::SRCH | Errno::INVAL) => return Ok(None),
            Err(e) => return Err(Error::call(format_args!("pidfd_open({})", name.pid))(e)),
        };
        if start_time_ticks(pid) != Some(name.start_time_ticks) {
            return Ok(None);
        }
        ShimProcess::new(name, pidfd).map(Some)
    }

    pub(crate) fn name(&self) -> ProcessName {
        self.name
    }

    /// Returns once the process has ended, and reaps it if it is our child (it is not after a restart).
    pub(crate) async fn exited(&self) {
        // An error here would mean that epoll is gone; then there is nothing to wait for.
        let _ = self.pidfd.readable().await;
        let _ = rustix::process::waitid(
            WaitId::PidFd(self.pidfd.as_fd()),
            WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
        );
    }

    /// Like [`ShimProcess::exited`], for `limit` at most; whether it has ended.
    pub(crate) async fn exited_within(&self, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.exited()).await.is_ok()
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&self) -> bool {
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        let pidfd = self.pidfd.get_ref();
        let mut fds = [rustix::event::PollFd::new(pidfd, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
    }

    pub(crate) fn kill(&self) -> Result<()> {
        match rustix::process::pidfd_send_signal(self.pidfd.get_ref(), Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(e) => Err(Error::call(format_args!(
                "pidfd_send_signal({}, SIGKILL)",
                self.name.pid
            ))(e)),
        }
    }
}

/// Starts a supervisor with one inherited descriptor, whose number follows the last of `flags`.
fn start(
    binary: &Path,
    id: &SandboxId,
    dir: &SandboxDir,
    placement: &cgroup::Placement,
    flags: &[&str],
    inherited: &OwnedFd,
) -> Result<(ProcessName, OwnedFd)> {
    let number = std::os::fd::AsRawFd::as_raw_fd(inherited).to_string();
    let [id_flag, dir_flag] = ["--id", "--dir"].map(OsStr::new);
    let mut args = vec![id_flag, id.as_str().as_ref(), dir_flag, dir.path().as_os_str()];
    args.extend(flags.iter().map(OsStr::new));
    args.push(number.as_ref());
    let (pid, pidfd) = Detached {
        program: binary,
        args: &args,
        inherited: inherited.as_fd(),
        stderr: open_log(&dir.shim_log())?,
        cgroup: placement.v2_dir.as_ref().map(AsFd::as_fd),
        cgroups: &placement.v1_tasks,
    }
    .spawn()
    .map_err(|e| missing_binary(binary, e))?;
    Ok((
        ProcessName {
            pid: pid.as_raw_nonzero().get(),
            start_time_ticks: start_time_ticks(pid).unwrap_or(0),
        },
        pidfd,
    ))
}

/// The end of what a shim wrote to its standard error, on one line.
pub(crate) fn log_tail(log: &Path) -> String {
    let tail = || -> std::io::Result<String> {
        let mut file = std::fs::File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).lines().collect::<Vec<_>>().join(" | "))
    };
    match tail() {
        Ok(text) if text.trim().is_empty() => "nothing".into(),
        Ok(text) => text,
        Err(e) => format!("({} can't be read: {e})", log.display()),
    }
}

/// The file that takes a shim's standard error.
fn open_log(path: &Path) -> Result<OwnedFd> {
    std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .map(OwnedFd::from)
        .map_err(Error::file("open", path))
}

fn listen(socket: &Path) -> Result<UnixListener> {
    // Left by an attempt that was undone half-way; nobody listens on it, since the sandbox is ours alone.
    match std::fs::remove_file(socket) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::file("remove", socket)(e)),
        _ => {}
    }
    UnixListener::bind(socket).map_err(Error::file("listen on", socket))
}

fn missing_binary(binary: &Path, error: sys::Error) -> Error {
    if error.errno == Errno::NOENT {
        return cri::Error::new(
            cri::ErrorKind::FailedPrecondition,
            format!(
                "the supervisor {} is not there ({error}): install hove-shim beside hove, or name it with --shim",
                binary.display()
            ),
        )
        .into();
    }
    error.into()
}
