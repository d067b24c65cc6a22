//! `cargo xtask registries`: pulls, pushes and signatures with other people's programs.
//!
//! Beside Debian's docker-registry, which the tests run wherever it is: go-containerregistry's registry (tests/registries), and,
//! when asked for, cosign itself, by whose signatures images come in.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::packages;

/// What the tests run.
const PACKAGES: &[&str] = &["curl", "docker-registry", "openssl", "skopeo"];
/// What signs.
const COSIGN: &str = "github.com/sigstore/cosign/v3/cmd/cosign@v3.0.4";

/// What is asked for.
#[derive(Debug, clap::Args)]
pub struct Ask {
    /// Build cosign, which takes minutes, and sign with it
    #[arg(long)]
    cosign: bool,
    /// Arguments of the test programs, such as the name of a test
    arguments: Vec<String>,
}

/// Builds what is needed, and runs the tests that are about registries.
pub fn run(root: &Path, ask: &Ask) -> Result<()> {
    packages::ensure_installed(PACKAGES)?;
    let programs = root.join("target/registries");
    std::fs::create_dir_all(&programs)?;
    let registry = programs.join("registry");
    go(Command::new("go")
        .args(["build", "-o"])
        .arg(&registry)
        .arg(".")
        .current_dir(root.join("tests/registries")))?;
    let mut tests = Command::new(env!("CARGO"));
    tests
        // Of the whole workspace, as `cargo xtask test` does it: nothing is compiled a second time.
        .args([
            "test",
            "--workspace",
            "--test",
            "registry",
            "--test",
            "signatures",
            "--",
        ])
        .args(&ask.arguments)
        .env("HOVE_OTHER_REGISTRY", &registry)
        .current_dir(root);
    if ask.cosign {
        tests.env("HOVE_COSIGN", cosign(&programs)?);
    }
    let status = tests.status().context("cargo test")?;
    ensure!(status.success(), "cargo test: {status}");
    Ok(())
}

fn cosign(programs: &Path) -> Result<PathBuf> {
    go(Command::new("go").args(["install", COSIGN]).env("GOBIN", programs))?;
    Ok(programs.join("cosign"))
}

fn go(command: &mut Command) -> Result<()> {
    let status = command
        .env("CGO_ENABLED", "0")
        .status()
        .context("go: the other registry is built by Go 1.25 or newer, from PATH; see https://go.dev/dl")?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}
