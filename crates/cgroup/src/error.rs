//! What can go wrong with a cgroup, by what the caller can do about it.

use std::path::PathBuf;

use crate::hierarchy::Controller;

/// The result of an operation on cgroups.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an operation on a cgroup failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A cgroup file or directory could not be read, written, made or removed.
    #[error(transparent)]
    Call(#[from] sys::Error),

    /// No cgroup file system is mounted.
    #[error("no cgroup file system is mounted: mount one, for example with `mount -t cgroup2 cgroup2 /sys/fs/cgroup`")]
    NotMounted,

    /// A cgroup path or name that can't be used.
    #[error("cgroup path {path:?}: {rule}")]
    BadPath {
        /// The path as given.
        path: String,
        /// What a path must be.
        rule: &'static str,
    },

    /// The cgroup does not exist.
    #[error("cgroup {path} does not exist in any hierarchy")]
    NotFound {
        /// The cgroup's path below the hierarchies' roots.
        path: String,
    },

    /// A limit was asked for whose controller this node lacks.
    #[error(
        "{field} needs the cgroup controller {controller}, which this node does not have (see /proc/cgroups): remove the limit or enable the controller"
    )]
    ControllerMissing {
        /// The controller that is missing.
        controller: Controller,
        /// The field of the OCI configuration that needs it.
        field: String,
    },

    /// A limit that the node's cgroup version has no word for.
    #[error("{field} is not supported: {why}")]
    Unsupported {
        /// The field of the OCI configuration.
        field: String,
        /// Why it can't be had here.
        why: String,
    },

    /// A value that no cgroup would accept.
    #[error("{field}: {value}: {rule}")]
    BadValue {
        /// The field of the OCI configuration.
        field: String,
        /// Its value.
        value: String,
        /// The rule it breaks.
        rule: String,
    },

    /// The kernel refused a limit.
    #[error("{field} could not be set: {source}")]
    Refused {
        /// The field of the OCI configuration.
        field: String,
        /// The write that failed.
        source: sys::Error,
    },

    /// The cgroup still has processes and could not be removed in time.
    #[error("cgroup {} is still busy after {waited_ms} ms: processes {pids:?} are in it or below it", path.display())]
    Busy {
        /// The directory that could not be removed.
        path: PathBuf,
        /// How long removing it was tried.
        waited_ms: u64,
        /// The processes that were in it at the end.
        pids: Vec<i32>,
    },
}
