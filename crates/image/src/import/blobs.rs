//! The files of an archive or a layout directory, by path.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use super::layout::Blob;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layer::compression;
use crate::layer::tarball::{Kind, Reader};
use crate::store::Store;

/// Files in an archive: a blob per layer, and a few small ones.
const ENTRIES: usize = 100_000;

/// A source of blobs.
pub struct Blobs {
    /// For errors: the file or directory.
    name: String,
    place: Place,
}

enum Place {
    Directory {
        root: OwnedFd,
        path: PathBuf,
    },
    Tar {
        file: Arc<File>,
        entries: BTreeMap<String, Entry>,
    },
}

enum Entry {
    Bytes { offset: u64, size: u64 },
    Link(String),
}

impl Blobs {
    /// An OCI layout in a directory.
    pub fn directory(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty()).map_err(Error::call("opening", path))?;
        Ok(Blobs {
            name: path.display().to_string(),
            place: Place::Directory {
                root,
                path: path.to_path_buf(),
            },
        })
    }

    /// An archive in a file. A compressed one is unpacked into the store's scratch space: its parts are not read in
    /// their order.
    pub fn archive(path: &Path, store: &Store) -> Result<Self> {
        let name = path.display().to_string();
        let mut file = File::open(path).map_err(Error::io("opening", path))?;
        let mut start = [0; 6];
        let read = file.read(&mut start).map_err(Error::io("reading", path))?;
        file.seek(SeekFrom::Start(0)).map_err(Error::io("reading", path))?;
        if compression::is_compressed(&start[..read]) {
            return Self::spooled(name, &mut file, store);
        }
        Self::tar(name, file)
    }

    /// An archive from a stream, likewise.
    pub fn stream(stream: &mut dyn Read, store: &Store) -> Result<Self> {
        Self::spooled("archive".to_string(), stream, store)
    }

    fn spooled(name: String, stream: &mut dyn Read, store: &Store) -> Result<Self> {
        let broken = |e| Error::malformed(&name, "archive", e);
        let plain = compression::decompress(BufReader::with_capacity(128 << 10, stream)).map_err(broken)?;
        let limit = store.limits.unpacked_bytes;
        let mut plain = plain.take(limit.saturating_add(1));
        let scratch = store.content.scratch()?;
        let mut output = scratch.as_file();
        let mut buffer = vec![0; 128 << 10];
        let mut written = 0;
        loop {
            let n = match plain.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(broken(e)),
            };
            output
                .write_all(&buffer[..n])
                .map_err(Error::io("writing", scratch.path()))?;
            written += n as u64;
        }
        if written > limit {
            return Err(Error::Limit {
                what: name,
                name: "unpacked_bytes",
                limit,
                unit: "bytes",
            });
        }
        // The open file outlives its name.
        let file = scratch.reopen().map_err(Error::io("opening", scratch.path()))?;
        Self::tar(name, file)
    }

    fn tar(name: String, file: File) -> Result<Self> {
        let broken = |e: io::Error| Error::malformed(&name, "archive", e);
        let length = file.metadata().map_err(broken)?.len();
        let mut entries = BTreeMap::new();
        let mut reader = Reader::new(&file);
        while let Some(entry) = reader.next_entry().map_err(broken)? {
            let path = String::from_utf8_lossy(&entry.path).into_owned();
            let offset = reader.position();
            if offset.checked_add(entry.size).is_none_or(|end| end > length) {
                return Err(Error::malformed(
                    &name,
                    path,
                    "the archive ends before this entry does: truncated?",
                ));
            }
            let value = match entry.kind {
                Kind::File if entry.segments.is_none() => Some(Entry::Bytes {
                    offset,
                    size: entry.size,
                }),
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
                    what: name,
                    name: "ENTRIES",
                    limit: ENTRIES as u64,
                    unit,
                });
            }
            let end = reader.entry_end().min(length);
            reader.get_mut().seek(SeekFrom::Start(end)).map_err(broken)?;
            reader.skipped_to(end);
        }
        Ok(Blobs {
            name,
            place: Place::Tar {
                file: Arc::new(file),
                entries,
            },
        })
    }

    /// The source, for errors.
    pub fn name(&self) -> &str {
        &self.name
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
            Place::Tar { file, entries } => {
                let mut path = normal(path);
                // Old versions of docker save link layers that they wrote before; one step, rarely two.
                for _ in 0..8 {
                    match entries.get(&path) {
                        Some(Entry::Bytes { offset, size }) => {
                            let section = Section {
                                file: file.clone(),
                                offset: *offset,
                                left: *size,
                            };
                            return Ok((Box::new(section), *size));
                        }
                        Some(Entry::Link(target)) => path = target.clone(),
                        None => break,
                    }
                }
                Err(Error::malformed(&self.name, path, "is not in the archive"))
            }
        }
    }
}

/// A part of a file.
struct Section {
    file: Arc<File>,
    offset: u64,
    left: u64,
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let n = self.file.read_at(&mut buffer[..wanted], self.offset)?;
        self.offset += n as u64;
        self.left -= n as u64;
        Ok(n)
    }
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
