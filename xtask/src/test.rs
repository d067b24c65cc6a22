//! `cargo xtask test`: every test there is, on what a user gets (release binaries, images from Debian packages).

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{images, packages};

/// What the tests run beside Hove itself.
const PACKAGES: &[&str] = &["busybox", "gcc", "iproute2", "libc6-dev"];

/// Counts of tests, added up over all test programs.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    /// Those that test programs call passed, the skipped ones among them.
    ok: u32,
    failed: u32,
    /// Tests that said SKIPPED and why: something they need is not here.
    skipped: u32,
    /// Measurements, which are asked for by name (`cargo test -- --ignored`).
    ignored: u32,
}

/// Builds, makes the images, runs the tests; fails when one of them does.
pub fn run(root: &Path, filter: Option<&str>) -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "the tests make namespaces, mounts and cgroups: run them as root"
    );
    packages::ensure_installed(PACKAGES)?;
    build(root)?;
    images::run(root)?;

    let mut command = Command::new(env!("CARGO"));
    command.args(["test", "--workspace", "--no-fail-fast", "--"]);
    command.args(filter);
    command
        .arg("--show-output")
        .env("HOVE_BIN_DIR", release_dir(root))
        .current_dir(root);
    let mut child = command
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
    let status = child.wait()?;

    println!("\nmeasurements not run: {} (cargo test -- --ignored)", tally.ignored);
    let passed = tally.ok.saturating_sub(tally.skipped);
    println!("{passed} passed, {} failed, {} skipped", tally.failed, tally.skipped);
    if !status.success() {
        bail!("cargo test: {status}");
    }
    ensure!(passed > 0, "no test ran");
    Ok(())
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
pub fn release_dir(root: &Path) -> std::path::PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), Into::into);
    root.join(target).join("x86_64-unknown-linux-gnu/release")
}

impl Tally {
    /// Takes in one line of a test program's output.
    fn count(&mut self, line: &str) {
        if line.trim_start().starts_with("SKIPPED") {
            self.skipped += 1;
            return;
        }
        let Some(rest) = line.strip_prefix("test result: ") else {
            return;
        };
        let number = |word: &str| -> u32 {
            rest.split([';', '.'])
                .filter_map(|part| part.trim().strip_suffix(word))
                .find_map(|n| n.trim().parse().ok())
                .unwrap_or(0)
        };
        self.ok += number("passed");
        self.failed += number("failed");
        self.ignored += number("ignored");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_test_programs_print() {
        let mut tally = Tally::default();
        for line in [
            "running 3 tests",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "SKIPPED: no AppArmor on this kernel",
            "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.20s",
        ] {
            tally.count(line);
        }
        assert_eq!(
            tally,
            Tally {
                ok: 5,
                failed: 1,
                skipped: 1,
                ignored: 1
            }
        );
    }
}
