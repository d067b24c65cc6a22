//! `hove`: the command line, and the node that it talks to.
//!
//! Every command is a client of a node over `STATE/api.sock`; where none answers, it starts one (`hove daemon
//! --until-idle`), which ends by itself. A few need no node: `version`, `pause-image`.
//!
//! - [`args`]: what can be typed. [`config`]: what is configured; both become [`config::Settings`].
//! - [`client`]: HTTP and WebSocket over the socket. [`reach`]: finds or starts the node.
//! - [`cmd`]: a file per command. [`view`]: pods as people read them. [`terminal`]: the terminal's modes, size, colours.
//! - [`node`]: the only place that composes a node. [`node_api`]: the node's own paths, `/apis/hove.dev/v1`.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod args;
mod client;
mod cmd;
mod config;
mod node;
mod node_api;
mod reach;
mod terminal;
mod view;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let args = args::Args::parse();
    match cmd::run(args) {
        Ok(code) => code,
        Err(error) => terminal::end(&error),
    }
}
