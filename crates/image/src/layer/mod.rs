//! Layers: from a tar stream to a directory that overlayfs can stack, and from a directory to a tar stream.

pub mod compression;
pub mod lower;
pub mod pack;
pub mod sweep;
pub mod tarball;
pub mod tree;

use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use crate::digest::{Digest, Hashing};
use crate::error::{Error, Result};
use crate::limits::Limits;
use lower::Lower;
use tarball::{Entry, Reader};
use tree::{Failure, Tree};

/// A whiteout hides the rest of its name in the layers below (OCI image specification, "Whiteouts").
const WHITEOUT: &[u8] = b".wh.";
/// Hides everything below in its directory.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What unpacking a layer found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unpacked {
    /// The digest of the uncompressed tar stream.
    pub diff_id: Digest,
    /// Entries unpacked.
    pub entries: u64,
    /// Bytes of the uncompressed stream.
    pub bytes: u64,
}

/// Unpacks `stream`, compressed or not, into the existing directory `target`, as a layer above `lower` (directories of
/// layers, topmost first). `name` is the layer's name in errors; `progress` hears how many stored bytes were read.
pub fn unpack<'a>(
    stream: impl Read + 'a,
    name: &str,
    target: &Path,
    lower: &[PathBuf],
    limits: &Limits,
    progress: impl FnMut(u64) + 'a,
) -> Result<Unpacked> {
    let broken = |e: io::Error| Error::malformed(name, "layer", e);
    let stored = std::rc::Rc::new(std::cell::Cell::new(0));
    let counted = Counted {
        inner: stream,
        stored: stored.clone(),
        progress,
    };
    let plain = compression::decompress(BufReader::with_capacity(128 << 10, counted)).map_err(broken)?;
    let bounded = Bounded {
        inner: plain,
        stored,
        plain_bytes: 0,
        limits: *limits,
    };
    let mut reader = Reader::new(BufReader::with_capacity(64 << 10, Hashing::new(bounded)));

    let lower = lower
        .iter()
        .map(|dir| tree::open_directory(dir).map_err(Error::call("opening the layer", dir)))
        .collect::<Result<Vec<_>>>()?;
    let root = tree::open_directory(target).map_err(Error::call("opening the layer", target))?;
    if let Some(below) = lower.first() {
        let stat = rustix::fs::fstat(below).map_err(Error::call("stat", target))?;
        tree::copy_metadata(below, &stat, &root).map_err(|e| entry_error(name, b"/", e))?;
    }
    let mut tree = Tree::new(root, Lower::new(lower));

    let mut entries = 0;
    while let Some(entry) = reader.next_entry().map_err(broken)? {
        entries += 1;
        if entries > limits.entries {
            let what = format!("{name}: entry {:?}", String::from_utf8_lossy(&entry.path));
            return Err(Error::Limit {
                what,
                name: "entries",
                limit: limits.entries,
                unit: "entries",
            });
        }
        if entry.size > limits.unpacked_bytes {
            let what = format!("{name}: entry {:?}", String::from_utf8_lossy(&entry.path));
            return Err(Error::Limit {
                what,
                name: "unpacked_bytes",
                limit: limits.unpacked_bytes,
                unit: "bytes",
            });
        }
        apply(&mut tree, &entry, &mut reader).map_err(|e| entry_error(name, &entry.path, e))?;
    }
    tree.finish().map_err(|e| entry_error(name, b"/", e))?;
    // What follows the end of the archive is padding; it counts for the digest.
    io::copy(reader.get_mut(), &mut io::sink()).map_err(broken)?;
    let hashing = std::mem::replace(reader.get_mut(), BufReader::new(Hashing::new(Bounded::empty()))).into_inner();
    let (diff_id, bytes, _) = hashing.finish();
    Ok(Unpacked {
        diff_id,
        entries,
        bytes,
    })
}

/// One entry: a whiteout, or something to make.
fn apply(tree: &mut Tree, entry: &Entry, data: &mut impl Read) -> Result<(), Failure> {
    let parts = tree::components(&entry.path)?;
    let Some((name, parents)) = parts.split_last() else {
        return tree.make(entry, data);
    };
    let Some(hidden) = name.strip_prefix(WHITEOUT) else {
        return tree.make(entry, data);
    };
    if *name == OPAQUE {
        return tree.make_opaque(parents);
    }
    // Notes that aufs left for itself, with old versions of Docker.
    if hidden.starts_with(WHITEOUT) {
        return Ok(());
    }
    if matches!(hidden, b"" | b"." | b"..") {
        return Err(Failure::Rule(
            "a whiteout of its own directory or of the one above; .wh..wh..opq hides all".into(),
        ));
    }
    tree.white_out(&[parents, &[hidden]].concat())
}

fn entry_error(layer: &str, entry: &[u8], failure: Failure) -> Error {
    Error::Entry {
        layer: layer.to_string(),
        entry: String::from_utf8_lossy(entry).into_owned(),
        rule: failure.to_string(),
    }
}

/// Counts stored bytes.
struct Counted<R, F> {
    inner: R,
    stored: std::rc::Rc<std::cell::Cell<u64>>,
    progress: F,
}

impl<R: Read, F: FnMut(u64)> Read for Counted<R, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.stored.set(self.stored.get() + n as u64);
        (self.progress)(self.stored.get());
        Ok(n)
    }
}

/// Ends with an error when more comes out than the limits allow.
struct Bounded<'a> {
    inner: Box<dyn Read + 'a>,
    stored: std::rc::Rc<std::cell::Cell<u64>>,
    plain_bytes: u64,
    limits: Limits,
}

impl Bounded<'_> {
    fn empty() -> Self {
        Bounded {
            inner: Box::new(io::empty()),
            stored: Default::default(),
            plain_bytes: 0,
            limits: Limits::default(),
        }
    }
}

impl Read for Bounded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.plain_bytes += n as u64;
        let Limits {
            unpacked_bytes,
            ratio,
            ratio_floor_bytes,
            ..
        } = self.limits;
        if self.plain_bytes > unpacked_bytes {
            return Err(io::Error::other(format!(
                "more than {unpacked_bytes} bytes unpacked (limit unpacked_bytes)"
            )));
        }
        if self.plain_bytes > ratio_floor_bytes && self.plain_bytes / ratio > self.stored.get() {
            return Err(io::Error::other(format!(
                "unpacks to more than {ratio} times its size (limit ratio)"
            )));
        }
        Ok(n)
    }
}
