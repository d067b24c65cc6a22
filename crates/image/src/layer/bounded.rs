//! Bounds what comes out of a stream that may be compressed: by its own size, by a number, and by the room on the disk.

use std::io::{self, BufReader, Read};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::compression::decompress;
use crate::error::Error;
use crate::limits::Limits;
use crate::room;

/// What is read at once, in bytes.
const BUFFER: usize = 128 << 10;

/// A plain stream that ends with an error of ours ([`Error::of_archive`]) when more comes out of it than the limits allow, or than the disk should take.
pub struct Bounded<'a> {
    inner: Box<dyn Read + 'a>,
    stored: &'a AtomicU64,
    plain_bytes: u64,
    /// For errors.
    name: &'a str,
    limits: Limits,
    /// Where it is written to.
    dir: &'a Path,
    looked_at: u64,
    look_every: u64,
}

impl<'a> Bounded<'a> {
    /// Decompresses `stream`, of which `stored` tells how much was read. What comes out is written below `dir`; `name` is what errors call it.
    ///
    /// # Errors
    /// It does not begin as anything that is known, or there is no room already.
    pub fn new(
        stream: impl Read + 'a,
        stored: &'a AtomicU64,
        name: &'a str,
        limits: &Limits,
        dir: &'a Path,
    ) -> io::Result<Bounded<'a>> {
        room::check(dir, 0, limits).map_err(io::Error::other)?;
        let counted = Counted { inner: stream, stored };
        Ok(Bounded {
            inner: decompress(BufReader::with_capacity(BUFFER, counted))?,
            stored,
            plain_bytes: 0,
            name,
            limits: *limits,
            dir,
            looked_at: 0,
            look_every: room::interval(dir, limits).map_err(io::Error::other)?,
        })
    }
}

impl Bounded<'_> {
    fn too_much(&self, name: &'static str, limit: u64, unit: &'static str) -> io::Error {
        let what = self.name.to_owned();
        io::Error::other(Error::Limit {
            what,
            name,
            limit,
            unit,
        })
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
            return Err(self.too_much("unpacked_bytes", unpacked_bytes, "bytes"));
        }
        if self.plain_bytes > ratio_floor_bytes && self.plain_bytes / ratio > self.stored.load(Ordering::Relaxed) {
            return Err(self.too_much("ratio", ratio, "times its size"));
        }
        if self.plain_bytes - self.looked_at >= self.look_every {
            self.looked_at = self.plain_bytes;
            room::check(self.dir, 0, &self.limits).map_err(io::Error::other)?;
        }
        Ok(n)
    }
}

/// Counts stored bytes.
struct Counted<'a, R> {
    inner: R,
    stored: &'a AtomicU64,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.stored.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}
