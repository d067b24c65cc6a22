//! The files of an archive or a layout directory, by path.
//!
//! An archive is read once, from its beginning to its end, wherever it comes from: what is large goes to the content store as it
//! passes, under a lease, and is known by its digest from then on; what is small stays in memory. So nothing is written twice,
//! and the archive's parts may stand in any order.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use super::layout::Blob;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layer::bounded::Bounded;
use crate::layer::tarball::{Kind, Reader};
use crate::store::{Lease, Store};

/// Files in an archive: a blob per layer, and a few small ones.
const ENTRIES: usize = 100_000;
/// What is larger goes to the content store, in bytes…
const SMALL: u64 = 64 << 10;
/// …as does what comes when so much is in memory.
const SMALL_TOTAL: u64 = 8 << 20;

/// A source of blobs.
pub struct Blobs<'a> {
    /// For errors: the file or directory.
    name: String,
    store: &'a Store,
    place: Place,
}

enum Place {
    Directory { root: OwnedFd, path: PathBuf },
    Archive(BTreeMap<String, Entry>),
}

enum Entry {
    Small(Vec<u8>),
    Stored { digest: Digest, size: u64 },
    Link(String),
}

impl<'a> Blobs<'a> {
    /// An OCI layout in a directory.
    pub fn directory(path: &Path, store: &'a Store) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty()).map_err(Error::call("opening", path))?;
        Ok(Blobs {
            name: path.display().to_string(),
            store,
            place: Place::Directory {
                root,
                path: path.to_path_buf(),
            },
        })
    }

    /// An archive in a file.
    pub fn archive(path: &Path, store: &'a Store, lease: &Lease<'_>) -> Result<Self> {
        let mut file = File::open(path).map_err(Error::io("opening", path))?;
        Self::read(path.display().to_string(), &mut file, store, lease)
    }

    /// An archive from a stream.
    pub fn stream(stream: &mut dyn Read, store: &'a Store, lease: &Lease<'_>) -> Result<Self> {
        Self::read("the archive".to_string(), stream, store, lease)
    }

    fn read(name: String, stream: &mut dyn Read, store: &'a Store, lease: &Lease<'_>) -> Result<Self> {
        let entries = read_entries(&name, stream, store, lease)?;
        Ok(Blobs {
            name,
            store,
            place: Place::Archive(entries),
        })
    }

    /// The source, for errors.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The blob in the content store, if it is there already.
    pub fn stored(&self, blob: &Blob) -> Option<(Digest, u64)> {
        match self.entry(&blob.path)? {
            Entry::Stored { digest, size } => Some((*digest, *size)),
            _ => None,
        }
    }

    /// Is there a file of this path?
    pub fn has(&self, path: &str) -> bool {
        self.open_path(path).is_ok()
    }

    /// The bytes of a small file.
    pub fn small(&self, path: &str, limit: u64) -> Result<Vec<u8>> {
        let (reader, size) = self.open_path(path)?;
        if size > limit {
            return Err(Error::Limit {
                what: format!("{}: {path}", self.name),
                name: "size",
                limit,
                unit: "bytes",
            });
        }
        let mut bytes = Vec::new();
        reader
            .take(limit)
            .read_to_end(&mut bytes)
            .map_err(|e| Error::malformed(&self.name, path, e))?;
        Ok(bytes)
    }

    /// The bytes of a small blob, checked against its digest.
    pub fn bytes(&self, blob: &Blob, limit: u64) -> Result<Vec<u8>> {
        let bytes = self.small(&blob.path, limit)?;
        let actual = Digest::of(&bytes);
        match blob.digest {
            Some(expected) if expected != actual => Err(Error::Mismatch {
                what: format!("{}: {}", self.name, blob.path),
                expected,
                actual,
            }),
            _ => Ok(bytes),
        }
    }

    /// The size of a blob; not what was announced, if something was.
    pub fn size(&self, blob: &Blob) -> Result<u64> {
        let (_, size) = self.open_path(&blob.path)?;
        match blob.size {
            Some(expected) if expected != size => Err(Error::malformed(
                &self.name,
                &blob.path,
                format!("has {size} bytes, its descriptor says {expected}"),
            )),
            _ => Ok(size),
        }
    }

    /// Reads a blob; its digest is not checked.
    pub fn open(&self, blob: &Blob) -> Result<Box<dyn Read>> {
        Ok(self.open_path(&blob.path)?.0)
    }

    fn open_path(&self, path: &str) -> Result<(Box<dyn Read>, u64)> {
        match &self.place {
            Place::Directory { root, path: base } => {
                let full = base.join(path);
                // Links stay inside the layout.
                let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
                let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
                let fd = openat2(root, path, flags, Mode::empty(), resolve).map_err(Error::call("opening", &full))?;
                let file = File::from(fd);
                let metadata = file.metadata().map_err(Error::io("opening", &full))?;
                if !metadata.is_file() {
                    return Err(Error::malformed(&self.name, path, "is no regular file"));
                }
                Ok((Box::new(file), metadata.len()))
            }
            Place::Archive(_) => match self.entry(path) {
                Some(Entry::Small(bytes)) => Ok((Box::new(io::Cursor::new(bytes.clone())), bytes.len() as u64)),
                Some(Entry::Stored { digest, size }) => Ok((Box::new(self.store.content.read(digest)?), *size)),
                _ => Err(Error::malformed(&self.name, path, "is not in the archive")),
            },
        }
    }

    /// What an archive has at a path, links followed.
    fn entry(&self, path: &str) -> Option<&Entry> {
        let Place::Archive(entries) = &self.place else {
            return None;
        };
        let mut entry = entries.get(&normal(path))?;
        // Old versions of docker save link layers that they wrote before; one step, rarely two.
        for _ in 0..8 {
            match entry {
                Entry::Link(target) => entry = entries.get(target)?,
                entry => return Some(entry),
            }
        }
        None
    }
}

/// An archive's entries.
fn read_entries(
    name: &str,
    stream: &mut dyn Read,
    store: &Store,
    lease: &Lease<'_>,
) -> Result<BTreeMap<String, Entry>> {
    let broken = |e: io::Error| match e.kind() {
        io::ErrorKind::UnexpectedEof => Error::malformed(name, "archive", format!("{e}: truncated?")),
        _ => Error::of_archive(name, "archive", e),
    };
    let limit = store.limits.unpacked_bytes;
    let stored_bytes = AtomicU64::new(0);
    let plain = Bounded::new(stream, &stored_bytes, name, &store.limits, store.root()).map_err(broken)?;
    let mut reader = Reader::new(plain);
    let mut entries = BTreeMap::new();
    let mut small_bytes = 0;
    while let Some(entry) = reader.next_entry().map_err(broken)? {
        let path = String::from_utf8_lossy(&entry.path).into_owned();
        if reader.position().saturating_add(entry.size) > limit {
            return Err(Error::Limit {
                what: name.to_owned(),
                name: "unpacked_bytes",
                limit,
                unit: "bytes",
            });
        }
        let value = match entry.kind {
            Kind::File if entry.segments.is_some() => None,
            Kind::File if entry.size <= SMALL && small_bytes + entry.size <= SMALL_TOTAL => {
                small_bytes += entry.size;
                let mut bytes = Vec::new();
                reader.read_to_end(&mut bytes).map_err(broken)?;
                Some(Entry::Small(bytes))
            }
            Kind::File => Some(
                stored(&normal(&path), entry.size, &mut reader, store, lease).map_err(|error| {
                    // The archive ends, or its compression is broken, in the middle of a blob.
                    match error {
                        Error::Malformed { rule, .. } => Error::malformed(name, &path, format!("{rule}: truncated?")),
                        error => error,
                    }
                })?,
            ),
            Kind::Symlink(target) => Some(Entry::Link(beside(&path, &String::from_utf8_lossy(&target)))),
            Kind::HardLink(target) => Some(Entry::Link(normal(&String::from_utf8_lossy(&target)))),
            _ => None,
        };
        if let Some(value) = value {
            entries.insert(normal(&path), value);
        }
        if entries.len() > ENTRIES {
            let unit = "files in an image archive";
            return Err(Error::Limit {
                what: name.to_owned(),
                name: "ENTRIES",
                limit: ENTRIES as u64,
                unit,
            });
        }
    }
    Ok(entries)
}

/// Puts the current entry of an archive into the content store, unless its name says that it is there.
fn stored(path: &str, size: u64, reader: &mut Reader<impl Read>, store: &Store, lease: &Lease<'_>) -> Result<Entry> {
    let named: Option<Digest> = path
        .strip_prefix("blobs/sha256/")
        .and_then(|hex| format!("sha256:{hex}").parse().ok());
    if let Some(digest) = named {
        lease.keep([digest], []);
        if store.content.size(&digest) == Some(size) {
            return Ok(Entry::Stored { digest, size });
        }
    }
    store.make_room(size)?;
    let keep = |digest| lease.keep([digest], []);
    let (digest, size) = store.content.put(reader, named.as_ref(), path, keep, |_| ())?;
    Ok(Entry::Stored { digest, size })
}

/// The target of a link that stands at `path`.
fn beside(path: &str, target: &str) -> String {
    match path.rsplit_once('/') {
        Some((dir, _)) if !target.starts_with('/') => normal(&format!("{dir}/{target}")),
        _ => normal(target),
    }
}

/// Without dots. It names an entry of the archive, never a file of this machine.
fn normal(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_old_archives() {
        assert_eq!(beside("abc/layer.tar", "../def/layer.tar"), "def/layer.tar");
        assert_eq!(beside("./abc/layer.tar", "/x/../y"), "y");
        assert_eq!(normal("../../etc/passwd"), "etc/passwd");
    }
}
