//! Header blocks: names and values, compressed by one zlib stream per direction of a connection.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::dictionary::DICTIONARY;

/// How large a header block may be once it is unpacked, in bytes. Those of Kubernetes' clients are some hundred.
pub const BLOCK_MAX: usize = 16 * 1024;

/// A stream's headers, in the order of the block. Names are compared as HTTP's are.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// The value of `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    fn parse(block: &[u8]) -> Option<Headers> {
        let mut rest = block;
        let count = take_number(&mut rest)?;
        let mut headers = Vec::new();
        for _ in 0..count {
            headers.push((take_text(&mut rest)?, take_text(&mut rest)?));
        }
        Some(Headers(headers))
    }
}

fn take_number(rest: &mut &[u8]) -> Option<u32> {
    let (number, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(u32::from_be_bytes(*number))
}

fn take_text(rest: &mut &[u8]) -> Option<String> {
    let length = take_number(rest)? as usize;
    let (text, after) = rest.split_at_checked(length)?;
    *rest = after;
    String::from_utf8(text.to_vec()).ok()
}

/// Reads a peer's header blocks, in the order in which they came.
pub struct Unpacker(Decompress);

impl Unpacker {
    /// For a new connection.
    pub fn new() -> Self {
        Unpacker(Decompress::new(true))
    }

    /// The next block; `None` if it is broken or larger than [`BLOCK_MAX`], after which nothing more can be read.
    pub fn unpack(&mut self, mut packed: &[u8]) -> Option<Headers> {
        let mut block = Vec::with_capacity(BLOCK_MAX);
        while !packed.is_empty() {
            let before = (self.0.total_in(), self.0.total_out());
            let result = self.0.decompress_vec(packed, &mut block, FlushDecompress::Sync);
            packed = &packed[usize::try_from(self.0.total_in() - before.0).ok()?..];
            match result {
                Ok(Status::StreamEnd) => return None,
                Ok(_) if (self.0.total_in(), self.0.total_out()) == before => return None,
                Ok(_) => {}
                // The first block of a connection names the dictionary.
                Err(error) => {
                    error.needs_dictionary()?;
                    self.0.set_dictionary(&DICTIONARY).ok()?;
                }
            }
        }
        Headers::parse(&block)
    }
}

/// Writes our header blocks. We never have anything to say in them: the answer to a new stream is an empty one.
pub struct Packer(Compress);

impl Packer {
    /// For a new connection.
    pub fn new() -> Self {
        Packer(Compress::new(Compression::fast(), true))
    }

    /// The next block, without headers.
    pub fn pack_empty(&mut self) -> std::io::Result<Vec<u8>> {
        if self.0.total_in() == 0 {
            self.0.set_dictionary(&DICTIONARY).map_err(std::io::Error::other)?;
        }
        let mut packed = Vec::with_capacity(64);
        self.0
            .compress_vec(&0_u32.to_be_bytes(), &mut packed, FlushCompress::Sync)
            .map_err(std::io::Error::other)?;
        Ok(packed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A block as a client packs it.
    fn pack(stream: &mut Compress, headers: &[(&str, &str)]) -> Vec<u8> {
        let mut block = u32::try_from(headers.len()).unwrap().to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            block.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
            block.extend(text.as_bytes());
        }
        let mut packed = Vec::with_capacity(1 << 16);
        stream.compress_vec(&block, &mut packed, FlushCompress::Sync).unwrap();
        packed
    }

    fn client() -> Compress {
        let mut stream = Compress::new(Compression::best(), true);
        stream.set_dictionary(&DICTIONARY).unwrap();
        stream
    }

    #[test]
    fn blocks_share_one_stream() {
        let (mut client, mut unpacker) = (client(), Unpacker::new());
        for kind in ["error", "stdin", "stdout"] {
            let packed = pack(&mut client, &[("streamtype", kind), ("port", "80")]);
            let headers = unpacker.unpack(&packed).unwrap();
            assert_eq!(headers.get("streamType"), Some(kind));
            assert_eq!(headers.get("requestID"), None);
        }
    }

    #[test]
    fn our_blocks_are_read_by_the_standards_dictionary() {
        let (mut packer, mut unpacker) = (Packer::new(), Unpacker::new());
        for _ in 0..3 {
            let packed = packer.pack_empty().unwrap();
            assert_eq!(unpacker.unpack(&packed), Some(Headers::default()));
        }
    }

    #[test]
    fn what_is_broken_or_swells_is_refused() {
        assert_eq!(Unpacker::new().unpack(b"no zlib"), None);
        let bomb = pack(&mut client(), &[("a", &"x".repeat(10 * BLOCK_MAX))]);
        assert!(bomb.len() < 1024);
        assert_eq!(Unpacker::new().unpack(&bomb), None);
        for block in [&[0, 0, 0, 9][..], &[0, 0, 0, 1, 255, 255, 255, 255], &[0]] {
            assert_eq!(Headers::parse(block), None);
        }
    }
}
