//! Web application archives: a folder as a zip file, its members stored as they are.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};

use super::files_below;

/// 1980-01-01, the first day that a zip file knows: the archive depends on nothing but its members.
const DATE: u16 = (1 << 5) | 1;

/// Writes all below `folder` to `war`.
pub fn write(folder: &Path, war: &Path) -> Result<()> {
    let mut file = Vec::new();
    let mut directory = Vec::new();
    let mut members = 0u16;
    for path in files_below(folder)? {
        let name = path
            .strip_prefix(folder)?
            .to_str()
            .context("members of a WAR have plain names")?
            .to_string();
        let data = fs::read(&path)?;
        let offset = u32::try_from(file.len()).context("a WAR beyond 4 GiB")?;
        let described = described(&name, &data)?;
        file.extend_from_slice(b"PK\x03\x04");
        file.extend_from_slice(&described);
        file.extend_from_slice(name.as_bytes());
        file.extend_from_slice(&data);
        // The directory at the end repeats it, with "made by", an empty comment, attributes, and where the member is.
        directory.extend_from_slice(b"PK\x01\x02\x0a\x00");
        directory.extend_from_slice(&described);
        directory.extend_from_slice(&[0; 10]);
        directory.extend_from_slice(&offset.to_le_bytes());
        directory.extend_from_slice(name.as_bytes());
        members += 1;
    }
    let offset = u32::try_from(file.len()).context("a WAR beyond 4 GiB")?;
    let length = u32::try_from(directory.len()).context("a WAR beyond 4 GiB")?;
    file.extend_from_slice(&directory);
    file.extend_from_slice(b"PK\x05\x06\x00\x00\x00\x00");
    file.extend_from_slice(&members.to_le_bytes());
    file.extend_from_slice(&members.to_le_bytes());
    file.extend_from_slice(&length.to_le_bytes());
    file.extend_from_slice(&offset.to_le_bytes());
    file.extend_from_slice(&[0; 2]);
    fs::File::create(war)
        .and_then(|mut f| f.write_all(&file))
        .with_context(|| format!("writing {}", war.display()))
}

/// What local and central headers share: version, flags, method (stored), time, date, checksum, sizes, name and extra
/// lengths.
fn described(name: &str, data: &[u8]) -> Result<Vec<u8>> {
    let size = u32::try_from(data.len()).context("a member beyond 4 GiB")?;
    let mut bytes = Vec::new();
    for word in [10u16, 0, 0, 0, DATE] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    for word in [crc32(data), size, size] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    for word in [u16::try_from(name.len()).context("a member's name is too long")?, 0] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    Ok(bytes)
}

/// The checksum of zip files (polynomial 0xEDB88320, reflected).
fn crc32(data: &[u8]) -> u32 {
    !data.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 {
                (crc >> 1) ^ 0xedb8_8320
            } else {
                crc >> 1
            }
        })
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_checksum_that_everybody_checks() {
        assert_eq!(super::crc32(b"123456789"), 0xcbf4_3926);
    }
}
