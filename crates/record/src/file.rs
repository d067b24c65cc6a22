//! A file that is replaced as a whole.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// What is behind the name of a record that is being written.
pub const TEMPORARY: &str = ".new";

/// How long a record may be; the longest that is written has some ten kilobytes.
pub const BYTES_MAX: u64 = 16 << 20;

/// How many quarantined versions of one record are kept before the newest is overwritten.
const QUARANTINED_MAX: u32 = 100;

/// Puts `text` at `path`: the file is the old one or the new one at every instant, also after a power cut.
pub fn replace(path: &Path, text: &[u8]) -> Result<()> {
    let temporary = sibling(path, OsStr::new(TEMPORARY));
    // Before anything is changed: after the rename, a lack of descriptors would make a failure of what is done.
    let directory = open_directory_of(path)?;
    let done = write_new(&temporary, text).and_then(|()| {
        sys::failpoint!("record.written")?;
        rustix::fs::rename(&temporary, path)
            .map_err(|e| sys::Error::new(format_args!("rename({temporary:?}, {path:?})"), e).into())
    });
    if done.is_err() {
        // On a full disk the temporary file would hold the space that the next attempt needs.
        let _ = rustix::fs::unlink(&temporary);
        return done;
    }
    sys::failpoint!("record.renamed")?;
    sync(&directory, path)
}

/// The content of `path`.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    // NONBLOCK: what should be a record may be a FIFO, which nobody writes to.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => {
            return Err(Error::Missing {
                path: path.to_path_buf(),
            });
        }
        Err(e) => return Err(sys::Error::new(format_args!("open({path:?}, O_RDONLY|O_NOFOLLOW)"), e).into()),
    };
    let mut text = Vec::new();
    File::from(file)
        .take(BYTES_MAX + 1)
        .read_to_end(&mut text)
        .map_err(|e| system(format_args!("read({path:?})"), &e))?;
    if text.len() as u64 > BYTES_MAX {
        return Err(Error::Corrupt {
            path: path.to_path_buf(),
            reason: format!("it is longer than {BYTES_MAX} bytes"),
        });
    }
    Ok(text)
}

/// Renames `path` to the first free `PATH.quarantined-N`.
pub fn set_aside(path: &Path) -> Result<PathBuf> {
    for n in 1..QUARANTINED_MAX {
        let target = sibling(path, OsStr::new(&format!(".quarantined-{n}")));
        match rustix::fs::renameat_with(CWD, path, CWD, &target, RenameFlags::NOREPLACE) {
            Ok(()) => return sync_directory_of(path).map(|()| target),
            Err(Errno::EXIST) => {}
            Err(Errno::NOENT) => {
                return Err(Error::Missing {
                    path: path.to_path_buf(),
                });
            }
            Err(e) => {
                return Err(
                    sys::Error::new(format_args!("renameat2({path:?}, {target:?}, RENAME_NOREPLACE)"), e).into(),
                );
            }
        }
    }
    let target = sibling(path, OsStr::new(&format!(".quarantined-{QUARANTINED_MAX}")));
    rustix::fs::rename(path, &target).map_err(|e| sys::Error::new(format_args!("rename({path:?}, {target:?})"), e))?;
    Ok(target)
}

/// Removes `path`, if it is there.
pub fn remove(path: &Path) -> Result<()> {
    // What a writer that was killed left beside it goes with it.
    let temporary = sibling(path, OsStr::new(TEMPORARY));
    for path in [temporary.as_path(), path] {
        match rustix::fs::unlink(path) {
            Ok(()) => sync_directory_of(path)?,
            Err(Errno::NOENT) => {}
            Err(e) => return Err(sys::Error::new(format_args!("unlink({path:?})"), e).into()),
        }
    }
    Ok(())
}

fn write_new(path: &Path, text: &[u8]) -> Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|e| sys::Error::new(format_args!("open({path:?}, O_WRONLY|O_CREAT|O_TRUNC)"), e))?;
    let mut file = File::from(file);
    file.write_all(text)
        .map_err(|e| system(format_args!("write({path:?}, {} bytes)", text.len()), &e))
        .and_then(|()| file.sync_all().map_err(|e| system(format_args!("fsync({path:?})"), &e)))
}

/// A rename or unlink is durable when the directory is.
fn sync_directory_of(path: &Path) -> Result<()> {
    sync(&open_directory_of(path)?, path)
}

fn sync(directory: &OwnedFd, path: &Path) -> Result<()> {
    rustix::fs::fsync(directory)
        .map_err(|e| sys::Error::new(format_args!("fsync({:?})", path.parent().unwrap_or(Path::new("."))), e).into())
}

fn open_directory_of(path: &Path) -> Result<OwnedFd> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    rustix::fs::open(
        directory,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|e| sys::Error::new(format_args!("open({directory:?}, O_DIRECTORY)"), e).into())
}

fn sibling(path: &Path, suffix: &OsStr) -> PathBuf {
    let mut name = OsString::from(path.as_os_str());
    name.push(suffix);
    PathBuf::from(name)
}

fn system(call: std::fmt::Arguments<'_>, e: &std::io::Error) -> Error {
    let errno = Errno::from_io_error(e).unwrap_or(Errno::IO);
    sys::Error::new(call, errno).into()
}
