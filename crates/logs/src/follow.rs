//! A log read on and on, across rotations.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::inotify;
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::read::{Progress, Reader};
use crate::select::Query;

/// Reads a log to its end and then what is appended, whatever rotates or truncates the file meanwhile.
///
/// [`read`](Follower::read) never waits. When it has said [`Progress::End`], the follower's file descriptor
/// ([`AsFd`]) becomes readable as soon as it is worth reading again; [`wait`](Follower::wait) is the same for threads.
/// When to stop is the caller's to know: a log does not say that its container has ended.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    query: Query,
    /// Watches the directory: the file at the path changes with every rotation, its directory does not.
    watch: OwnedFd,
    /// None until the log exists.
    reader: Option<Reader>,
}

impl Follower {
    /// Follows the log at `path` from where `query` begins. The log may be made later; its directory must exist.
    pub fn open(path: &Path, query: &Query) -> Result<Follower> {
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let watch = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)
            .map_err(|e| Error::of(directory, "inotify_init1", e))?;
        let events = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
        inotify::add_watch(&watch, directory, events | inotify::WatchFlags::ONLYDIR)
            .map_err(|e| Error::of(directory, "inotify_add_watch", e))?;
        // The watch comes first: what is written between the two is seen by it.
        let reader = match Reader::open(path, query) {
            Ok(reader) => Some(reader),
            Err(Error::Missing { .. }) => None,
            Err(e) => return Err(e),
        };
        Ok(Follower {
            path: path.to_path_buf(),
            query: query.clone(),
            watch,
            reader,
        })
    }

    /// Appends the next chunk of output to `out`, or says that there is none for now.
    pub fn read(&mut self, out: &mut Vec<u8>) -> Result<Progress> {
        let Some(reader) = &mut self.reader else {
            return self.first_open();
        };
        match reader.read(out)? {
            Progress::End => {}
            progress => return Ok(progress),
        }
        // Events are taken before the last look at the files, so that a later one shows on the descriptor again.
        drain_events(&self.watch, &self.path)?;
        match reader.read(out)? {
            Progress::End => self.next_file(),
            progress => Ok(progress),
        }
    }

    /// Waits until it is worth reading again, at most `timeout`. Returns whether it is.
    pub fn wait(&self, timeout: std::time::Duration) -> Result<bool> {
        let timeout = Timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        let mut fds = [PollFd::new(&self.watch, PollFlags::IN)];
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::INTR) => Ok(true),
            Err(e) => Err(Error::of(&self.path, "poll", e)),
        }
    }

    fn first_open(&mut self) -> Result<Progress> {
        drain_events(&self.watch, &self.path)?;
        match Reader::open(
            &self.path,
            &Query {
                tail_lines: None,
                ..self.query.clone()
            },
        ) {
            Ok(reader) => {
                self.reader = Some(reader);
                Ok(Progress::More)
            }
            Err(Error::Missing { .. }) => Ok(Progress::End),
            Err(e) => Err(e),
        }
    }

    /// At the end of the open file: goes on with the file that has taken its place at the path, if one has.
    ///
    /// The writer keeps appending to the old file until it is told to reopen, and makes the new one then: so, once
    /// there is a new file, the old one is complete.
    fn next_file(&mut self) -> Result<Progress> {
        let Some(reader) = &mut self.reader else {
            return Ok(Progress::End);
        };
        let at_path = match rustix::fs::stat(&self.path) {
            Ok(stat) => stat,
            // Renamed, and not made anew yet.
            Err(Errno::NOENT) => return Ok(Progress::End),
            Err(e) => return Err(Error::of(&self.path, "stat", e)),
        };
        let open = rustix::fs::fstat(&*reader).map_err(|e| Error::of(&self.path, "fstat", e))?;
        let replaced = (at_path.st_dev, at_path.st_ino) != (open.st_dev, open.st_ino);
        if !replaced && !reader.was_truncated()? {
            return Ok(Progress::End);
        }
        if let Some(reader) = self.reader.take() {
            self.reader = Some(Reader::from_start(&self.path, reader.into_view())?);
        }
        Ok(Progress::More)
    }
}

impl AsFd for Follower {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }
}

/// Takes all waiting events; they say no more than that it is time to look.
fn drain_events(watch: &OwnedFd, path: &Path) -> Result<()> {
    let mut buffer = [0; 4096];
    loop {
        match rustix::io::read(watch, &mut buffer) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(()),
            Err(e) => return Err(Error::of(path, "read(inotify)", e)),
        }
    }
}
