//! Taking a cgroup away.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::group::{Cgroup, check_path, children, collect_pids};
use crate::hierarchy::Hierarchies;

/// How long [`Cgroup::remove`] tries. A killed process counts until it has given up its memory.
pub const REMOVE_LIMIT: Duration = Duration::from_millis(500);

/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

impl Cgroup {
    /// Removes it with all cgroups below it, in every hierarchy. Idempotent. What is still in use is tried again
    /// for [`REMOVE_LIMIT`]; every hierarchy is attempted before the first error is returned.
    pub fn remove(&self) -> Result<()> {
        let start = Instant::now();
        let mut first_error = None;
        for dir in self.own_dirs() {
            if let Err(e) = remove_dir(dir, start) {
                first_error.get_or_insert(e);
            }
        }
        first_error.map_or(Ok(()), Err)
    }
}

/// Removes the cgroup at `path` wherever it is empty, and leaves it where something is in it or below it: for
/// parents ("/hove", a pod's parent) once their last child has gone.
pub fn remove_if_empty(hierarchies: &Hierarchies, path: &str) -> Result<()> {
    check_path(path)?;
    let mounts = hierarchies
        .v1()
        .iter()
        .map(|h| &h.mount)
        .chain(hierarchies.v2().map(|h| &h.mount));
    for mount in mounts {
        let dir = mount.join(&path[1..]);
        match rmdir(&dir) {
            Ok(()) | Err(Errno::BUSY | Errno::NOTEMPTY) => {}
            Err(e) => return Err(sys::Error::new(format_args!("rmdir({dir:?})"), e).into()),
        }
    }
    Ok(())
}

fn remove_dir(dir: &Path, start: Instant) -> Result<()> {
    // v1 says nothing when a cgroup becomes empty, hence the short pauses, bounded in sum.
    let mut pause = Duration::from_millis(1);
    loop {
        match remove_tree(dir) {
            Ok(()) => return Ok(()),
            Err((_, Errno::BUSY | Errno::NOTEMPTY)) if start.elapsed() < REMOVE_LIMIT => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            Err((path, Errno::BUSY | Errno::NOTEMPTY)) => {
                let mut pids = BTreeSet::new();
                collect_pids(dir, &mut pids)?;
                return Err(Error::Busy {
                    path,
                    waited_ms: REMOVE_LIMIT.as_millis() as u64,
                    pids: pids.into_iter().collect(),
                });
            }
            Err((path, e)) => return Err(sys::Error::new(format_args!("rmdir({path:?})"), e).into()),
        }
    }
}

/// Children first. A cgroup's files can't be unlinked and need not be.
fn remove_tree(dir: &Path) -> std::result::Result<(), (std::path::PathBuf, Errno)> {
    match rmdir(dir) {
        Ok(()) => return Ok(()),
        Err(Errno::BUSY | Errno::NOTEMPTY) => {}
        Err(e) => return Err((dir.to_owned(), e)),
    }
    for child in children(dir) {
        remove_tree(&child)?;
    }
    rmdir(dir).map_err(|e| (dir.to_owned(), e))
}

/// rmdir(2); one that is gone already counts as removed.
fn rmdir(dir: &Path) -> std::result::Result<(), Errno> {
    match fs::remove_dir(dir) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Errno::from_io_error(&e).unwrap_or(Errno::IO)),
    }
}
