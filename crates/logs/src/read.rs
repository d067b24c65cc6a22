//! A log read from its file, turned back into what the container wrote.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::line::{Entry, Tag};
use crate::select::Query;

/// How much is read from the file at once, in bytes.
const CHUNK: usize = 64 * 1024;

/// Whether there is more to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Call again.
    More,
    /// The end of the file as it is now.
    End,
    /// The query's byte limit is reached; nothing more will come.
    Limit,
}

/// Reads one log file from a query's beginning to the file's end, chunk by chunk.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    file: OwnedFd,
    /// Where in the file the next read starts.
    offset: u64,
    /// The unfinished entry before `offset`: a reader may be faster than the writer.
    unfinished: Vec<u8>,
    view: View,
}

/// What the output of a query depends on, from entry to entry; outlives a rotation.
#[derive(Debug)]
pub(crate) struct View {
    query: Query,
    /// Bytes that may still be put out.
    left: Option<u64>,
    /// Whether the next entry begins a line of output.
    at_line_start: bool,
}

impl Reader {
    /// Opens the log at `path` and finds where `query` begins.
    pub fn open(path: &Path, query: &Query) -> Result<Reader> {
        let left = query.limit_bytes;
        let mut reader = Reader::from_start(
            path,
            View {
                query: query.clone(),
                left,
                at_line_start: true,
            },
        )?;
        if let Some(lines) = query.tail_lines {
            reader.offset = reader.tail_offset(lines)?;
        }
        Ok(reader)
    }

    pub(crate) fn from_start(path: &Path, view: View) -> Result<Reader> {
        let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| Error::of(path, "open(O_RDONLY)", e))?;
        Ok(Reader {
            path: path.to_path_buf(),
            file,
            offset: 0,
            unfinished: Vec::new(),
            view,
        })
    }

    /// Appends a chunk of the query's output to `out`.
    pub fn read(&mut self, out: &mut Vec<u8>) -> Result<Progress> {
        if self.view.left == Some(0) {
            return Ok(Progress::Limit);
        }
        let mut chunk = vec![0; CHUNK];
        let length = self.read_at(&mut chunk, self.offset)?;
        if length == 0 {
            return Ok(Progress::End);
        }
        self.offset += length as u64;
        let mut rest = &chunk[..length];
        while let Some(end) = rest.iter().position(|b| *b == b'\n') {
            if self.unfinished.is_empty() {
                self.view.show(&rest[..end], out);
            } else {
                self.unfinished.extend_from_slice(&rest[..end]);
                self.view.show(&self.unfinished, out);
                self.unfinished = Vec::new();
            }
            rest = &rest[end + 1..];
            if self.view.left == Some(0) {
                return Ok(Progress::Limit);
            }
        }
        self.unfinished.extend_from_slice(rest);
        Ok(Progress::More)
    }

    /// Whether the file has become shorter than what was shown of it: somebody truncated it in place. An unfinished entry
    /// that is gone is none of that: on a full disk the writer takes it back, and writes it again when there is room.
    pub(crate) fn was_truncated(&mut self) -> Result<bool> {
        let length = self.length()?;
        let shown = self.offset - self.unfinished.len() as u64;
        if length < self.offset && length >= shown {
            self.offset = shown;
            self.unfinished = Vec::new();
        }
        Ok(length < shown)
    }

    pub(crate) fn into_view(self) -> View {
        self.view
    }

    fn length(&self) -> Result<u64> {
        let stat = rustix::fs::fstat(&self.file).map_err(|e| Error::of(&self.path, "fstat", e))?;
        Ok(stat.st_size as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        loop {
            match rustix::io::pread(&self.file, &mut *buffer, offset) {
                Err(Errno::INTR) => {}
                done => return done.map_err(|e| Error::of(&self.path, "pread", e)),
            }
        }
    }

    /// Where the last `lines` lines of the query's stream begin: reads backwards from the end, counting the entries
    /// that end a line. An unfinished line at the end counts too: a person sees it as one.
    fn tail_offset(&self, lines: u64) -> Result<u64> {
        let mut window_end = self.length()?;
        if lines == 0 {
            return Ok(window_end);
        }
        let mut ends = 0;
        // The entry that is being put together backwards, across windows.
        let mut tail: Vec<u8> = Vec::new();
        let mut last = true;
        while window_end > 0 {
            let window_start = window_end.saturating_sub(CHUNK as u64);
            let mut window = vec![0; (window_end - window_start) as usize];
            let length = self.read_at(&mut window, window_start)?;
            window.truncate(length);
            window.extend_from_slice(&tail);
            // Entries that begin in this window, last first; the first one may begin before it.
            while let Some(newline) = window[..window.len().saturating_sub(1)]
                .iter()
                .rposition(|b| *b == b'\n')
            {
                let begin = newline + 1;
                if self.ends_a_line(&window[begin..], &mut last) {
                    ends += 1;
                    if ends > lines {
                        return Ok(window_start + window.len() as u64);
                    }
                }
                window.truncate(begin);
            }
            tail = window;
            window_end = window_start;
        }
        let whole = tail.len() as u64;
        if self.ends_a_line(&tail, &mut last) && ends + 1 > lines {
            return Ok(whole);
        }
        Ok(0)
    }

    /// Whether `entry` (with or without its newline) ends a line, or is the unfinished end of the log.
    fn ends_a_line(&self, entry: &[u8], last: &mut bool) -> bool {
        let entry = entry.strip_suffix(b"\n").unwrap_or(entry);
        match Entry::parse(entry) {
            Ok(e) if self.view.query.stream.is_none_or(|s| s == e.stream) => std::mem::take(last) || e.tag == Tag::Full,
            _ => false,
        }
    }
}

impl AsFd for Reader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl View {
    /// Puts out one entry, if the query wants it. What is no entry was not written by a shim, and is passed over.
    fn show(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let Ok(entry) = Entry::parse(line) else { return };
        let query = &self.query;
        if query.stream.is_some_and(|s| s != entry.stream) || query.since.is_some_and(|since| entry.time < since) {
            return;
        }
        let start = out.len();
        if query.timestamps && self.at_line_start {
            // Writing to a Vec can't fail.
            let _ = write!(out, "{:.9} ", entry.time);
        }
        out.extend_from_slice(entry.content);
        if entry.tag == Tag::Full {
            out.push(b'\n');
        }
        self.at_line_start = entry.tag == Tag::Full;
        if let Some(left) = &mut self.left {
            let length = (out.len() - start).min(usize::try_from(*left).unwrap_or(usize::MAX));
            out.truncate(start + length);
            *left -= length as u64;
        }
    }
}
