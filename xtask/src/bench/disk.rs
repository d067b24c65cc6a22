//! A file system of its own for each run.
//!
//! ext4 does not give an inode to a new file for a while after it was freed, and looks at each such inode again whenever it wants
//! one: who makes 30,000 files where as many were just removed waits several times as long as on a new file system.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use rustix::mount::{UnmountFlags, unmount};

/// How large it may grow, in bytes. The file behind it is sparse.
const SIZE: u64 = 4 << 30;

/// An empty ext4 in a file, mounted; gone with this.
pub struct Disk {
    file: PathBuf,
    mounted_at: PathBuf,
}

impl Disk {
    /// Made and mounted below `dir`.
    pub fn new(dir: &Path) -> Result<Disk> {
        let disk = Disk {
            file: dir.join("disk.img"),
            mounted_at: dir.join("disk"),
        };
        std::fs::create_dir_all(&disk.mounted_at)?;
        File::create(&disk.file)?.set_len(SIZE)?;
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&disk.file))?;
        run(Command::new("mount")
            .args(["-o", "loop"])
            .args([&disk.file, &disk.mounted_at]))?;
        Ok(disk)
    }

    /// Its root.
    pub fn path(&self) -> &Path {
        &self.mounted_at
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: whoever still ends must not keep it.
        let _ = unmount(&self.mounted_at, UnmountFlags::DETACH);
        let _ = std::fs::remove_file(&self.file);
    }
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}
