//! The packages' tests in the guest.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::Ask;
use super::disk::Disk;
use super::machine::{End, Machine, Next};
use super::programs;
use crate::tally::Tally;
use crate::{images, test};

/// Longest run of the guest.
const GUEST_LIMIT: Duration = Duration::from_secs(3600);
/// The same in a brief run, which has ten minutes on an idle machine.
const BRIEF_GUEST_LIMIT: Duration = Duration::from_secs(1200);
/// Longest run of one test program in the guest.
const PROGRAM_LIMIT: Duration = Duration::from_secs(900);

/// Images that the end-to-end tests get.
const IMAGES: &[&str] = &["busybox", "debian", "nginx"];

/// The profile that a node loads into the kernel when it starts, for tests without a node.
const PROFILE: &str = "crates/runtime/src/hove-default.apparmor";

/// Tests that need what the guest has not got, unless they are asked for by name: a JVM takes minutes to start there, and
/// shows nothing that the other examples do not.
const LEFT_OUT: &[&str] = &["war_and_tomcat"];

/// Parts of the names of tests that a brief run leaves out as well: they say nothing about a kernel, or take minutes there
/// because of their numbers alone.
const LEFT_OUT_WHEN_BRIEF: &[&str] = &[
    "a_container_that_is_being_made_is_undone",
    "a_log_is_rotated_between_any_two_steps",
    "bad_input::",
    "cri_socket::",
    "full_disk::",
    "hostile::",
    "hostile_passwd_and_group_files",
    "kills::",
    "lifetime::two_nodes",
    "output::",
    "seccomp::tests::",
    "ten_thousand",
    "words::",
    "zombies",
];

/// The second disk with the test programs and the names of tests that are asked for.
pub fn make_disk(root: &Path, folder: &Path, ask: &Ask, image: &Path) -> Result<()> {
    let programs = programs::build(root, &ask.package)?;
    let end_to_end = programs.iter().any(|program| program.suite == "end-to-end");
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
    disk.write("profile", &fs::read_to_string(root.join(PROFILE))?)?;
    let left_out: Vec<&str> = match (ask.pattern.is_empty(), ask.brief) {
        (false, _) => Vec::new(),
        (true, false) => LEFT_OUT.to_vec(),
        (true, true) => [LEFT_OUT, LEFT_OUT_WHEN_BRIEF].concat(),
    };
    let arguments: Vec<&str> = ["--show-output", "--color", "never"]
        .into_iter()
        .chain(left_out.into_iter().flat_map(|name| ["--skip", name]))
        .chain(ask.pattern.iter().map(String::as_str))
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
pub fn run(machine: &Machine<'_>, ask: &Ask, tally: &mut Tally) -> Result<()> {
    let start = Instant::now();
    let limit = if ask.brief { BRIEF_GUEST_LIMIT } else { GUEST_LIMIT };
    let guest = machine.start(limit)?;
    let end = guest.follow(|line| {
        match line.strip_prefix("@hove runs ") {
            Some(program) => println!("     Running {program} [{:.0?}]", start.elapsed()),
            None => {
                println!("{line}");
                tally.count(line);
            }
        }
        Ok(Next::GoOn)
    });
    match end.with_context(|| format!("under way for more than a minute: {:?}", tally.hung))? {
        End::Over(_) => Ok(()),
        other => bail!("the guest did not run all tests: {other:?}"),
    }
}
