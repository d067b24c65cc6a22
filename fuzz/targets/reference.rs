//! A text → an image's reference. Nothing panics; what is understood is printed as the same reference, in full and in short,
//! and no part of it can leave the place that it names in a URL or a path.

#![no_main]

use image::Reference;
use libfuzzer_sys::fuzz_target;

/// The longest reference: 255 bytes of registry and repository, 128 of tag, a digest, and what stands between them.
const BYTES_MAX: usize = 255 + 1 + 128 + 1 + "sha256:".len() + 64;

fuzz_target!(|text: &str| {
    let reference: Reference = match text.parse() {
        Ok(reference) => reference,
        Err(error) => {
            let said = format!("{error}");
            assert!(
                said.len() < 4096,
                "{} bytes are said of {} bytes",
                said.len(),
                text.len()
            );
            return;
        }
    };
    let full = reference.to_string();
    assert!(full.len() <= BYTES_MAX, "{} bytes", full.len());
    assert_eq!(full.parse().as_ref(), Ok(&reference), "{full}");
    assert_eq!(
        reference.familiar().parse().as_ref(),
        Ok(&reference),
        "{}",
        reference.familiar()
    );
    assert!(reference.tag().is_some() || reference.digest().is_some());

    let plain = |part: &str, more: &str| {
        part.bytes()
            .all(|b| b.is_ascii_alphanumeric() || more.as_bytes().contains(&b))
    };
    assert!(plain(reference.registry(), ".-:[]"), "{full}");
    assert!(
        reference
            .repository()
            .split('/')
            .all(|part| !part.is_empty() && !part.starts_with('.')),
        "{full}"
    );
    assert!(plain(reference.repository(), "/._-"), "{full}");
    assert!(
        reference
            .tag()
            .is_none_or(|tag| plain(tag, "._-") && !tag.starts_with('.')),
        "{full}"
    );
});
