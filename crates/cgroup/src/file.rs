//! Reading and writing cgroup files: one open, one read or write, and an error that names file and value.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::io::Errno;

fn errno(e: &std::io::Error) -> Errno {
    Errno::from_io_error(e).unwrap_or(Errno::IO)
}

/// Writes `value` in a single write(2), as cgroup files demand. Never creates a file.
pub(crate) fn write(path: &Path, value: &str) -> sys::Result<()> {
    let fail = |e: std::io::Error| sys::Error::new(format_args!("write({path:?}, {value:?})"), errno(&e));
    let mut file = open_for_write(path)?;
    file.write_all(value.as_bytes()).map_err(fail)
}

/// Opens a cgroup file for writing only: the kernel checks the opener's rights, and `tasks` then accepts "0" from
/// whoever inherited the descriptor.
pub(crate) fn open_for_write(path: &Path) -> sys::Result<File> {
    OpenOptions::new()
        .write(true)
        .custom_flags(rustix::fs::OFlags::CLOEXEC.bits() as i32)
        .open(path)
        .map_err(|e| sys::Error::new(format_args!("open({path:?}, O_WRONLY)"), errno(&e)))
}

/// The whole text of a cgroup file.
pub(crate) fn read(path: &Path) -> sys::Result<String> {
    let mut text = String::new();
    File::open(path)
        .and_then(|mut f| f.read_to_string(&mut text))
        .map_err(|e| sys::Error::new(format_args!("read({path:?})"), errno(&e)))?;
    Ok(text)
}

/// [`read`], with `None` for a file or a directory that does not exist (any more).
pub(crate) fn read_optional(path: &Path) -> sys::Result<Option<String>> {
    match read(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if is_gone(&e) => Ok(None),
        Err(e) => Err(e),
    }
}

/// True if the error says that the file, or the cgroup it belongs to, is not there. (Reading from a descriptor of a
/// removed cgroup gives ENODEV.)
pub(crate) fn is_gone(e: &sys::Error) -> bool {
    matches!(e.errno, Errno::NOENT | Errno::NODEV)
}

/// The number in a file that holds one; "max" is `u64::MAX`.
pub(crate) fn number(text: &str) -> Option<u64> {
    match text.trim() {
        "max" => Some(u64::MAX),
        // v1 writes -1 for "no limit" in a few files.
        "-1" => Some(u64::MAX),
        n => n.parse().ok(),
    }
}

/// The value of `key` in a file of `key value` lines.
pub(crate) fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        (name == key).then(|| number(value)).flatten()
    })
}
