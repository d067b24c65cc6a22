//! Content by digest: manifests, configurations and layers as they came.
//!
//! ```text
//! ROOT/images/content/sha256/HEX     verified, and some image's or some lease's
//! ROOT/images/ingest/HEX             being fetched, or found when the store opened: verified before it is content
//! ROOT/images/ingest/.tmp…           being written; swept when the store opens
//! ```
//!
//! A rename makes a blob content, and nothing waits for the disk: what the machine's power could tear is looked at again
//! ([`Content::is_whole`], [`Content::doubt`]).

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tempfile::NamedTempFile;

use crate::digest::{Digest, Hashing};
use crate::error::{Error, Result};

/// How long a part of a blob waits for somebody who wants the rest.
const PARTIAL_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
/// What is read or written at once.
const BUFFER: usize = 128 << 10;

/// The content of a store.
pub struct Content {
    blobs: PathBuf,
    ingest: PathBuf,
}

/// A blob that is being fetched. What it has stays for the next attempt.
pub struct Partial {
    file: Arc<File>,
    path: PathBuf,
    hashing: Hashing<io::Sink>,
}

impl Content {
    /// Below `images` (ROOT/images); sweeps what nobody will go on with.
    pub fn open(images: &Path) -> Result<Self> {
        let content = Content {
            blobs: images.join("content/sha256"),
            ingest: images.join("ingest"),
        };
        for dir in [&content.blobs, &content.ingest] {
            fs::create_dir_all(dir).map_err(Error::io("making", dir))?;
        }
        for entry in fs::read_dir(&content.ingest).map_err(Error::io("reading", &content.ingest))? {
            let entry = entry.map_err(Error::io("reading", &content.ingest))?;
            let age = entry.metadata().and_then(|metadata| metadata.modified());
            let is_old = age.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > PARTIAL_LIFETIME));
            if is_old || named_digest(&entry).is_none() {
                fs::remove_file(entry.path()).map_err(Error::io("sweeping", entry.path()))?;
            }
        }
        Ok(content)
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(digest.hex())
    }

    /// The size of the blob, when it is there.
    pub fn size(&self, digest: &Digest) -> Option<u64> {
        fs::metadata(self.path(digest)).ok().map(|m| m.len())
    }

    /// Opens a blob.
    pub fn read(&self, digest: &Digest) -> Result<File> {
        let path = self.path(digest);
        File::open(&path).map_err(Error::io("opening", &path))
    }

    /// A whole small blob.
    pub fn bytes(&self, digest: &Digest) -> Result<Vec<u8>> {
        let path = self.path(digest);
        fs::read(&path).map_err(Error::io("reading", &path))
    }

    /// Stores what `reader` yields. With `expected`, other bytes are refused; `what` names them in the error. `keep`
    /// learns the digest before the blob can be seen, and thus collected.
    pub fn put(
        &self,
        reader: impl Read,
        expected: Option<&Digest>,
        what: &str,
        keep: impl FnOnce(Digest),
        mut progress: impl FnMut(u64),
    ) -> Result<(Digest, u64)> {
        let temporary = self.scratch()?;
        let mut hashing = Hashing::new(reader);
        let mut buffer = vec![0; BUFFER];
        loop {
            let n = match hashing.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(Error::of_archive(what, "content", e)),
            };
            temporary
                .as_file()
                .write_all(&buffer[..n])
                .map_err(Error::io("writing", temporary.path()))?;
            progress(hashing.count());
        }
        let (digest, bytes, _) = hashing.finish();
        check(what, expected.unwrap_or(&digest), &digest)?;
        keep(digest);
        let path = self.path(&digest);
        temporary.persist(&path).map_err(|e| Error::Io {
            action: "renaming to",
            path,
            source: e.error,
        })?;
        Ok((digest, bytes))
    }

    /// Goes on with a blob of `size` bytes where the last attempt ended.
    pub fn resume(&self, digest: &Digest, size: u64) -> Result<Partial> {
        let path = self.ingest.join(digest.hex());
        let file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path);
        let file = file.map_err(Error::io("opening", &path))?;
        if file.metadata().map_err(Error::io("opening", &path))?.len() > size {
            file.set_len(0).map_err(Error::io("truncating", &path))?;
        }
        let mut hashing = Hashing::new(io::sink());
        copy(&file, &mut hashing).map_err(Error::io("reading", &path))?;
        Ok(Partial {
            file: Arc::new(file),
            path,
            hashing,
        })
    }

    /// Makes a whole blob content, if it is what was promised; otherwise it goes.
    pub fn finish(&self, partial: Partial, expected: &Digest, what: &str) -> Result<()> {
        let (digest, ..) = partial.hashing.finish();
        if let Err(error) = check(what, expected, &digest) {
            fs::remove_file(&partial.path).map_err(Error::io("removing", &partial.path))?;
            return Err(error);
        }
        fs::rename(&partial.path, self.path(&digest)).map_err(Error::io("renaming", &partial.path))
    }

    /// Whether the blob's bytes are those that its name says.
    pub fn is_whole(&self, digest: &Digest) -> bool {
        let hash = || -> io::Result<Digest> {
            let mut hashing = Hashing::new(io::sink());
            copy(&File::open(self.path(digest))?, &mut hashing)?;
            Ok(hashing.finish().0)
        };
        hash().is_ok_and(|actual| actual == *digest)
    }

    /// What is not among `needed` was being brought in when the store closed: it is content again once it is verified.
    pub fn doubt(&self, needed: &HashSet<Digest>) -> Result<()> {
        for (digest, _) in self.list()? {
            if !needed.contains(&digest) {
                let (from, to) = (self.path(&digest), self.ingest.join(digest.hex()));
                fs::rename(&from, to).map_err(Error::io("renaming", &from))?;
            }
        }
        Ok(())
    }

    /// A file that disappears unless it is kept.
    pub fn scratch(&self) -> Result<NamedTempFile> {
        NamedTempFile::new_in(&self.ingest).map_err(Error::io("making a file in", &self.ingest))
    }

    /// Every blob with its size.
    pub fn list(&self) -> Result<Vec<(Digest, u64)>> {
        list(&self.blobs)
    }

    /// Every blob that is being fetched, or was, with what there is of it.
    pub fn partials(&self) -> Result<Vec<(Digest, u64)>> {
        list(&self.ingest)
    }

    /// Removes a blob; a missing one is no error.
    pub fn remove(&self, digest: &Digest) -> Result<()> {
        remove(&self.path(digest))
    }

    /// Removes what there is of a blob that is not whole.
    pub fn remove_partial(&self, digest: &Digest) -> Result<()> {
        remove(&self.ingest.join(digest.hex()))
    }

    /// Waits until all that was written is on the disk.
    pub fn sync(&self) -> Result<()> {
        let dir = File::open(&self.blobs).map_err(Error::io("opening", &self.blobs))?;
        rustix::fs::syncfs(&dir).map_err(Error::call("syncfs", &self.blobs))
    }
}

impl Partial {
    /// Bytes that are there.
    pub fn bytes(&self) -> u64 {
        self.hashing.count()
    }

    /// Where they are.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// The next bytes.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.file.write_all_at(bytes, self.bytes());
        written.map_err(Error::io("writing", &self.path))?;
        // A sink takes all.
        self.hashing.write_all(bytes).map_err(Error::io("hashing", &self.path))
    }
}

fn check(what: &str, expected: &Digest, actual: &Digest) -> Result<()> {
    match actual == expected {
        true => Ok(()),
        false => Err(Error::Mismatch {
            what: what.to_string(),
            expected: *expected,
            actual: *actual,
        }),
    }
}

fn copy(mut from: &File, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => to.write_all(&buffer[..n])?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

fn named_digest(entry: &fs::DirEntry) -> Option<Digest> {
    format!("sha256:{}", entry.file_name().to_string_lossy()).parse().ok()
}

fn list(dir: &Path) -> Result<Vec<(Digest, u64)>> {
    let mut blobs = Vec::new();
    for entry in fs::read_dir(dir).map_err(Error::io("reading", dir))? {
        let entry = entry.map_err(Error::io("reading", dir))?;
        if let Some(digest) = named_digest(&entry) {
            // Gone meanwhile: it was just made content.
            let Ok(metadata) = entry.metadata() else { continue };
            blobs.push((digest, metadata.len()));
        }
    }
    Ok(blobs)
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("removing", path)(e)),
        _ => Ok(()),
    }
}
