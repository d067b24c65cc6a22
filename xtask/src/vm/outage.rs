//! A machine that is restarted, and one whose power is cut, while pods run. What must be true after is said by the scripts
//! xtask/vm/reboot.sh and power-cut.sh, which print `ok …` or `FAILED …` for each thing they look at.
//!
//! The node's directories lie on the second disk, which is kept from boot to boot, STATE among them: harder than /run, where
//! it goes with the boot by itself.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail, ensure};

use super::disk::Disk;
use super::machine::{End, Machine, Next};
use super::suites;
use crate::images;
use crate::tally::Tally;

/// The images that the scripts use.
const IMAGES: &[&str] = &["busybox", "debian"];
/// How often the power is cut.
const CUTS: u64 = 3;
/// The power is cut at most that long after the work has begun.
const LONGEST_WORK: Duration = Duration::from_secs(12);
/// Longest time from a boot to the next.
const BOOT_LIMIT: Duration = Duration::from_secs(900);
/// More boots than a script needs mean that it does not come to its end.
const MOST_RESTARTS: u32 = 3;

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outage {
    Reboot,
    PowerCut,
}

impl Outage {
    pub const ALL: [Outage; 2] = [Outage::Reboot, Outage::PowerCut];

    /// As tests are named.
    pub fn name(self) -> &'static str {
        match self {
            Outage::Reboot => "reboot",
            Outage::PowerCut => "power_cut",
        }
    }

    /// By that name; a dash will do.
    pub fn named(name: &str) -> Option<Outage> {
        Outage::ALL.into_iter().find(|o| o.name() == name.replace('-', "_"))
    }

    fn script(self) -> &'static str {
        match self {
            Outage::Reboot => include_str!("../../vm/reboot.sh"),
            Outage::PowerCut => include_str!("../../vm/power-cut.sh"),
        }
    }
}

/// A seed that is another each time.
pub fn new_seed() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos() as u64 % 1_000_000)
}

/// The second disk, with Hove, images, and nothing that a node has made.
pub fn make_disk(root: &Path, folder: &Path, outage: Outage, image: &Path) -> Result<()> {
    let binaries = suites::binaries(root)?;
    images::run(root)?;
    let archives = root.join("target/images");
    let disk = Disk::new(folder, &[binaries.clone(), archives.clone()])?;
    for binary in ["hove", "hove-shim"] {
        disk.add(&binaries.join(binary))?;
    }
    for image in IMAGES {
        disk.add(&archives.join(format!("{image}.tar")))?;
    }
    let environment = format!(
        "export PATH={}:$PATH IMAGES={} CUTS={CUTS}\n",
        binaries.display(),
        archives.display()
    );
    disk.write(
        "task",
        &(environment + include_str!("../../vm/outage.sh") + outage.script()),
    )?;
    disk.finish(image)
}

/// Boots again and again, until the script comes to its end.
pub fn run(machine: &Machine<'_>, outage: Outage, seed: u64, tally: &mut Tally) -> Result<()> {
    println!("\n{}: seed {seed}", outage.name());
    let (mut failed, mut checks, mut cuts, mut restarts) = (false, 0, 0, 0);
    loop {
        let guest = machine.start(BOOT_LIMIT)?;
        let end = guest.follow(|line| {
            println!("{line}");
            failed |= line.starts_with("FAILED ");
            checks += u32::from(line.starts_with("ok "));
            if line != "@hove works" || cuts == CUTS {
                return Ok(Next::GoOn);
            }
            let after = moment(seed, cuts);
            cuts += 1;
            println!("the power is cut after {after:.2?} (cut {cuts} of {CUTS})");
            Ok(Next::Cut(after))
        })?;
        match end {
            End::Over(code) => {
                failed |= code != 0;
                break;
            }
            End::Cut => {}
            End::Restarted => {
                restarts += 1;
                ensure!(restarts <= MOST_RESTARTS, "the guest restarts without end");
            }
        }
    }
    if checks == 0 {
        bail!("{}: nothing was looked at", outage.name());
    }
    println!("test {} ... {}", outage.name(), if failed { "FAILED" } else { "ok" });
    if failed {
        tally.failed.push(outage.name().to_owned());
    } else {
        tally.ok += 1;
    }
    Ok(())
}

/// When the power is cut for the `nth` time: anything below [`LONGEST_WORK`], the same for the same seed.
fn moment(seed: u64, nth: u64) -> Duration {
    // Its keys are fixed.
    let mut hasher = DefaultHasher::new();
    (seed, nth).hash(&mut hasher);
    LONGEST_WORK.mul_f64((hasher.finish() >> 32) as f64 / f64::from(u32::MAX))
}
