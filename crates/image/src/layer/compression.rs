//! Which compression a layer or an archive has, told by its first bytes: media types lie more often.

use std::io::{self, BufRead, Read};

use flate2::bufread::MultiGzDecoder;

/// A stream of plain bytes from one that may be compressed.
pub fn decompress<'a>(mut reader: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let start = reader.fill_buf()?;
    Ok(match start {
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(reader)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::Decoder::with_buffer(reader)?),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => return Err(unknown("xz")),
        [b'B', b'Z', b'h', ..] => return Err(unknown("bzip2")),
        _ => Box::new(reader),
    })
}

/// Do these first bytes of a file belong to a compressed one?
pub fn is_compressed(start: &[u8]) -> bool {
    matches!(
        start,
        [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..] | [0xfd, b'7', b'z', b'X', b'Z', ..] | [b'B', b'Z', b'h', ..]
    )
}

fn unknown(name: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("compressed with {name}; plain tar, gzip and zstd are read"),
    )
}
