//! Who may fetch a blob: one at a time, whichever images it belongs to.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use crate::digest::Digest;

/// The blobs that are being fetched.
#[derive(Default)]
pub struct Turns(Mutex<HashMap<Digest, Weak<AsyncMutex<()>>>>);

/// The right to fetch a blob, until it is dropped.
pub struct Turn(#[allow(dead_code, reason = "held, not looked at")] OwnedMutexGuard<()>);

impl Turns {
    /// Waits until nobody else fetches `digest`.
    pub async fn wait(&self, digest: Digest) -> Turn {
        let queue = {
            // Nothing in here panics.
            let mut queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            queues.retain(|_, queue| queue.strong_count() > 0);
            let queue = queues.get(&digest).and_then(Weak::upgrade).unwrap_or_default();
            queues.insert(digest, Arc::downgrade(&queue));
            queue
        };
        Turn(queue.lock_owned().await)
    }
}
