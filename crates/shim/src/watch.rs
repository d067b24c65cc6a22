//! Who wants to be told of changes.

use shim_api::shim::{Kind, Process};
use tokio::sync::mpsc;

/// One event of Pod.Watch.
pub type Change = shim_api::shim::Event;

/// The watchers of the pod. Each has a queue of limited length; one that does not keep up is cut off, which its stream's
/// end tells it, and may watch anew.
#[derive(Debug, Default)]
pub struct Watchers(Vec<mpsc::Sender<Change>>);

impl Watchers {
    /// Adds a watcher and sends it what is there already.
    pub fn add(&mut self, watcher: mpsc::Sender<Change>, present: Vec<Process>) {
        let present = present.into_iter().map(|process| change(Kind::KIND_PRESENT, process));
        let synced = change(Kind::KIND_SYNCED, Process::new());
        if present.chain([synced]).all(|change| watcher.try_send(change).is_ok()) {
            self.0.push(watcher);
        }
    }

    /// Tells every watcher what a person should know.
    pub fn notice(&mut self, reason: &str, about: Process) {
        let mut notice = change(Kind::KIND_NOTICE, about);
        notice.reason = reason.to_string();
        self.0.retain(|watcher| watcher.try_send(notice.clone()).is_ok());
    }

    /// Tells every watcher.
    pub fn tell(&mut self, kind: Kind, process: &Process) {
        self.0
            .retain(|watcher| watcher.try_send(change(kind, process.clone())).is_ok());
    }
}

fn change(kind: Kind, process: Process) -> Change {
    let mut change = Change::new();
    change.kind = kind.into();
    change.process = Some(process).into();
    change
}
