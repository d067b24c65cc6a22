//! The per-pod supervisor: see the `shim` crate. The node starts it as
//! `hove-shim --id SANDBOX --dir STATE/sandboxes/SANDBOX --socket-fd 3`, with a listening unix socket as that
//! descriptor, in a session and a cgroup of its own.

#![forbid(unsafe_code)]

mod args;

use std::process::ExitCode;

use anyhow::{Context, Result};

use args::Command;

fn main() -> ExitCode {
    let done = match args::parse(std::env::args_os().skip(1)) {
        Ok(Command::Serve { id, dir, socket_fd }) => serve(id, dir, socket_fd),
        Ok(Command::Version) => {
            println!("hove-shim {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        Ok(Command::Help) => {
            print!("{}", args::HELP);
            Ok(())
        }
        Err(e) => Err(e),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("hove-shim: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(id: String, dir: std::path::PathBuf, socket_fd: i32) -> Result<()> {
    shim::run(
        shim::Config {
            id,
            dir,
            pause: pause::ELF,
        },
        socket_fd,
    )
    .with_context(|| format!("can't serve on --socket-fd {socket_fd}"))
}
