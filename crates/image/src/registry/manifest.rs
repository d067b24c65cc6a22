//! Indexes and manifests: OCI's, and Docker's schema 2, which mean the same.

use serde::Deserialize;

use crate::archive::ARCHITECTURE;
use crate::digest::Digest;
use crate::error::printable;
use crate::limits;

/// What is asked for, in `Accept`.
pub const TYPES: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// How deep an index may lie in others.
pub const DEPTH_MAX: usize = 4;

/// A part of an image, by digest.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    #[serde(default)]
    pub media_type: String,
    /// The digest of its bytes.
    pub digest: Digest,
    /// How many those are.
    pub size: u64,
    platform: Option<Platform>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Platform {
    os: String,
    architecture: String,
    variant: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(default)]
    schema_version: u32,
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
}

/// What a reference leads to.
#[derive(Debug)]
pub enum Manifest {
    /// Images for several machines.
    Index(Vec<Descriptor>),
    /// One image.
    Image {
        /// Its configuration.
        config: Descriptor,
        /// From the bottom up.
        layers: Vec<Descriptor>,
    },
}

/// Reads either; the error is the rule that it breaks.
pub fn parse(bytes: &[u8]) -> Result<Manifest, String> {
    let document: Document = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    match document {
        Document { schema_version: 1, .. } => {
            Err("Docker's schema 1, which has not been written since 2017: push the image again".to_owned())
        }
        Document {
            manifests: Some(manifests),
            ..
        } => Ok(Manifest::Index(manifests)),
        Document {
            config: Some(config),
            layers: Some(layers),
            ..
        } => {
            check_layers(&layers)?;
            Ok(Manifest::Image { config, layers })
        }
        _ => Err("neither an index (manifests) nor an image (config, layers)".to_owned()),
    }
}

fn check_layers(layers: &[Descriptor]) -> Result<(), String> {
    if layers.len() > limits::LAYERS {
        return Err(format!(
            "{} layers; overlayfs stacks at most {}",
            layers.len(),
            limits::LAYERS
        ));
    }
    let other = layers
        .iter()
        .map(|layer| layer.media_type.as_str())
        .find(|kind| !is_layer(kind));
    match other {
        Some(kind) => Err(format!(
            "a layer of type {kind:?}: an artifact, or an encrypted image, is nothing to run"
        )),
        None => Ok(()),
    }
}

/// A tar stream, however compressed.
fn is_layer(media_type: &str) -> bool {
    media_type.is_empty() || media_type.contains(".tar") && !media_type.contains("encrypted")
}

/// How much of a platform's name is told.
const PLATFORM_CHARS: usize = 60;

/// The image for this machine; the error lists what there is.
pub fn for_this_machine(manifests: &[Descriptor]) -> Result<&Descriptor, Vec<String>> {
    let fits = |descriptor: &&Descriptor| match &descriptor.platform {
        Some(platform) => (platform.os.as_str(), platform.architecture.as_str()) == ("linux", ARCHITECTURE),
        // An index below an index, or one that names nothing: what it leads to is looked at.
        None => true,
    };
    // A variant (v2, v3) asks for more of the processor than its plain form does.
    let demands = |descriptor: &&Descriptor| {
        descriptor
            .platform
            .as_ref()
            .map_or((1, String::new()), |p| (0, p.variant.clone()))
    };
    let best = manifests.iter().filter(fits).min_by_key(demands);
    best.ok_or_else(|| {
        let named = manifests.iter().filter_map(|descriptor| descriptor.platform.as_ref());
        let name = |p: &Platform| [&p.os, &p.architecture, &p.variant].map(String::as_str).join("/");
        // Attestations stand beside images, for no machine.
        let mut names: Vec<_> = named
            .filter(|platform| platform.os != "unknown")
            .map(|platform| printable(name(platform).trim_end_matches('/'), PLATFORM_CHARS))
            .collect();
        names.dedup();
        names
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(byte: u8, platform: &str) -> String {
        let digest = Digest::of(&[byte]);
        format!(r#"{{"mediaType": "m", "digest": "{digest}", "size": 3 {platform}}}"#)
    }

    fn platform(os: &str, architecture: &str, variant: &str) -> String {
        format!(r#", "platform": {{"os": "{os}", "architecture": "{architecture}", "variant": "{variant}"}}"#)
    }

    fn index(items: &[String]) -> Vec<Descriptor> {
        let text = format!(r#"{{"schemaVersion": 2, "manifests": [{}]}}"#, items.join(","));
        match parse(text.as_bytes()).unwrap() {
            Manifest::Index(items) => items,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_plainest_image_for_this_machine_is_chosen() {
        let items = index(&[
            descriptor(0, &platform("unknown", "unknown", "")),
            descriptor(1, &platform("linux", "arm64", "v8")),
            descriptor(2, &platform("linux", ARCHITECTURE, "v3")),
            descriptor(3, &platform("linux", ARCHITECTURE, "")),
        ]);
        assert_eq!(for_this_machine(&items).unwrap().digest, Digest::of(&[3]));
        assert_eq!(for_this_machine(&items[..3]).unwrap().digest, Digest::of(&[2]));
        assert_eq!(for_this_machine(&items[..2]).unwrap_err(), ["linux/arm64/v8"]);
        assert!(for_this_machine(&index(&[descriptor(4, "")])).is_ok());
    }

    #[test]
    fn images_are_read_and_other_things_are_not() {
        let image = |kind: &str| {
            let layer = descriptor(1, "").replace("\"m\"", &format!("{kind:?}"));
            parse(
                format!(
                    r#"{{"schemaVersion": 2, "config": {}, "layers": [{layer}]}}"#,
                    descriptor(0, "")
                )
                .as_bytes(),
            )
        };
        for kind in [
            "application/vnd.oci.image.layer.v1.tar+zstd",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "application/vnd.oci.image.layer.v1.tar",
        ] {
            assert!(matches!(image(kind), Ok(Manifest::Image { .. })), "{kind}");
        }
        assert!(image("application/vnd.oci.image.layer.v1.tar+gzip+encrypted").is_err());
        assert!(image("application/vnd.wasm.content.layer.v1+wasm").is_err());
        assert!(
            parse(br#"{"schemaVersion": 1, "fsLayers": []}"#)
                .unwrap_err()
                .contains("schema 1")
        );
        assert!(parse(b"{}").is_err());
        assert!(parse(b"<html>").is_err());
    }
}
