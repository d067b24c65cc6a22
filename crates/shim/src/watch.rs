//! Who wants to be told of changes.

use shim_api::shim::{Kind, Process};
use tokio::sync::mpsc;

/// One event of Pod.Watch.
pub type Change = shim_api::shim::Event;

/// How many notices wait for the first watcher: those of a take-over, which is done before anybody can watch.
const UNHEARD_MAX: usize = 64;

/// The watchers of the pod. Each has a queue of limited length; one that does not keep up is cut off, which its stream's
/// end tells it, and may watch anew.
#[derive(Debug, Default)]
pub struct Watchers {
    watching: Vec<mpsc::Sender<Change>>,
    unheard: Vec<Change>,
}

impl Watchers {
    /// Adds a watcher and sends it what is there already.
    pub fn add(&mut self, watcher: mpsc::Sender<Change>, present: Vec<Process>) {
        let present = present.into_iter().map(|process| change(Kind::KIND_PRESENT, process));
        let synced = change(Kind::KIND_SYNCED, Process::new());
        let changes = present.chain([synced]).chain(std::mem::take(&mut self.unheard));
        if changes.into_iter().all(|change| watcher.try_send(change).is_ok()) {
            self.watching.push(watcher);
        }
    }

    /// Tells every watcher what a person should know; if there is none, the first who comes.
    pub fn notice(&mut self, reason: &str, about: Process) {
        let mut notice = change(Kind::KIND_NOTICE, about);
        notice.reason = reason.to_string();
        self.send(&notice);
        if self.watching.is_empty() && self.unheard.len() < UNHEARD_MAX {
            self.unheard.push(notice);
        }
    }

    /// Tells every watcher.
    pub fn tell(&mut self, kind: Kind, process: &Process) {
        self.send(&change(kind, process.clone()));
    }

    fn send(&mut self, change: &Change) {
        self.watching.retain(|watcher| watcher.try_send(change.clone()).is_ok());
    }
}

fn change(kind: Kind, process: Process) -> Change {
    let mut change = Change::new();
    change.kind = kind.into();
    change.process = Some(process).into();
    change
}
