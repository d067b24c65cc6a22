//! What can go wrong with a volume.

use std::path::PathBuf;

/// The result of an operation on volumes.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A uid or volume name that can't be a file name.
    #[error("{what} {name:?} can't be a file name: at most 253 bytes, no '/', not starting with a dot")]
    BadName {
        /// Which of them.
        what: &'static str,
        /// The name.
        name: String,
    },

    /// A hostPath that isn't absolute, or that goes up.
    #[error("volume {volume}: hostPath {path:?} must be absolute and without '..'")]
    BadHostPath {
        /// The volume.
        volume: String,
        /// The path.
        path: PathBuf,
    },

    /// Nothing is at a hostPath.
    #[error(
        "volume {volume}: hostPath {path:?} does not exist, and type {wanted} wants it to; make it, or change hostPath.type"
    )]
    Missing {
        /// The volume.
        volume: String,
        /// The path.
        path: PathBuf,
        /// `hostPath.type`.
        wanted: &'static str,
    },

    /// Something else is at a hostPath.
    #[error("volume {volume}: hostPath {path:?} is {found}, and type {wanted} was asked for")]
    WrongKind {
        /// The volume.
        volume: String,
        /// The path.
        path: PathBuf,
        /// `hostPath.type`.
        wanted: &'static str,
        /// What is there.
        found: &'static str,
    },

    /// Something is still mounted below a pod's directory, so its content was left alone.
    #[error("{path:?} is still mounted and was not removed; unmount it")]
    StillMounted {
        /// The mount point.
        path: PathBuf,
    },

    /// A volume that is to be given to a group has too many directories in one another.
    #[error("{path:?} is more than {levels_max} directories deep in its volume, so fsGroup can't be applied to it")]
    TooDeep {
        /// The directory that is too deep.
        path: PathBuf,
        /// How deep it may be.
        levels_max: usize,
    },

    /// A file operation failed.
    #[error("{call} {}: {source}", path.display())]
    File {
        /// What was tried.
        call: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel answered.
        source: std::io::Error,
    },

    /// A system call failed.
    #[error(transparent)]
    System(#[from] sys::Error),
}
