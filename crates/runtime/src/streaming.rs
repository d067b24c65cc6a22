//! The work behind the streaming URLs: exec with the client's own streams, attach ([`crate::attach`]), and forwarded ports.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use cri::streaming::{Duplex, Input, StreamIo, StreamingRuntime, TerminalSize};
use cri::v1::{AttachRequest, ExecRequest};
use cri::{ErrorKind, Result};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::Runtime;
use crate::blocking::blocking;
use crate::error::Error;
use crate::exec::{Control, Exec, Streams, pump_output};
use crate::shim::ShimError;

/// How long a connection to a port on the pod's own loopback may take: the kernel answers at once, unless the
/// listener's backlog is full.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

#[async_trait]
impl StreamingRuntime for Runtime {
    async fn exec(&self, request: ExecRequest, io: StreamIo) -> Result<i32> {
        let streams = Streams {
            terminal: request.tty,
            stdin: io.stdin.is_some(),
            stdout: io.stdout.is_some(),
            stderr: io.stderr.is_some(),
        };
        match Exec::start(&self.node, &request.container_id, &request.cmd, streams).await {
            Ok(exec) => converse(exec, io).await,
            Err(Error::Shim(error)) if let Some(code) = error.exit_code() => {
                tell(&error, request.tty, io).await;
                Ok(code.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn attach(&self, request: AttachRequest, io: StreamIo) -> Result<()> {
        crate::attach::attach(&self.node, request, io).await
    }

    async fn port_forward(&self, pod_sandbox_id: &str, port: u16, mut stream: Box<dyn Duplex>) -> Result<()> {
        let sandbox = self.node.registry.sandbox(pod_sandbox_id)?;
        let netns = sandbox.view().record.netns.clone();
        let mut connection = connect(netns, port).await.map_err(|e| {
            cri::Error::new(
                ErrorKind::Unavailable,
                format!(
                    "nothing answers on port {port} of the loopback in sandbox {}: {e}",
                    sandbox.id
                ),
            )
        })?;
        // One side that breaks off is how a forwarded connection usually ends.
        let _ = tokio::io::copy_bidirectional(&mut stream, &mut connection).await;
        Ok(())
    }
}

/// A program that can't be started ends as in a shell: with a line on standard error (in a terminal, there) and a code.
async fn tell(error: &ShimError, terminal: bool, io: StreamIo) {
    let end = if terminal { "\r\n" } else { "\n" };
    if let Some(mut stream) = io.stderr.or(io.stdout) {
        // A client that is gone needs no words.
        let _ = stream.write_all(format!("{error}{end}").as_bytes()).await;
        let _ = stream.flush().await;
    }
}

/// Carries the client's streams until the process has ended. A client that goes takes the process with it: nobody else
/// could reach it.
async fn converse(mut exec: Exec, io: StreamIo) -> Result<i32> {
    let StreamIo {
        stdin,
        stdout,
        stderr,
        resize,
    } = io;
    let (mut stdout, mut stderr) = (stdout, stderr);
    let ended = CancellationToken::new();
    let control = exec.control();
    let (output, errors, input) = (exec.stdout.take(), exec.stderr.take(), exec.stdin.take());
    let outputs = async {
        tokio::try_join!(
            pump_output(output, stdout.as_deref_mut(), &ended),
            pump_output(errors, stderr.as_deref_mut(), &ended),
        )
    };
    let code = async {
        let code = exec.wait().await;
        ended.cancel();
        code
    };
    let inputs = async {
        tokio::join!(pump_input(stdin, input, &control), pump_sizes(resize, &control));
        // The process may go on without input.
        std::future::pending::<()>().await;
    };
    let finished = async {
        tokio::try_join!(async { code.await.map_err(cri::Error::from) }, async {
            outputs.await.map_err(|e| {
                cri::Error::new(
                    ErrorKind::Unavailable,
                    format!("the client does not take the output: {e}"),
                )
            })
        },)
    };
    tokio::select! {
        finished = finished => finished.map(|(code, _)| code),
        () = inputs => unreachable!("pending() never ends"),
    }
}

/// The client's input, to its end; then the process's.
async fn pump_input(from: Option<Input>, to: Option<pipe::Sender>, control: &Control) {
    let (Some(mut from), Some(mut to)) = (from, to) else {
        return;
    };
    // A client that breaks off has said all it will.
    let _ = tokio::io::copy(&mut from, &mut to).await;
    drop(to);
    control.close_stdin().await;
}

async fn pump_sizes(mut sizes: mpsc::Receiver<TerminalSize>, control: &Control) {
    while let Some(size) = sizes.recv().await {
        control.resize(size.width, size.height).await;
    }
}

/// A connection to `port` on the loopback of a network namespace; `None`: the host's. Made by a thread that enters the
/// namespace for that, since a socket belongs to the namespace in which it was made.
async fn connect(netns: Option<PathBuf>, port: u16) -> std::io::Result<TcpStream> {
    let stream = blocking(move || match netns {
        None => connect_here(port),
        Some(path) => connect_in(&path, port),
    })
    .await?;
    stream.set_nonblocking(true)?;
    TcpStream::from_std(stream)
}

fn connect_in(netns: &Path, port: u16) -> std::io::Result<std::net::TcpStream> {
    let namespace = sys::netns::open(netns)?;
    sys::netns::within(namespace.as_fd(), || connect_here(port))?
}

fn connect_here(port: u16) -> std::io::Result<std::net::TcpStream> {
    let to = |ip: IpAddr| std::net::TcpStream::connect_timeout(&SocketAddr::new(ip, port), CONNECT_LIMIT);
    to(Ipv4Addr::LOCALHOST.into()).or_else(|v4| to(Ipv6Addr::LOCALHOST.into()).map_err(|_| v4))
}
