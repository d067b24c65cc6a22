//! Which images a source has: Docker's manifest.json, or an OCI layout's index.json and what it leads to.

use serde::Deserialize;

use super::blobs::Blobs;
use crate::archive::{ARCHITECTURE, NAME_ANNOTATIONS};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::limits;
use crate::reference::Reference;

/// Indexes below indexes.
const INDEX_DEPTH: usize = 4;

/// An image that a source has.
#[derive(Debug)]
pub struct Candidate {
    /// Its configuration.
    pub config: Blob,
    /// Its manifest's bytes, when there is one that a registry would know.
    pub manifest: Option<Vec<u8>>,
    /// Its layers, from the bottom up.
    pub layers: Vec<Blob>,
    /// Its names.
    pub names: Vec<Reference>,
}

/// Where content is and what it should be.
#[derive(Debug, Clone)]
pub struct Blob {
    /// Its path in the source.
    pub path: String,
    /// Its digest, where the source promises one.
    pub digest: Option<Digest>,
    /// Its size, likewise.
    pub size: Option<u64>,
    /// What the source calls it.
    pub media_type: String,
}

/// One image of Docker's manifest.json.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// A manifest or an index: only one of `config` and `manifests` may be there.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

#[derive(Deserialize, Clone)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: Digest,
    size: u64,
    platform: Option<Platform>,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
}

#[derive(Deserialize, Clone)]
struct Platform {
    architecture: String,
    os: String,
}

impl Descriptor {
    fn blob(&self) -> Blob {
        Blob {
            path: format!("blobs/sha256/{}", self.digest.hex()),
            digest: Some(self.digest),
            size: Some(self.size),
            media_type: self.media_type.clone(),
        }
    }

    /// Attestations and signatures have a platform of "unknown"; images for other machines have theirs.
    fn is_for_this_machine(&self) -> bool {
        self.platform
            .as_ref()
            .is_none_or(|p| p.os == "linux" && p.architecture == ARCHITECTURE)
    }

    fn names(&self) -> Vec<Reference> {
        let named = NAME_ANNOTATIONS.iter().find_map(|key| self.annotations.get(*key));
        // A lone word is a tag that only the layout's owner can place.
        named
            .filter(|name| name.contains(['/', ':']))
            .and_then(|name| name.parse().ok())
            .into_iter()
            .collect()
    }
}

/// The images of a source, at least one.
pub fn candidates(blobs: &Blobs<'_>) -> Result<Vec<Candidate>> {
    let from_index = match blobs.has("index.json") {
        true => from_index(blobs),
        false => Ok(Vec::new()),
    };
    // Archives of docker save have both. The names in manifest.json are the complete ones, the manifests in the
    // index are what registries know.
    if !blobs.has("manifest.json") {
        return match from_index? {
            candidates if candidates.is_empty() => Err(Error::malformed(
                blobs.name(),
                "index.json, manifest.json",
                format!(
                    "no image for linux/{ARCHITECTURE} in it; archives of docker save, OCI archives and OCI layouts are read"
                ),
            )),
            candidates => Ok(candidates),
        };
    }
    let mut candidates = from_docker(blobs)?;
    for candidate in &mut candidates {
        let bytes = blobs.small(&candidate.config.path, limits::CONFIG_BYTES)?;
        let id = Digest::of(&bytes);
        let same = from_index
            .iter()
            .flatten()
            .find(|indexed| indexed.config.digest == Some(id));
        if let Some(indexed) = same {
            candidate.manifest = indexed.manifest.clone();
            candidate.layers = indexed.layers.clone();
        }
        candidate.config.digest = Some(id);
    }
    Ok(candidates)
}

fn from_docker(blobs: &Blobs<'_>) -> Result<Vec<Candidate>> {
    let broken = |rule: &dyn std::fmt::Display| Error::malformed(blobs.name(), "manifest.json", rule);
    let bytes = blobs.small("manifest.json", limits::MANIFEST_BYTES)?;
    let images: Vec<DockerImage> = serde_json::from_slice(&bytes).map_err(|e| broken(&e))?;
    if images.is_empty() {
        return Err(broken(&"lists no image"));
    }
    check_count(blobs, images.len())?;
    let blob = |path: &String| Blob {
        path: path.clone(),
        digest: None,
        size: None,
        media_type: DOCKER_LAYER_TYPE.to_string(),
    };
    images
        .iter()
        .map(|image| {
            let tags = image.repo_tags.iter().flatten();
            Ok(Candidate {
                config: blob(&image.config),
                manifest: None,
                layers: image.layers.iter().map(blob).collect(),
                names: tags.map(|tag| tag.parse()).collect::<Result<_, _>>()?,
            })
        })
        .collect()
}

/// Docker's archives name no media type.
const DOCKER_LAYER_TYPE: &str = "application/vnd.docker.image.rootfs.diff.tar";

fn from_index(blobs: &Blobs<'_>) -> Result<Vec<Candidate>> {
    let bytes = blobs.small("index.json", limits::MANIFEST_BYTES)?;
    let mut found = Vec::new();
    index(blobs, &bytes, "index.json", &[], INDEX_DEPTH, &mut found)?;
    Ok(found)
}

fn index(
    blobs: &Blobs<'_>,
    bytes: &[u8],
    path: &str,
    names: &[Reference],
    levels: usize,
    found: &mut Vec<Candidate>,
) -> Result<()> {
    let broken = |rule: &dyn std::fmt::Display| Error::malformed(blobs.name(), path, rule);
    let document: Document = serde_json::from_slice(bytes).map_err(|e| broken(&e))?;
    let descriptors = match document {
        Document {
            manifests: Some(manifests),
            config: None,
            layers: None,
        } => manifests,
        Document {
            config: Some(config),
            layers: Some(layers),
            manifests: None,
        } => {
            return image(blobs, bytes, path, &config, &layers, names, found);
        }
        _ => {
            return Err(broken(
                &"is neither an index (manifests) nor a manifest (config and layers)",
            ));
        }
    };
    if levels == 0 {
        return Err(broken(&format!("indexes nested deeper than {INDEX_DEPTH}")));
    }
    for descriptor in descriptors.iter().filter(|descriptor| descriptor.is_for_this_machine()) {
        let blob = descriptor.blob();
        // A layout that was pulled for one platform lists the others, without their content.
        if !blobs.has(&blob.path) && descriptors.len() > 1 {
            continue;
        }
        blobs.size(&blob)?;
        let bytes = blobs.bytes(&blob, limits::MANIFEST_BYTES)?;
        let own = descriptor.names();
        let names = if own.is_empty() { names } else { &own };
        index(blobs, &bytes, &blob.path, names, levels - 1, found)?;
    }
    Ok(())
}

fn image(
    blobs: &Blobs<'_>,
    bytes: &[u8],
    path: &str,
    config: &Descriptor,
    layers: &[Descriptor],
    names: &[Reference],
    found: &mut Vec<Candidate>,
) -> Result<()> {
    // Charts, signatures and the like travel in manifests, too.
    let is_image = [
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.docker.container.image.v1+json",
    ];
    if !config.media_type.is_empty() && !is_image.contains(&config.media_type.as_str()) {
        tracing::debug!(path, media_type = config.media_type, "not an image, left out");
        return Ok(());
    }
    if let Some(other) = layers.iter().find(|layer| !layer.media_type.contains(".tar")) {
        let rule = format!(
            "layer {} is {:?}; tar, tar+gzip and tar+zstd are unpacked",
            other.digest, other.media_type
        );
        return Err(Error::malformed(blobs.name(), path, rule));
    }
    let id = config.digest;
    match found
        .iter_mut()
        .find(|candidate: &&mut Candidate| candidate.config.digest == Some(id))
    {
        // The same image under another name.
        Some(candidate) => candidate.names.extend(names.iter().cloned()),
        None => {
            found.push(Candidate {
                config: config.blob(),
                manifest: Some(bytes.to_vec()),
                layers: layers.iter().map(Descriptor::blob).collect(),
                names: names.to_vec(),
            });
            check_count(blobs, found.len())?;
        }
    }
    Ok(())
}

fn check_count(blobs: &Blobs<'_>, count: usize) -> Result<()> {
    match count > limits::IMAGES_PER_ARCHIVE {
        true => Err(Error::Limit {
            what: blobs.name().to_string(),
            name: "IMAGES_PER_ARCHIVE",
            limit: limits::IMAGES_PER_ARCHIVE as u64,
            unit: "images",
        }),
        false => Ok(()),
    }
}
