//! critest, whole.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use end_to_end::Running;

use crate::{Site, client, on_a_daemon};

/// critest's specs of version 1.36.0, SELinux's aside: it does not count those where there is no SELinux.
const SPECS: u32 = 117;
/// Besides those: measurements, which it runs when it is told to.
const BENCHMARKS: u32 = 5;
/// Specs by their names, and why they can't run.
const LEFT_OUT: [&str; 1] = [
    // Its image is named by a digest that only the original has.
    "public image with digest should be pulled and removed",
];
/// Those about AppArmor, which critest skips where the kernel has none.
const APPARMOR_SPECS: u32 = 9;
/// Those of exec, attach and port-forward.
const STREAMING_SPECS: u32 = 5;

/// A run takes a minute and a half on two busy cores.
const LIMIT: Duration = Duration::from_secs(20 * 60);

#[test]
#[ignore = "needs critest: cargo xtask conformance"]
fn every_spec_passes() {
    critest(&[]);
}

#[test]
#[ignore = "needs critest: cargo xtask conformance"]
fn every_spec_passes_two_at_a_time() {
    critest(&["--parallel=2"]);
}

/// Exec, attach and port-forward by WebSocket in the place of SPDY.
#[test]
#[ignore = "needs critest: cargo xtask conformance"]
fn streaming_passes_over_websocket() {
    on_a_daemon(|site| {
        let transports = ["--websocket-exec", "--websocket-attach", "--websocket-portforward"];
        let said = run(site, &[&transports[..], &["--ginkgo.focus=Streaming"]].concat())?;
        let counts = Counts::of(&said)?;
        ensure!(
            counts.failed == 0 && counts.passed == STREAMING_SPECS,
            "{counts:?}\n{said}"
        );
        Ok(())
    });
}

fn critest(arguments: &[&str]) {
    on_a_daemon(|site| {
        let skip = format!("--ginkgo.skip=benchmark|{}", LEFT_OUT.join("|"));
        let said = run(site, &[arguments, &[&skip]].concat())?;
        let counts = Counts::of(&said)?;
        println!("critest {arguments:?}: {counts:?}");
        let apparmor = match Path::new("/sys/kernel/security/apparmor").exists() {
            true => 0,
            false => APPARMOR_SPECS,
        };
        let skipped = u32::try_from(LEFT_OUT.len())? + apparmor;
        ensure!(
            counts.failed == 0 && counts.passed == SPECS - skipped && counts.skipped == skipped + BENCHMARKS,
            "{counts:?}, and {skipped} should be skipped\n{said}"
        );
        Ok(())
    });
}

/// critest's output.
fn run(site: &Site<'_>, arguments: &[&str]) -> Result<String> {
    let critest = client("critest");
    let clients = critest.parent().context("clients are in a folder")?;
    let mut command = Command::new(&critest);
    command
        .args(["--runtime-endpoint", &site.endpoint, "--ginkgo.no-color"])
        .args(arguments)
        // Where --parallel finds ginkgo.
        .env("PATH", format!("{}:{}", clients.display(), std::env::var("PATH")?))
        .current_dir(site.host.directory());
    Ok(Running::start(command)?.wait(LIMIT)?.stdout)
}

#[derive(Debug)]
struct Counts {
    passed: u32,
    failed: u32,
    skipped: u32,
}

impl Counts {
    /// From the last line of a run: `FAIL! -- 105 Passed | 2 Failed | 0 Pending | 10 Skipped`.
    fn of(said: &str) -> Result<Counts> {
        let line = said.lines().rev().find(|line| line.contains(" Passed | "));
        let line = line.with_context(|| format!("critest did not sum up:\n{said}"))?;
        let number = |word: &str| -> Result<u32> {
            let before = line.split(word).next().unwrap_or_default();
            let number = before.split_whitespace().next_back().unwrap_or_default();
            number.parse().with_context(|| line.to_owned())
        };
        Ok(Counts {
            passed: number(" Passed")?,
            failed: number(" Failed")?,
            skipped: number(" Skipped")?,
        })
    }
}
