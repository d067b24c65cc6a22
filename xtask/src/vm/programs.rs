//! What runs in the guest: test programs, as cargo builds them for the host (all of them are static), and what they run.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// The packages whose tests say something about the kernel.
pub const SUITES: &[&str] = &["sys", "cgroup", "starter", "shim", "hove-shim", "end-to-end"];

/// A program that cargo has built.
#[derive(Debug)]
pub struct Program {
    /// The package it is of.
    pub suite: String,
    /// Its path on the host, and in the guest.
    pub path: PathBuf,
    /// Its package's folder, in which tests are run.
    pub folder: PathBuf,
    /// A test program, rather than one that a test runs.
    pub is_test: bool,
}

/// One line of `--message-format=json`.
#[derive(Deserialize)]
struct Message {
    reason: String,
    manifest_path: Option<PathBuf>,
    executable: Option<PathBuf>,
    profile: Option<Profile>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// Builds the test programs of `chosen`; of all suites, if none is named. Those are built as `cargo xtask test` does it, with
/// the whole workspace: what it has built already is not built again with fewer features.
pub fn build(root: &Path, chosen: &[String]) -> Result<Vec<Program>> {
    let packages: Vec<&str> = match chosen {
        [] => vec!["--workspace"],
        chosen => chosen.iter().flat_map(|suite| ["--package", suite]).collect(),
    };
    let mut child = Command::new(env!("CARGO"))
        .args(["test", "--no-run", "--message-format=json-render-diagnostics"])
        .args(packages)
        .current_dir(root)
        .stdout(Stdio::piped())
        .spawn()
        .context("cargo test --no-run")?;
    let output = child.stdout.take().context("cargo has no output")?;
    let mut programs = Vec::new();
    for line in BufReader::new(output).lines() {
        let message: Message = serde_json::from_str(&line?).context("cargo's messages")?;
        programs.extend(program(message));
    }
    let status = child.wait()?;
    ensure!(status.success(), "cargo test --no-run: {status}");
    // In the order of the suites: from the parts to the whole.
    let place = |program: &Program| SUITES.iter().position(|suite| *suite == program.suite);
    programs.retain(|program| place(program).is_some());
    programs.sort_by_key(place);
    Ok(programs)
}

fn program(message: Message) -> Option<Program> {
    if message.reason != "compiler-artifact" {
        return None;
    }
    let folder = message.manifest_path?.parent()?.to_owned();
    let suite = match folder.file_name()?.to_str()? {
        // The only package that is not named after its folder.
        "tests" => "end-to-end".to_owned(),
        name => name.to_owned(),
    };
    Some(Program {
        suite,
        path: message.executable?,
        folder,
        is_test: message.profile?.test,
    })
}
