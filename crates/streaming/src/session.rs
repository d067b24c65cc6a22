//! The work behind a ticket, over whatever streams a protocol made of the client's connection.

use std::{future::Future, time::Duration};

use async_trait::async_trait;
use cri::{
    streaming::{Duplex, StreamIo, StreamingRuntime},
    v1::{AttachRequest, ExecRequest},
};
use tokio_util::sync::CancellationToken;

use crate::status::Outcome;

/// How long an exec may go on after its client went away: enough for a process that ends at end of file.
pub const ABANDONED_GRACE: Duration = Duration::from_secs(2);

/// The work that has a process's streams.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// A new process in a container.
    Exec(ExecRequest),
    /// A container's first process.
    Attach(AttachRequest),
}

/// The streams that a request asks for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// What the process reads.
    pub stdin: bool,
    /// What it writes; of a terminal, everything.
    pub stdout: bool,
    /// What it writes to standard error, if that is no terminal.
    pub stderr: bool,
    /// Whether there is a terminal, which has sizes.
    pub tty: bool,
}

impl Command {
    /// The streams that the request asks for.
    pub fn wanted(&self) -> Wanted {
        let (stdin, stdout, stderr, tty) = match self {
            Command::Exec(request) => (request.stdin, request.stdout, request.stderr, request.tty),
            Command::Attach(request) => (request.stdin, request.stdout, request.stderr, request.tty),
        };
        Wanted {
            stdin,
            stdout,
            stderr: stderr && !tty,
            tty,
        }
    }
}

/// A client's connection, ready for a command.
pub struct CommandStreams {
    /// The streams that the request asked for.
    pub io: StreamIo,
    /// Where the outcome goes, after all output.
    pub report: Box<dyn Report>,
    /// Cancelled when the client is gone.
    pub gone: CancellationToken,
}

/// One connection that is forwarded to a port.
pub struct ForwardedPort {
    /// The port on the sandbox's loopback.
    pub port: u16,
    /// The client's bytes, both ways.
    pub stream: Box<dyn Duplex>,
    /// Where a failure is told.
    pub report: Box<dyn Report>,
}

/// The end of a session towards its client.
#[async_trait]
pub trait Report: Send {
    /// Tells the client. Errors mean that it is gone, which nobody needs to know.
    async fn report(self: Box<Self>, outcome: Outcome);
}

/// Does the work to its end, and tells the client how that was.
pub async fn run(runtime: &dyn StreamingRuntime, command: Command, streams: CommandStreams) {
    let CommandStreams { io, report, gone } = streams;
    let work = async {
        match command {
            Command::Exec(request) => runtime.exec(request, io).await,
            Command::Attach(request) => runtime.attach(request, io).await.map(|()| 0),
        }
    };
    let outcome = match while_wanted(work, &gone).await {
        None => return,
        Some(Ok(0)) => Outcome::Success,
        Some(Ok(code)) => Outcome::ExitCode(code),
        Some(Err(error)) => Outcome::Failed(error.to_string()),
    };
    report.report(outcome).await;
}

/// Forwards one connection until either side closes it. Success is silent: the stream's end says it.
pub async fn forward(runtime: &dyn StreamingRuntime, pod_sandbox_id: &str, forwarded: ForwardedPort) {
    let ForwardedPort { port, stream, report } = forwarded;
    if let Err(error) = runtime.port_forward(pod_sandbox_id, port, stream).await {
        report.report(Outcome::Failed(error.to_string())).await;
    }
}

/// Drives `work`, but not longer than [`ABANDONED_GRACE`] after the client is gone: then it is dropped, which is how
/// the runtime learns that nobody waits for it.
async fn while_wanted<T>(work: impl Future<Output = T>, gone: &CancellationToken) -> Option<T> {
    tokio::pin!(work);
    tokio::select! {
        result = &mut work => return Some(result),
        () = gone.cancelled() => {}
    }
    tokio::time::timeout(ABANDONED_GRACE, work).await.ok()
}
