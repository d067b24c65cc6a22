//! The end-to-end tests' harness: a pod.yaml and the state it must reach, on a real node.
//!
//! Each test is a thread with a net and a mount namespace of its own, its [`host`]: what it starts there (nodes, shims, pods) inherits
//! both, so that tests run side by side, on the same ports, and the machine's own links, rules and mounts stay as they are.
//! A test starts one node or several ([`instance`]) by running `hove` as a person would, looks at what came of it
//! (over HTTP, in the Pod API, in /proc), and at the end everything must be gone: [`host::Host::finish`] audits processes,
//! mounts, net namespaces, links, nf_tables, cgroups and files, and fails on any remainder.
//!
//! ```text
//! case(images, test)      skips where something is missing, makes the host, runs the test, audits
//!   host.node()           an Instance: directories, cgroup parent, bridge and subnet of its own
//!     node.import("nginx")
//!     node.spawn(["run", "pod.yaml"])     a Running command: its output as it comes, signals, its end with a time limit
//!     node.wait_for_pod("web", |pod| …)   by a watch on the API
//! ```
//!
//! `cargo xtask soak` is a program of its own on the same harness, in soak/.
//!
//! Binaries: `HOVE_BIN_DIR` (what `cargo xtask test` sets), else those that cargo built last. Images:
//! target/images/*.tar (`cargo xtask images`). A test that can't run prints `SKIPPED: …` and passes; xtask counts it.

#![forbid(unsafe_code)]

pub mod binaries;
pub mod host;
pub mod http;
pub mod instance;
pub mod numbered;
pub mod running;

use std::path::PathBuf;

pub use host::{Host, case};
pub use instance::Instance;
pub use running::Running;

/// The repository.
pub fn repository() -> PathBuf {
    let mut path = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    path.pop();
    path
}

/// An example's manifest.
pub fn example(name: &str) -> PathBuf {
    repository().join("examples").join(format!("{name}.yaml"))
}
