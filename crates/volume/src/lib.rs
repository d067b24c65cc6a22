//! What a pod's volumes are on the host: made before its containers, taken away after them.
//!
//! ```text
//! ROOT/pods/UID/volumes/empty-dir/NAME           an emptyDir: a directory, or a tmpfs for `medium: Memory`
//! ROOT/pods/UID/volumes/empty-dir/.NAME.ready    the directory has its mode and group: what is done to it now is its users' doing
//! ```
//!
//! A hostPath lives where it lives; it is only checked, and made where its type says so.
//!
//! Making is idempotent, so that a sync may repeat it. Taking away attempts everything and is idempotent too. What is
//! inside a volume was written by containers and is not trusted: nothing is ever reached through a path in there, only
//! through descriptors of directories that were opened without following links ([`removal`]).

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod empty_dir;
mod error;
mod host_path;
mod mounts;
mod ownership;
pub mod removal;

use std::path::{Path, PathBuf};

pub use error::{Error, Result};
pub use ownership::{ChangePolicy, FsGroup};

/// Where an emptyDir's content is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Medium {
    /// On the disk that the node's root directory is on.
    #[default]
    Default,
    /// In memory: a tmpfs.
    Memory,
}

/// What must be at a hostPath (`hostPath.type` in Kubernetes).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HostPathType {
    /// Anything or nothing; not looked at.
    #[default]
    Unset,
    /// A directory, made with mode 0755 if nothing is there.
    DirectoryOrCreate,
    /// A directory.
    Directory,
    /// A regular file, made empty with mode 0644 if nothing is there; its directory must exist.
    FileOrCreate,
    /// A regular file.
    File,
    /// A unix socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

impl HostPathType {
    /// Reads `hostPath.type`; `None` for a word that Kubernetes does not know.
    pub fn parse(word: &str) -> Option<HostPathType> {
        Some(match word {
            "" => HostPathType::Unset,
            "DirectoryOrCreate" => HostPathType::DirectoryOrCreate,
            "Directory" => HostPathType::Directory,
            "FileOrCreate" => HostPathType::FileOrCreate,
            "File" => HostPathType::File,
            "Socket" => HostPathType::Socket,
            "CharDevice" => HostPathType::CharDevice,
            "BlockDevice" => HostPathType::BlockDevice,
            _ => return None,
        })
    }
}

/// What a volume is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A directory that begins empty and ends with the pod.
    EmptyDir {
        /// Where it is kept.
        medium: Medium,
        /// For a tmpfs: how large it may grow, in bytes; without it, the kernel's default (half of the memory).
        size_limit_bytes: Option<u64>,
    },
    /// Something that the host has.
    HostPath {
        /// Absolute path on the host.
        path: PathBuf,
        /// What must be there.
        kind: HostPathType,
    },
}

/// The volumes of all pods of one node.
#[derive(Debug, Clone)]
pub struct Volumes {
    pods: PathBuf,
}

impl Volumes {
    /// The volumes of the node whose root directory (`/var/lib/hove`) is `root`. Touches nothing.
    pub fn new(root: impl AsRef<Path>) -> Volumes {
        Volumes {
            pods: root.as_ref().join("pods"),
        }
    }

    /// Makes the volume `name` of pod `pod_uid`, or finds it made, and returns the path on the host to mount into containers.
    /// `group` is given the volume when it is made, unless it is the host's.
    pub fn prepare(&self, pod_uid: &str, name: &str, source: &Source, group: Option<FsGroup>) -> Result<PathBuf> {
        check_name("pod uid", pod_uid)?;
        check_name("volume", name)?;
        match source {
            Source::EmptyDir {
                medium,
                size_limit_bytes,
            } => {
                let path = self.pods.join(pod_uid).join("volumes/empty-dir").join(name);
                empty_dir::make(&path, *medium, *size_limit_bytes, group)?;
                Ok(path)
            }
            Source::HostPath { path, kind } => {
                host_path::make(name, path, *kind)?;
                Ok(path.clone())
            }
        }
    }

    /// Takes away all that was made for the pod: unmounts and removes. Idempotent; attempts everything and reports the
    /// first failure. What hostPath volumes are on the host is left as it is.
    pub fn teardown(&self, pod_uid: &str) -> Result<()> {
        check_name("pod uid", pod_uid)?;
        let unmounted = mounts::unmount_below(&self.pods.join(pod_uid));
        let removed = removal::remove_tree(&self.pods, pod_uid);
        unmounted.and(removed)
    }

    /// The uids of the pods that still have something on disk, so that what a crash left can be taken away.
    pub fn pods(&self) -> Result<Vec<String>> {
        let failed = |source| Error::File {
            call: "read directory",
            path: self.pods.clone(),
            source,
        };
        let entries = match std::fs::read_dir(&self.pods) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(failed(e)),
        };
        let mut uids = Vec::new();
        for entry in entries {
            uids.extend(entry.map_err(failed)?.file_name().into_string());
        }
        uids.sort();
        Ok(uids)
    }
}

/// Uids and names become file names.
fn check_name(what: &'static str, name: &str) -> Result<()> {
    let bad = name.is_empty() || name.len() > 253 || name.starts_with('.') || name.contains(['/', '\0']);
    if bad {
        Err(Error::BadName {
            what,
            name: name.to_owned(),
        })
    } else {
        Ok(())
    }
}
