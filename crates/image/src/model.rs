//! What the store knows of an image.

use std::collections::{BTreeMap, BTreeSet};

use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// An image in the store.
#[derive(Debug, Clone)]
pub struct Image {
    /// The digest of its configuration: the same wherever it came from, however its layers were compressed.
    pub id: Digest,
    /// `docker.io/library/nginx:latest`, …
    pub tags: Vec<String>,
    /// `docker.io/library/nginx@sha256:…`, …: manifests by which registries know it.
    pub digests: Vec<String>,
    /// Its manifest, when it came with one.
    pub manifest: Option<Digest>,
    /// From the bottom up.
    pub layers: Vec<Layer>,
    /// What it takes in the content store: configuration, layers as they came, manifest.
    pub size_bytes: u64,
    /// When the store got it, RFC 3339.
    pub imported_at: String,
    /// Its configuration: entrypoint, environment, user, …
    pub config: ImageConfiguration,
}

/// One layer of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// The digest of the blob as it came.
    pub digest: Digest,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// How the manifest described it.
    pub media_type: String,
    /// The digest of its uncompressed tar stream.
    pub diff_id: Digest,
    /// The digest of the stack up to this layer.
    pub chain_id: Digest,
}

/// What is kept of an image in the database; the rest is in its configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub manifest: Option<Digest>,
    pub layers: Vec<Layer>,
    pub tags: BTreeSet<String>,
    pub digests: BTreeSet<String>,
    pub size_bytes: u64,
    pub imported_at: String,
    /// The boot in which it came, until its content is known to be on the disk.
    #[serde(default)]
    pub unsettled: Option<String>,
}

impl Record {
    /// The content of the image `id`.
    pub fn content(&self, id: &Digest) -> impl Iterator<Item = Digest> {
        let layers = self.layers.iter().map(|layer| layer.digest);
        layers.chain(self.manifest).chain([*id])
    }
}

/// The configuration of an image that Hove makes: what a Dockerfile's last lines say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// Arguments that a container may replace.
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// `user`, `uid`, `user:group`, `uid:gid`.
    pub user: String,
    /// Where the program starts.
    pub working_dir: String,
    /// `80/tcp`: documentation, nothing is opened by it.
    pub exposed_ports: Vec<String>,
    /// `SIGQUIT`, …
    pub stop_signal: String,
    /// Directories that Docker would make volumes of.
    pub volumes: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// Where a container's root file system is, as overlayfs wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    /// Read-only layers, topmost first; at least one.
    pub lower: Vec<std::path::PathBuf>,
    /// What the container writes.
    pub upper: std::path::PathBuf,
    /// overlayfs's own, empty, on the same file system as `upper`.
    pub work: std::path::PathBuf,
}

/// Space taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Bytes of the blocks allocated.
    pub bytes: u64,
    /// Files, directories and all else.
    pub inodes: u64,
}

/// The file system that the store is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FsInfo {
    /// The store's directory.
    pub mountpoint: std::path::PathBuf,
    /// What images take: content and unpacked layers.
    pub images: Usage,
    /// What containers wrote.
    pub containers: Usage,
    /// Bytes of the whole file system.
    pub capacity_bytes: u64,
    /// Bytes that are free to Hove.
    pub available_bytes: u64,
}
