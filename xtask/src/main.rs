//! Hove's own chores, as `cargo xtask CHORE`.

#![forbid(unsafe_code)]

mod bench;
mod codegen;
mod conformance;
mod demo;
mod handlers;
mod images;
mod packages;
mod registries;
mod soak;
mod tally;
mod test;
mod tidy;
mod vm;

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Hove's own chores")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Build Hove and its images, run the two-containers pod, show its page and its namespaces, and clean up
    Demo,
    /// Install what the tests need, run them all, and print how many passed, failed and were skipped
    Test {
        /// Run only the tests whose name contains this
        filter: Option<String>,
    },
    /// Run tests on Debian's kernel in a virtual machine: cgroup v2, AppArmor
    Vm(vm::Ask),
    /// Build crictl, critest or kubelet from their Go modules, and run them on a daemon
    Conformance(conformance::Ask),
    /// Run pods in containerd's own shim, with runc and with crun
    Handlers(handlers::Ask),
    /// Run the tests of pulls and pushes with another registry, built from its Go module, and with cosign
    Registries(registries::Ask),
    /// Measure Hove side by side with others
    Bench(bench::Ask),
    /// Let thousands of pods live while the processes that hold them up are killed, then run every fuzz target
    Soak(soak::Ask),
    /// Check what the compiler does not: allowed edges between crates, unsafe code, names, generated code
    Tidy,
    /// Build the images of the examples and tests from Debian's packages, into target/images
    Images {
        /// A group of them: critest. Without, those of the examples and tests
        group: Option<String>,
    },
    /// Generate the messages of the CRI and of the shim API from their .proto files
    Codegen,
}

fn main() -> Result<()> {
    let root = workspace();
    match Cli::parse().chore {
        Chore::Demo => demo::run(&root),
        Chore::Test { filter } => test::run(&root, filter.as_deref()),
        Chore::Conformance(ask) => conformance::run(&root, &ask),
        Chore::Handlers(ask) => handlers::run(&root, &ask),
        Chore::Vm(ask) => vm::run(&root, &ask),
        Chore::Registries(ask) => registries::run(&root, &ask),
        Chore::Bench(ask) => bench::run(&root, &ask),
        Chore::Soak(ask) => soak::run(&root, &ask),
        Chore::Tidy => tidy::run(&root),
        Chore::Images { group: None } => images::run(&root).map(drop),
        Chore::Images { group: Some(group) } => images::group(&root, &group).map(drop),
        Chore::Codegen => codegen::run(&root),
    }
}

/// The folder of the workspace.
fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies in the workspace")
        .to_path_buf()
}
