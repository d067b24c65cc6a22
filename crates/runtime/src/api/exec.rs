//! ExecSync, and the URLs of Exec, Attach and PortForward.

use std::time::Duration;

use cri::v1::*;
use cri::{Error, ErrorKind, Result};
use tokio_util::sync::CancellationToken;

use super::containers::{KILL_LIMIT, find};
use crate::attach;
use crate::exec::{Capped, Exec, Streams, pump_output};
use crate::node::Node;
use crate::status::sandbox_state;

/// What ExecSync keeps of each stream; the CRI's own limit, so that an answer fits into a message.
const EXEC_SYNC_BYTES: usize = 16 << 20;

pub(super) async fn sync(node: &Node, request: ExecSyncRequest) -> Result<ExecSyncResponse> {
    let streams = Streams {
        stdout: true,
        stderr: true,
        ..Streams::default()
    };
    let exec = Exec::start(node, &request.container_id, &request.cmd, streams).await?;
    let control = exec.control();
    let mut run = std::pin::pin!(run(exec));
    let Some(limit) = u64::try_from(request.timeout)
        .ok()
        .filter(|s| *s > 0)
        .map(Duration::from_secs)
    else {
        return run.await;
    };
    if let Ok(done) = tokio::time::timeout(limit, &mut run).await {
        return done;
    }
    // The caller may rely on it that nothing of the command runs any more.
    control.kill().await;
    let killed = tokio::time::timeout(KILL_LIMIT, run).await.is_ok();
    let fate = if killed { "was killed" } else { "can't be killed" };
    Err(Error::new(
        ErrorKind::DeadlineExceeded,
        format!("the command {:?} ran for longer than {limit:?} and {fate}", request.cmd),
    ))
}

async fn run(mut exec: Exec) -> Result<ExecSyncResponse> {
    let ended = CancellationToken::new();
    let (mut stdout, mut stderr) = (Capped::new(EXEC_SYNC_BYTES), Capped::new(EXEC_SYNC_BYTES));
    let (from_stdout, from_stderr) = (exec.stdout.take(), exec.stderr.take());
    let (code, out, err) = tokio::join!(
        async {
            let code = exec.wait().await;
            ended.cancel();
            code
        },
        pump_output(from_stdout, Some(&mut stdout), &ended),
        pump_output(from_stderr, Some(&mut stderr), &ended),
    );
    let exit_code = code?;
    out.and(err)
        .map_err(|e| Error::internal(format!("the command's output can't be read: {e}")))?;
    Ok(ExecSyncResponse {
        stdout: stdout.bytes,
        stderr: stderr.bytes,
        exit_code,
    })
}

pub(super) fn url(node: &Node, mut request: ExecRequest) -> Result<ExecResponse> {
    if request.cmd.is_empty() {
        return Err(Error::invalid("cmd: a command is missing"));
    }
    if request.tty && request.stderr {
        return Err(Error::invalid(
            "stderr: a terminal carries everything in stdout; ask for tty or for stderr",
        ));
    }
    if !(request.stdin || request.stdout || request.stderr) {
        return Err(Error::invalid(
            "stdin, stdout, stderr: at least one of them has to be asked for",
        ));
    }
    let (id, sandbox) = node.registry.container(&request.container_id)?;
    if !find(&sandbox.view(), &id)?.is_running() {
        return Err(Error::new(
            ErrorKind::FailedPrecondition,
            format!("container {id} does not run"),
        ));
    }
    request.container_id = id.to_string();
    Ok(ExecResponse {
        url: urls(node)?.exec(request)?,
    })
}

pub(super) fn attach_url(node: &Node, mut request: AttachRequest) -> Result<AttachResponse> {
    let (id, sandbox) = node.registry.container(&request.container_id)?;
    attach::check(find(&sandbox.view(), &id)?, &mut request)?;
    Ok(AttachResponse {
        url: urls(node)?.attach(request)?,
    })
}

pub(super) fn port_forward_url(node: &Node, mut request: PortForwardRequest) -> Result<PortForwardResponse> {
    let sandbox = node.registry.sandbox(&request.pod_sandbox_id)?;
    if sandbox_state(&sandbox.view()) != PodSandboxState::SandboxReady {
        return Err(Error::new(
            ErrorKind::FailedPrecondition,
            format!("sandbox {} is not ready", sandbox.id),
        ));
    }
    request.pod_sandbox_id = sandbox.id.to_string();
    Ok(PortForwardResponse {
        url: urls(node)?.port_forward(request)?,
    })
}

fn urls(node: &Node) -> Result<&dyn cri::streaming::StreamingUrls> {
    let urls = node.streaming.get();
    urls.map(|u| &**u)
        .ok_or_else(|| Error::new(ErrorKind::Unavailable, "the streaming server is not running yet"))
}
