//! Reads tar streams, entry by entry, with bounded memory whatever the stream says.
//!
//! The tar crate parses the 512-byte headers. What spans entries is done here: the crate would read a GNU long name of
//! ten gigabytes into memory, splits PAX records at newlines (values of extended attributes contain some), and
//! does not know the sparse files that GNU tar has written since 2004 (PAX, version 1.0).

use std::collections::BTreeMap;
use std::io::{self, BufRead, Read};

use tar::{EntryType, GnuExtSparseHeader, Header};

use crate::limits;

const BLOCK: u64 = 512;

/// What an entry makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file; its bytes follow.
    File,
    /// A directory.
    Directory,
    /// A symbolic link to this text.
    Symlink(Vec<u8>),
    /// Another name of an entry that this archive (or a layer below) has.
    HardLink(Vec<u8>),
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

/// (offset, length) of what is no hole in a sparse file, in order.
pub type Segments = Vec<(u64, u64)>;

/// One entry's description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name as the archive has it.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permissions with set-uid, set-gid and sticky bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since 1970…
    pub mtime: i64,
    /// …and nanoseconds.
    pub mtime_nanos: u32,
    /// Bytes of the file, holes included.
    pub size: u64,
    /// Extended attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// For a sparse file, where its bytes go.
    pub segments: Option<Segments>,
}

/// Reads entries; after [`Reader::next_entry`], [`Read`] yields the entry's stored bytes.
pub struct Reader<R> {
    inner: R,
    /// Bytes of the current entry not read yet, and the padding after them.
    left: u64,
    padding: u64,
    /// Bytes consumed, for who wants to come back.
    position: u64,
}

fn invalid(rule: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, rule.into())
}

/// Some writers leave numbers empty that are zero; GNU tar reads them so.
fn blank_is_zero(field: &[u8], parse: impl FnOnce() -> io::Result<u64>) -> io::Result<u64> {
    if field.iter().all(|b| matches!(b, 0 | b' ')) {
        Ok(0)
    } else {
        parse()
    }
}

/// Bytes between the end of `size` bytes and the next block.
fn padding(size: u64) -> io::Result<u64> {
    let end = size
        .checked_next_multiple_of(BLOCK)
        .ok_or_else(|| invalid("size of an entry is out of range"))?;
    Ok(end - size)
}

impl<R: Read> Reader<R> {
    /// From the start of a tar stream.
    pub fn new(inner: R) -> Self {
        Reader {
            inner,
            left: 0,
            padding: 0,
            position: 0,
        }
    }

    /// Where in the stream the next byte comes from.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Where the stream comes from, at the byte that comes next.
    pub fn into_inner(self) -> R {
        self.inner
    }

    /// The next entry, or none at the end. What was not read of the current one is skipped.
    pub fn next_entry(&mut self) -> io::Result<Option<Entry>> {
        let mut pax = BTreeMap::new();
        let (mut long_name, mut long_link) = (None, None);
        loop {
            self.skip()?;
            let Some(header) = self.header()? else { return Ok(None) };
            self.left = header.entry_size()?;
            self.padding = padding(self.left)?;
            match header.entry_type() {
                EntryType::XHeader => pax = parse_pax(&self.bounded(limits::PAX_BYTES, "PAX records")?)?,
                // Global records: comments in practice (git archive's commit).
                EntryType::XGlobalHeader => drop(self.bounded(limits::PAX_BYTES, "global PAX records")?),
                EntryType::GNULongName => long_name = Some(self.long("name")?),
                EntryType::GNULongLink => long_link = Some(self.long("link name")?),
                _ => return self.entry(&header, pax, long_name, long_link).map(Some),
            }
        }
    }

    fn entry(
        &mut self,
        header: &Header,
        mut pax: BTreeMap<Vec<u8>, Vec<u8>>,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> io::Result<Entry> {
        let number = |pax: &BTreeMap<Vec<u8>, Vec<u8>>, key: &str| match pax.get(key.as_bytes()) {
            None => Ok(None),
            Some(text) => std::str::from_utf8(text)
                .ok()
                .and_then(|t| t.parse::<u64>().ok())
                .map(Some)
                .ok_or_else(|| invalid(format!("PAX record {key} is no number"))),
        };
        if let Some(size) = number(&pax, "size")? {
            self.left = size;
            self.padding = padding(size)?;
        }
        let id = |from_pax: Option<u64>, from_header: io::Result<u64>, what: &str| {
            let id = from_pax.map_or(from_header, Ok)?;
            // The highest number means "unchanged" to chown.
            u32::try_from(id)
                .ok()
                .filter(|id| *id != u32::MAX)
                .ok_or_else(|| invalid(format!("{what} {id} is no id")))
        };
        let path = pax
            .remove(&b"path"[..])
            .or(long_name)
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let link = |pax: &mut BTreeMap<Vec<u8>, Vec<u8>>| {
            pax.remove(&b"linkpath"[..])
                .or(long_link)
                .or_else(|| header.link_name_bytes().map(|l| l.into_owned()))
                .ok_or_else(|| invalid("a link without a target"))
        };
        let device = || -> io::Result<(u32, u32)> {
            Ok((header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0)))
        };
        let entry_type = header.entry_type();
        let kind = match entry_type {
            // Old archives mark directories by a slash alone.
            EntryType::Regular if path.ends_with(b"/") => Kind::Directory,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Kind::File,
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => Kind::Symlink(link(&mut pax)?),
            EntryType::Link => Kind::HardLink(link(&mut pax)?),
            EntryType::Char => device().map(|(major, minor)| Kind::CharDevice { major, minor })?,
            EntryType::Block => device().map(|(major, minor)| Kind::BlockDevice { major, minor })?,
            EntryType::Fifo => Kind::Fifo,
            other => {
                return Err(invalid(format!(
                    "type {:?} is none that a layer may have",
                    other.as_byte() as char
                )));
            }
        };
        let (mtime, mtime_nanos) = match pax.get(&b"mtime"[..]) {
            Some(text) => parse_time(text).ok_or_else(|| invalid("PAX record mtime is no time"))?,
            None => (
                i64::try_from(blank_is_zero(&header.as_old().mtime, || header.mtime())?)
                    .map_err(|_| invalid("mtime is out of range"))?,
                0,
            ),
        };
        let mut entry = Entry {
            path,
            kind,
            mode: blank_is_zero(&header.as_old().mode, || header.mode().map(u64::from))? as u32 & 0o7777,
            uid: id(
                number(&pax, "uid")?,
                blank_is_zero(&header.as_old().uid, || header.uid()),
                "uid",
            )?,
            gid: id(
                number(&pax, "gid")?,
                blank_is_zero(&header.as_old().gid, || header.gid()),
                "gid",
            )?,
            mtime,
            mtime_nanos,
            size: self.left,
            xattrs: BTreeMap::new(),
            segments: None,
        };
        if entry_type == EntryType::GNUSparse {
            let (segments, size) = self.gnu_segments(header)?;
            (entry.segments, entry.size) = (Some(segments), size);
        } else if pax.contains_key(&b"GNU.sparse.major"[..]) {
            if (number(&pax, "GNU.sparse.major")?, number(&pax, "GNU.sparse.minor")?) != (Some(1), Some(0)) {
                return Err(invalid(
                    "only version 1.0 of PAX's sparse files is read; tar --sparse-version=1.0 writes it",
                ));
            }
            entry.size = number(&pax, "GNU.sparse.realsize")?
                .ok_or_else(|| invalid("sparse file without GNU.sparse.realsize"))?;
            entry.path = pax
                .remove(&b"GNU.sparse.name"[..])
                .ok_or_else(|| invalid("sparse file without GNU.sparse.name"))?;
            entry.segments = Some(self.pax_segments()?);
        } else if pax.keys().any(|key| key.starts_with(b"GNU.sparse.")) {
            return Err(invalid(
                "versions 0.0 and 0.1 of PAX's sparse files are not read; use --sparse-version=1.0",
            ));
        }
        if let Some(segments) = &entry.segments {
            check_segments(segments, entry.size, self.left)?;
        }
        for (key, value) in pax {
            if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                entry.xattrs.insert(name.to_vec(), value);
            }
        }
        if entry.path.contains(&0) {
            return Err(invalid("a zero byte in a name"));
        }
        Ok(entry)
    }

    /// The next header block; none at the end of the archive: two blocks of zeros, or the end of the stream between
    /// entries, which old writers leave.
    fn header(&mut self) -> io::Result<Option<Header>> {
        let mut block = [0; BLOCK as usize];
        for zeros in 0..2 {
            if !self.block(&mut block)? {
                return Ok(None);
            }
            if block.iter().any(|b| *b != 0) {
                if zeros > 0 {
                    return Err(invalid("a block of zeros between entries"));
                }
                let header = Header::from_byte_slice(&block).clone();
                let sum: u32 = block[..148]
                    .iter()
                    .chain(&block[156..])
                    .map(|b| u32::from(*b))
                    .sum::<u32>()
                    + 8 * 32;
                if header.cksum().ok() != Some(sum) {
                    return Err(invalid(
                        "checksum of a header is wrong: no tar archive, or a damaged one",
                    ));
                }
                return Ok(Some(header));
            }
        }
        Ok(None)
    }

    /// One whole block, or false at the end of the stream.
    fn block(&mut self, block: &mut [u8; BLOCK as usize]) -> io::Result<bool> {
        let mut filled = 0;
        while filled < block.len() {
            match self.inner.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "ends in the middle of a header",
                    ));
                }
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.position += BLOCK;
        Ok(true)
    }

    fn skip(&mut self) -> io::Result<()> {
        let rest = self
            .left
            .checked_add(self.padding)
            .ok_or_else(|| invalid("size of an entry is out of range"))?;
        let skipped = io::copy(&mut (&mut self.inner).take(rest), &mut io::sink())?;
        self.position += skipped;
        if skipped < rest {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "ends in the middle of an entry",
            ));
        }
        (self.left, self.padding) = (0, 0);
        Ok(())
    }

    fn bounded(&mut self, limit: u64, what: &str) -> io::Result<Vec<u8>> {
        if self.left > limit {
            return Err(invalid(format!(
                "{what} of {} bytes; at most {limit} are read",
                self.left
            )));
        }
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn long(&mut self, what: &str) -> io::Result<Vec<u8>> {
        let mut name = self.bounded(limits::PATH_BYTES as u64 + 1, what)?;
        if name.last() == Some(&0) {
            name.pop();
        }
        Ok(name)
    }

    /// Old GNU format: four segments in the header, more in blocks that follow it.
    fn gnu_segments(&mut self, header: &Header) -> io::Result<(Segments, u64)> {
        let gnu = header
            .as_gnu()
            .ok_or_else(|| invalid("sparse file in an archive that is not GNU's"))?;
        let mut segments = Vec::new();
        let mut add = |sparse: &tar::GnuSparseHeader| -> io::Result<()> {
            if !sparse.is_empty() {
                segments.push((sparse.offset()?, sparse.length()?));
            }
            if segments.len() > limits::SPARSE_SEGMENTS {
                Err(invalid("too many segments in a sparse file"))
            } else {
                Ok(())
            }
        };
        gnu.sparse.iter().try_for_each(&mut add)?;
        let mut more = gnu.is_extended();
        while more {
            let mut block = [0; BLOCK as usize];
            if !self.block(&mut block)? {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "ends in the map of a sparse file",
                ));
            }
            let mut extension = GnuExtSparseHeader::new();
            extension.as_mut_bytes().copy_from_slice(&block);
            extension.sparse().iter().try_for_each(&mut add)?;
            more = extension.is_extended();
        }
        Ok((segments, gnu.real_size()?))
    }

    /// PAX 1.0: the data begins with the number of segments and each one's offset and length, in decimal lines, padded
    /// to a block.
    fn pax_segments(&mut self) -> io::Result<Segments> {
        let (mut text, mut start) = (Vec::new(), 0);
        let mut next = |reader: &mut Self| -> io::Result<u64> {
            loop {
                if let Some(end) = text[start..].iter().position(|b| *b == b'\n') {
                    let number = std::str::from_utf8(&text[start..start + end])
                        .ok()
                        .and_then(|t| t.parse().ok());
                    start += end + 1;
                    return number.ok_or_else(|| invalid("map of a sparse file has something else than numbers"));
                }
                if text.len() - start > 32 || reader.left < BLOCK {
                    return Err(invalid("map of a sparse file does not end"));
                }
                let mut block = [0; BLOCK as usize];
                reader.read_exact(&mut block)?;
                text.drain(..start);
                start = 0;
                text.extend_from_slice(&block);
            }
        };
        let count = next(self)?;
        if count > limits::SPARSE_SEGMENTS as u64 {
            return Err(invalid("too many segments in a sparse file"));
        }
        (0..count).map(|_| Ok((next(self)?, next(self)?))).collect()
    }
}

/// Segments stand in order, inside the file, and what is stored is as long as they are.
fn check_segments(segments: &[(u64, u64)], size: u64, stored: u64) -> io::Result<()> {
    let (mut end, mut sum) = (0u64, 0u64);
    for (offset, length) in segments {
        if *offset < end {
            return Err(invalid("segments of a sparse file overlap"));
        }
        end = offset
            .checked_add(*length)
            .ok_or_else(|| invalid("segment of a sparse file is out of range"))?;
        sum += length;
    }
    if end > size || sum != stored {
        return Err(invalid("segments of a sparse file do not fit its size"));
    }
    Ok(())
}

impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        let n = self.inner.read(&mut buffer[..wanted])?;
        if n == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "ends in the middle of a file",
            ));
        }
        self.left -= n as u64;
        self.position += n as u64;
        Ok(n)
    }
}

/// The current entry's bytes where they are, without a copy.
impl<R: BufRead> BufRead for Reader<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.left == 0 {
            return Ok(&[]);
        }
        let buffer = self.inner.fill_buf()?;
        if buffer.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "ends in the middle of a file",
            ));
        }
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        Ok(&buffer[..wanted])
    }

    fn consume(&mut self, amount: usize) {
        self.left -= amount as u64;
        self.position += amount as u64;
        self.inner.consume(amount);
    }
}

/// Records of the form `LENGTH KEY=VALUE\n`, where LENGTH counts itself; a value may contain anything.
fn parse_pax(mut bytes: &[u8]) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let malformed = || invalid("a PAX record is malformed");
    let mut records = BTreeMap::new();
    while !bytes.is_empty() {
        let space = bytes.iter().position(|b| *b == b' ').ok_or_else(malformed)?;
        let length: usize = std::str::from_utf8(&bytes[..space])
            .ok()
            .and_then(|t| t.parse().ok())
            .ok_or_else(malformed)?;
        if length <= space + 1 || length > bytes.len() || bytes[length - 1] != b'\n' {
            return Err(malformed());
        }
        let record = &bytes[space + 1..length - 1];
        let equals = record.iter().position(|b| *b == b'=').ok_or_else(malformed)?;
        records.insert(record[..equals].to_vec(), record[equals + 1..].to_vec());
        bytes = &bytes[length..];
    }
    Ok(records)
}

/// `-?SECONDS(.FRACTION)?`
fn parse_time(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let negative = seconds.starts_with('-');
    let seconds: i64 = seconds.parse().ok()?;
    let nanos: u32 = format!("{fraction:0<9}")[..9].parse().ok()?;
    // Nanoseconds count forwards in a timespec, before 1970 too.
    if negative && nanos > 0 {
        Some((seconds.checked_sub(1)?, 1_000_000_000 - nanos))
    } else {
        Some((seconds, nanos))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pax_values_may_contain_newlines() {
        let records = parse_pax(b"12 path=a\nb\n21 SCHILY.xattr.u=\n\n\n").unwrap();
        assert_eq!(records[&b"path"[..]], b"a\nb");
        assert_eq!(records[&b"SCHILY.xattr.u"[..]], b"\n\n");
        for bad in [
            &b"x"[..],
            b"5 a=b\n",
            b"6 a=b",
            b"0 a=b\n",
            b"99 a=b\n",
            b"6 abc\n",
            b"18446744073709551616 a=b\n",
        ] {
            assert!(parse_pax(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn times() {
        assert_eq!(parse_time(b"1.5"), Some((1, 500_000_000)));
        assert_eq!(parse_time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(parse_time(b"-0.25"), Some((-1, 750_000_000)));
        assert_eq!(parse_time(b"7"), Some((7, 0)));
        assert_eq!(parse_time(b"1.2345678901"), Some((1, 234_567_890)));
        assert_eq!(parse_time(b"1.-2"), None);
    }

    #[test]
    fn a_name_without_end_costs_no_memory() {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::GNULongName);
        header.set_size(10 << 30);
        header.set_cksum();
        let stream = header.as_bytes().chain(io::repeat(b'a'));
        let error = Reader::new(stream).next_entry().unwrap_err();
        assert!(error.to_string().contains("at most 4096"), "{error}");
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..4096), fix in any::<bool>()) {
            let mut bytes = bytes;
            if fix && bytes.len() >= 512 {
                let mut header = Header::from_byte_slice(&bytes[..512]).clone();
                header.set_cksum();
                bytes[..512].copy_from_slice(header.as_bytes());
            }
            let mut reader = Reader::new(&bytes[..]);
            while let Ok(Some(_)) = reader.next_entry() {
                if io::copy(&mut reader, &mut io::sink()).is_err() { break }
            }
        }
    }
}
