//! A layer's archive → a tree. Nothing panics, nothing outside the layer's directory changes, what is refused names its
//! entry, and what was made can be removed.
//!
//! Bytes at random are no archive: each header's checksum is made right first, so that what is behind it is reached.

#![no_main]

use std::path::Path;

use image::Error;
use image::layer::unpack;
use image::limits::Limits;
use libfuzzer_sys::fuzz_target;
use tar::Header;

const BLOCK: usize = 512;

const LIMITS: Limits = Limits {
    store_bytes: None,
    keep_free_bytes: Some(0),
    entries: 64,
    unpacked_bytes: 1 << 20,
    ratio: 100,
    ratio_floor_bytes: 1 << 16,
};

fuzz_target!(|bytes: &[u8]| {
    let archive = with_checksums(bytes);
    let dir = tempfile::Builder::new()
        .prefix("layer")
        .tempdir_in("/dev/shm")
        .expect("a tmpfs on /dev/shm");
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("precious"), "untouched").expect("a file");
    for name in ["layer", "lower", "lower/d", "lower/d/e"] {
        std::fs::create_dir(path(name)).expect("a directory");
    }
    std::fs::write(path("lower/d/f"), "below").expect("a file");
    std::os::unix::fs::symlink("../../precious", path("lower/d/l")).expect("a link");
    // The first bit says whether there is a layer below.
    let lower = match bytes.first() {
        Some(first) if first % 2 == 1 => vec![path("lower")],
        _ => Vec::new(),
    };
    match unpack(&archive[..], "layer", &path("layer"), &lower, &LIMITS, |_| {}) {
        Ok(unpacked) => assert!(unpacked.entries <= LIMITS.entries),
        Err(Error::Entry { rule, .. }) => assert!(!rule.is_empty()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    assert_eq!(std::fs::read(path("precious")).expect("it is there"), b"untouched");
    assert_eq!(names(dir.path()), ["layer", "lower", "precious"]);
    assert_eq!(names(&path("lower/d")), ["e", "f", "l"]);
    assert_eq!(std::fs::read(path("lower/d/f")).expect("it is there"), b"below");
    dir.close().expect("what was made can be removed");
});

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("a directory");
    let mut names: Vec<String> = entries
        .map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// The same archive, each of whose headers has the checksum that it should have.
fn with_checksums(bytes: &[u8]) -> Vec<u8> {
    let mut archive = bytes.to_vec();
    // A compressed one is taken as it is.
    if bytes.starts_with(b"\x1f\x8b") || bytes.starts_with(b"\x28\xb5\x2f\xfd") {
        return archive;
    }
    let mut at = 0;
    while let Some(block) = archive.get_mut(at..at + BLOCK) {
        let mut header = Header::from_byte_slice(block).clone();
        header.set_cksum();
        block.copy_from_slice(header.as_bytes());
        let size = header.entry_size().unwrap_or(0);
        let Some(next) = usize::try_from(size)
            .ok()
            .and_then(|size| size.checked_next_multiple_of(BLOCK))
            .and_then(|size| at.checked_add(BLOCK)?.checked_add(size))
        else {
            break;
        };
        at = next;
    }
    archive
}
