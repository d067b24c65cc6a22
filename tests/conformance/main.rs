//! cri-tools' own clients on a daemon's socket: crictl's verbs, and critest's specs. `cargo xtask conformance` makes what is
//! needed (both clients from their Go module, the images from Debian packages) and runs these tests.
//!
//! The images come from a registry that runs on the test's host, under the names that critest asks for: the daemon is
//! told by `hosts.toml` files that this registry is a mirror of the real ones.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

mod crictl;
mod critest;
mod registry;
mod wire;

use std::path::PathBuf;

use anyhow::{Result, ensure};
use end_to_end::instance::{PATIENT, QUICK};
use end_to_end::{Host, Instance, case, repository};
use rustix::process::Signal;

use crate::registry::Registry;

/// Runs `test` on a daemon that finds the clients' images, with the endpoint of its socket; then ends the daemon, which must leave
/// nothing.
fn on_a_daemon(test: impl FnOnce(&Host, &Instance, &str) -> Result<()> + Send) {
    case(&["critest/busybox", "nginx"], |host| {
        let node = host.node()?;
        let (_registry, configuration) = Registry::start(host, &node)?;
        node.configure(&configuration)?;
        let daemon = node.spawn(["daemon"])?;
        daemon.wait_for_words("the node is ready", QUICK)?;

        let endpoint = format!("unix://{}", node.state().join("hove.sock").display());
        let outcome = test(host, &node, &endpoint);

        daemon.signal(Signal::TERM)?;
        let ended = daemon.wait(PATIENT)?;
        outcome.map_err(|error| error.context(ended.stderr.clone()))?;
        ensure!(ended.code() == 0, "{ended:?}");
        // It leaves bridge and rules to the daemon that comes next: here one that ends by itself and leaves nothing.
        node.output(["get", "pods"])?;
        Ok(())
    });
}

/// A client that `cargo xtask conformance` has built.
fn client(name: &str) -> PathBuf {
    repository().join("target/conformance").join(name)
}
