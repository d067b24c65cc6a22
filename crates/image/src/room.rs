//! Room on the disk, of which images leave some: a disk that is full to its last byte stops more than images, such as logs,
//! and the node's own records.

use std::path::Path;

use crate::error::{Error, Result};
use crate::limits::Limits;

/// Where nothing is configured, this part of the disk stays free…
const PART: u64 = 20;
/// …but no more than so many bytes.
const BYTES_MAX: u64 = 1 << 30;
/// How often the room is looked at.
const INTERVAL_BYTES: std::ops::Range<u64> = 256 << 10..16 << 20;

/// Whether `wanted` more bytes may be written below `dir`.
pub fn check(dir: &Path, wanted: u64, limits: &Limits) -> Result<()> {
    let disk = rustix::fs::statvfs(dir).map_err(Error::call("statvfs", dir))?;
    let kept_free = kept_free(disk.f_blocks.saturating_mul(disk.f_frsize), limits);
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    match free.checked_sub(kept_free).is_some_and(|room| room >= wanted) {
        true => Ok(()),
        false => Err(Error::Room {
            dir: dir.to_path_buf(),
            wanted,
            free,
            kept_free,
        }),
    }
}

/// After how many bytes the room is looked at again, which is a call of a microsecond: so that what several layers write meanwhile
/// is a part of what stays free.
pub fn interval(dir: &Path, limits: &Limits) -> Result<u64> {
    let disk = rustix::fs::statvfs(dir).map_err(Error::call("statvfs", dir))?;
    let kept_free = kept_free(disk.f_blocks.saturating_mul(disk.f_frsize), limits);
    Ok((kept_free / 16).clamp(INTERVAL_BYTES.start, INTERVAL_BYTES.end))
}

/// What stays free of a disk of `size` bytes.
fn kept_free(size: u64, limits: &Limits) -> u64 {
    limits.keep_free_bytes.unwrap_or_else(|| (size / PART).min(BYTES_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_twentieth_stays_free_and_a_gigabyte_at_most() {
        let limits = Limits::default();
        assert_eq!(kept_free(100 << 20, &limits), 5 << 20);
        assert_eq!(kept_free(1 << 40, &limits), 1 << 30);
        let told = Limits {
            keep_free_bytes: Some(7),
            ..limits
        };
        assert_eq!(kept_free(1 << 40, &told), 7);
    }

    #[test]
    fn more_than_there_is_is_refused_in_numbers() {
        let dir = std::env::temp_dir();
        check(
            &dir,
            0,
            &Limits {
                keep_free_bytes: Some(0),
                ..Limits::default()
            },
        )
        .unwrap();
        let refused = check(&dir, u64::MAX / 2, &Limits::default()).unwrap_err().to_string();
        assert!(
            refused.contains("No space left") && refused.contains("keep_free_bytes"),
            "{refused}"
        );
        // All that is free is not room.
        let all = Limits {
            keep_free_bytes: Some(u64::MAX),
            ..Limits::default()
        };
        check(&dir, 0, &all).unwrap_err();
    }
}
