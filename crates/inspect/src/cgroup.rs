//! Cgroups.

use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// A mounted cgroup hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub path: PathBuf,
    /// `cgroup` (v1) or `cgroup2`.
    pub fs_type: String,
}

/// The hierarchies that this mount namespace sees, each once.
pub fn hierarchies() -> Result<Vec<Hierarchy>> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for mount in sys::mountinfo::mounts()? {
        if matches!(mount.fs_type.as_str(), "cgroup" | "cgroup2") && !found.iter().any(|h| h.path == mount.mount_point)
        {
            found.push(Hierarchy {
                path: mount.mount_point,
                fs_type: mount.fs_type,
            });
        }
    }
    Ok(found)
}

/// All cgroups at or below `path` (such as `/hove`), in every hierarchy, as directories.
pub fn below(path: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for hierarchy in hierarchies()? {
        let top = hierarchy.path.join(path.trim_start_matches('/'));
        if top.is_dir() {
            walk(&top, &mut found)?;
        }
    }
    found.sort();
    Ok(found)
}

fn walk(directory: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    found.push(directory.to_owned());
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        // Removed meanwhile.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(source) => {
            return Err(Error::Read {
                path: directory.to_owned(),
                source,
            });
        }
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), found)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn hierarchies_have_a_root() {
        for hierarchy in super::hierarchies().unwrap() {
            assert!(hierarchy.path.join("cgroup.procs").exists(), "{hierarchy:?}");
        }
        assert!(super::below("/no-such-cgroup").unwrap().is_empty());
    }
}
