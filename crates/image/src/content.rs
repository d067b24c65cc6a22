//! Content by digest: manifests, configurations and layers as they came.
//!
//! ```text
//! ROOT/images/content/sha256/HEX     verified; complete as soon as the name exists
//! ROOT/images/ingest/…               being written; swept when the store opens
//! ```

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::digest::{Digest, Hashing};
use crate::error::{Error, Result};

/// The content of a store.
pub struct Content {
    blobs: PathBuf,
    ingest: PathBuf,
}

impl Content {
    /// Below `images` (ROOT/images); sweeps what a killed process left half-written.
    pub fn open(images: &Path) -> Result<Self> {
        let content = Content {
            blobs: images.join("content/sha256"),
            ingest: images.join("ingest"),
        };
        if content.ingest.exists() {
            fs::remove_dir_all(&content.ingest).map_err(Error::io("sweeping", &content.ingest))?;
        }
        for dir in [&content.blobs, &content.ingest] {
            fs::create_dir_all(dir).map_err(Error::io("making", dir))?;
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
        let mut buffer = vec![0; 128 << 10];
        loop {
            let n = match hashing.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(Error::malformed(what, "content", e)),
            };
            temporary
                .as_file()
                .write_all(&buffer[..n])
                .map_err(Error::io("writing", temporary.path()))?;
            progress(hashing.count());
        }
        let (digest, bytes, _) = hashing.finish();
        if let Some(expected) = expected
            && digest != *expected
        {
            return Err(Error::Mismatch {
                what: what.to_string(),
                expected: *expected,
                actual: digest,
            });
        }
        keep(digest);
        let path = self.path(&digest);
        temporary
            .as_file()
            .sync_data()
            .map_err(Error::io("syncing", temporary.path()))?;
        temporary.persist(&path).map_err(|e| Error::Io {
            action: "renaming to",
            path: path.clone(),
            source: e.error,
        })?;
        File::open(&self.blobs)
            .and_then(|dir| dir.sync_all())
            .map_err(Error::io("syncing", &self.blobs))?;
        Ok((digest, bytes))
    }

    /// A file that disappears unless it is kept.
    pub fn scratch(&self) -> Result<NamedTempFile> {
        NamedTempFile::new_in(&self.ingest).map_err(Error::io("making a file in", &self.ingest))
    }

    /// Every blob with its size.
    pub fn list(&self) -> Result<Vec<(Digest, u64)>> {
        let failed = || Error::io("reading", &self.blobs);
        let mut blobs = Vec::new();
        for entry in fs::read_dir(&self.blobs).map_err(failed())? {
            let entry = entry.map_err(failed())?;
            if let Ok(digest) = format!("sha256:{}", entry.file_name().to_string_lossy()).parse() {
                blobs.push((digest, entry.metadata().map_err(failed())?.len()));
            }
        }
        Ok(blobs)
    }

    /// Removes a blob; a missing one is no error.
    pub fn remove(&self, digest: &Digest) -> Result<()> {
        let path = self.path(digest);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("removing", &path)(e)),
            _ => Ok(()),
        }
    }
}
