//! What is written without waiting for the disk gets there soon all the same, beside everybody's way.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use crate::disk::Disk;

/// How long after a lazy write its bytes may be in memory alone: what a node that is killed forgets at most. Many writes
/// share one flush, so that a pod's start, a dozen of them, meets hardly any.
pub(crate) const FLUSH_WITHIN: Duration = Duration::from_millis(250);

/// A thread that flushes. Ends when this is dropped.
pub(crate) struct Flusher {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    wanted: Mutex<Wanted>,
    changed: Condvar,
}

#[derive(Default)]
struct Wanted {
    flush: bool,
    stop: bool,
}

impl Flusher {
    /// Starts the thread.
    pub fn start(disk: Arc<Disk>) -> std::io::Result<Flusher> {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("objects-flush".into())
            .spawn(move || theirs.run(&disk))?;
        Ok(Flusher {
            shared,
            thread: Some(thread),
        })
    }

    /// A write was made; `durable`: one that took all earlier ones to the disk.
    pub fn note(&self, durable: bool) {
        self.shared.wanted().flush = !durable;
        if !durable {
            self.shared.changed.notify_one();
        }
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.shared.wanted().stop = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // A flusher that panicked has nothing left to say.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn run(&self, disk: &Disk) {
        loop {
            let idle = |wanted: &mut Wanted| !wanted.flush && !wanted.stop;
            let wanted = self.changed.wait_while(self.wanted(), idle);
            let wanted = wanted.unwrap_or_else(PoisonError::into_inner);
            let gather = self
                .changed
                .wait_timeout_while(wanted, FLUSH_WITHIN, |wanted| !wanted.stop);
            let (mut wanted, _) = gather.unwrap_or_else(PoisonError::into_inner);
            if wanted.stop {
                // The store is closed, which takes everything to the disk.
                return;
            }
            if !std::mem::take(&mut wanted.flush) {
                continue;
            }
            drop(wanted);
            if let Err(error) = disk.flush() {
                tracing::warn!("what happened of late is not on the disk yet: {error}");
                self.wanted().flush = true;
            }
        }
    }

    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        // Two flags: whole at any time.
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
