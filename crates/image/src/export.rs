//! Images into archives.
//!
//! What is written is an OCI layout that has Docker's manifest.json, too, as `docker save` does since version 25: old and new
//! readers find what they know. Layers go out as they came.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};
use tar::Builder;

use crate::archive::{self, CONFIG_TYPE, INDEX_TYPE, LAYER_TYPE, MANIFEST_TYPE, descriptor};
use crate::digest::{Digest, Hashing};
use crate::error::{Error, Result};
use crate::layer::compression;
use crate::model::{Image, Layer};
use crate::reference::Reference;
use crate::store::Store;

impl Store {
    /// Writes an archive of images; each goes by the name given with it, if one is, else by its tags.
    pub fn export(&self, images: &[(Option<Reference>, Arc<Image>)], output: &mut dyn Write) -> Result<()> {
        let lease = self.lease();
        let (mut index, mut legacy) = (Vec::new(), Vec::new());
        let mut blobs = BTreeSet::new();
        let mut archive = Builder::new(output);
        let write = |archive: &mut Builder<_>, path: &str, bytes: &[u8]| {
            archive::append(archive, path, 0o644, bytes).map_err(Error::io("writing the", Path::new("archive")))
        };
        for (name, image) in images {
            let content = image.layers.iter().map(|layer| layer.digest).chain([image.id]);
            lease.keep(content.clone().chain(image.manifest), []);
            let (manifest, media_type) = self.manifest(image)?;
            let digest = Digest::of(&manifest);
            let tags = match name.as_ref().and_then(Reference::tagged) {
                Some(tag) => vec![tag],
                None => image.tags.clone(),
            };
            let described = descriptor(&media_type, &digest, manifest.len() as u64);
            index.extend(tags.iter().map(|tag| archive::named(described.clone(), tag)));
            if tags.is_empty() {
                index.push(described);
            }
            let layers: Vec<_> = image.layers.iter().map(|layer| path(&layer.digest)).collect();
            legacy.push(json!({"Config": path(&image.id), "RepoTags": tags, "Layers": layers}));
            if blobs.insert(digest) {
                write(&mut archive, &path(&digest), &manifest)?;
            }
            for digest in content {
                if blobs.insert(digest) {
                    let mut blob = Hashing::new(self.content.read(&digest)?);
                    let mut header = archive::header(0o644, self.content.size(&digest).unwrap_or_default());
                    let appended = archive.append_data(&mut header, path(&digest), &mut blob);
                    appended.map_err(Error::io("writing the", Path::new("archive")))?;
                    if blob.finish().0 != digest {
                        let rule = "is damaged on this disk: remove the images that have it, and pull them again";
                        return Err(Error::malformed(digest, "content", rule));
                    }
                }
            }
        }
        let index = json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": index});
        write(&mut archive, "oci-layout", archive::LAYOUT)?;
        write(&mut archive, "index.json", index.to_string().as_bytes())?;
        write(
            &mut archive,
            "manifest.json",
            Value::Array(legacy).to_string().as_bytes(),
        )?;
        archive.finish().map_err(Error::io("writing the", Path::new("archive")))
    }

    /// An image's manifest with its media type: as it came, or, for an image that came without, one that says the same.
    pub(crate) fn manifest(&self, image: &Image) -> Result<(Vec<u8>, String)> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Typed {
            media_type: Option<String>,
        }
        if let Some(digest) = &image.manifest {
            let bytes = self.content.bytes(digest)?;
            let typed: Typed = serde_json::from_slice(&bytes).map_err(|e| Error::malformed(digest, "manifest", e))?;
            return Ok((bytes, typed.media_type.unwrap_or_else(|| MANIFEST_TYPE.to_string())));
        }
        let describe = |layer: &Layer| {
            let media_type = self.media_type(layer)?;
            Ok(descriptor(media_type, &layer.digest, layer.size_bytes))
        };
        let layers = image.layers.iter().map(describe).collect::<Result<Vec<_>>>()?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": descriptor(CONFIG_TYPE, &image.id, self.content.size(&image.id).unwrap_or_default()),
            "layers": layers,
        });
        Ok((manifest.to_string().into_bytes(), MANIFEST_TYPE.to_string()))
    }

    /// What a layer is, by its first bytes: Docker's archives don't say.
    fn media_type(&self, layer: &Layer) -> Result<&'static str> {
        let mut start = Vec::new();
        let read = self.content.read(&layer.digest)?.take(6).read_to_end(&mut start);
        read.map_err(|e: io::Error| Error::malformed(layer.digest, "layer", e))?;
        Ok(match start.as_slice() {
            start if compression::is_gzip(start) => "application/vnd.oci.image.layer.v1.tar+gzip",
            start if compression::is_zstd(start) => "application/vnd.oci.image.layer.v1.tar+zstd",
            _ => LAYER_TYPE,
        })
    }
}

fn path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}
