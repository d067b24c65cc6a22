//! Attach: a client joins the streams of a container's first process.
//!
//! Output comes from the shim, which copies what the process writes from now on into FIFOs that are made for this client, and
//! cuts off who reads too slowly; the log goes on as it would. If the shim dies, its successor is asked for the rest; what was
//! written in between is in the log alone. Input goes straight into the container's own FIFO, which the shim and this node hold
//! open; with `stdinOnce` it is closed when the first client who had it goes.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cri::streaming::{Input, Output, StreamIo, TerminalSize};
use cri::v1::AttachRequest;
use cri::{Error, ErrorKind, Result};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::sync::{Notify, mpsc};

use crate::container::Container;
use crate::disk::{make_dir, make_fifo};
use crate::error;
use crate::id::ContainerId;
use crate::layout::ContainerDir;
use crate::node::Node;
use crate::sandbox::{Handle, Message, View};
use crate::shim::ShimClient;

/// How long after the end of its output a container's end, or its shim's, may take to be known.
const END_LIMIT: Duration = Duration::from_secs(15);

/// What a client may ask of a container that runs.
pub(crate) fn check(container: &Container, request: &mut AttachRequest) -> Result<()> {
    let (id, config) = (&container.record.id, &container.record.config);
    let refused = |why: &str| Error::new(ErrorKind::FailedPrecondition, format!("container {id} {why}"));
    if !container.is_running() {
        return Err(refused("does not run"));
    }
    if !(request.stdin || request.stdout || request.stderr) {
        return Err(Error::invalid(
            "stdin, stdout, stderr: at least one of them has to be asked for",
        ));
    }
    if request.stdin && !config.stdin {
        return Err(refused("was made without an input: set stdin in its configuration"));
    }
    if request.stdin && container.record.stdin_closed {
        return Err(refused("had an input for one client (stdinOnce), who has gone"));
    }
    // Whether there is a terminal is the container's to know; it carries everything in one stream.
    request.tty = config.tty;
    request.stderr &= !config.tty;
    request.container_id = id.to_string();
    Ok(())
}

/// Carries the client's streams until the container ends.
pub(crate) async fn attach(node: &Node, mut request: AttachRequest, io: StreamIo) -> Result<()> {
    let (id, sandbox) = node.registry.container(&request.container_id)?;
    let view = sandbox.view();
    let container = view
        .containers
        .get(&id)
        .ok_or_else(|| Error::not_found(format_args!("container {id}")))?;
    check(container, &mut request)?;
    let attached = Attached {
        shim: client(&view)?,
        dir: node.layout.sandbox(&sandbox.id).container(&id),
        sandbox,
        id,
    };
    let StreamIo {
        stdin,
        mut stdout,
        mut stderr,
        resize,
    } = io;
    let joined = Notify::new();
    let inputs = async {
        // Who is quick to answer is heard: the output is there before the input begins.
        joined.notified().await;
        let once = container.record.config.stdin_once;
        let (typed, ()) = tokio::join!(attached.carry_input(stdin, once), attached.carry_sizes(resize));
        match typed {
            // The container may go on without input.
            Ok(()) => std::future::pending().await,
            Err(error) => Err(error),
        }
    };
    tokio::select! {
        ended = attached.carry_output(&joined, &mut stdout, &mut stderr) => ended,
        failed = inputs => failed,
    }
}

fn client(view: &View) -> Result<ShimClient> {
    view.shim
        .clone()
        .ok_or_else(|| Error::new(ErrorKind::Unavailable, "the pod's supervisor has ended"))
}

/// This node's ends of what a container writes: output, errors.
type Ends = (Option<pipe::Receiver>, Option<pipe::Receiver>);

/// A container, and its client's way to it.
struct Attached {
    sandbox: Handle,
    id: ContainerId,
    shim: ShimClient,
    dir: ContainerDir,
}

impl Attached {
    /// Until the container's end, whatever supervisors it has meanwhile.
    async fn carry_output(
        &self,
        joined: &Notify,
        stdout: &mut Option<Output>,
        stderr: &mut Option<Output>,
    ) -> Result<()> {
        loop {
            let before = self.sandbox.view().record.shim;
            let (from_stdout, from_stderr) = match self.join(stdout.is_some(), stderr.is_some()).await {
                // It dies; the next one is asked.
                Err(error) if error.kind == ErrorKind::Unavailable => (None, None),
                joined => joined?,
            };
            joined.notify_one();
            let carried = tokio::try_join!(carry(from_stdout, stdout), carry(from_stderr, stderr));
            carried.map_err(|e| {
                Error::new(
                    ErrorKind::Unavailable,
                    format!("the client does not take the output: {e}"),
                )
            })?;
            let runs = |view: &View| view.containers.get(&self.id).is_some_and(|c| c.is_running());
            let known = self.sandbox.when(|view| !runs(view) || view.record.shim != before);
            let Ok(known) = tokio::time::timeout(END_LIMIT, known).await else {
                return Err(Error::new(
                    ErrorKind::ResourceExhausted,
                    format!(
                        "the client reads more slowly than container {} writes: attach again",
                        self.id
                    ),
                ));
            };
            if !runs(&*known?) {
                return Ok(());
            }
        }
    }

    /// The streams as they are from now on. With neither wanted, they end with the container all the same.
    async fn join(&self, stdout: bool, stderr: bool) -> Result<Ends> {
        let fifos = Fifos::make(&self.dir)?;
        let stdout = fifos.open("stdout", stdout || !stderr)?;
        let stderr = fifos.open("stderr", stderr)?;
        let path = |fifo: &Option<pipe::Receiver>, name| match fifo {
            Some(_) => fifos.0.join(name),
            None => PathBuf::new(),
        };
        self.shim
            .attach(self.id.as_str(), &path(&stdout, "stdout"), &path(&stderr, "stderr"))
            .await
            .map_err(error::Error::from)?;
        Ok((stdout, stderr))
    }

    /// The client's input, to its end.
    async fn carry_input(&self, from: Option<Input>, once: bool) -> Result<()> {
        let Some(mut from) = from else { return Ok(()) };
        let path = self.dir.stdin();
        let to = pipe::OpenOptions::new().open_sender(&path);
        let mut to = to.map_err(error::Error::file("open", &path)).map_err(Error::from)?;
        let _closing = once.then(|| Closing {
            sandbox: self.sandbox.clone(),
            id: self.id.clone(),
        });
        // A client that breaks off has said all it will.
        let _ = tokio::io::copy(&mut from, &mut to).await;
        Ok(())
    }

    async fn carry_sizes(&self, mut sizes: mpsc::Receiver<TerminalSize>) {
        while let Some(size) = sizes.recv().await {
            // A container that has ended has no size; one without a terminal neither.
            let _ = self.shim.resize(self.id.as_str(), "", size.width, size.height).await;
        }
    }
}

/// Moves a stream to the client, or nowhere, until the shim closes it.
async fn carry(from: Option<pipe::Receiver>, to: &mut Option<Output>) -> io::Result<()> {
    let Some(mut from) = from else { return Ok(()) };
    match to {
        Some(to) => {
            tokio::io::copy(&mut from, to).await?;
            to.flush().await
        }
        None => tokio::io::copy(&mut from, &mut tokio::io::sink()).await.map(drop),
    }
}

/// The input of a container that has it once: closed when its client is done, or gone.
struct Closing {
    sandbox: Handle,
    id: ContainerId,
}

impl Drop for Closing {
    fn drop(&mut self) {
        let (sandbox, id) = (self.sandbox.clone(), self.id.clone());
        tokio::spawn(async move {
            // A container that has ended has none.
            if let Err(error) = sandbox.ask(|reply| Message::CloseStdin(id.clone(), reply)).await {
                tracing::warn!(container = %id, %error, "its input stays open");
            }
        });
    }
}

/// The directory of one client's FIFOs. Both sides have them open by the time it goes.
struct Fifos(PathBuf);

impl Fifos {
    fn make(dir: &ContainerDir) -> Result<Fifos> {
        let all = dir.attached();
        let own = all.join(ContainerId::random().to_string());
        make_dir(&all)?;
        make_dir(&own)?;
        Ok(Fifos(own))
    }

    fn open(&self, name: &str, wanted: bool) -> Result<Option<pipe::Receiver>> {
        if !wanted {
            return Ok(None);
        }
        let path: &Path = &self.0.join(name);
        make_fifo(path)?;
        let end = pipe::OpenOptions::new().open_receiver(path);
        Ok(Some(end.map_err(error::Error::file("open", path))?))
    }
}

impl Drop for Fifos {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, "{} remains", self.0.display());
        }
    }
}
