//! What a registry answers → an index or an image. Nothing panics; what is read has no more layers than overlayfs stacks, each
//! of a kind that can be unpacked, and what is chosen from an index is one of its own.

#![no_main]

// As the file's own crate has them.
use image::{digest, limits};
mod archive {
    pub const ARCHITECTURE: &str = "amd64";
}
#[allow(dead_code)]
#[path = "../../crates/image/src/registry/manifest.rs"]
mod manifest;

use libfuzzer_sys::fuzz_target;
use manifest::Manifest;

fuzz_target!(|bytes: &[u8]| {
    match manifest::parse(bytes) {
        Ok(Manifest::Image { layers, .. }) => {
            assert!(layers.len() <= limits::LAYERS);
            assert!(layers.iter().all(|layer| !layer.media_type.contains("encrypted")));
        }
        Ok(Manifest::Index(descriptors)) => match manifest::for_this_machine(&descriptors) {
            Ok(chosen) => assert!(descriptors.iter().any(|one| one.digest == chosen.digest)),
            Err(others) => assert!(others.len() <= descriptors.len()),
        },
        Err(rule) => assert!(!rule.is_empty()),
    }
});
