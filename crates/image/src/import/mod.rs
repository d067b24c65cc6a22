//! Brings images in: from archives, OCI layouts and directories.
//!
//! [`layout`] finds out what a source has and [`blobs`] reads it; nothing is trusted on the way. Then, for each image:
//! its blobs go to the content store, its layers are unpacked, and only then it gets its names.

mod blobs;
mod layout;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::image::ImageConfiguration;

use crate::archive;
use crate::digest::Digest;
use crate::error::{Error, Result, printable};
use crate::limits;
use crate::model::{Image, ImageConfig, Layer};
use crate::progress::{Progress, Stage};
use crate::reference::Reference;
use crate::store::{Lease, Store};
use blobs::Blobs;
use layout::{Blob, Candidate};

/// Where images come from.
pub enum Source<'a> {
    /// A file: what `docker save` writes, or an OCI layout as tar; plain, gzip or zstd.
    Archive(PathBuf),
    /// An OCI layout as a directory.
    OciLayout(PathBuf),
    /// An archive's bytes, as a client sends them.
    Stream(&'a mut dyn Read),
}

impl Source<'_> {
    /// A directory is an OCI layout, a file an archive.
    pub fn at(path: &Path) -> Source<'static> {
        match path.is_dir() {
            true => Source::OciLayout(path.to_path_buf()),
            false => Source::Archive(path.to_path_buf()),
        }
    }
}

impl Store {
    /// Imports the images of `source`. `reference` names the image instead of what the source says; then there must be
    /// exactly one. All or nothing per image; what a failure leaves is collected.
    pub fn import(
        &self,
        source: Source<'_>,
        reference: Option<&Reference>,
        progress: &dyn Fn(&Progress),
    ) -> Result<Vec<Arc<Image>>> {
        let result = self.import_all(source, reference, progress);
        if result.is_err()
            && let Err(error) = self.collect()
        {
            tracing::warn!(%error, "what a failed import left could not be collected");
        }
        result
    }

    fn import_all(
        &self,
        source: Source<'_>,
        reference: Option<&Reference>,
        progress: &dyn Fn(&Progress),
    ) -> Result<Vec<Arc<Image>>> {
        let lease = self.lease();
        let blobs = match source {
            Source::OciLayout(dir) => Blobs::directory(&dir, self)?,
            Source::Archive(path) => Blobs::archive(&path, self, &lease)?,
            Source::Stream(stream) => Blobs::stream(stream, self, &lease)?,
        };
        let mut candidates = layout::candidates(&blobs)?;
        if let Some(reference) = reference {
            let [candidate] = candidates.as_mut_slice() else {
                let rule = format!("{} images cannot all be named {reference}", candidates.len());
                return Err(Error::malformed(blobs.name(), "index", rule));
            };
            candidate.names = vec![reference.clone()];
        }
        candidates
            .iter()
            .map(|candidate| self.import_one(&lease, &blobs, candidate, progress))
            .collect()
    }

    fn import_one(
        &self,
        lease: &Lease<'_>,
        blobs: &Blobs<'_>,
        candidate: &Candidate,
        progress: &dyn Fn(&Progress),
    ) -> Result<Arc<Image>> {
        let config_bytes = blobs.bytes(&candidate.config, limits::CONFIG_BYTES)?;
        let config: ImageConfiguration = serde_json::from_slice(&config_bytes).map_err(|e| {
            Error::malformed(
                blobs.name(),
                &candidate.config.path,
                format!("image configuration: {e}"),
            )
        })?;
        let broken = |rule| Error::malformed(blobs.name(), &candidate.config.path, rule);
        if let Some(rule) = platform_mismatch(&config) {
            return Err(broken(rule));
        }
        let diff_ids = diff_ids(&config, candidate.layers.len()).map_err(broken)?;

        let mut layers = Vec::new();
        let mut chain = None;
        for (index, (blob, diff_id)) in candidate.layers.iter().zip(&diff_ids).enumerate() {
            let chain_id = Digest::chain(chain.as_ref(), diff_id);
            chain = Some(chain_id);
            let total_bytes = blobs.size(blob)?;
            let report = |digest, done_bytes| {
                let (layer, layers) = (index + 1, diff_ids.len());
                progress(&Progress {
                    stage: Stage::Storing,
                    layer,
                    layers,
                    digest,
                    done_bytes,
                    total_bytes,
                });
            };
            let (digest, size_bytes) = self.store_layer(lease, blobs, blob, diff_id, report)?;
            let media_type = blob.media_type.clone();
            layers.push(Layer {
                digest,
                size_bytes,
                media_type,
                diff_id: *diff_id,
                chain_id,
            });
        }
        let id = self.store_bytes(lease, &config_bytes)?;
        let manifest = candidate
            .manifest
            .as_deref()
            .map(|bytes| self.store_bytes(lease, bytes))
            .transpose()?;
        self.unpack_all(lease, &layers, |layer| self.stored(layer), progress)?;

        let digests = manifest
            .iter()
            .flat_map(|digest| candidate.names.iter().map(|name| name.with_digest(digest)));
        self.add_image(Image {
            id,
            tags: candidate.names.iter().filter_map(Reference::tagged).collect(),
            digests: digests.collect(),
            manifest,
            size_bytes: layers.iter().map(|layer| layer.size_bytes).sum::<u64>()
                + config_bytes.len() as u64
                + candidate.manifest.as_ref().map_or(0, |manifest| manifest.len() as u64),
            layers,
            imported_at: jiff::Timestamp::now().to_string(),
            config,
        })
    }

    /// A layer's blob in the content store, copied unless it is there.
    fn store_layer(
        &self,
        lease: &Lease<'_>,
        blobs: &Blobs<'_>,
        blob: &Blob,
        diff_id: &Digest,
        report: impl Fn(Digest, u64),
    ) -> Result<(Digest, u64)> {
        if let Some((digest, size)) = blobs.stored(blob) {
            blobs.size(blob)?;
            if let Some(expected) = blob.digest.filter(|expected| *expected != digest) {
                let what = format!("{}: {}", blobs.name(), blob.path);
                let actual = digest;
                return Err(Error::Mismatch { what, expected, actual });
            }
            report(digest, size);
            return Ok((digest, size));
        }
        // Docker's archives have no digest for a layer; it is the diff id when the layer is not compressed.
        let likely = blob.digest.unwrap_or(*diff_id);
        lease.keep([likely], []);
        let size = blobs.size(blob)?;
        if self.content.size(&likely) == Some(size) {
            return Ok((likely, size));
        }
        self.make_room(size)?;
        let what = format!("{}: {}", blobs.name(), blob.path);
        let keep = |digest| lease.keep([digest], []);
        self.content
            .put(blobs.open(blob)?, blob.digest.as_ref(), &what, keep, |done| {
                report(likely, done)
            })
    }

    fn store_bytes(&self, lease: &Lease<'_>, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        lease.keep([digest], []);
        if self.content.size(&digest).is_none() {
            self.content.put(bytes, Some(&digest), "small blob", |_| (), |_| ())?;
        }
        Ok(digest)
    }

    /// Makes an image of all below the directory `dir`. The same files make the same image.
    pub fn import_rootfs(&self, dir: &Path, reference: &Reference, config: &ImageConfig) -> Result<Arc<Image>> {
        let result = self.import_directory(dir, reference, config);
        if result.is_err()
            && let Err(error) = self.collect()
        {
            tracing::warn!(%error, "what a failed import left could not be collected");
        }
        result
    }

    fn import_directory(&self, dir: &Path, reference: &Reference, config: &ImageConfig) -> Result<Arc<Image>> {
        let lease = self.lease();
        let scratch = self.content.scratch()?;
        let mut output = std::io::BufWriter::with_capacity(128 << 10, scratch.as_file());
        let created = crate::layer::pack::pack(dir, &mut output)?;
        output
            .into_inner()
            .map_err(|e| Error::io("writing", scratch.path())(e.into_error()))?;
        let layer = scratch.reopen().map_err(Error::io("opening", scratch.path()))?;
        let size = layer.metadata().map_err(Error::io("measuring", scratch.path()))?.len();
        self.make_room(size)?;
        let what = format!("layer of {}", dir.display());
        let (digest, size_bytes) = self
            .content
            .put(layer, None, &what, |digest| lease.keep([digest], []), |_| ())?;
        drop(scratch);

        let config_bytes = archive::configuration(config, &digest, created);
        let manifest_bytes = archive::manifest(&config_bytes, &digest, size_bytes);
        let media_type = archive::LAYER_TYPE.to_string();
        let layers = vec![Layer {
            digest,
            size_bytes,
            media_type,
            diff_id: digest,
            chain_id: digest,
        }];
        let id = self.store_bytes(&lease, &config_bytes)?;
        let manifest = self.store_bytes(&lease, &manifest_bytes)?;
        self.unpack_all(&lease, &layers, |layer| self.stored(layer), &|_| {})?;
        self.add_image(Image {
            id,
            tags: reference.tagged().into_iter().collect(),
            digests: vec![reference.with_digest(&manifest)],
            manifest: Some(manifest),
            size_bytes: size_bytes + config_bytes.len() as u64 + manifest_bytes.len() as u64,
            layers,
            imported_at: jiff::Timestamp::now().to_string(),
            config: serde_json::from_slice(&config_bytes)
                .map_err(|e| Error::malformed(dir.display(), "configuration made for it", e))?,
        })
    }
}

/// How much of a platform's name is told.
const PLATFORM_CHARS: usize = 60;

/// Why an image is not for this machine, if it is not. An archive of docker save says so in the configuration alone. What
/// is taken in nevertheless fails when it is started, with “exec format error”.
pub(crate) fn platform_mismatch(config: &ImageConfiguration) -> Option<String> {
    let (os, architecture) = (config.os().to_string(), config.architecture().to_string());
    if (os.as_str(), architecture.as_str()) == ("linux", archive::ARCHITECTURE) {
        return None;
    }
    let named = printable(&format!("{os}/{architecture}"), PLATFORM_CHARS);
    Some(format!(
        "an image for {named}, and this machine is linux/{}: export the image for that platform",
        archive::ARCHITECTURE
    ))
}

/// The digests of the uncompressed layers, as the configuration lists them: one for each of the manifest's `layers`. The error
/// is the rule that it breaks.
pub(crate) fn diff_ids(config: &ImageConfiguration, layers: usize) -> Result<Vec<Digest>, String> {
    let listed = config.rootfs().diff_ids();
    if listed.len() != layers {
        let listed = listed.len();
        return Err(format!("rootfs.diff_ids lists {listed} layers, the manifest {layers}"));
    }
    if layers > limits::LAYERS {
        return Err(format!("{layers} layers; overlayfs stacks at most {}", limits::LAYERS));
    }
    let parse = |text: &String| text.parse().map_err(|error| format!("rootfs.diff_ids: {error}"));
    listed.iter().map(parse).collect()
}
