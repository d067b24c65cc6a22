//! `hove daemon`: runs the node.

use std::{io::Write, process::ExitCode};

use anyhow::{Context, Result};
use rustix::fs::{Mode, OFlags};
use tracing_subscriber::EnvFilter;

use crate::{args::Daemon, config::Settings, node, reach::Started};

/// Threads for requests; what blocks (images, the kernel) has threads of its own.
const WORKERS: usize = 2;

pub fn daemon(settings: impl FnOnce() -> Result<Settings>, args: &Daemon) -> Result<ExitCode> {
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
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()?;
    let result = settings().and_then(|settings| {
        runtime.block_on(node::run(settings, args.until_idle, || {
            if args.detached { tell(&Started::Ready) } else { Ok(()) }
        }))
    });
    // Reads of a stream whose client is gone must not keep the process.
    runtime.shutdown_background();
    if args.detached
        && let Err(error) = &result
    {
        // Nobody reads it any more when the node was ready before.
        let _ = tell(&Started::Failed(format!("{error:#}")));
    }
    result.map(|()| ExitCode::SUCCESS)
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
