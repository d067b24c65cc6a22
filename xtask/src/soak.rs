//! `cargo xtask soak`: the kill loop on a node of its own, then every fuzz target. Both print what they did it with (seed) and
//! how much it was; any violation or finding fails the whole.

mod fuzz;

use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

use crate::{images, packages, test};

/// What can be chosen.
#[derive(Debug, clap::Args)]
pub struct Ask {
    /// How many pods live while who belongs to them is killed
    #[arg(long, default_value_t = 10_000)]
    pods: u64,
    /// How many pods live at a time
    #[arg(long, default_value_t = 8)]
    at_once: u16,
    /// What decides each pod's fate, and what the fuzz targets try; another one each time unless it is given
    #[arg(long)]
    seed: Option<u64>,
    /// End the kill loop early, once so many minutes are over
    #[arg(long)]
    minutes: Option<u64>,
    /// How long each fuzz target runs; 0: none does
    #[arg(long, default_value_t = 60)]
    fuzz_seconds: u64,
}

/// Builds, makes the images, and runs both.
pub fn run(root: &Path, ask: &Ask) -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "the kill loop makes namespaces, mounts and cgroups: run it as root"
    );
    let seed = ask.seed.unwrap_or_else(any_seed);
    if ask.pods > 0 {
        packages::ensure_installed(&["gcc", "libc6-dev"])?;
        test::build(root)?;
        images::run(root)?;
        kill_loop(root, ask, seed)?;
    }
    if ask.fuzz_seconds > 0 {
        fuzz::run(root, ask.fuzz_seconds, seed)?;
    }
    Ok(())
}

fn kill_loop(root: &Path, ask: &Ask, seed: u64) -> Result<()> {
    // With the workspace's features, so that what its tests were built with serves here as well.
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--workspace", "--bin", "soak"])
        .current_dir(root)
        .status()
        .context("cargo build")?;
    ensure!(built.success(), "cargo build --bin soak: {built}");
    let mut command = Command::new(test::debug_dir(root).join("soak"));
    command.args(["--pods", &ask.pods.to_string(), "--seed", &seed.to_string()]);
    command.args(["--at-once", &ask.at_once.to_string()]);
    if let Some(minutes) = ask.minutes {
        command.args(["--minutes", &minutes.to_string()]);
    }
    let status = command
        .env("HOVE_BIN_DIR", test::release_dir(root))
        .current_dir(root)
        .status()
        .context("the kill loop")?;
    ensure!(status.success(), "the kill loop: {status}; again by --seed {seed}");
    Ok(())
}

fn any_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::from(now.subsec_nanos()) ^ now.as_secs()
}
