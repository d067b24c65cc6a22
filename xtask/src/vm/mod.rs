//! `cargo xtask vm`: the tests on a second kernel, the one that users have: Debian's, with cgroup v2, all of its
//! controllers, and AppArmor; on a machine that can be rebooted and lose its power.
//!
//! ```text
//!  system    Debian's kernel and root, from its packages, made once          target/vm/{vmlinuz,initrd.d,root.ext4}
//!  programs  test programs and binaries, as cargo builds them for the host
//!  disk      both on a second disk, with a script: the guest's task           target/vm/run-*/disk.ext4
//!  machine   qemu runs it in software; the task's output comes back by a serial port, its exit code on the last line
//! ```
//!
//! The guest's side is a few short scripts in xtask/vm: `first.sh` (initramfs), `second.sh` (root), and the task: `tests.sh`,
//! or one of the outages.
//! A program that is not over in time is killed, after a word on where its processes wait in the kernel; which test it was at
//! is said at the end. What the tests show that the build machines can't is listed in [`proofs`].
//!
//! Software emulation is ten to twenty times slower than the machine itself: good for behaviour, never for timings.

mod disk;
mod machine;
mod outage;
mod programs;
mod proofs;
mod suites;
mod system;

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, ensure};

use crate::tally::Tally;
use machine::{Machine, Writes};
use outage::Outage;
use programs::SUITES;

/// What is asked for.
#[derive(Debug, clap::Args)]
pub struct Ask {
    /// Run only the tests whose name contains one of these; `reboot` and `power_cut` are two of them
    pattern: Vec<String>,
    /// Run only the tests of this package
    #[arg(short, long, value_parser = clap::builder::PossibleValuesParser::new(SUITES))]
    package: Vec<String>,
    /// Leave out what says nothing about a kernel or takes minutes because of its numbers, and the power cuts
    #[arg(long, conflicts_with = "pattern")]
    brief: bool,
    /// A console of the guest, with the programs on its second disk, instead of tests
    #[arg(long)]
    shell: bool,
    /// Decides when the power is cut; printed, so that a run can be repeated
    #[arg(long)]
    seed: Option<u64>,
}

impl Ask {
    /// Whether all tests were asked for.
    fn is_whole(&self) -> bool {
        self.pattern.is_empty() && self.package.is_empty()
    }
}

/// Builds what is missing, boots, runs the tests, prints passed, failed, skipped.
pub fn run(root: &Path, ask: &Ask) -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "the guest's Debian is made by debootstrap, which needs root"
    );
    let start = Instant::now();
    let folder = root.join("target/vm");
    // What is of this run alone: others may run beside it.
    std::fs::create_dir_all(&folder)?;
    let scratch = tempfile::Builder::new().prefix("run-").tempdir_in(&folder)?;
    let system = system::ensure_made(&folder, scratch.path())?;
    let disk = scratch.path().join("disk.ext4");
    let mut machine = Machine {
        system: &system,
        disk: &disk,
        writes: Writes::Dropped,
        console: scratch.path().join("console.log"),
    };
    let outages = outages(ask);
    // Nothing but outages was asked for by name.
    let only_outages = !ask.pattern.is_empty() && ask.pattern.iter().all(|p| Outage::named(p).is_some());
    let mut tally = Tally::default();
    if !only_outages {
        suites::make_disk(root, scratch.path(), ask, &disk)?;
        if ask.shell {
            return machine.shell();
        }
        suites::run(&machine, ask, &mut tally)?;
    }
    if !outages.is_empty() {
        machine.writes = Writes::Kept;
        let seed = ask.seed.unwrap_or_else(outage::new_seed);
        for outage in outages {
            outage::make_disk(root, scratch.path(), outage, &disk)?;
            outage::run(&machine, outage, seed, &mut tally)?;
        }
    }
    conclude(&tally, start)?;
    match ask.is_whole() {
        true => proofs::check(&tally),
        false => Ok(()),
    }
}

/// Those that are asked for: by name, or everything.
fn outages(ask: &Ask) -> Vec<Outage> {
    if !ask.package.is_empty() || ask.shell {
        return Vec::new();
    }
    if ask.brief {
        return vec![Outage::Reboot];
    }
    let is_meant = |outage: &Outage, pattern: &str| outage.name().contains(&pattern.replace('-', "_"));
    let chosen = |outage: &Outage| ask.pattern.is_empty() || ask.pattern.iter().any(|p| is_meant(outage, p));
    Outage::ALL.into_iter().filter(chosen).collect()
}

fn conclude(tally: &Tally, start: Instant) -> Result<()> {
    println!("\nmeasurements not run: {}", tally.ignored);
    let passed = tally.ran();
    println!(
        "{passed} passed, {} failed, {} skipped, on Debian's kernel with cgroup v2, in {:.0?}",
        tally.failed.len(),
        tally.skipped.len(),
        start.elapsed()
    );
    ensure!(tally.hung.is_empty(), "not over in time: {}", tally.hung.join(" "));
    ensure!(tally.failed.is_empty(), "failed: {}", tally.failed.join(" "));
    ensure!(
        tally.unfinished == 0,
        "{} test programs died; see above",
        tally.unfinished
    );
    ensure!(passed > 0, "no test ran");
    Ok(())
}
