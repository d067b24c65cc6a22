//! Who is attached to a container: each gets a copy of what its first process writes, from then on.
//!
//! The copy comes out of the container's journal ([`crate::journal`]), which is kept for as long as somebody is to get it. Nobody
//! waits for who reads slowly, neither the container nor its log: more than [`BEHIND_MAX`] bytes behind, they are cut off, which the
//! end of their FIFO tells them.

use std::future::poll_fn;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::task::{Context, Poll};
use std::time::Duration;

use logs::Stream;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use crate::failure::{Failure, Result};
use crate::journal::Journal;
use crate::ready::registered;

/// How far behind somebody may be, in bytes: so much of a journal they make the shim keep.
pub const BEHIND_MAX: u64 = 1 << 20;

/// So many FIFOs a container's output is copied to at most.
const LISTENERS_MAX: usize = 32;

/// After the container's end, how long they have to read the rest.
const FAREWELL_LIMIT: Duration = Duration::from_secs(10);

/// One stream's way to one who is attached.
#[derive(Debug)]
pub struct Listener {
    stream: Stream,
    fifo: AsyncFd<OwnedFd>,
    /// What they have got: up to here, in the stream's journal.
    at: u64,
}

impl Listener {
    /// Opens the FIFO at `path`, which must be open for reading.
    pub fn open(path: &Path, stream: Stream) -> Result<Listener> {
        Ok(Listener {
            stream,
            fifo: registered(sys::fifo::open_writer(path, true)?)?,
            at: 0,
        })
    }

    fn is_behind(&self, journal: &Journal) -> bool {
        self.at < journal.taken(self.stream)
    }

    /// Copies what there is and what the FIFO holds. `false`: nobody reads it any more, or too slowly.
    fn feed(&mut self, journal: &Journal) -> bool {
        while self.is_behind(journal) {
            let (stream, at) = (self.stream, self.at);
            match self
                .fifo
                .try_io(Interest::WRITABLE, |fifo| journal.copy(stream, at, fifo.as_fd()))
            {
                Ok(copied) => self.at += copied as u64,
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(_) => return false,
            }
        }
        journal.taken(self.stream) - self.at <= BEHIND_MAX
    }

    fn poll_ready(&self, cx: &mut Context<'_>) -> bool {
        // An error of the reactor's shows in the write that follows.
        self.fifo.poll_write_ready(cx).is_ready()
    }

    /// Whether somebody has the other end.
    fn is_read(&self) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut end = [PollFd::new(self.fifo.get_ref(), PollFlags::OUT)];
        poll(&mut end, Some(&now)).is_ok_and(|_| !end[0].revents().contains(PollFlags::ERR))
    }
}

/// All who are attached to one container.
#[derive(Debug, Default)]
pub struct Attached {
    listeners: Vec<Listener>,
    /// When those who have not read everything are cut off.
    until: Option<Instant>,
}

impl Attached {
    /// Adds somebody, who gets what is taken from now on.
    pub fn add(&mut self, mut listeners: Vec<Listener>, journal: &Journal) -> Result<()> {
        // Those who have gone while there was nothing to be told.
        self.listeners.retain(Listener::is_read);
        if self.listeners.len() + listeners.len() > LISTENERS_MAX {
            return Err(Failure::Precondition(format!(
                "{LISTENERS_MAX} streams of its output are attached already: let one of them go"
            )));
        }
        for listener in &mut listeners {
            listener.at = journal.taken(listener.stream);
        }
        self.listeners.append(&mut listeners);
        Ok(())
    }

    /// Gives all of them what there is, as far as they take it.
    pub fn feed(&mut self, journal: &mut Journal) {
        if self.listeners.is_empty() {
            return;
        }
        self.listeners.retain_mut(|listener| listener.feed(journal));
        for stream in [Stream::Stdout, Stream::Stderr] {
            let of_stream = self.listeners.iter().filter(|listener| listener.stream == stream);
            let first = of_stream.map(|listener| listener.at).min();
            journal.keep(stream, first.unwrap_or(u64::MAX));
        }
    }

    /// Whether somebody has not got everything yet.
    pub fn is_behind(&self, journal: &Journal) -> bool {
        self.listeners.iter().any(|listener| listener.is_behind(journal))
    }

    /// There will be no more; what there is must be read within a limit.
    pub fn say_farewell(&mut self) {
        self.until = Some(Instant::now() + FAREWELL_LIMIT);
    }

    /// Ready when somebody who is behind can take more, or has had time enough. Never, when nobody is behind.
    pub async fn ready(&mut self, journal: &Journal) {
        let can_take_more = poll_fn(|cx| {
            let mut behind = self.listeners.iter().filter(|listener| listener.is_behind(journal));
            if behind.any(|listener| listener.poll_ready(cx)) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        });
        match self.until {
            None => can_take_more.await,
            Some(until) => {
                if tokio::time::timeout_at(until, can_take_more).await.is_err() {
                    self.listeners.clear();
                }
            }
        }
    }
}
