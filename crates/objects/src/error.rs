//! Errors by what the caller can do about them: each kind is one `reason` of the Kubernetes API's Status.

use std::path::PathBuf;

use crate::object::Key;

/// What went wrong with a call of the store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such object (404).
    #[error("{} \"{}\" not found", .0.kind.resource(), .0.name)]
    NotFound(Key),
    /// The name is taken (409 AlreadyExists).
    #[error("{} \"{}\" already exists in namespace \"{}\": delete it first, or choose another name", .0.kind.resource(), .0.name, .0.namespace)]
    AlreadyExists(Key),
    /// The object was changed since it was read, or is another one of the same name (409 Conflict).
    #[error("Operation cannot be fulfilled on {} \"{}\": {why}", .key.kind.resource(), .key.name)]
    Conflict {
        /// The object.
        key: Key,
        /// What does not match.
        why: String,
    },
    /// The object is not one that can be stored (422 Invalid): no name, the wrong kind, a changed uid.
    #[error("{0}")]
    Invalid(String),
    /// The watcher asks for changes that are no longer kept, or did not keep up (410 Expired): list, then watch from there.
    #[error("too old resource version: {asked} ({oldest}): list again and watch from the list's version")]
    Expired {
        /// The version asked for, or the last one that the slow watcher saw.
        asked: u64,
        /// The oldest version from which a watch can start.
        oldest: u64,
    },
    /// The database failed (500): the disk is full, or broken.
    #[error("{path}: {what}: {source}", path = path.display())]
    Storage {
        /// The database.
        path: PathBuf,
        /// What was being done.
        what: &'static str,
        /// What the database, or the kernel, says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The result of a call of the store.
pub type Result<T> = std::result::Result<T, Error>;
