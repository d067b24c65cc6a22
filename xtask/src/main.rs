//! Hove's own chores, as `cargo xtask CHORE`.

mod codegen;

use std::path::Path;

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
    /// Generate the messages of the CRI and of the shim API from their .proto files
    Codegen,
}

fn main() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace");
    match Cli::parse().chore {
        Chore::Codegen => codegen::run(root),
    }
}
