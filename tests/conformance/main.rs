//! cri-tools' own clients on a daemon's socket: crictl's verbs, and critest's specs. `cargo xtask conformance` makes what is
//! needed (both clients from their Go module, the images from Debian packages) and runs these tests.
//!
//! The images come from a registry that runs on the test's host, under the names that critest asks for: the daemon is
//! told by `hosts.toml` files that this registry is a mirror of the real ones.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

mod crictl;
mod critest;
mod kubelet;
mod registry;
mod wire;

use std::path::PathBuf;

use anyhow::{Result, ensure};
use end_to_end::instance::{PATIENT, QUICK};
use end_to_end::running::wait_for_end;
use end_to_end::{Host, Instance, Running, case, repository};
use rustix::process::Signal;

use crate::registry::Registry;

/// A daemon that finds the clients' images.
struct Site<'a> {
    host: &'a Host,
    node: Instance,
    /// Its CRI socket, as clients want it.
    endpoint: String,
    daemon: Running,
}

impl Site<'_> {
    /// Starts the daemon anew, with more in its configuration.
    fn configure(&mut self, more: &str) -> Result<()> {
        self.node.configure(more)?;
        self.replace_daemon()
    }

    /// Kills the daemon without a word, and starts another one.
    fn replace_daemon(&mut self) -> Result<()> {
        self.daemon.signal(Signal::KILL)?;
        ensure!(wait_for_end(self.daemon.pid(), QUICK)?, "the daemon outlives SIGKILL");
        self.daemon = start(&self.node)?;
        Ok(())
    }
}

/// Runs `test` on a daemon; then ends that, and it must leave nothing.
fn on_a_daemon(test: impl FnOnce(&mut Site<'_>) -> Result<()> + Send) {
    case(&["critest/busybox", "debian", "nginx"], |host| {
        let node = host.node()?;
        let (_registry, configuration) = Registry::start(host, &node)?;
        node.configure(&configuration)?;
        let mut site = Site {
            host,
            endpoint: format!("unix://{}", node.state().join("hove.sock").display()),
            daemon: start(&node)?,
            node,
        };
        let outcome = test(&mut site).and_then(|()| {
            // What is then left of snapshots is a container's.
            crictl::Crictl::new(&site)?.run(&["rmi", "--all"])
        });

        let Site { node, daemon, .. } = site;
        daemon.signal(Signal::TERM)?;
        let ended = daemon.wait(PATIENT)?;
        outcome.map_err(|error| error.context(ended.stderr.clone()))?;
        ensure!(ended.code() == 0, "{ended:?}");
        // It leaves bridge and rules to the daemon that comes next: here one that ends by itself and leaves nothing.
        node.output(["get", "pods"])?;
        Ok(())
    });
}

fn start(node: &Instance) -> Result<Running> {
    let daemon = node.spawn(["daemon"])?;
    daemon.wait_for_words("the node is ready", QUICK)?;
    Ok(daemon)
}

/// A client that `cargo xtask conformance` has built.
fn client(name: &str) -> PathBuf {
    repository().join("target/conformance").join(name)
}
