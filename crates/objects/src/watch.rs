//! Watching: a bounded memory of changes, and the live ones.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::AtomicU64},
};

use tokio::sync::broadcast::{self, error::RecvError};

use crate::{
    Error, Result,
    object::{Kind, Object},
};

/// How many changes are kept for a watcher that comes back with an older version.
pub(crate) const HISTORY_LIMIT: usize = 1024;
/// How far a watcher may fall behind before it is told to list again.
pub(crate) const BACKLOG_LIMIT: usize = 1024;

/// Which objects a watcher wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// The kind.
    pub kind: Kind,
    /// One namespace, or all.
    pub namespace: Option<String>,
    /// One object, or all.
    pub name: Option<String>,
}

impl Scope {
    /// All objects of a kind.
    pub fn all(kind: Kind) -> Scope {
        Scope {
            kind,
            namespace: None,
            name: None,
        }
    }

    pub(crate) fn covers(&self, object: &Object) -> bool {
        self.kind == object.kind()
            && self
                .namespace
                .as_deref()
                .is_none_or(|namespace| namespace == object.namespace())
            && self.name.as_deref().is_none_or(|name| name == object.name())
    }
}

/// A change that a watcher sees. A deleted object comes in its last state, under the version of its deletion.
#[derive(Debug, Clone, PartialEq)]
pub enum WatchEvent {
    /// It is new (or, at the start of a watch without a version: it exists).
    Added(Arc<Object>),
    /// It changed.
    Modified(Arc<Object>),
    /// It is gone.
    Deleted(Arc<Object>),
}

impl WatchEvent {
    /// The object, in its last state.
    pub fn object(&self) -> &Arc<Object> {
        match self {
            WatchEvent::Added(object) | WatchEvent::Modified(object) | WatchEvent::Deleted(object) => object,
        }
    }

    /// As the watch API of Kubernetes writes it.
    pub fn type_name(&self) -> &'static str {
        match self {
            WatchEvent::Added(_) => "ADDED",
            WatchEvent::Modified(_) => "MODIFIED",
            WatchEvent::Deleted(_) => "DELETED",
        }
    }
}

/// What happened lately. Owned by the store, under its lock.
pub(crate) struct History {
    /// The version at which the memory begins: a watcher that has seen it has missed nothing.
    oldest: u64,
    changes: VecDeque<WatchEvent>,
}

impl History {
    pub fn starting_at(version: u64) -> History {
        History {
            oldest: version,
            changes: VecDeque::new(),
        }
    }

    pub fn push(&mut self, change: WatchEvent) {
        if self.changes.len() == HISTORY_LIMIT
            && let Some(forgotten) = self.changes.pop_front()
        {
            self.oldest = forgotten.object().version();
        }
        self.changes.push_back(change);
    }

    /// The changes after `version`, or `Expired` if some of them are forgotten.
    pub fn after(&self, version: u64, scope: &Scope) -> Result<VecDeque<WatchEvent>> {
        if version < self.oldest {
            return Err(Error::Expired {
                asked: version,
                oldest: self.oldest,
            });
        }
        let is_new = |change: &&WatchEvent| change.object().version() > version && scope.covers(change.object());
        Ok(self.changes.iter().filter(is_new).cloned().collect())
    }
}

/// The changes to the objects of a [`Scope`], each once and in order.
pub struct Watch {
    pub(crate) scope: Scope,
    pub(crate) backlog: VecDeque<WatchEvent>,
    pub(crate) live: broadcast::Receiver<WatchEvent>,
    pub(crate) seen: u64,
    pub(crate) latest: Arc<AtomicU64>,
}

impl Watch {
    /// Waits for the next change. [`Error::Expired`]: this watcher fell more than 1,024 changes behind; it must list and
    /// watch anew. `None`: the store was closed. Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<WatchEvent>> {
        if let Some(change) = self.backlog.pop_front() {
            return Some(Ok(change));
        }
        loop {
            match self.live.recv().await {
                Ok(change) => {
                    self.seen = change.object().version();
                    if self.scope.covers(change.object()) {
                        return Some(Ok(change));
                    }
                }
                Err(RecvError::Lagged(_)) => {
                    let oldest = self.latest.load(std::sync::atomic::Ordering::Relaxed);
                    return Some(Err(Error::Expired {
                        asked: self.seen,
                        oldest,
                    }));
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// The version up to which this watcher has been given everything of its scope, for a bookmark. While changes of the
    /// watch's beginning are still to be taken it is that of the last one taken.
    pub fn version(&self) -> u64 {
        self.backlog
            .front()
            .map_or(self.seen, |next| next.object().version().saturating_sub(1))
    }
}
