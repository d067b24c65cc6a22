//! What can be wrong with a record, by what the caller can do about it.

use std::path::PathBuf;

/// The result of reading or writing a record.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a record could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such file: nothing was ever recorded, or it was removed.
    #[error("no record at {}", .path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// Another boot's record. What it names is gone; the file may be removed.
    #[error("the record {} is from before the last reboot (boot {boot_id}): what it names is gone", .path.display())]
    Foreign {
        /// The record.
        path: PathBuf,
        /// The boot that it was written in.
        boot_id: String,
    },
    /// Written by a newer Hove.
    #[error("the record {} has version {found}, this Hove reads up to {known}: run the Hove that wrote it, or a newer one", .path.display())]
    Version {
        /// The record.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest version that we read.
        known: u32,
    },
    /// No record of the kind asked for: torn, foreign text, or of another kind. Quarantine it.
    #[error("the record {} can't be read: {reason}", .path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        reason: String,
    },
    /// The value has no JSON form.
    #[error("the record {} can't be written as JSON: {source}", .path.display())]
    Unwritable {
        /// The record.
        path: PathBuf,
        /// Why not.
        source: serde_json::Error,
    },
    /// This boot's id can't be read.
    #[error("/proc/sys/kernel/random/boot_id can't be read (is /proc mounted?): {0}")]
    BootId(std::io::Error),
    /// The kernel refused: disk full, no permission, no directory.
    #[error(transparent)]
    System(#[from] sys::Error),
}
