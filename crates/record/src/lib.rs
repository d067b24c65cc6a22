//! Small state files that survive a crash of whoever wrote them: atomic, versioned, and marked with the boot that
//! they were written in.
//!
//! A record is one JSON file, an envelope around the writer's own type:
//!
//! ```json
//! {"kind": "shim", "version": 1, "boot_id": "…", "record": { … }}
//! ```
//!
//! - [`save`] replaces the file as a whole (temporary file, fsync, rename, fsync of the directory), so that a reader
//!   finds the old record or the new one and never a piece. On a tmpfs the fsyncs cost nothing; so the caller need not
//!   know where it writes.
//! - [`load`] says what kind of bad a record is, because what to do differs: [`Error::Missing`] was never written,
//!   [`Error::Foreign`] describes processes, mounts and addresses that a reboot has taken away, [`Error::Version`]
//!   was written by a newer Hove, [`Error::Corrupt`] is nothing that we wrote.
//! - [`quarantine`] moves a bad record out of the way, to be looked at by a person: one broken record never keeps
//!   the node from starting (invariant 6).
//!
//! Each record has one writer at a time: its owner. That is the caller's to keep; the temporary file's name relies
//! on it, so that what a crashed writer left is overwritten by the next save and never piles up.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod boot;
mod error;
mod file;

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

pub use boot::boot_id;
pub use error::{Error, Result};

/// A type that can be kept in a record.
pub trait Record: Serialize + DeserializeOwned {
    /// What the record is about, such as `sandbox`: a file of another kind is not read.
    const KIND: &'static str;
    /// Grows with every change that an older Hove would misread. Older versions are read as they are, so new fields
    /// carry `#[serde(default)]`.
    const VERSION: u32;
    /// Whether the record still means something after a reboot. What names processes, mounts, namespaces or
    /// addresses does not.
    const SURVIVES_BOOT: bool;
}

#[derive(serde::Serialize)]
struct Written<'a, T> {
    kind: &'a str,
    version: u32,
    boot_id: &'a str,
    record: &'a T,
}

#[derive(serde::Deserialize)]
struct Read<'a> {
    kind: String,
    version: u32,
    boot_id: String,
    #[serde(borrow)]
    record: &'a RawValue,
}

/// Writes `record` to `path`, whole or not at all. When this returns Ok, the record is durable.
///
/// The directory must exist. The file is readable by its owner alone: records hold environments and commands.
pub fn save<T: Record>(path: &Path, record: &T) -> Result<()> {
    let envelope = Written {
        kind: T::KIND,
        version: T::VERSION,
        boot_id: boot_id()?,
        record,
    };
    let text = serde_json::to_vec(&envelope).map_err(|source| Error::Unwritable {
        path: path.to_path_buf(),
        source,
    })?;
    file::replace(path, &text)?;
    Ok(())
}

/// Reads the record at `path`.
pub fn load<T: Record>(path: &Path) -> Result<T> {
    let text = file::read(path)?;
    let corrupt = |reason: String| Error::Corrupt {
        path: path.to_path_buf(),
        reason,
    };
    let envelope: Read<'_> = serde_json::from_slice(&text).map_err(|e| corrupt(e.to_string()))?;
    if envelope.kind != T::KIND {
        return Err(corrupt(format!(
            "it is a record of kind {:?}, not {:?}",
            envelope.kind,
            T::KIND
        )));
    }
    if !T::SURVIVES_BOOT && envelope.boot_id != boot_id()? {
        return Err(Error::Foreign {
            path: path.to_path_buf(),
            boot_id: envelope.boot_id,
        });
    }
    if envelope.version > T::VERSION {
        return Err(Error::Version {
            path: path.to_path_buf(),
            found: envelope.version,
            known: T::VERSION,
        });
    }
    serde_json::from_str(envelope.record.get()).map_err(|e| corrupt(e.to_string()))
}

/// Whether a file of this name is a record that was being written when its writer was killed: nothing was acquired by what
/// it says, and it may be removed.
pub fn is_unfinished(name: &std::ffi::OsStr) -> bool {
    name.as_encoded_bytes().ends_with(file::TEMPORARY.as_bytes())
}

/// Renames a record that can't be read to the first free `PATH.quarantined-N`, N counting from 1, and returns the new
/// name. Nothing is overwritten.
pub fn quarantine(path: &Path) -> Result<PathBuf> {
    file::set_aside(path)
}

/// Removes the record at `path`. A record that isn't there is as good as removed.
pub fn remove(path: &Path) -> Result<()> {
    file::remove(path)
}
