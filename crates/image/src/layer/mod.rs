//! Layers: from a tar stream to a directory that overlayfs can stack, and from a directory to a tar stream.

mod ahead;
pub mod bounded;
pub mod compression;
pub mod lower;
pub mod pack;
pub mod sweep;
pub mod tarball;
pub mod tree;

use std::io::{self, BufRead, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::digest::{Digest, Hashing};
use crate::error::{Error, Result};
use crate::limits::Limits;
use bounded::Bounded;
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
pub fn unpack(
    stream: impl Read + Send,
    name: &str,
    target: &Path,
    lower: &[PathBuf],
    limits: &Limits,
    progress: impl Fn(u64),
) -> Result<Unpacked> {
    let stored = AtomicU64::new(0);
    let open = || Bounded::new(stream, &stored, name, limits, target);
    ahead::reading_ahead(open, |plain| {
        let plain = Hashed {
            inner: plain,
            hasher: Hashing::new(io::sink()),
            hashed: 0,
            progress: || progress(stored.load(Ordering::Relaxed)),
        };
        unpack_plain(plain, name, target, lower, limits)
    })
}

/// The same of a stream that is not compressed any more.
fn unpack_plain(
    plain: Hashed<impl BufRead, impl Fn()>,
    name: &str,
    target: &Path,
    lower: &[PathBuf],
    limits: &Limits,
) -> Result<Unpacked> {
    let broken = |e: io::Error| Error::of_archive(name, "layer", e);
    let mut reader = Reader::new(plain);
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
        let too_much = |limit_name, limit, unit| Error::Limit {
            what: format!("{name}: entry {:?}", String::from_utf8_lossy(&entry.path)),
            name: limit_name,
            limit,
            unit,
        };
        if entries > limits.entries {
            return Err(too_much("entries", limits.entries, "entries"));
        }
        if entry.size > limits.unpacked_bytes {
            return Err(too_much("unpacked_bytes", limits.unpacked_bytes, "bytes"));
        }
        apply(&mut tree, &entry, &mut reader).map_err(|e| entry_error(name, &entry.path, e))?;
    }
    tree.finish().map_err(|e| entry_error(name, b"/", e))?;
    // What follows the end of the archive is padding; it counts for the digest.
    let mut plain = reader.into_inner();
    io::copy(&mut plain, &mut io::sink()).map_err(broken)?;
    let (diff_id, bytes, _) = plain.hasher.finish();
    Ok(Unpacked {
        diff_id,
        entries,
        bytes,
    })
}

/// One entry: a whiteout, or something to make.
fn apply(tree: &mut Tree, entry: &Entry, data: &mut impl BufRead) -> Result<(), Failure> {
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
    let failure = match failure {
        Failure::Io(what, error) => match error.downcast::<Error>() {
            // The stream's, in the middle of a file.
            Ok(ours) => return ours,
            Err(error) => Failure::Io(what, error),
        },
        other => other,
    };
    Error::Entry {
        layer: layer.to_string(),
        entry: String::from_utf8_lossy(entry).into_owned(),
        rule: failure.to_string(),
    }
}

/// Hashes each buffer when its first byte is wanted, whole: pieces of a few bytes would cost more.
struct Hashed<R, F> {
    inner: R,
    hasher: Hashing<io::Sink>,
    /// Bytes of the current buffer that are hashed and not consumed.
    hashed: usize,
    progress: F,
}

impl<R: BufRead, F: Fn()> BufRead for Hashed<R, F> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let buffer = self.inner.fill_buf()?;
        if self.hashed == 0 && !buffer.is_empty() {
            self.hasher.write_all(buffer)?;
            self.hashed = buffer.len();
            (self.progress)();
        }
        Ok(buffer)
    }

    fn consume(&mut self, amount: usize) {
        self.hashed -= amount;
        self.inner.consume(amount);
    }
}

impl<R: BufRead, F: Fn()> Read for Hashed<R, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        ahead::read_buffered(self, buffer)
    }
}
