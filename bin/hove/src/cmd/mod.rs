//! The commands, a file each.

mod daemon;
mod delete;
mod describe;
mod exec;
mod get;
mod image;
mod logs;
mod manifest;
mod ns;
mod pause_image;
mod run;
mod table;

use std::{future::Future, process::ExitCode};

use anyhow::Result;

use crate::{
    args::{Args, Command, Describe, Get},
    config::Settings,
};

/// Does what was typed; answers the exit code.
pub fn run(args: Args) -> Result<ExitCode> {
    let settings = || Settings::resolve(&args.places);
    match args.command {
        Command::Run(run) => client(run::run(settings()?, run)),
        Command::Get(Get::Pods(get)) => client(get::pods(settings()?, get)),
        Command::Describe(Describe::Pod(pod)) => client(describe::pod(settings()?, pod)),
        Command::Exec(exec) => client(exec::exec(settings()?, exec)),
        Command::Logs(logs) => client(logs::logs(settings()?, logs)),
        Command::Delete(delete) => client(delete::delete(settings()?, delete)),
        Command::Image(image) => client(image::image(settings()?, image)),
        Command::Ns(ns) => client(ns::ns(settings()?, ns)),
        Command::PauseImage(pause) => pause_image::pause_image(&pause),
        Command::Daemon(daemon) => daemon::daemon(settings, &daemon),
        Command::Version => {
            crate::terminal::print(concat!("hove ", env!("CARGO_PKG_VERSION"), "\n"))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Runs a client's command. A read of standard input can't be taken back, so nobody waits for it in the end.
fn client(command: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(command);
    runtime.shutdown_background();
    result
}
