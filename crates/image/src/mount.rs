//! Images whose files are shown in a directory of the host, read-only.
//!
//! What is mounted is recorded before, as a snapshot that keeps the layers ([`crate::snapshot`]): a node that was killed finds
//! it and takes it away. A mount is known again by its source in the mount table, the snapshot's directory: whatever else was
//! mounted at that place meanwhile is left alone.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::snapshot::Writable;
use crate::store::Store;

/// An image that is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// The image's id.
    pub image: Digest,
    /// Where.
    pub directory: PathBuf,
}

impl Store {
    /// Shows the files of the image `name` at `directory`: an absolute path, and empty, since what is in it would be hidden.
    pub fn mount(&self, name: &str, directory: &Path) -> Result<Mounted> {
        let image = self.get(name)?;
        let directory = directory.canonicalize().map_err(Error::io("finding", directory))?;
        let mut entries = std::fs::read_dir(&directory).map_err(Error::io("reading", &directory))?;
        if entries.next().is_some() {
            return Err(Error::MountPoint {
                directory,
                rule: "is not empty: what is in it would be hidden",
            });
        }
        let held = self.hold(&key(&directory), &image.id, Some(directory.clone()))?;
        self.show(&held, &directory)?;
        Ok(Mounted {
            image: image.id,
            directory,
        })
    }

    /// Makes the snapshot `key`, and shows the image's files at `directory`. The mount is the caller's to take away, before the
    /// snapshot is removed ([`Store::remove_snapshot`]): whoever uses the files keeps books of its own.
    pub fn view(&self, key: &str, image: &Digest, directory: &Path) -> Result<()> {
        let held = self.hold(key, image, None)?;
        self.show(&held, directory)
    }

    /// Mounts what is held, or lets go of it.
    fn show(&self, held: &Writable, directory: &Path) -> Result<()> {
        let numbers = held.lower.iter().map(u64::to_string);
        // overlayfs wants two, or one to write to.
        let lower: Vec<_> = numbers
            .chain(["empty".to_string()])
            .map(|name| format!("{name}/fs"))
            .collect();
        let mounted = sys::overlay::mount_read_only(self.snapshots.dir(), &lower, &self.source(held), directory);
        if let Err(error) = mounted {
            self.remove_snapshot(&held.key)?;
            return Err(Error::io("mounting at", directory)(error.into()));
        }
        Ok(())
    }

    /// Takes away what [`Store::mount`] mounted. Refused while something is open there.
    pub fn unmount(&self, given: &Path) -> Result<()> {
        let directory = match given.canonicalize() {
            // Somebody has unmounted it and taken the directory away: it is forgotten all the same.
            Err(e) if e.kind() == ErrorKind::NotFound => std::path::absolute(given),
            found => found,
        };
        let directory = directory.map_err(Error::io("finding", given))?;
        let held = self
            .mounted()
            .into_iter()
            .find(|held| held.mounted_at.as_ref() == Some(&directory));
        let Some(held) = held else {
            return Err(Error::MountPoint {
                directory,
                rule: "has no image mounted",
            });
        };
        self.take_away(&held, UnmountFlags::empty())
    }

    /// What is mounted.
    pub fn mounts(&self) -> Vec<Mounted> {
        let held = self.mounted().into_iter();
        let mounts = held.filter_map(|held| {
            Some(Mounted {
                image: held.image,
                directory: held.mounted_at?,
            })
        });
        mounts.collect()
    }

    /// Takes all mounts away, those of an earlier node as well. What is open there stays usable for whoever has it open.
    pub fn unmount_all(&self) -> Result<()> {
        let mut result = Ok(());
        for held in self.mounted() {
            // Each is tried; the first failure is told.
            result = result.and(self.take_away(&held, UnmountFlags::DETACH));
        }
        result
    }

    fn take_away(&self, held: &Writable, flags: UnmountFlags) -> Result<()> {
        let source = self.source(held);
        let table = sys::mountinfo::mounts().map_err(|e| Error::io("reading", "/proc/self/mountinfo")(e.into()))?;
        for mount in table.iter().filter(|mount| mount.source == source) {
            match rustix::mount::unmount(&mount.mount_point, flags | UnmountFlags::NOFOLLOW) {
                // Gone meanwhile.
                Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
                Err(errno) => return Err(Error::call("unmounting", &mount.mount_point)(errno)),
            }
        }
        self.remove_snapshot(&held.key)
    }

    fn source(&self, held: &Writable) -> String {
        self.snapshots.dir().join(held.number.to_string()).display().to_string()
    }
}

/// A directory has one mount.
fn key(directory: &Path) -> String {
    format!("mount-{}", Digest::of(directory.as_os_str().as_encoded_bytes()).hex())
}
