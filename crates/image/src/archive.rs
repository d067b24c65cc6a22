//! Makes one-layer images: configuration and manifest for a directory or a handful of files, and archives of them that
//! Hove, Docker, podman and containerd read.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;

use serde_json::{Map, Value, json};
use tar::{Builder, EntryType, Header};

use crate::digest::{Digest, Hashing};
use crate::error::{Error, Result};
use crate::layer::pack::pack;
use crate::model::ImageConfig;
use crate::reference::Reference;

/// The media types of what Hove makes.
pub(crate) const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";

/// What says that a directory is an OCI layout.
pub(crate) const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// The name of an image in an index: containerd's annotation, and the specification's.
pub(crate) const NAME_ANNOTATIONS: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

/// The architecture that images for this machine name (Go's words).
pub(crate) const ARCHITECTURE: &str = match std::env::consts::ARCH.as_bytes() {
    b"x86_64" => "amd64",
    b"aarch64" => "arm64",
    _ => std::env::consts::ARCH,
};

/// Which archive is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// What `docker save` writes since version 25: an OCI layout that has Docker's manifest.json, too, so that old and
    /// new readers find what they know.
    Docker,
    /// An OCI layout, nothing else.
    Oci,
}

/// An image to be written.
#[derive(Debug, Clone)]
pub struct ImageSpec<'a> {
    /// Its name.
    pub reference: Option<Reference>,
    /// What it runs.
    pub config: ImageConfig,
    /// Its files.
    pub contents: Contents<'a>,
}

/// The files of an image.
#[derive(Debug, Clone)]
pub enum Contents<'a> {
    /// All below a directory.
    Directory(&'a Path),
    /// These; their directories are not listed and made with 0755.
    Files(Vec<FileSpec<'a>>),
}

/// A regular file of root's.
#[derive(Debug, Clone)]
pub struct FileSpec<'a> {
    /// Its path below the image's root.
    pub path: &'a str,
    /// Its permissions.
    pub mode: u32,
    /// Its bytes.
    pub data: &'a [u8],
}

/// Writes an archive. The layer is made in a temporary file first: its size and digest stand before it.
pub fn write_image(output: impl Write, format: Format, image: &ImageSpec<'_>) -> Result<()> {
    let spool = Path::new("temporary file");
    let mut layer = Hashing::new(tempfile::tempfile().map_err(Error::io("making a", spool))?);
    let newest = match &image.contents {
        Contents::Directory(dir) => pack(dir, &mut layer)?,
        Contents::Files(files) => {
            pack_files(files, &mut layer).map_err(Error::io("writing a", spool))?;
            0
        }
    };
    let (diff_id, size, mut layer) = layer.finish();
    layer.seek(SeekFrom::Start(0)).map_err(Error::io("reading a", spool))?;

    let config = configuration(&image.config, &diff_id, newest);
    let manifest = manifest(&config, &diff_id, size);
    let mut descriptor = descriptor(MANIFEST_TYPE, &Digest::of(&manifest), manifest.len() as u64);
    if let Some(reference) = &image.reference {
        descriptor = named(descriptor, &reference.to_string());
    }
    let index = json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [descriptor]});

    let mut archive = Builder::new(output);
    let mut write = || -> io::Result<()> {
        let blob = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
        if format == Format::Docker {
            let tags: Vec<_> = image.reference.iter().filter_map(Reference::tagged).collect();
            let legacy = json!([{
                "Config": blob(&Digest::of(&config)), "RepoTags": tags, "Layers": [blob(&diff_id)],
            }]);
            append(&mut archive, "manifest.json", 0o644, legacy.to_string().as_bytes())?;
        }
        append(&mut archive, "oci-layout", 0o644, LAYOUT)?;
        append(&mut archive, "index.json", 0o644, index.to_string().as_bytes())?;
        append(&mut archive, &blob(&Digest::of(&config)), 0o644, &config)?;
        append(&mut archive, &blob(&Digest::of(&manifest)), 0o644, &manifest)?;
        let mut header = header(0o644, size);
        archive.append_data(&mut header, blob(&diff_id), &mut layer)?;
        archive.finish()?;
        archive.get_mut().flush()
    };
    write().map_err(Error::io("writing the", Path::new("archive")))
}

fn pack_files(files: &[FileSpec<'_>], output: impl Write) -> io::Result<()> {
    let mut archive = Builder::new(output);
    let mut directories = BTreeSet::new();
    for file in files {
        let path = Path::new(file.path.trim_start_matches('/'));
        directories.extend(path.ancestors().skip(1).filter(|dir| !dir.as_os_str().is_empty()));
    }
    for directory in directories {
        let mut header = header(0o755, 0);
        header.set_entry_type(EntryType::Directory);
        archive.append_data(&mut header, format!("{}/", directory.display()), io::empty())?;
    }
    for file in files {
        append(&mut archive, file.path.trim_start_matches('/'), file.mode, file.data)?;
    }
    archive.finish()
}

pub(crate) fn header(mode: u32, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

pub(crate) fn append(archive: &mut Builder<impl Write>, path: &str, mode: u32, data: &[u8]) -> io::Result<()> {
    archive.append_data(&mut header(mode, data.len() as u64), path, data)
}

pub(crate) fn descriptor(media_type: &str, digest: &Digest, size: u64) -> Value {
    json!({"mediaType": media_type, "digest": digest.to_string(), "size": size})
}

/// A manifest's descriptor in an index, by which it has a name.
pub(crate) fn named(mut descriptor: Value, name: &str) -> Value {
    let names: Map<_, _> = NAME_ANNOTATIONS
        .iter()
        .map(|key| (key.to_string(), json!(name)))
        .collect();
    descriptor["annotations"] = Value::Object(names);
    descriptor
}

/// The configuration of a one-layer image (OCI image specification, config.md), JSON. It is made from what the image is
/// and not from the clock, so that the same files make the same image.
pub(crate) fn configuration(config: &ImageConfig, diff_id: &Digest, created: i64) -> Vec<u8> {
    let created = jiff::Timestamp::from_second(created)
        .unwrap_or(jiff::Timestamp::UNIX_EPOCH)
        .to_string();
    let set = |names: &[String]| {
        names
            .iter()
            .map(|name| (name.clone(), json!({})))
            .collect::<Map<_, _>>()
    };
    let members: BTreeMap<&str, (bool, Value)> = BTreeMap::from([
        ("Entrypoint", (config.entrypoint.is_empty(), json!(config.entrypoint))),
        ("Cmd", (config.cmd.is_empty(), json!(config.cmd))),
        ("Env", (config.env.is_empty(), json!(config.env))),
        ("User", (config.user.is_empty(), json!(config.user))),
        ("WorkingDir", (config.working_dir.is_empty(), json!(config.working_dir))),
        (
            "ExposedPorts",
            (
                config.exposed_ports.is_empty(),
                Value::Object(set(&config.exposed_ports)),
            ),
        ),
        ("StopSignal", (config.stop_signal.is_empty(), json!(config.stop_signal))),
        (
            "Volumes",
            (config.volumes.is_empty(), Value::Object(set(&config.volumes))),
        ),
        ("Labels", (config.labels.is_empty(), json!(config.labels))),
    ]);
    let members: Map<_, _> = members
        .into_iter()
        .filter(|(_, (empty, _))| !empty)
        .map(|(key, (_, value))| (key.to_string(), value))
        .collect();
    json!({
        "created": created,
        "architecture": ARCHITECTURE,
        "os": "linux",
        "config": members,
        "rootfs": {"type": "layers", "diff_ids": [diff_id.to_string()]},
        "history": [{"created": created, "created_by": "hove"}],
    })
    .to_string()
    .into_bytes()
}

/// The manifest of a one-layer image, JSON.
pub(crate) fn manifest(config: &[u8], layer: &Digest, layer_size: u64) -> Vec<u8> {
    json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": descriptor(CONFIG_TYPE, &Digest::of(config), config.len() as u64),
        "layers": [descriptor(LAYER_TYPE, layer, layer_size)],
    })
    .to_string()
    .into_bytes()
}
