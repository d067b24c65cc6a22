//! `cargo xtask test`: every test there is, on what a user gets (release binaries, images from Debian packages).

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::tally::Tally;
use crate::{images, packages};

/// What the tests run beside Hove itself.
const PACKAGES: &[&str] = &["busybox", "docker-registry", "gcc", "iproute2", "libc6-dev", "skopeo"];

/// Builds, makes the images, runs the tests; fails when one of them does.
pub fn run(root: &Path, filter: Option<&str>) -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "the tests make namespaces, mounts and cgroups: run them as root"
    );
    packages::ensure_installed(PACKAGES)?;
    build(root)?;
    images::run(root)?;

    let (tally, status) = cargo_test(root, filter.as_slice())?;
    let mut failed = tally.failed.clone();
    if !failed.is_empty() {
        // A test on a busy machine may fail for the machine's sake. It gets one more try, and is named below.
        println!("\nonce more: {}", failed.join(" "));
        let again: Vec<&str> = failed.iter().map(String::as_str).chain(["--exact"]).collect();
        let (second, _) = cargo_test(root, &again)?;
        let unsteady: Vec<&String> = failed.iter().filter(|name| !second.failed.contains(name)).collect();
        println!("\nfailed once and passed when run again: {unsteady:?}");
        failed = second.failed;
    }

    println!("\nmeasurements not run: {} (cargo test -- --ignored)", tally.ignored);
    let passed = tally.ran() + u32::try_from(tally.failed.len() - failed.len())?;
    println!(
        "{passed} passed, {} failed, {} skipped",
        failed.len(),
        tally.skipped.len()
    );
    ensure!(failed.is_empty(), "failed twice: {}", failed.join(" "));
    ensure!(
        tally.unfinished == 0,
        "{} test programs died; cargo's own words are above",
        tally.unfinished
    );
    // One that did not compile has named no test.
    ensure!(status.success() || !tally.failed.is_empty(), "cargo test: {status}");
    ensure!(passed > 0, "no test ran");
    Ok(())
}

/// Runs the tests that `arguments`, libtest's, choose.
fn cargo_test(root: &Path, arguments: &[&str]) -> Result<(Tally, ExitStatus)> {
    let mut child = Command::new(env!("CARGO"))
        .args(["test", "--workspace", "--no-fail-fast", "--", "--show-output"])
        .args(arguments)
        .env("HOVE_BIN_DIR", release_dir(root))
        .current_dir(root)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cargo test")?;
    let output = child.stdout.take().context("cargo test has no output")?;
    let mut tally = Tally::default();
    for line in BufReader::new(output).lines() {
        let line = line?;
        println!("{line}");
        tally.count(&line);
    }
    Ok((tally, child.wait()?))
}

/// The release binaries that the end-to-end tests and the demo run.
pub fn build(root: &Path) -> Result<()> {
    let status = Command::new(env!("CARGO"))
        .args(["build", "--release", "--package", "hove", "--package", "hove-shim"])
        .current_dir(root)
        .status()
        .context("cargo build")?;
    ensure!(status.success(), "cargo build --release: {status}");
    Ok(())
}

/// Where [`build`] puts them.
pub fn release_dir(root: &Path) -> PathBuf {
    target_dir(root).join("release")
}

/// Where cargo puts what is built for development.
pub fn debug_dir(root: &Path) -> PathBuf {
    target_dir(root).join("debug")
}

fn target_dir(root: &Path) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    root.join(target).join("x86_64-unknown-linux-gnu")
}
