//! The end of a log that entries are appended to.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::line::{self, Stream};

/// No more is encoded at once than this and one entry, in bytes: short lines grow twentyfold.
const BATCH: usize = 128 * 1024;

/// A place in a log file, which a rename does not change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Position {
    /// The file system.
    pub device: u64,
    /// The file.
    pub inode: u64,
    /// How many bytes are before it.
    pub offset: u64,
}

/// Appends entries to a log file; the file's only writer.
///
/// [`append`](Writer::append) and [`flush`](Writer::flush) report a full disk as [`Error::Full`] and keep what was
/// not written; the caller stops reading its container's output and flushes again later.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    file: OwnedFd,
    /// Whole entries that are not in the file yet.
    pending: Vec<u8>,
}

impl Writer {
    /// Opens the log at `path` for appending and makes it if it isn't there. Its directory must exist.
    pub fn open(path: &Path) -> Result<Writer> {
        Ok(Writer {
            path: path.to_path_buf(),
            file: open(path)?,
            pending: Vec::new(),
        })
    }

    /// Opens the file that `inode` of `device` names, if that is the log at `path` or what it was renamed to in its
    /// directory; else, as [`open`](Writer::open) does, the log itself. After [`reopen`](Writer::reopen) it is the log in any
    /// case.
    pub fn open_again(path: &Path, device: u64, inode: u64) -> Result<Writer> {
        let writer = Writer::open(path)?;
        let is_it = |writer: &Writer| -> Result<bool> {
            let position = writer.position()?;
            Ok((position.device, position.inode) == (device, inode))
        };
        if is_it(&writer)? {
            return Ok(writer);
        }
        if let Some(renamed) = find(path, inode) {
            let renamed = Writer {
                path: path.to_path_buf(),
                file: rustix::fs::open(
                    &renamed,
                    OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NOFOLLOW,
                    Mode::empty(),
                )
                .map_err(|e| Error::of(&renamed, "open(O_WRONLY|O_APPEND|O_NOFOLLOW)", e))?,
                pending: Vec::new(),
            };
            if is_it(&renamed)? {
                return Ok(renamed);
            }
        }
        Ok(writer)
    }

    /// Where the next bytes go.
    pub fn position(&self) -> Result<Position> {
        let stat = rustix::fs::fstat(&self.file).map_err(|e| Error::of(&self.path, "fstat", e))?;
        Ok(Position {
            device: stat.st_dev,
            inode: stat.st_ino,
            offset: stat.st_size as u64,
        })
    }

    /// How many bytes of whole entries are not in the file yet.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Drops the first `written` of the pending bytes, or all: they are in the file, as another writer left it.
    pub fn skip(&mut self, written: usize) {
        self.pending.drain(..written.min(self.pending.len()));
    }

    /// The log's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends what was read from `stream` at `time`, and returns how many of the bytes were taken: all but an
    /// unfinished line at the end, which the caller hands in again with what follows it, and what would be too much at
    /// once. With `idle`, nothing more is there to be read, and the unfinished line is taken too.
    ///
    /// What becomes of given bytes is the same at any time and for any writer, if nothing was pending. Entries stay in
    /// memory until [`flush`](Writer::flush); when that fails, nothing was taken.
    pub fn append(&mut self, time: Timestamp, stream: Stream, bytes: &[u8], idle: bool) -> Result<usize> {
        if self.pending.len() >= BATCH {
            self.flush()?;
        }
        let prefix = line::prefix(time, stream);
        let mut used = 0;
        while self.pending.len() < BATCH
            && let Some(piece) = line::next_piece(&bytes[used..], idle)
        {
            line::encode(&prefix, piece.tag, piece.content, &mut self.pending);
            used += piece.used;
        }
        Ok(used)
    }

    /// Writes what is pending. On [`Error::Full`] the file ends with the last entry that had room, and the others
    /// stay pending, in order.
    pub fn flush(&mut self) -> Result<()> {
        while !self.pending.is_empty() {
            match rustix::io::write(&self.file, &self.pending) {
                Ok(written) => self.forget(written)?,
                Err(Errno::INTR) => {}
                Err(e) => return Err(Error::of(&self.path, "write", e)),
            }
        }
        // One burst must not cost its memory for ever.
        self.pending = Vec::new();
        Ok(())
    }

    /// Opens the file at the log's path anew, after a rotation has renamed it. What is pending goes to the old one if it
    /// takes it now, else it stays pending for the new one. On failure the writer goes on with the old file.
    pub fn reopen(&mut self) -> Result<()> {
        let file = open(&self.path)?;
        match self.flush() {
            Ok(()) | Err(Error::Full { .. }) => {}
            Err(e) => return Err(e),
        }
        self.file = file;
        Ok(())
    }

    /// Drops `written` bytes from the pending ones. A short write that ended inside an entry is taken back to the
    /// entry's start: the entry will be written whole, maybe to another file, and a reader never meets its torn half.
    fn forget(&mut self, written: usize) -> Result<()> {
        let whole = self.pending[..written]
            .iter()
            .rposition(|b| *b == b'\n')
            .map_or(0, |newline| newline + 1);
        let torn = (written - whole) as u64;
        if torn > 0 {
            let length = rustix::fs::fstat(&self.file)
                .map_err(|e| Error::of(&self.path, "fstat", e))?
                .st_size as u64;
            rustix::fs::ftruncate(&self.file, length.saturating_sub(torn))
                .map_err(|e| Error::of(&self.path, "ftruncate", e))?;
        }
        self.pending.drain(..whole);
        if torn > 0 && whole == 0 {
            return Err(Error::Full {
                path: self.path.clone(),
                errno: Errno::NOSPC,
            });
        }
        Ok(())
    }
}

fn open(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    // Log collectors that are not root read logs by their group.
    rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR | Mode::RGRP)
        .map_err(|e| Error::of(path, "open(O_WRONLY|O_APPEND|O_CREAT|O_NOFOLLOW)", e))
}

/// The file with this number in the directory of `path`.
fn find(path: &Path, inode: u64) -> Option<PathBuf> {
    use std::os::unix::fs::DirEntryExt;
    let entries = std::fs::read_dir(path.parent()?).ok()?;
    let mut entries = entries.filter_map(std::result::Result::ok);
    entries.find(|entry| entry.ino() == inode).map(|entry| entry.path())
}
