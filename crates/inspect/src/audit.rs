//! The leak audit: what is on the machine before, what is there after, and what should not be.
//!
//! Snapshots hold words, not numbers: a process is its command, a file is its path. What the second one has and the first had not is
//! a [`Remainder`].

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::{Error, Result, cgroup, link, process};

/// Files below a root are listed up to this many: an audit is not a back-up.
const FILES_MAX: usize = 200_000;

/// What belongs to the one who is audited.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    /// A process whose command line has one of these words in it is ours (a state directory, a binary's path).
    pub command_words: Vec<String>,
    /// So is one in a cgroup at or below one of these, in any hierarchy; and those cgroups are ours.
    pub cgroup_parents: Vec<String>,
    /// Mounts at or below these.
    pub mounts_below: Vec<PathBuf>,
    /// Files below these.
    pub files_below: Vec<PathBuf>,
}

/// What is there. Links and tables are those of the calling thread's net namespace, mounts those of its mount namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    remainders: BTreeSet<Remainder>,
}

/// Something that is there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Remainder {
    /// A process.
    Process {
        /// Its number.
        pid: u32,
        /// Its command line.
        command: String,
    },
    /// A mount; its type says whether it is a bound namespace (`nsfs`).
    Mount {
        /// Where.
        path: PathBuf,
        /// File system type.
        fs_type: String,
    },
    /// A network link.
    Link(String),
    /// An nf_tables table, as `inet hove0`.
    Table(String),
    /// A cgroup.
    Cgroup(PathBuf),
    /// A file or directory.
    File(PathBuf),
}

impl fmt::Display for Remainder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Remainder::Process { pid, command } => write!(f, "process {pid}: {command}"),
            Remainder::Mount { path, fs_type } => write!(f, "mount {} ({fs_type})", path.display()),
            Remainder::Link(name) => write!(f, "link {name}"),
            Remainder::Table(name) => write!(f, "nf_tables table {name}"),
            Remainder::Cgroup(path) => write!(f, "cgroup {}", path.display()),
            Remainder::File(path) => write!(f, "file {}", path.display()),
        }
    }
}

/// Looks at everything in `scope`.
pub fn snapshot(scope: &Scope) -> Result<Snapshot> {
    let mut remainders = BTreeSet::new();
    for process in process::processes()? {
        let named = scope
            .command_words
            .iter()
            .any(|word| process.command.contains(word.as_str()));
        if named || in_cgroups(process.pid, &scope.cgroup_parents)? {
            // Zombies have no command line and belong to whoever has not waited for them: they count.
            remainders.insert(Remainder::Process {
                pid: process.pid,
                command: process.command,
            });
        }
    }
    let mounts = sys::mountinfo::mounts()?;
    remainders.extend(
        sys::mountinfo::below(&mounts, &scope.mounts_below).map(|m| Remainder::Mount {
            path: m.mount_point.clone(),
            fs_type: m.fs_type.clone(),
        }),
    );
    remainders.extend(link::links()?.into_iter().map(|link| Remainder::Link(link.name)));
    let tables = sys::netfilter::tables()?;
    remainders.extend(
        tables
            .into_iter()
            .map(|table| Remainder::Table(format!("{} {}", table.family, table.name))),
    );
    for parent in &scope.cgroup_parents {
        remainders.extend(cgroup::below(parent)?.into_iter().map(Remainder::Cgroup));
    }
    for root in &scope.files_below {
        files(root, &mut remainders)?;
    }
    Ok(Snapshot { remainders })
}

/// What `after` has and `before` had not, in a stable order.
pub fn diff(before: &Snapshot, after: &Snapshot) -> Vec<Remainder> {
    after.remainders.difference(&before.remainders).cloned().collect()
}

fn in_cgroups(pid: u32, parents: &[String]) -> Result<bool> {
    if parents.is_empty() {
        return Ok(false);
    }
    match process::cgroups(pid) {
        Ok(paths) => Ok(paths.iter().any(|path| {
            parents
                .iter()
                .any(|parent| Path::new(path).starts_with(Path::new(parent)))
        })),
        Err(Error::NoProcess { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

fn files(directory: &Path, remainders: &mut BTreeSet<Remainder>) -> Result<()> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(source) => {
            return Err(Error::Read {
                path: directory.to_owned(),
                source,
            });
        }
    };
    for entry in entries.flatten() {
        if remainders.len() >= FILES_MAX {
            return Ok(());
        }
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            files(&path, remainders)?;
        }
        remainders.insert(Remainder::File(path));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_what_is_new_and_only_that() {
        std::thread::spawn(|| {
            sys::netns::isolate_thread().unwrap();
            let directory = tempfile::tempdir().unwrap();
            std::fs::write(directory.path().join("old"), "").unwrap();
            let scope = Scope {
                command_words: vec![directory.path().display().to_string()],
                mounts_below: vec![directory.path().to_owned()],
                files_below: vec![directory.path().to_owned()],
                ..Scope::default()
            };
            let before = snapshot(&scope).unwrap();
            assert!(diff(&before, &before).is_empty());

            let namespace = directory.path().join("ns");
            sys::netns::make_bound(&namespace, || Ok(())).unwrap();
            let mut table = sys::netfilter::Batch::new();
            table.push(sys::netfilter::table_message("table", 0, sys::netlink::CREATE, 1).attr_str(1, "left"));
            table.commit().unwrap();
            let fifo = directory.path().join("fifo");
            let mut child = std::process::Command::new("tail")
                .arg("-f")
                .arg(directory.path().join("old"))
                .spawn()
                .unwrap();
            let found: Vec<String> = diff(&before, &snapshot(&scope).unwrap())
                .iter()
                .map(ToString::to_string)
                .collect();
            child.kill().unwrap();
            child.wait().unwrap();
            sys::netns::remove_bound(&namespace).unwrap();
            let has = |word: &str| found.iter().filter(|line| line.contains(word)).count();
            assert_eq!(has("process"), 1, "{found:#?}");
            assert_eq!(has("(nsfs)"), 1, "{found:#?}");
            assert_eq!(has("nf_tables table inet left"), 1, "{found:#?}");
            assert_eq!(has("file "), 1, "{found:#?}");
            assert!(!fifo.exists());
        })
        .join()
        .unwrap();
    }
}
