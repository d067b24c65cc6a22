//! `cargo xtask bench image`: pulls and imports side by side with containerd and podman, from one registry on this machine.
//!
//! Each row is one image; each cell is the best of several runs, each from an empty store on a new file system, the peers taking turns. CPU and
//! memory are of all processes of a peer: its daemon, its command, and what they start; a page that they share counts once. Beside them, what the decompression of
//! the largest layer takes alone.

mod disk;
mod measure;
mod peers;
mod samples;

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};

use self::disk::Disk;
use self::measure::Cost;
use self::peers::{Containerd, Hove, Peer, Podman};
use self::samples::{Registry, Sample};
use crate::packages;

/// What `cargo xtask bench` is asked for.
#[derive(Debug, Args)]
pub struct Ask {
    /// What is measured
    what: What,
    /// How often each is run; the best run counts
    #[arg(long, default_value_t = 3)]
    runs: u32,
    /// Only rows whose name contains this
    #[arg(long, default_value = "")]
    row: String,
    /// Only peers whose name contains this
    #[arg(long, default_value = "")]
    peer: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// Pulls and imports of images
    Image,
}

/// Starts a peer with an empty store in a directory; our own programs are in another one.
type Start = fn(&Path, &Path) -> Result<Box<dyn Peer>>;

const PEERS: [(&str, Start); 3] = [
    ("hove", |dir, programs| Ok(Box::new(Hove::start(dir, programs)?))),
    ("containerd", |dir, _| Ok(Box::new(Containerd::start(dir)?))),
    ("podman", |dir, _| Ok(Box::new(Podman::new(dir)))),
];

/// Measures, in a build for release: this program too, since it decompresses.
pub fn run(root: &Path, ask: &Ask) -> Result<()> {
    let What::Image = ask.what;
    packages::ensure_installed(&["containerd", "podman", "docker-registry", "skopeo"])?;
    if cfg!(debug_assertions) {
        return run_released(root);
    }
    let programs = std::env::current_exe()?
        .parent()
        .context("a program has a folder")?
        .to_path_buf();
    let dir = tempfile::tempdir()?;
    let registry = Registry::start(dir.path())?;
    for sample in Sample::all() {
        let is_asked = |way: &str| format!("{way} {}", sample.name).contains(&ask.row);
        if !is_asked("pull") && !is_asked("import") {
            continue;
        }
        let archive = sample.make(dir.path())?;
        let reference = registry.push(&archive, sample.name)?;
        let floor = registry.decompress_largest(sample.name)?;
        println!("\n{}: its largest layer decompresses in {floor}", sample.name);
        for way in ["pull", "import"].into_iter().filter(|way| is_asked(way)) {
            let mut best: Vec<(&'static str, Cost)> = Vec::new();
            for _ in 0..ask.runs {
                for (name, start) in PEERS.into_iter().filter(|(name, _)| name.contains(&ask.peer)) {
                    let disk = Disk::new(dir.path())?;
                    let mut peer = start(&disk.path().join(name), &programs)?;
                    // What others wrote must not be written in this one's time.
                    rustix::fs::sync();
                    let cost = match way {
                        "pull" => peer.pull(&reference)?,
                        _ => peer.import(&archive)?,
                    };
                    match best.iter_mut().find(|(known, _)| *known == name) {
                        Some((_, best)) => *best = best.min(cost),
                        None => best.push((name, cost)),
                    }
                }
            }
            for (name, cost) in best {
                println!("  {way:<7} {name:<11} {cost}");
            }
        }
        std::fs::remove_file(archive)?;
    }
    Ok(())
}

fn run_released(root: &Path) -> Result<()> {
    let cargo = |arguments: &[&str]| -> Result<()> {
        let status = Command::new("cargo")
            .args(arguments)
            .current_dir(root)
            .status()
            .context("cargo")?;
        ensure!(status.success(), "cargo {}: {status}", arguments.join(" "));
        Ok(())
    };
    cargo(&["build", "--release", "-p", "hove", "-p", "hove-shim", "-p", "xtask"])?;
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let mut released = vec!["run", "--release", "-q", "-p", "xtask", "--"];
    released.extend(arguments.iter().map(String::as_str));
    cargo(&released)
}
