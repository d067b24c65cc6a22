//! A container's output on its way into its log, so that no instant of the shim's death loses or doubles a byte.
//!
//! ```text
//!  BUNDLE/stdout          FIFO ──splice──► BUNDLE/stdout.journal ──┐ format, at a fixed time, from a fixed place
//!  BUNDLE/stderr          FIFO ──splice──► BUNDLE/stderr.journal ──┴─► the log
//!                                          BUNDLE/log.journal        which piece of which journal is on its way to where
//! ```
//!
//! - One system call takes bytes out of the FIFO and appends them to its journal, so the journal's length alone says what was
//!   taken. (The kernel looks at a pending SIGKILL between two system calls, and inside this one only between the pages that
//!   it has moved whole.)
//! - Before a piece of a journal is formatted into the log, the record in `log.journal` says so: which bytes, with which
//!   time, at which offset of which file. It is overwritten by the next piece's; one write inside one page, which no signal
//!   divides.
//! - Whoever opens the journals next (the shim's successor) formats the recorded piece again, which gives the same bytes, sees by
//!   the log's length how many of them are there, and writes the rest. Then it goes on as if nothing had happened. A log that
//!   was rotated in between is found by its number in its directory.
//!
//! Offsets in a journal only grow: what is in the log for good is freed at the front (a hole), so that an idle journal holds
//! a page at most. A terminal has no FIFO; what is read from it is appended to a journal by hand, and the few bytes between
//! those two calls end with the session, as the terminal does.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use logs::{Position, Stream, Writer};
use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::SpliceFlags;

use crate::failure::{Failure, Result};
use crate::{diary, process};

/// How much is taken from a source at once, in bytes: what a pipe holds unless somebody has enlarged it.
pub const TAKE: usize = 64 * 1024;

/// How much of a journal is looked at at once, in bytes.
const WINDOW: usize = 64 * 1024;

/// How much of a journal is freed at once while output flows, in bytes; when it rests, whole pages.
const FREE_BUSY: u64 = 1 << 20;
const PAGE: u64 = 4096;

/// Says that a record is one, and of which version.
const MAGIC: u64 = 0x0001_6c61_6e72_756a;

/// What a source may be read by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The kernel moves the bytes by itself.
    Fifo,
    /// They are read and written.
    Terminal,
}

/// The journals of one container, and its log.
#[derive(Debug)]
pub struct Journal {
    writer: Writer,
    /// What `log.journal` would say now. What it does say may be one finished piece older.
    state: State,
    /// Whether `log.journal` names a piece.
    piece_is_recorded: bool,
    /// How many bytes the piece's entries are, all in all.
    encoded: u64,
    header: OwnedFd,
    spools: [Spool; 2],
    /// Of each journal: what is from here on is kept, even if it is in the log.
    kept_from: [u64; 2],
}

/// One stream's journal.
#[derive(Debug)]
struct Spool {
    file: OwnedFd,
    path: PathBuf,
    /// Its length: all that was ever taken.
    taken: u64,
    /// Freed up to here.
    freed: u64,
    /// Of a terminal: read, but not in the journal yet, since the state directory is full.
    carry: Vec<u8>,
}

/// The record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct State {
    /// Where the piece's entries begin in the log; without a piece, which file the log is.
    at: Position,
    /// So many bytes of the piece's entries went to an earlier file.
    skip: u64,
    /// Of each journal: what is in the log for good.
    done: [u64; 2],
    /// What is on its way.
    piece: Option<Piece>,
}

/// Bytes of one journal, from `done` on, that are on their way into the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    stream: usize,
    length: u64,
    /// Whether the unfinished line at its end is taken too.
    idle: bool,
    time_ns: i64,
}

const STREAMS: [Stream; 2] = [Stream::Stdout, Stream::Stderr];

fn index(stream: Stream) -> usize {
    usize::from(stream == Stream::Stderr)
}

/// Where the journals of the container in `bundle` are.
pub fn files(bundle: &Path) -> [PathBuf; 3] {
    ["stdout.journal", "stderr.journal", "log.journal"].map(|name| bundle.join(name))
}

impl Journal {
    /// Opens the journals in `bundle`, and the log, and finishes what another shim has begun, as far as the log takes it now.
    pub fn open(bundle: &Path, log: &Path) -> Result<Journal> {
        let [stdout, stderr, header] = files(bundle);
        let spools = [Spool::open(stdout)?, Spool::open(stderr)?];
        let file = open(&header)?;
        let state = State::load(file.as_fd(), &header)?;
        let writer = match &state {
            Some(state) => Writer::open_again(log, state.at.device, state.at.inode)?,
            None => Writer::open(log)?,
        };
        let mut journal = Journal {
            writer,
            state: state.unwrap_or_default(),
            piece_is_recorded: state.is_some_and(|state| state.piece.is_some()),
            encoded: 0,
            header: file,
            spools,
            kept_from: [u64::MAX; 2],
        };
        for (spool, done) in journal.spools.iter_mut().zip(journal.state.done) {
            spool.freed = done & !(PAGE - 1);
        }
        if state.is_some() {
            journal.recover()?;
        } else {
            journal.state.at = journal.writer.position()?;
            journal.save()?;
        }
        Ok(journal)
    }

    /// Goes on with the piece that was on its way when the last shim ended.
    fn recover(&mut self) -> Result<()> {
        let begun = self.state;
        let there = self.writer.position()?;
        let same_file = (there.device, there.inode) == (begun.at.device, begun.at.inode);
        if let Some(piece) = begun.piece {
            self.format(piece)?;
            if same_file {
                let written = there.offset.saturating_sub(begun.at.offset);
                self.skip(begun.skip + written);
            } else {
                self.skip(begun.skip);
                // The file is nowhere in the log's directory. Better twice than never.
                self.state.at = there;
                diary::note(format_args!(
                    "{}: the log was moved away while its supervisor was dead; up to {} bytes may be in both files",
                    self.writer.path().display(),
                    self.writer.pending()
                ));
                self.save()?;
            }
        }
        // A full disk is met again by the pump.
        let _ = self.flush();
        // If the file was a rotated one, the log is another by now.
        self.reopen()
    }

    /// Moves what a source has into its journal: how many bytes. 0: nothing is there now. `Err`: EAGAIN, or why not.
    pub fn take(&mut self, stream: Stream, kind: Kind, source: BorrowedFd<'_>) -> std::io::Result<usize> {
        let spool = &mut self.spools[index(stream)];
        match kind {
            Kind::Fifo => spool.splice(source),
            Kind::Terminal => spool.copy(source),
        }
    }

    /// How much was ever taken of a stream, in bytes.
    pub fn taken(&self, stream: Stream) -> u64 {
        self.spools[index(stream)].taken
    }

    /// Copies what was taken of a stream, from `from` on, into a pipe: how many bytes.
    pub fn copy(&self, stream: Stream, from: u64, pipe: BorrowedFd<'_>) -> std::io::Result<usize> {
        let spool = &self.spools[index(stream)];
        let (mut at, length) = (from, usize::try_from(spool.taken - from).unwrap_or(usize::MAX));
        Ok(rustix::io::retry_on_intr(|| {
            rustix::pipe::splice(&spool.file, Some(&mut at), pipe, None, length, SpliceFlags::NONBLOCK)
        })?)
    }

    /// What was taken from here on is not freed, for somebody copies it.
    pub fn keep(&mut self, stream: Stream, from: u64) {
        self.kept_from[index(stream)] = from;
    }

    /// Formats what was taken of a stream into the log; with `idle` the unfinished line at its end too. An error means that
    /// the log takes nothing now: [`flush`](Self::flush) tries again.
    pub fn write(&mut self, stream: Stream, idle: bool) -> Result<()> {
        self.flush()?;
        let stream = index(stream);
        loop {
            let left = self.spools[stream].taken - self.state.done[stream];
            let window = left.min(WINDOW as u64);
            let piece = Piece {
                stream,
                length: window,
                idle: idle && window == left,
                time_ns: process::now_ns(),
            };
            if window == 0 {
                return Ok(());
            }
            let length = self.format(piece)? as u64;
            if length == 0 {
                // A line that has not ended.
                return Ok(());
            }
            self.state.at = self.writer.position()?;
            self.state.skip = 0;
            self.state.piece = Some(Piece { length, ..piece });
            self.save()?;
            self.flush()?;
        }
    }

    /// Writes what is left of the piece that is on its way.
    pub fn flush(&mut self) -> Result<()> {
        self.writer.flush()?;
        if let Some(piece) = self.state.piece.take() {
            let done = &mut self.state.done[piece.stream];
            *done += piece.length;
            self.state.skip = 0;
            if self.to_be_freed(piece.stream) >= FREE_BUSY {
                self.free(piece.stream)?;
            }
        }
        Ok(())
    }

    /// Output rests: nothing is on its way, and what the journals hold beyond a page is given back.
    pub fn rest(&mut self) -> Result<()> {
        if self.piece_is_recorded && self.state.piece.is_none() {
            self.save()?;
        }
        for stream in 0..self.spools.len() {
            if self.state.piece.is_none() && self.to_be_freed(stream) >= PAGE {
                self.free(stream)?;
            }
        }
        Ok(())
    }

    /// Opens the log anew, after a rotation has renamed it.
    pub fn reopen(&mut self) -> Result<()> {
        self.writer.reopen()?;
        let left = self.writer.pending() as u64;
        if left == 0 {
            // That was all of the piece.
            self.flush()?;
        } else {
            self.state.skip = self.encoded - left;
        }
        self.state.at = self.writer.position()?;
        self.save()?;
        // What the old file had no room for.
        let _ = self.flush();
        Ok(())
    }

    /// Whether something is on its way that the log has not taken.
    pub fn is_stuck(&self) -> bool {
        self.writer.pending() > 0
    }

    /// Formats a piece: how many of its bytes were used.
    fn format(&mut self, piece: Piece) -> Result<usize> {
        let bytes = self.spools[piece.stream].read(self.state.done[piece.stream], piece.length)?;
        let time = Timestamp::from_nanosecond(piece.time_ns.into()).unwrap_or_default();
        let used = self.writer.append(time, STREAMS[piece.stream], &bytes, piece.idle)?;
        self.encoded = self.writer.pending() as u64;
        Ok(used)
    }

    fn skip(&mut self, written: u64) {
        self.writer.skip(usize::try_from(written).unwrap_or(usize::MAX));
    }

    /// How much at the front of a journal nobody needs any more.
    fn to_be_freed(&self, stream: usize) -> u64 {
        let to = self.state.done[stream].min(self.kept_from[stream]);
        to.saturating_sub(self.spools[stream].freed)
    }

    /// Frees the front of a journal: not before the record points behind it.
    fn free(&mut self, stream: usize) -> Result<()> {
        self.save()?;
        let to = self.spools[stream].freed + self.to_be_freed(stream);
        self.spools[stream].free(to);
        Ok(())
    }

    fn save(&mut self) -> Result<()> {
        self.piece_is_recorded = self.state.piece.is_some();
        let bytes = self.state.encode();
        let written = rustix::io::retry_on_intr(|| rustix::io::pwrite(&self.header, &bytes, 0))
            .map_err(|e| sys::Error::new("pwrite(log.journal)", e))?;
        if written != bytes.len() {
            return Err(sys::Error::new("pwrite(log.journal)", Errno::NOSPC).into());
        }
        Ok(())
    }
}

impl Spool {
    fn open(path: PathBuf) -> Result<Spool> {
        let file = open(&path)?;
        let stat = rustix::fs::fstat(&file).map_err(|e| sys::Error::new(format_args!("fstat({path:?})"), e))?;
        Ok(Spool {
            file,
            path,
            taken: stat.st_size as u64,
            freed: 0,
            carry: Vec::new(),
        })
    }

    fn splice(&mut self, source: BorrowedFd<'_>) -> std::io::Result<usize> {
        let mut at = self.taken;
        let moved = rustix::io::retry_on_intr(|| {
            rustix::pipe::splice(source, None, &self.file, Some(&mut at), TAKE, SpliceFlags::NONBLOCK)
        })?;
        self.taken += moved as u64;
        Ok(moved)
    }

    fn copy(&mut self, source: BorrowedFd<'_>) -> std::io::Result<usize> {
        if self.carry.is_empty() {
            let mut buffer = [0; 4096];
            let length = rustix::io::retry_on_intr(|| rustix::io::read(source, &mut buffer))?;
            self.carry = buffer[..length].to_vec();
        }
        let moved = rustix::io::retry_on_intr(|| rustix::io::pwrite(&self.file, &self.carry, self.taken))?;
        self.carry.drain(..moved);
        self.taken += moved as u64;
        Ok(moved)
    }

    fn read(&self, from: u64, length: u64) -> Result<Vec<u8>> {
        let failed = |e| sys::Error::new(format_args!("pread({:?}, {length}, {from})", self.path), e);
        let mut bytes = vec![0; usize::try_from(length).map_err(|_| failed(Errno::FBIG))?];
        let mut filled = 0;
        while filled < bytes.len() {
            let at = from + filled as u64;
            match rustix::io::retry_on_intr(|| rustix::io::pread(&self.file, &mut bytes[filled..], at)) {
                Ok(0) => return Err(failed(Errno::NODATA).into()),
                Ok(read) => filled += read,
                Err(e) => return Err(failed(e).into()),
            }
        }
        Ok(bytes)
    }

    fn free(&mut self, to: u64) {
        let to = to & !(PAGE - 1);
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        // A file system that can't keeps them until the container is deleted: no reason to stop its output.
        let _ = rustix::fs::fallocate(&self.file, flags, self.freed, to - self.freed);
        self.freed = to;
    }
}

impl State {
    const BYTES: usize = 96;

    fn encode(&self) -> [u8; State::BYTES] {
        let piece = self.piece.unwrap_or(Piece {
            stream: 0,
            length: 0,
            idle: false,
            time_ns: 0,
        });
        let words = [
            MAGIC,
            self.at.device,
            self.at.inode,
            self.at.offset,
            self.skip,
            self.done[0],
            self.done[1],
            u64::from(self.piece.is_some()),
            piece.stream as u64,
            piece.length,
            u64::from(piece.idle),
            piece.time_ns.cast_unsigned(),
        ];
        let mut bytes = [0; State::BYTES];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8; State::BYTES]) -> Option<State> {
        let mut words = [0; State::BYTES / 8];
        for (word, place) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_ne_bytes(place.try_into().ok()?);
        }
        let [
            magic,
            device,
            inode,
            offset,
            skip,
            stdout,
            stderr,
            has_piece,
            stream,
            length,
            idle,
            time_ns,
        ] = words;
        if magic != MAGIC || stream > 1 {
            return None;
        }
        Some(State {
            at: Position { device, inode, offset },
            skip,
            done: [stdout, stderr],
            piece: (has_piece != 0).then_some(Piece {
                stream: stream as usize,
                length,
                idle: idle != 0,
                time_ns: time_ns.cast_signed(),
            }),
        })
    }

    /// The record of an earlier shim; none in a new file.
    fn load(file: BorrowedFd<'_>, path: &Path) -> Result<Option<State>> {
        let mut bytes = [0; State::BYTES];
        let read = rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut bytes, 0))
            .map_err(|e| sys::Error::new(format_args!("pread({path:?})"), e))?;
        if read == 0 {
            return Ok(None);
        }
        let corrupt = || Failure::Invalid(format!("{} is no journal of this version", path.display()));
        State::decode(&bytes)
            .filter(|_| read == State::BYTES)
            .map(Some)
            .ok_or_else(corrupt)
    }
}

fn open(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|e| sys::Error::new(format_args!("open({path:?}, O_RDWR|O_CREAT|O_NOFOLLOW)"), e))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scene {
        dir: tempfile::TempDir,
        fifo: OwnedFd,
    }

    impl Scene {
        fn new() -> Scene {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("stdout");
            sys::fifo::make(&path).unwrap();
            let fifo = sys::fifo::open_both_ends(&path, true).unwrap();
            Scene { dir, fifo }
        }

        fn log(&self) -> PathBuf {
            self.dir.path().join("0.log")
        }

        fn open(&self) -> Journal {
            Journal::open(self.dir.path(), &self.log()).unwrap()
        }

        fn say(&self, text: &[u8]) {
            assert_eq!(rustix::io::write(&self.fifo, text).unwrap(), text.len());
        }

        fn take(&self, journal: &mut Journal) -> usize {
            let taken = journal.take(Stream::Stdout, Kind::Fifo, self.fifo.as_fd());
            taken.unwrap_or(0)
        }

        /// The log's entries without their times.
        fn said(&self, log: &Path) -> Vec<String> {
            let text = std::fs::read_to_string(log).unwrap();
            let after_time = |line: &str| line.split_once(' ').unwrap().1.to_string();
            text.lines().map(after_time).collect()
        }
    }

    #[test]
    fn states_come_back() {
        let state = State {
            at: Position {
                device: 1,
                inode: 2,
                offset: 3,
            },
            skip: 4,
            done: [5, 6],
            piece: Some(Piece {
                stream: 1,
                length: 7,
                idle: true,
                time_ns: -8,
            }),
        };
        assert_eq!(State::decode(&state.encode()), Some(state));
        assert_eq!(State::decode(&[0; State::BYTES]), None);
    }

    /// The shim dies between any two system calls of a piece's way: its successor finishes the piece, once.
    #[test]
    fn a_successor_finishes_what_was_begun() {
        let scene = Scene::new();
        let expected = ["stdout F one", "stdout F two", "stdout P thr"];
        // Taken, and nothing else.
        let mut journal = scene.open();
        scene.say(b"one\ntwo\nthr");
        assert_eq!(scene.take(&mut journal), 11);
        drop(journal);
        let mut journal = scene.open();
        journal.write(Stream::Stdout, true).unwrap();
        assert_eq!(scene.said(&scene.log()), expected);
        // The record is that of the last piece now; the log is cut as a death would have left it.
        drop(journal);
        let whole = std::fs::read(scene.log()).unwrap();
        for rotated in [false, true] {
            for length in 0..=whole.len() {
                std::fs::write(scene.log(), &whole).unwrap();
                let written = std::fs::File::options().write(true).open(scene.log()).unwrap();
                let begun = std::fs::read(scene.dir.path().join("log.journal")).unwrap();
                // The last piece alone is on its way.
                let state = State::decode(begun.as_slice().try_into().unwrap()).unwrap();
                let length = (state.at.offset as usize).max(length);
                written.set_len(length as u64).unwrap();
                let renamed = scene.dir.path().join("0.log.1");
                if rotated {
                    std::fs::rename(scene.log(), &renamed).unwrap();
                }
                drop(scene.open());
                if rotated {
                    assert_eq!(scene.said(&scene.log()), [""; 0]);
                    std::fs::rename(&renamed, scene.log()).unwrap();
                }
                assert_eq!(std::fs::read(scene.log()).unwrap(), whole, "cut at {length}");
                std::fs::write(scene.dir.path().join("log.journal"), begun).unwrap();
            }
        }
    }

    #[test]
    fn a_journal_holds_no_more_than_a_page_at_rest() {
        let scene = Scene::new();
        let mut journal = scene.open();
        let line = [b"x".repeat(99), vec![b'\n']].concat();
        for _ in 0..100 {
            for _ in 0..300 {
                scene.say(&line);
            }
            while scene.take(&mut journal) > 0 {
                journal.write(Stream::Stdout, false).unwrap();
            }
        }
        journal.write(Stream::Stdout, true).unwrap();
        journal.rest().unwrap();
        assert_eq!(scene.said(&scene.log()).len(), 30_000);
        let stat = rustix::fs::stat(scene.dir.path().join("stdout.journal")).unwrap();
        assert_eq!(stat.st_size, 3_000_000);
        assert!(stat.st_blocks * 512 <= 8192, "{} blocks", stat.st_blocks);
    }
}
