//! Reads ahead on a thread of its own: decompressing takes as long as writing files does, and the two need not wait for each
//! other.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

/// What is read at once, in bytes.
const BUFFER: usize = 128 << 10;
/// Buffers that go round: what may be read ahead.
const BUFFERS: usize = 4;

/// Calls `work` with a reader of what `open` opens. `open` is called on the thread that reads ahead.
pub fn reading_ahead<R: Read, T>(open: impl FnOnce() -> io::Result<R> + Send, work: impl FnOnce(Ahead) -> T) -> T {
    let (full, filled) = sync_channel(BUFFERS);
    let (empty, emptied) = sync_channel(BUFFERS);
    for _ in 0..BUFFERS {
        // There is room for all.
        let _ = empty.send(Vec::new());
    }
    thread::scope(|scope| {
        scope.spawn(move || fill(open, &emptied, &full));
        work(Ahead {
            filled,
            empty,
            current: Vec::new(),
            position: 0,
        })
    })
}

/// Until the end, the first error, or until nobody wants more.
fn fill<R: Read>(
    open: impl FnOnce() -> io::Result<R>,
    emptied: &Receiver<Vec<u8>>,
    full: &SyncSender<io::Result<Vec<u8>>>,
) {
    let mut reader = match open() {
        Ok(reader) => reader,
        Err(error) => return drop(full.send(Err(error))),
    };
    while let Ok(mut buffer) = emptied.recv() {
        buffer.clear();
        let read = reader.by_ref().take(BUFFER as u64).read_to_end(&mut buffer);
        let is_end = buffer.is_empty();
        if !is_end && full.send(Ok(buffer)).is_err() {
            return;
        }
        match read {
            Err(error) => return drop(full.send(Err(error))),
            Ok(_) if is_end => return,
            Ok(_) => {}
        }
    }
}

/// The reader's end.
pub struct Ahead {
    filled: Receiver<io::Result<Vec<u8>>>,
    empty: SyncSender<Vec<u8>>,
    current: Vec<u8>,
    position: usize,
}

impl BufRead for Ahead {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.position == self.current.len() {
            // The other side ends when it has no more.
            if let Ok(next) = self.filled.recv() {
                let used = std::mem::replace(&mut self.current, next?);
                self.position = 0;
                let _ = self.empty.send(used);
            }
        }
        Ok(&self.current[self.position..])
    }

    fn consume(&mut self, amount: usize) {
        self.position += amount;
    }
}

impl Read for Ahead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, buffer)
    }
}

/// [`Read::read`] of a reader whose buffer is all that it has.
pub fn read_buffered(reader: &mut impl BufRead, buffer: &mut [u8]) -> io::Result<usize> {
    let n = reader.fill_buf()?.read(buffer)?;
    reader.consume(n);
    Ok(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_come_in_their_order_then_the_end() {
        let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| (n * 7) as u8).collect();
        let read = reading_ahead(
            || Ok(bytes.as_slice()),
            |mut ahead| {
                let mut read = Vec::new();
                ahead.read_to_end(&mut read).unwrap();
                assert_eq!(ahead.read(&mut [0; 8]).unwrap(), 0);
                read
            },
        );
        assert_eq!(read, bytes);
    }

    #[test]
    fn what_was_read_before_an_error_comes_before_it() {
        let broken = || Ok((&b"start"[..]).chain(Broken));
        let (text, error) = reading_ahead(broken, |mut ahead| {
            let mut text = Vec::new();
            let error = ahead.read_to_end(&mut text).unwrap_err();
            (text, error.to_string())
        });
        assert_eq!((text.as_slice(), error.as_str()), (&b"start"[..], "broken"));
        // Nobody needs to read to the end.
        reading_ahead(|| Ok(io::repeat(1)), |mut ahead| ahead.read(&mut [0; 8]).unwrap());
    }

    struct Broken;

    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("broken"))
        }
    }
}
