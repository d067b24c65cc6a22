//! A further process in a container: started by the shim, its streams FIFOs that only root can open.
//!
//! Both ends of each FIFO are open here before the shim is asked, so that neither side waits for the other to open it, and
//! so that output has no “end” but the process's: what a background child still holds open delays nobody. After the
//! process has ended, what is left in the FIFO is read, and that was all.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use cri::ErrorKind;
use oci_spec::runtime::Process;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::container::Attendance;
use crate::container::signal::SIGKILL;
use crate::disk::{make_dir, make_fifo, read_spec};
use crate::error::{Error, Result};
use crate::id::ContainerId;
use crate::node::Node;
use crate::shim::{ExecStreams, ShimClient, ShimError};
use crate::spec;

/// Bytes moved at a time.
const BUFFER_BYTES: usize = 32 << 10;

/// What is read at most after the process has ended: as much as a FIFO can hold (/proc/sys/fs/pipe-max-size). Whatever
/// comes after that is written by someone else.
const DRAIN_BYTES: usize = 1 << 20;

/// Which streams an exec has.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Streams {
    pub(crate) terminal: bool,
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
}

/// A running exec. Dropped before [`Exec::wait`] has answered, it is killed, with all that it has started.
pub(crate) struct Exec {
    task: Task,
    pub(crate) stdin: Option<pipe::Sender>,
    pub(crate) stdout: Option<pipe::Receiver>,
    pub(crate) stderr: Option<pipe::Receiver>,
}

impl Exec {
    /// Starts `command` in a container that runs.
    pub(crate) async fn start(node: &Node, container: &str, command: &[String], streams: Streams) -> Result<Exec> {
        if command.first().is_none_or(String::is_empty) {
            return Err(cri::Error::invalid("cmd: a command is missing").into());
        }
        let (id, sandbox) = node.registry.container(container)?;
        let view = sandbox.view();
        let container = view.containers.get(&id).filter(|c| c.is_running());
        let Some(container) = container else {
            return Err(cri::Error::new(ErrorKind::FailedPrecondition, format!("container {id} does not run")).into());
        };
        let shim = view.shim.clone();
        let Some(shim) = shim.filter(|_| container.attendance == Attendance::Attended) else {
            let why = format!("the supervisor of container {id} has ended, and is not replaced yet: try again");
            return Err(cri::Error::new(ErrorKind::Unavailable, why).into());
        };
        let dir = node.layout.sandbox(&sandbox.id).container(&id);
        let spec = read_spec(&dir.spec())?;
        let first = spec.process().clone().unwrap_or_default();
        let exec_id = ContainerId::random().to_string();
        let task = Task {
            shim,
            dir: dir.exec(&exec_id),
            container: id,
            exec_id,
            ended: false,
        };
        task.start(&spec::exec(&first, command, streams.terminal), streams)
            .await
    }

    /// Its exit code, once it has ended. Then nothing of it is left in the shim or on disk.
    pub(crate) async fn wait(mut self) -> Result<i32> {
        let code = self
            .task
            .shim
            .wait(self.task.container.as_str(), &self.task.exec_id)
            .await?;
        sys::failpoint!("exec.ended")?;
        self.task.ended = true;
        self.task.forget().await;
        Ok(code.cast_signed())
    }

    /// What can be done to it while it is waited for.
    pub(crate) fn control(&self) -> Control {
        Control {
            shim: self.task.shim.clone(),
            container: self.task.container.clone(),
            exec_id: self.task.exec_id.clone(),
        }
    }
}

/// What can still be done to an exec while it is waited for.
#[derive(Clone)]
pub(crate) struct Control {
    shim: ShimClient,
    container: ContainerId,
    exec_id: String,
}

impl Control {
    /// Kills it with all that it has started. One that has ended needs no killing.
    pub(crate) async fn kill(&self) {
        let _ = self
            .shim
            .kill(self.container.as_str(), &self.exec_id, SIGKILL, true)
            .await;
    }

    /// Changes the terminal's size.
    pub(crate) async fn resize(&self, width: u16, height: u16) {
        if let Err(error) = self
            .shim
            .resize(self.container.as_str(), &self.exec_id, width, height)
            .await
            && !error.is_not_found()
        {
            warn!(container = %self.container, %error, "the terminal keeps its size");
        }
    }

    /// Says that no more input will come.
    pub(crate) async fn close_stdin(&self) {
        // One that has ended reads no more; a shim that has gone closes everything.
        let _ = self.shim.close_stdin(self.container.as_str(), &self.exec_id).await;
    }
}

/// The runtime's ends of an exec's streams: in, out, errors.
type Ends = (Option<pipe::Sender>, Option<pipe::Receiver>, Option<pipe::Receiver>);

/// An exec as the shim knows it, and its directory.
struct Task {
    shim: ShimClient,
    container: ContainerId,
    exec_id: String,
    dir: PathBuf,
    ended: bool,
}

impl Task {
    /// Opens the FIFOs and has the process started. What failed half-way is forgotten before the error is returned.
    async fn start(mut self, process: &Process, streams: Streams) -> Result<Exec> {
        match self.try_start(process, streams).await {
            Ok((stdin, stdout, stderr)) => Ok(Exec {
                stdin,
                stdout,
                stderr,
                task: self,
            }),
            // Nor would it answer who wants it forgotten: that is left to the background.
            Err(error @ Error::Shim(ShimError::Silent { .. })) => Err(error),
            Err(error) => {
                self.ended = true;
                self.forget().await;
                Err(error)
            }
        }
    }

    async fn try_start(&self, process: &Process, streams: Streams) -> Result<Ends> {
        if let Some(execs) = self.dir.parent() {
            make_dir(execs)?;
        }
        make_dir(&self.dir)?;
        let stdin = fifo(&self.dir, "stdin", streams.stdin, |how, path| how.open_sender(path))?;
        let stdout = fifo(&self.dir, "stdout", streams.stdout, |how, path| how.open_receiver(path))?;
        let separate = streams.stderr && !streams.terminal;
        let stderr = fifo(&self.dir, "stderr", separate, |how, path| how.open_receiver(path))?;
        let paths = ExecStreams {
            terminal: streams.terminal,
            stdin: path(&stdin),
            stdout: path(&stdout),
            stderr: path(&stderr),
        };
        sys::failpoint!("exec.made")?;
        self.shim
            .exec(self.container.as_str(), &self.exec_id, process, paths)
            .await?;
        sys::failpoint!("exec.registered")?;
        self.shim.start(self.container.as_str(), &self.exec_id).await?;
        sys::failpoint!("exec.started")?;
        Ok((stdin.map(|f| f.end), stdout.map(|f| f.end), stderr.map(|f| f.end)))
    }

    async fn forget(&self) {
        forget(&self.shim, &self.container, &self.exec_id, &self.dir).await;
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let (shim, container) = (self.shim.clone(), self.container.clone());
        let (exec_id, dir) = (std::mem::take(&mut self.exec_id), std::mem::take(&mut self.dir));
        tokio::spawn(abandon(shim, container, exec_id, dir));
    }
}

/// Ends an exec that nobody listens to any more, and forgets it.
pub(crate) async fn abandon(shim: ShimClient, container: ContainerId, exec_id: String, dir: PathBuf) {
    // It may have ended meanwhile, or never have started; then there is nothing to kill or to wait for.
    if shim.kill(container.as_str(), &exec_id, SIGKILL, true).await.is_ok() {
        let _ = shim.wait(container.as_str(), &exec_id).await;
    }
    forget(&shim, &container, &exec_id, &dir).await;
}

async fn forget(shim: &ShimClient, container: &ContainerId, exec_id: &str, dir: &Path) {
    match shim.delete(container.as_str(), exec_id).await {
        Err(error) if !error.is_not_found() && !error.is_gone() => {
            warn!(%container, exec = exec_id, %error, "the exec remains in the shim");
        }
        _ => {}
    }
    if let Err(error) = std::fs::remove_dir_all(dir)
        && error.kind() != io::ErrorKind::NotFound
    {
        warn!(%container, %error, "{} remains", dir.display());
    }
}

/// A FIFO, both of whose ends are held open here.
struct Fifo<T> {
    path: PathBuf,
    end: T,
}

/// Makes the FIFO `name` in `dir`, if it is wanted, and opens it with `open`.
fn fifo<T>(
    dir: &Path,
    name: &str,
    wanted: bool,
    open: impl FnOnce(&pipe::OpenOptions, &Path) -> io::Result<T>,
) -> Result<Option<Fifo<T>>> {
    if !wanted {
        return Ok(None);
    }
    let path = dir.join(name);
    make_fifo(&path)?;
    let end = open(pipe::OpenOptions::new().read_write(true), &path).map_err(Error::file("open", &path))?;
    Ok(Some(Fifo { path, end }))
}

/// A FIFO as the shim is told of it.
fn path<T>(fifo: &Option<Fifo<T>>) -> String {
    fifo.as_ref()
        .map(|f| f.path.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Moves what a process writes, until it has ended and everything is read. Flushes at the end.
pub(crate) async fn pump_output(
    from: Option<pipe::Receiver>,
    to: Option<&mut (impl AsyncWrite + Unpin + ?Sized)>,
    ended: &CancellationToken,
) -> io::Result<()> {
    let (Some(mut from), Some(to)) = (from, to) else {
        return Ok(());
    };
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        tokio::select! {
            read = from.read(&mut buffer) => to.write_all(&buffer[..read?]).await?,
            () = ended.cancelled() => break,
        }
    }
    let mut drained = 0;
    while drained < DRAIN_BYTES {
        match from.try_read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => {
                to.write_all(&buffer[..read]).await?;
                drained += read;
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
            Err(e) => return Err(e),
        }
    }
    to.flush().await
}

/// Keeps the first bytes of a stream and lets the rest pass.
pub(crate) struct Capped {
    pub(crate) bytes: Vec<u8>,
    limit: usize,
}

impl Capped {
    pub(crate) fn new(limit: usize) -> Self {
        Capped {
            bytes: Vec::new(),
            limit,
        }
    }
}

impl AsyncWrite for Capped {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let room = self.limit - self.bytes.len();
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
