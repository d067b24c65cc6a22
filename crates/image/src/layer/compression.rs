//! Which compression a layer or an archive has, told by its first bytes: media types lie more often.

use std::io::{self, BufRead, Read};

use flate2::bufread::MultiGzDecoder;

/// A stream of plain bytes from one that may be compressed.
pub fn decompress<'a>(mut reader: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let start = reader.fill_buf()?;
    Ok(match start {
        start if is_gzip(start) => Box::new(MultiGzDecoder::new(reader)),
        start if is_zstd(start) => Box::new(zstd::Decoder::with_buffer(reader)?),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => return Err(unknown("xz")),
        [b'B', b'Z', b'h', ..] => return Err(unknown("bzip2")),
        _ => Box::new(reader),
    })
}

/// Do these first bytes belong to gzip?
pub fn is_gzip(start: &[u8]) -> bool {
    start.starts_with(&[0x1f, 0x8b])
}

/// Do these first bytes belong to zstd?
pub fn is_zstd(start: &[u8]) -> bool {
    start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd])
}

/// Do these first bytes of a file belong to a compressed one?
pub fn is_compressed(start: &[u8]) -> bool {
    is_gzip(start) || is_zstd(start) || start.starts_with(&[0xfd, b'7', b'z', b'X', b'Z']) || start.starts_with(b"BZh")
}

fn unknown(name: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("compressed with {name}; plain tar, gzip and zstd are read"),
    )
}
