//! What stands behind the URLs that Exec, Attach and PortForward return.
//!
//! `runtime` implements [`StreamingRuntime`], the work; `streaming`'s server implements [`StreamingUrls`], the
//! tickets, and does the work when a ticket is shown. Neither knows the other.

use async_trait::async_trait;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
};

use crate::{
    Result,
    v1::{AttachRequest, ExecRequest, PortForwardRequest},
};

/// A stream from the client.
pub type Input = Box<dyn AsyncRead + Send + Unpin>;
/// A stream to the client.
pub type Output = Box<dyn AsyncWrite + Send + Unpin>;

/// A stream both ways: one forwarded connection.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A terminal's size in character cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// The streams of an exec or an attach; those that the request did not ask for are `None`.
/// With a terminal, `stdout` carries everything and `stderr` is `None`.
pub struct StreamIo {
    /// Its end is the process's end of file.
    pub stdin: Option<Input>,
    /// What the process writes to standard output.
    pub stdout: Option<Output>,
    /// What the process writes to standard error.
    pub stderr: Option<Output>,
    /// Changes of the terminal's size.
    pub resize: mpsc::Receiver<TerminalSize>,
}

/// The work behind the streaming calls.
#[async_trait]
pub trait StreamingRuntime: Send + Sync {
    /// Runs a process in a container until it ends; answers its exit code (128 + signal when killed). All output has
    /// been written and flushed to `io` when it returns.
    async fn exec(&self, request: ExecRequest, io: StreamIo) -> Result<i32>;

    /// Joins the streams of a container's first process until it ends or the client goes.
    async fn attach(&self, request: AttachRequest, io: StreamIo) -> Result<()>;

    /// Connects `stream` with `port` on the sandbox's loopback until either side closes.
    async fn port_forward(&self, pod_sandbox_id: &str, port: u16, stream: Box<dyn Duplex>) -> Result<()>;
}

/// Single-use URLs for the streaming calls. Each request was validated by the runtime before.
pub trait StreamingUrls: Send + Sync {
    /// For `Exec`.
    fn exec(&self, request: ExecRequest) -> Result<String>;
    /// For `Attach`.
    fn attach(&self, request: AttachRequest) -> Result<String>;
    /// For `PortForward`.
    fn port_forward(&self, request: PortForwardRequest) -> Result<String>;
}
