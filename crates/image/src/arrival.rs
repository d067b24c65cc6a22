//! A blob that is being fetched: one thread writes it, another reads behind that one.
//!
//! So a layer is unpacked while it arrives, through the file that it is stored in, and what waits between the two is the page
//! cache's. The reader comes to the end only when all bytes were found to be what was promised: who has read to the end may
//! use what it made of them.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// What is known of a blob on its way.
#[derive(Default)]
pub struct Arrival {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// None before the first byte has a place.
    file: Option<Arc<File>>,
    bytes: u64,
    end: Option<End>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Verified,
    GivenUp,
}

/// The writer's end. Dropped before [`Writer::verified`], it gives the blob up.
pub struct Writer(Arc<Arrival>);

/// Reads a blob that arrives.
pub struct Follower {
    arrival: Arc<Arrival>,
    position: u64,
}

impl Arrival {
    /// Nothing is there yet.
    pub fn new() -> Arc<Arrival> {
        Arc::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it was given up.
    pub fn is_given_up(&self) -> bool {
        self.state().end == Some(End::GivenUp)
    }

    /// The one who writes.
    pub fn writer(self: &Arc<Self>) -> Writer {
        Writer(self.clone())
    }

    /// From the beginning.
    pub fn follow(self: &Arc<Self>) -> Follower {
        Follower {
            arrival: self.clone(),
            position: 0,
        }
    }

    /// Waits until the blob is verified.
    ///
    /// # Errors
    /// It was given up.
    pub fn wait(&self) -> io::Result<()> {
        let state = self.changed.wait_while(self.state(), |state| state.end.is_none());
        match state.unwrap_or_else(PoisonError::into_inner).end {
            Some(End::Verified) => Ok(()),
            _ => Err(given_up()),
        }
    }
}

fn given_up() -> io::Error {
    io::Error::other("its download was given up")
}

impl Writer {
    /// `bytes` are in the file now.
    pub fn has(&self, file: &Arc<File>, bytes: u64) {
        let mut state = self.0.state();
        state.bytes = bytes;
        state.file.get_or_insert_with(|| file.clone());
        self.0.changed.notify_all();
    }

    /// All of it is there, and is what was promised.
    pub fn verified(self) {
        self.0.state().end = Some(End::Verified);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.state().end.get_or_insert(End::GivenUp);
        self.0.changed.notify_all();
    }
}

impl Read for Follower {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let nothing_new = |state: &mut State| state.bytes <= self.position && state.end.is_none();
        let state = self.arrival.changed.wait_while(self.arrival.state(), nothing_new);
        let state = state.unwrap_or_else(PoisonError::into_inner);
        let (file, bytes, end) = (state.file.clone(), state.bytes, state.end);
        drop(state);
        match file.filter(|_| bytes > self.position) {
            Some(file) => {
                let there = usize::try_from(bytes - self.position).unwrap_or(usize::MAX);
                let wanted = buffer.len().min(there);
                let n = file.read_at(&mut buffer[..wanted], self.position)?;
                self.position += n as u64;
                Ok(n)
            }
            None if end == Some(End::Verified) => Ok(0),
            None => Err(given_up()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_follower_ends_with_its_writer() {
        for is_verified in [true, false] {
            let arrival = Arrival::new();
            let mut follower = arrival.follow();
            let writer = arrival.writer();
            let reader = std::thread::spawn(move || {
                let mut text = String::new();
                (follower.read_to_string(&mut text).is_ok(), text)
            });
            let file = Arc::new(tempfile::tempfile().unwrap());
            for (bytes, part) in [(2, "he"), (5, "llo")] {
                (&*file).write_all(part.as_bytes()).unwrap();
                writer.has(&file, bytes);
            }
            match is_verified {
                true => writer.verified(),
                false => drop(writer),
            }
            let (is_whole, text) = reader.join().unwrap();
            assert_eq!((is_whole, text.as_str()), (is_verified, "hello"));
            assert_eq!(arrival.wait().is_ok(), is_verified);
            assert_eq!(arrival.is_given_up(), !is_verified);
        }
    }
}
