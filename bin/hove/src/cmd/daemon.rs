//! `hove daemon`: runs the node.

use std::{io::Write, process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use rustix::fs::{Mode, OFlags};
use tracing_subscriber::EnvFilter;

use crate::{args::Daemon, config::Settings, node, reach::Started};

/// Threads for requests; what blocks (images, the kernel) has threads of its own.
const WORKERS: usize = 2;

/// How long a read of a stream whose client is gone may keep the process.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(500);

pub fn daemon(settings: impl FnOnce() -> Result<Settings>, args: &Daemon) -> Result<ExitCode> {
    // A node that a command starts outlives it: its locks, its pipes and its umask are the command's own.
    sys::inherited::close_all()?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    if args.detached {
        // A session of its own: the terminal's signals are not for it. Fails only for a session's leader, which it is then.
        let _ = rustix::process::setsid();
    }
    // A pull is a burst.
    sys::memory::keep_little();
    let filter = EnvFilter::try_from_env("HOVE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        // By eprintln!, which panics where standard error can't be written either: on a full disk.
        .log_internal_errors(false)
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()?;
    let result = settings().and_then(|settings| {
        runtime.block_on(node::run(settings, args.until_idle, || {
            // Most of the start's pages are never touched again.
            sys::memory::forget_the_start();
            if args.detached { tell(&Started::Ready) } else { Ok(()) }
        }))
    });
    // What still holds the stores goes before the lock, which `result` has: the next node opens them as soon as it has that.
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    if args.detached
        && let Err(error) = &result
    {
        // Nobody reads it any more when the node was ready before.
        let _ = tell(&Started::Failed(format!("{error:#}")));
    }
    result.map(|_lock| ExitCode::SUCCESS)
}

/// Says it to the command that started us, then lets go of its pipe.
fn tell(started: &Started) -> Result<()> {
    let mut line = serde_json::to_vec(started)?;
    line.push(b'\n');
    std::io::stdout()
        .write_all(&line)
        .and_then(|()| std::io::stdout().flush())
        .context("standard output")?;
    let null = rustix::fs::open("/dev/null", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdout(null)?;
    Ok(())
}
