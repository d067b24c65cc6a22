//! What can go wrong with images, by what the caller can do about it.

use std::io;
use std::path::{Path, PathBuf};

use crate::digest::Digest;

/// The result of an operation on images.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An operation on images that failed. Every message names the file, the entry and the rule that it broke.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No image goes by this name.
    #[error(
        "image {name} is not in the store; `hove image pull` or `hove image import` brings one in, `hove image ls` lists what is there"
    )]
    NotFound {
        /// What was asked for.
        name: String,
    },
    /// The beginning of an id fits several images.
    #[error("{prefix} is the beginning of {} images ({}); give more of the id", .ids.len(), .ids.join(", "))]
    Ambiguous {
        /// What was asked for.
        prefix: String,
        /// The ids that begin so.
        ids: Vec<String>,
    },
    /// The image cannot go: containers run from it.
    #[error("image {image} is used by {}; remove those first, or force it", .users.join(", "))]
    InUse {
        /// The image's id.
        image: Digest,
        /// Keys of the writable snapshots above its layers.
        users: Vec<String>,
    },
    /// A snapshot of this key exists already.
    #[error("snapshot {key} exists already")]
    SnapshotExists {
        /// The key.
        key: String,
    },
    /// No snapshot goes by this key.
    #[error("snapshot {key} does not exist")]
    SnapshotMissing {
        /// The key.
        key: String,
    },
    /// Not a key for a snapshot.
    #[error("{key:?} cannot name a snapshot: 1 to 128 of the characters a-z A-Z 0-9 . _ - are allowed")]
    SnapshotKey {
        /// The key.
        key: String,
    },
    /// An image can't be mounted at, or is not mounted at, a directory.
    #[error("{} {rule}", directory.display())]
    MountPoint {
        /// The directory.
        directory: PathBuf,
        /// Why not.
        rule: &'static str,
    },
    /// A reference that cannot be understood.
    #[error(transparent)]
    Reference(#[from] crate::reference::Error),
    /// A digest that cannot be understood.
    #[error(transparent)]
    Digest(#[from] crate::digest::ParseError),
    /// Another process has the store open.
    #[error("{} is open in another process: one node per --root", path.display())]
    Locked {
        /// The database that is locked.
        path: PathBuf,
    },
    /// The archive or layout breaks a rule of its format.
    #[error("{}: {what}: {rule}", source_name)]
    Malformed {
        /// The archive or directory.
        source_name: String,
        /// The entry, blob or field.
        what: String,
        /// The rule it breaks.
        rule: String,
    },
    /// Bytes that are not what their digest says.
    #[error("{what}: content is {actual}, but {expected} was promised: damaged or tampered with")]
    Mismatch {
        /// Which blob or layer.
        what: String,
        /// The digest promised.
        expected: Digest,
        /// The digest found.
        actual: Digest,
    },
    /// A named limit was reached.
    #[error("{what}: more than {limit} {unit}; the limit {name} keeps archives from filling the machine")]
    Limit {
        /// Where.
        what: String,
        /// The limit's name.
        name: &'static str,
        /// Its value.
        limit: u64,
        /// What is counted.
        unit: &'static str,
    },
    /// Images may not take so much.
    #[error(
        "{wanted} bytes more are needed, and images may take {limit} in all (quota_bytes of [images] in the configuration); \
         what could go for it is not enough"
    )]
    Quota {
        /// What images may take, in bytes.
        limit: u64,
        /// What was to be added, in bytes.
        wanted: u64,
    },
    /// The disk has no room for images.
    #[error(
        "No space left for images on the disk of {}: {free} bytes are free, of which {kept_free} stay so (keep_free_bytes of [images] in \
         the configuration){}; `hove image prune --all` removes images that nothing uses", dir.display(), needed(*wanted)
    )]
    Room {
        /// A directory on the disk.
        dir: PathBuf,
        /// What was to be written, as far as that is known, in bytes.
        wanted: u64,
        /// What is free, in bytes.
        free: u64,
        /// What must stay free, in bytes.
        kept_free: u64,
    },
    /// An entry of a layer that cannot be unpacked.
    #[error("{layer}: entry {entry:?}: {rule}")]
    Entry {
        /// Which layer.
        layer: String,
        /// The entry's name as it stands in the archive.
        entry: String,
        /// What is wrong with it.
        rule: String,
    },
    /// A file operation failed.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The metadata database failed.
    #[error("image metadata {}: {source}", path.display())]
    Database {
        /// The database.
        path: PathBuf,
        /// What it said.
        source: Box<redb::Error>,
    },
}

fn needed(wanted: u64) -> String {
    match wanted {
        0 => String::new(),
        wanted => format!(", and {wanted} more are needed"),
    }
}

impl Error {
    /// For `map_err` on a file operation.
    pub(crate) fn io<'a>(action: &'static str, path: impl AsRef<Path> + 'a) -> impl FnOnce(io::Error) -> Error + 'a {
        move |source| Error::Io {
            action,
            path: path.as_ref().to_path_buf(),
            source,
        }
    }

    /// For `map_err` on a system call made through rustix.
    pub(crate) fn call<'a>(
        action: &'static str,
        path: impl AsRef<Path> + 'a,
    ) -> impl FnOnce(rustix::io::Errno) -> Error + 'a {
        move |errno| Error::Io {
            action,
            path: path.as_ref().to_path_buf(),
            source: errno.into(),
        }
    }

    /// What reading an archive failed by: an error of ours that a reader passed on, or a rule that the archive breaks.
    pub(crate) fn of_archive(source: impl ToString, what: impl ToString, error: io::Error) -> Error {
        match error.downcast::<Error>() {
            Ok(ours) => ours,
            Err(error) => Error::malformed(source, what, error),
        }
    }

    pub(crate) fn malformed(source: impl ToString, what: impl ToString, rule: impl ToString) -> Error {
        Error::Malformed {
            source_name: source.to_string(),
            what: what.to_string(),
            rule: rule.to_string(),
        }
    }
}

/// What others wrote, as it may be shown: on one line, without what a terminal takes for an order, at most `chars` characters.
pub(crate) fn printable(text: &str, chars: usize) -> String {
    let mut shown: String = text.chars().filter(|c| !c.is_control()).take(chars).collect();
    if text.chars().count() > chars {
        shown.push('…');
    }
    shown
}
