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

/// What ExecSync keeps of both streams: an answer, with a little more in it, fits into a message of 16 MiB, which is kubelet's limit.
const EXEC_SYNC_BYTES: usize = (16 << 20) - 1024;

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
    let (kept_stdout, kept_stderr) = shares(stdout.bytes.len(), stderr.bytes.len());
    stdout.bytes.truncate(kept_stdout);
    stderr.bytes.truncate(kept_stderr);
    Ok(ExecSyncResponse {
        stdout: stdout.bytes,
        stderr: stderr.bytes,
        exit_code,
    })
}

/// How much is kept of so many bytes of each stream: half of [`EXEC_SYNC_BYTES`], and what the other one leaves.
fn shares(stdout: usize, stderr: usize) -> (usize, usize) {
    let half = EXEC_SYNC_BYTES / 2;
    let share = |mine: usize, other: usize| mine.min(half.max(EXEC_SYNC_BYTES.saturating_sub(other)));
    (share(stdout, stderr), share(stderr, stdout))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_streams_fit_into_an_answer() {
        const HALF: usize = EXEC_SYNC_BYTES / 2;
        const ALL: usize = EXEC_SYNC_BYTES;
        for (written, kept) in [
            ((5, 7), (5, 7)),
            ((ALL, 0), (ALL, 0)),
            ((ALL, 100), (ALL - 100, 100)),
            ((100, ALL), (100, ALL - 100)),
            ((ALL, ALL), (HALF, HALF)),
            ((HALF + 10, HALF - 10), (HALF + 10, HALF - 10)),
        ] {
            assert_eq!(shares(written.0, written.1), kept, "{written:?}");
        }
    }
}
