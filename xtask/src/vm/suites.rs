//! The packages' tests in the guest.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::GUEST_LIMIT;
use super::disk::Disk;
use super::machine::{End, Machine, Next};
use super::programs::{self, SUITES};
use crate::tally::Tally;
use crate::{images, test};

/// Longest run of one test program in the guest.
const PROGRAM_LIMIT: Duration = Duration::from_secs(900);

/// Images that the end-to-end tests get. Without Tomcat: a JVM takes minutes to start there, and shows nothing that the
/// others do not.
const IMAGES: &[&str] = &["busybox", "debian", "nginx"];

/// Tests that say nothing about a kernel, or take minutes there because of their numbers alone: parts of their names. They
/// run when they are asked for by name.
const LEFT_OUT: &[&str] = &[
    "bad_input::",
    "cri_socket::",
    "hostile::",
    "output::",
    "seccomp::tests::",
    "ten_thousand",
    "words::",
    "zombies",
];

/// The second disk with the test programs of `packages` (empty: all), and the names of tests to run (empty: all).
pub fn make_disk(root: &Path, folder: &Path, packages: &[String], patterns: &[String], image: &Path) -> Result<()> {
    let suites: Vec<&str> = match packages {
        [] => SUITES.to_vec(),
        chosen => chosen.iter().map(String::as_str).collect(),
    };
    let programs = programs::build(root, &suites)?;
    let end_to_end = suites.contains(&"end-to-end");
    let release = test::release_dir(root);
    let binaries = if end_to_end { binaries(root)? } else { release.clone() };
    let target = release
        .ancestors()
        .nth(2)
        .context("a release directory is below the target directory")?;
    let disk = Disk::new(folder, &[root.to_owned(), target.to_owned(), binaries.clone()])?;
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
    if end_to_end {
        images::run(root)?;
        for binary in ["hove", "hove-shim"] {
            disk.add(&binaries.join(binary))?;
        }
        disk.add(&root.join("examples"))?;
        for image in IMAGES {
            disk.add(&root.join("target/images").join(format!("{image}.tar")))?;
        }
    }
    disk.write("programs", &list)?;
    let left_out = LEFT_OUT.iter().filter(|_| patterns.is_empty());
    let arguments: Vec<&str> = ["--show-output", "--color", "never"]
        .into_iter()
        .chain(left_out.flat_map(|name| ["--skip", name]))
        .chain(patterns.iter().map(String::as_str))
        .collect();
    disk.write("arguments", &(arguments.join("\n") + "\n"))?;
    let environment = format!("export HOVE_BIN_DIR={}\n", binaries.display());
    disk.write("task", &(environment + include_str!("../../vm/tests.sh")))?;
    disk.finish(image)
}

/// Where `hove` and `hove-shim` are: HOVE_BIN_DIR, or what is built now.
pub fn binaries(root: &Path) -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("HOVE_BIN_DIR") {
        return Ok(root.join(folder));
    }
    test::build(root)?;
    Ok(test::release_dir(root))
}

/// Boots, and counts what the test programs print.
pub fn run(machine: &Machine<'_>, tally: &mut Tally) -> Result<()> {
    let start = Instant::now();
    let guest = machine.start(GUEST_LIMIT)?;
    let end = guest.follow(|line| {
        match line.strip_prefix("@hove runs ") {
            Some(program) => println!("     Running {program} [{:.0?}]", start.elapsed()),
            None => {
                println!("{line}");
                tally.count(line);
            }
        }
        Ok(Next::GoOn)
    })?;
    match end {
        End::Over(_) => Ok(()),
        other => bail!("the guest did not run all tests: {other:?}"),
    }
}
