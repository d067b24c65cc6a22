//! `cargo xtask vm`: the tests on a second kernel, the one that users have: Debian's, with cgroup v2, all of its
//! controllers, and AppArmor; on a machine that can be rebooted and lose its power.
//!
//! ```text
//!  system    Debian's kernel and root, from its packages, made once          target/vm/{vmlinuz,initrd,root.ext4}
//!  programs  test programs and binaries, as cargo builds them for the host
//!  disk      both on a second disk, with a script: the guest's task           target/vm/disk.ext4
//!  machine   qemu runs it in software; the task's output comes back by a serial port, its exit code on the last line
//! ```
//!
//! The guest's side is three short scripts in xtask/vm: `first.sh` (initramfs), `second.sh` (root), and the task.
//! Software emulation is ten to twenty times slower than the machine itself: good for behaviour, never for timings.

mod disk;
mod machine;
mod programs;
mod system;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::tally::Tally;
use crate::{images, test};
use disk::Disk;
use machine::{Machine, Writes};
use programs::SUITES;

/// Longest run of one test program in the guest.
const PROGRAM_LIMIT: Duration = Duration::from_secs(600);
/// Longest run of the guest.
const GUEST_LIMIT: Duration = Duration::from_secs(1800);

/// Images that the end-to-end tests get. Without Tomcat: a JVM takes minutes to start there, and shows nothing that the
/// others do not.
const IMAGES: &[&str] = &["busybox", "debian", "nginx"];

/// What is asked for.
#[derive(Debug, clap::Args)]
pub struct Ask {
    /// Run only the tests whose name contains one of these
    pattern: Vec<String>,
    /// Run only the tests of this package
    #[arg(short, long, value_parser = clap::builder::PossibleValuesParser::new(SUITES))]
    package: Vec<String>,
    /// A console of the guest instead of tests
    #[arg(long)]
    shell: bool,
}

/// Builds what is missing, boots, runs the tests, prints passed, failed, skipped.
pub fn run(root: &Path, ask: &Ask) -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "the guest's Debian is made by debootstrap, which needs root"
    );
    let folder = root.join("target/vm");
    let system = system::ensure_made(&folder)?;
    let disk = folder.join("disk.ext4");
    make_disk(root, &folder, ask, &disk)?;
    let machine = Machine {
        system: &system,
        disk: &disk,
        writes: Writes::Dropped,
        console: folder.join("console.log"),
    };
    if ask.shell {
        return machine.shell();
    }
    run_tests(&machine)
}

/// The second disk with the test programs.
fn make_disk(root: &Path, folder: &Path, ask: &Ask, image: &Path) -> Result<()> {
    let suites: Vec<&str> = match ask.package.as_slice() {
        [] => SUITES.to_vec(),
        chosen => chosen.iter().map(String::as_str).collect(),
    };
    let programs = programs::build(root, &suites)?;
    let release = test::release_dir(root);
    let target = release
        .ancestors()
        .nth(2)
        .context("a release directory is below the target directory")?;
    let disk = Disk::new(folder, &[root.to_owned(), target.to_owned()])?;
    let mut list = String::new();
    for program in &programs {
        disk.add(&program.path)?;
        if program.is_test {
            disk.add_folder(&program.folder)?;
            let (folder, path) = (program.folder.display(), program.path.display());
            list.push_str(&format!("{} {folder} {path}\n", PROGRAM_LIMIT.as_secs()));
        }
    }
    // Where tests make what they share (CARGO_TARGET_TMPDIR).
    disk.add_folder(&target.join("tmp"))?;
    disk.add_folder(&target.join("x86_64-unknown-linux-gnu/tmp"))?;
    if suites.contains(&"end-to-end") {
        test::build(root)?;
        images::run(root)?;
        add_end_to_end(root, &release, &disk)?;
    }
    disk.write("programs", &list)?;
    let arguments: Vec<&str> = ["--show-output", "--color", "never"]
        .into_iter()
        .chain(ask.pattern.iter().map(String::as_str))
        .collect();
    disk.write("arguments", &(arguments.join("\n") + "\n"))?;
    let binaries = format!("export HOVE_BIN_DIR={}\n", release.display());
    disk.write("task", &(binaries + include_str!("../../vm/tests.sh")))?;
    disk.finish(image)
}

/// What the end-to-end tests run.
fn add_end_to_end(root: &Path, release: &Path, disk: &Disk) -> Result<()> {
    for binary in ["hove", "hove-shim"] {
        disk.add(&release.join(binary))?;
    }
    disk.add(&root.join("examples"))?;
    for image in IMAGES {
        disk.add(&root.join("target/images").join(format!("{image}.tar")))?;
    }
    Ok(())
}

/// Boots, and counts what the test programs print.
fn run_tests(machine: &Machine<'_>) -> Result<()> {
    let start = Instant::now();
    let mut tally = Tally::default();
    let mut program = PathBuf::new();
    let mut died = Vec::new();
    let guest = machine.start(GUEST_LIMIT)?;
    guest.follow(|line| {
        if let Some(next) = line.strip_prefix("@hove runs ") {
            if tally.unfinished > 0 {
                died.push(program.display().to_string());
                tally.unfinished = 0;
            }
            program = PathBuf::from(next);
            println!("     Running {next} [{:.0?}]", start.elapsed());
            return Ok(());
        }
        println!("{line}");
        tally.count(line);
        Ok(())
    })?;
    if tally.unfinished > 0 {
        died.push(program.display().to_string());
    }
    println!("\nmeasurements not run: {}", tally.ignored);
    let passed = tally.ok.saturating_sub(tally.skipped);
    println!(
        "{passed} passed, {} failed, {} skipped, in the guest, in {:.0?}",
        tally.failed.len(),
        tally.skipped,
        start.elapsed()
    );
    ensure!(tally.failed.is_empty(), "failed: {}", tally.failed.join(" "));
    ensure!(
        died.is_empty(),
        "test programs that died or took longer than {PROGRAM_LIMIT:?}: {}",
        died.join(" ")
    );
    ensure!(passed > 0, "no test ran");
    Ok(())
}
