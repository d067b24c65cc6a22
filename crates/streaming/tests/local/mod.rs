//! A server with processes of this machine behind it.

use std::{process::Stdio, sync::Arc};

use async_trait::async_trait;
use cri::{
    Error, Result,
    streaming::{Duplex, StreamIo, StreamingRuntime},
    v1::{AttachRequest, ExecRequest},
};
use streaming::Server;
use tokio::{
    io::{AsyncWriteExt, copy, copy_bidirectional},
    net::TcpStream,
    process::Command,
    sync::mpsc,
};

/// Runs an exec's command as a process of this machine.
pub struct LocalProcesses {
    /// Told the process's outcome: its exit code, or that the exec was dropped.
    pub dropped: mpsc::UnboundedSender<()>,
}

struct TellDrop(Option<mpsc::UnboundedSender<()>>);

impl Drop for TellDrop {
    fn drop(&mut self) {
        if let Some(sender) = self.0.take() {
            let _ = sender.send(());
        }
    }
}

#[async_trait]
impl StreamingRuntime for LocalProcesses {
    async fn exec(&self, request: ExecRequest, mut io: StreamIo) -> Result<i32> {
        let mut tell = TellDrop(Some(self.dropped.clone()));
        if request.cmd == ["wait-for-size"] {
            let size = io.resize.recv().await.unwrap();
            let text = format!("{}x{}", size.width, size.height);
            io.stdout.unwrap().write_all(text.as_bytes()).await.unwrap();
            return Ok(0);
        }
        let piped = |wanted: bool| if wanted { Stdio::piped() } else { Stdio::null() };
        let mut child = Command::new(&request.cmd[0])
            .args(&request.cmd[1..])
            .stdin(piped(io.stdin.is_some()))
            .stdout(piped(io.stdout.is_some()))
            .stderr(piped(io.stderr.is_some()))
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| Error::internal(format!("exec {}: {error}", request.cmd[0])))?;
        if let (Some(mut from), Some(mut to)) = (io.stdin, child.stdin.take()) {
            tokio::spawn(async move { copy(&mut from, &mut to).await });
        }
        let mut outputs = Vec::new();
        if let (Some(mut to), Some(mut from)) = (io.stdout, child.stdout.take()) {
            outputs.push(tokio::spawn(async move { copy(&mut from, &mut to).await.map(|_| ()) }));
        }
        if let (Some(mut to), Some(mut from)) = (io.stderr, child.stderr.take()) {
            outputs.push(tokio::spawn(async move { copy(&mut from, &mut to).await.map(|_| ()) }));
        }
        let status = child.wait().await.map_err(|error| Error::internal(error.to_string()))?;
        for output in outputs {
            let _ = output.await;
        }
        tell.0 = None;
        Ok(status.code().unwrap_or(137))
    }

    async fn attach(&self, _: AttachRequest, io: StreamIo) -> Result<()> {
        io.stdout.unwrap().write_all(b"attached").await.unwrap();
        Ok(())
    }

    async fn port_forward(&self, _: &str, port: u16, mut stream: Box<dyn Duplex>) -> Result<()> {
        let mut connection = TcpStream::connect(("127.0.0.1", port))
            .await
            .map_err(|error| Error::internal(format!("connect to port {port}: {error}")))?;
        let _ = copy_bidirectional(&mut connection, &mut stream).await;
        Ok(())
    }
}

/// A server in front of them, and what tells of execs that were dropped.
pub async fn server() -> (Server, mpsc::UnboundedReceiver<()>) {
    let (dropped, drops) = mpsc::unbounded_channel();
    let address = "127.0.0.1:0".parse().unwrap();
    (
        Server::bind(address, Arc::new(LocalProcesses { dropped }))
            .await
            .unwrap(),
        drops,
    )
}

/// An exec of `cmd` without a terminal.
pub fn request(cmd: &[&str], stdin: bool) -> ExecRequest {
    ExecRequest {
        container_id: "c".into(),
        cmd: cmd.iter().map(|word| word.to_string()).collect(),
        stdin,
        stdout: true,
        stderr: true,
        tty: false,
    }
}
