//! What a person should know of a pod, from its supervisor or about it: told to whoever makes events of it.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::broadcast;

/// How many notices wait for a subscriber before the oldest are dropped: they are for people, and few.
const BACKLOG: usize = 256;

/// Something that a person should know: a log that can't be written, a new pause, a supervisor that was replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's uid.
    pub uid: String,
    /// The container's name; empty if it is about the pod.
    pub container: String,
    /// In one word, as Kubernetes' events have it: `LogNotWritable`, `PauseRestarted`, `SupervisorReplaced`, …
    pub reason: String,
    /// In words.
    pub message: String,
}

/// The one place that notices come from.
#[derive(Debug, Clone)]
pub(crate) struct Notices {
    sender: broadcast::Sender<Notice>,
    /// What is told before anybody can ask, while the pods of a former node are found again, waits for the first who does.
    first: Arc<Mutex<Option<broadcast::Receiver<Notice>>>>,
}

impl Notices {
    pub(crate) fn new() -> Self {
        let (sender, first) = broadcast::channel(BACKLOG);
        let first = Arc::new(Mutex::new(Some(first)));
        Notices { sender, first }
    }

    pub(crate) fn tell(&self, notice: Notice) {
        // An error means that nobody listens.
        let _ = self.sender.send(notice);
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Notice> {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        first.unwrap_or_else(|| self.sender.subscribe())
    }
}
