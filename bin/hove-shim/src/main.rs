//! The per-pod supervisor: see the `shim` crate. The node starts it as
//! `hove-shim --id SANDBOX --dir STATE/sandboxes/SANDBOX --socket-fd 3`, with a listening unix socket as that
//! descriptor, in a session and a cgroup of its own. containerd starts it otherwise: see `bootstrap`.

#![forbid(unsafe_code)]

mod args;
mod bootstrap;

use std::process::ExitCode;

use anyhow::{Context, Result};

use args::Command;

fn main() -> ExitCode {
    let done = match args::parse(std::env::args_os().skip(1)) {
        Ok(Command::Serve {
            id,
            dir,
            start,
            remove_socket,
        }) => {
            let served = serve(id, dir, start);
            // If it is not there any more, nobody will connect to it.
            let _ = remove_socket.map(std::fs::remove_file);
            served
        }
        Ok(Command::Start(who)) => bootstrap::start(&who),
        Ok(Command::Delete(who, bundle)) => bootstrap::delete(&who, &bundle),
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

fn serve(id: String, dir: std::path::PathBuf, start: shim::Start) -> Result<()> {
    shim::run(
        shim::Config {
            id,
            dir,
            pause: pause::ELF,
        },
        start,
    )
    .context(match start {
        shim::Start::Anew(_) => "can't serve",
        shim::Start::Adopting(_) => "can't take the pod over",
    })
}
