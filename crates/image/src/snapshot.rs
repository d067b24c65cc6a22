//! Directories that overlayfs stacks.
//!
//! ```text
//! ROOT/snapshots/N/fs               a layer, unpacked once per chain id; which chain it is, the database knows
//! ROOT/snapshots/N/{fs,work}        what one container writes …
//! ROOT/snapshots/N/snapshot.json    … and whose it is, on which layers
//! ROOT/snapshots/.new-N-RANDOM      being made; swept when the store opens
//! ROOT/snapshots/empty/fs           stands below images without layers: overlayfs wants one
//! ```
//!
//! A container's snapshot describes itself in a file instead of the database: a database commit waits for the disk
//! for milliseconds, on the way of every container that starts. The file need not survive the machine's power: no
//! container does. It survives the death of the process, and the rename makes it appear whole.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, IFlags, Mode, ioctl_getflags, ioctl_setflags, openat, statat};
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layer::{lower::directory_flags, sweep, tree};
use crate::model::Usage;

/// Levels of directories that are counted; below, a container's files cost nothing in our books.
const USAGE_DEPTH: usize = 200;

/// `ROOT/snapshots`.
pub struct Snapshots {
    dir: PathBuf,
    /// In the names of what is being made: from its name ext4 has the part of the disk where a directory begins ([`spread`]), and
    /// numbers come again.
    salt: u64,
}

/// A container's snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writable {
    /// Its directory's number.
    #[serde(skip)]
    pub number: u64,
    /// The container it is for, or a name of the mount.
    pub key: String,
    /// The image below.
    pub image: Digest,
    /// Numbers of the layers below, topmost first.
    pub lower: Vec<u64>,
    /// For an image that is mounted, where.
    #[serde(default)]
    pub mounted_at: Option<PathBuf>,
}

/// What [`Snapshots::open`] found.
#[derive(Debug, Default)]
pub struct Found {
    /// The containers' snapshots.
    pub writables: Vec<Writable>,
    /// Layers below them that the database does not know, or does not trust any more.
    pub orphans: BTreeSet<u64>,
    /// The first free number.
    pub next: u64,
}

impl Writable {
    /// Who uses the image: a container's id, or the directory of a mount.
    pub fn user(&self) -> String {
        match &self.mounted_at {
            Some(directory) => directory.display().to_string(),
            None => self.key.clone(),
        }
    }
}

/// Has ext4 begin each layer in another part of the disk, where it would put all of them beside each other. It gives an inode to
/// no new file for minutes after it was freed, and looks at each such inode whenever it wants one: 30,000 files where as many had
/// just been removed took 28 s, and take 3 s where they are spread (measured). Elsewhere it means nothing, and may fail.
fn spread(dir: &Path) {
    let Ok(opened) = File::open(dir) else { return };
    if let Ok(flags) = ioctl_getflags(&opened) {
        let _ = ioctl_setflags(&opened, flags | IFlags::TOPDIR);
    }
}

impl Snapshots {
    /// Opens the directory; `is_layer` tells which numbers the database knows. Everything that is neither a layer nor
    /// a whole snapshot, nor below one, was being made when a process died, and is removed.
    pub fn open(dir: PathBuf, is_layer: impl Fn(u64) -> bool) -> Result<(Self, Found)> {
        let salt = RandomState::new().build_hasher().finish();
        let snapshots = Snapshots { dir, salt };
        let dir = &snapshots.dir;
        fs::create_dir_all(dir.join("empty/fs")).map_err(Error::io("making", dir))?;
        spread(dir);
        let mut found = Found {
            next: 1,
            ..Found::default()
        };
        let mut unknown = Vec::new();
        for entry in fs::read_dir(dir).map_err(Error::io("reading", dir))? {
            let name = entry
                .map_err(Error::io("reading", dir))?
                .file_name()
                .to_string_lossy()
                .into_owned();
            let number = name.parse::<u64>().ok();
            found.next = found.next.max(number.unwrap_or(0) + 1);
            if name == "empty" || number.is_some_and(&is_layer) {
                continue;
            }
            match number.and_then(|number| snapshots.load(number)) {
                Some(writable) => found.writables.push(writable),
                None => unknown.push((name, number)),
            }
        }
        for (name, number) in unknown {
            // A layer whose record was lost may still be mounted by a container.
            let is_below = |number: &u64| found.writables.iter().any(|writable| writable.lower.contains(number));
            if let Some(number) = number.filter(is_below) {
                found.orphans.insert(number);
                continue;
            }
            tracing::info!(snapshot = %name, "sweeping what was being made");
            snapshots.remove_named(&name)?;
        }
        Ok((snapshots, found))
    }

    fn load(&self, number: u64) -> Option<Writable> {
        let bytes = fs::read(self.dir.join(format!("{number}/snapshot.json"))).ok()?;
        let writable = serde_json::from_slice::<Writable>(&bytes).ok()?;
        Some(Writable { number, ..writable })
    }

    /// Where all of them are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The directory that is stacked.
    pub fn fs(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number}/fs"))
    }

    /// overlayfs's own directory.
    pub fn work(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number}/work"))
    }

    /// What stands below an image without layers.
    pub fn empty(&self) -> PathBuf {
        self.dir.join("empty/fs")
    }

    /// What a layer or a snapshot is called while it is being made.
    fn unnamed(&self, number: u64) -> String {
        format!(".new-{number}-{:016x}", self.salt)
    }

    /// An empty directory for a layer, under its temporary name.
    pub fn new_layer(&self, number: u64) -> Result<PathBuf> {
        let fs = self.dir.join(self.unnamed(number)).join("fs");
        fs::create_dir_all(&fs).map_err(Error::io("making", &fs))?;
        Ok(fs)
    }

    /// Gives a layer its name.
    pub fn commit_layer(&self, number: u64) -> Result<()> {
        let (from, to) = (self.dir.join(self.unnamed(number)), self.dir.join(number.to_string()));
        fs::rename(&from, &to).map_err(Error::io("renaming", &from))
    }

    /// Waits until all that was unpacked is on the disk.
    pub fn sync(&self) -> Result<()> {
        let root = File::open(&self.dir).map_err(Error::io("opening", &self.dir))?;
        rustix::fs::syncfs(&root).map_err(Error::call("syncfs", &self.dir))
    }

    /// Removes what `new_layer` made.
    pub fn abandon_layer(&self, number: u64) -> Result<()> {
        self.remove_named(&self.unnamed(number))
    }

    /// Makes a container's snapshot. Its root looks like that of the topmost layer, whose place it takes.
    pub fn create(&self, writable: &Writable) -> Result<()> {
        let new = self.dir.join(self.unnamed(writable.number));
        let named = self.dir.join(writable.number.to_string());
        let made = self.fill_new(writable, &new).and_then(|()| {
            let reached = sys::failpoint!("image.snapshot.made");
            reached.map_err(|e| Error::io("making", &new)(e.into()))?;
            fs::rename(&new, &named).map_err(Error::io("renaming", &new))
        });
        if made.is_err() {
            // A full disk needs the room; the failure is the one to tell. What stays is swept at the next start.
            if let Err(error) = self.abandon_layer(writable.number) {
                tracing::warn!(key = %writable.key, %error, "a snapshot that could not be made remains");
            }
        }
        made?;
        sys::failpoint!("image.snapshot.named").map_err(|e| Error::io("making", &named)(e.into()))
    }

    fn fill_new(&self, writable: &Writable, new: &Path) -> Result<()> {
        let make = || -> io::Result<()> {
            fs::create_dir(new)?;
            fs::create_dir(new.join("fs"))?;
            fs::create_dir(new.join("work"))?;
            fs::write(new.join("snapshot.json"), serde_json::to_vec(writable)?)
        };
        make().map_err(Error::io("making", new))?;
        let below = writable
            .lower
            .first()
            .map_or_else(|| self.empty(), |number| self.fs(*number));
        let old = tree::open_directory(&below).map_err(Error::call("opening", &below))?;
        let root = tree::open_directory(&new.join("fs")).map_err(Error::call("opening", new))?;
        let stat = rustix::fs::fstat(&old).map_err(Error::call("stat", &below))?;
        tree::copy_metadata(&old, &stat, &root).map_err(|e| Error::Io {
            action: "copying the root of",
            path: below,
            source: io::Error::other(e),
        })
    }

    /// Removes a snapshot or a layer, directory and all; a missing one is no error.
    pub fn remove(&self, number: u64) -> Result<()> {
        self.remove_named(&number.to_string())?;
        sys::failpoint!("image.snapshot.removed").map_err(|e| Error::io("removing", &self.dir)(e.into()))
    }

    fn remove_named(&self, name: &str) -> Result<()> {
        let dir = tree::open_directory(&self.dir).map_err(Error::call("opening", &self.dir))?;
        sweep::remove_tree(dir.as_fd(), name.as_bytes()).map_err(Error::call("removing", self.dir.join(name)))
    }

    /// What a snapshot or layer takes.
    pub fn usage(&self, number: u64) -> Result<Usage> {
        usage(&self.fs(number))
    }
}

/// Blocks and inodes below a directory, and its own. Files with several names count once.
pub fn usage(dir: &Path) -> Result<Usage> {
    fn count(
        dir: impl AsFd,
        seen: &mut std::collections::HashSet<u64>,
        usage: &mut Usage,
        levels: usize,
    ) -> rustix::io::Result<()> {
        for entry in Dir::read_from(&dir)? {
            let entry = entry?;
            if matches!(entry.file_name().to_bytes(), b"." | b"..") {
                continue;
            }
            // Containers remove files while we look.
            let Ok(stat) = statat(&dir, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            if stat.st_nlink > 1
                && FileType::from_raw_mode(stat.st_mode) != FileType::Directory
                && !seen.insert(stat.st_ino)
            {
                continue;
            }
            usage.inodes += 1;
            usage.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory && levels > 0 {
                let Ok(child) = openat(&dir, entry.file_name(), directory_flags(), Mode::empty()) else {
                    continue;
                };
                count(child, seen, usage, levels - 1)?;
            }
        }
        Ok(())
    }
    let failed = || Error::call("measuring", dir);
    let root = tree::open_directory(dir).map_err(failed())?;
    let own = rustix::fs::fstat(&root).map_err(failed())?;
    let mut usage = Usage {
        bytes: u64::try_from(own.st_blocks).unwrap_or(0) * 512,
        inodes: 1,
    };
    count(root, &mut Default::default(), &mut usage, USAGE_DEPTH).map_err(failed())?;
    Ok(usage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_spread_where_the_file_system_can() {
        let dir = tempfile::tempdir().unwrap();
        let opened = File::open(dir.path()).unwrap();
        let mark = |flags| ioctl_setflags(&opened, flags);
        if ioctl_getflags(&opened)
            .and_then(|flags| mark(flags | IFlags::TOPDIR).and(mark(flags)))
            .is_err()
        {
            println!("SKIPPED: this file system has no such mark");
            return;
        }
        let open = || Snapshots::open(dir.path().to_path_buf(), |_| false).unwrap().0;
        let (one, other) = (open(), open());
        assert_ne!(one.unnamed(1), other.unnamed(1));
        assert!(ioctl_getflags(&opened).unwrap().contains(IFlags::TOPDIR));
    }
}
