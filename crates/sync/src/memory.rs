//! What the engine remembers of a pod's failed attempts. Lost with the engine, and that is fine: a new one tries at once.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;

use crate::backoff;

/// One pod's failures.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Memory {
    containers: BTreeMap<String, Failure>,
    sandbox: Option<Failure>,
}

/// The last attempt failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The reason in a container's waiting state: `ErrImagePull`.
    pub reason: &'static str,
    /// What happened, for a person.
    pub message: String,
    /// The hash of the spec that failed: another one may be tried at once.
    pub hash: String,
    /// When it may be tried again.
    pub until: Timestamp,
    delay_s: u64,
}

impl Memory {
    /// A container could not be started.
    pub fn container_failed(
        &mut self,
        name: &str,
        hash: String,
        reason: &'static str,
        message: String,
        now: Timestamp,
    ) {
        let last = self.containers.get(name).filter(|last| last.hash == hash);
        let failure = failure(last, hash, reason, message, now);
        self.containers.insert(name.to_owned(), failure);
    }

    /// It could.
    pub fn container_started(&mut self, name: &str) {
        self.containers.remove(name);
    }

    /// The sandbox, or what it needs, could not be made.
    pub fn sandbox_failed(&mut self, reason: &'static str, message: String, now: Timestamp) {
        self.sandbox = Some(failure(self.sandbox.as_ref(), String::new(), reason, message, now));
    }

    /// It could.
    pub fn sandbox_started(&mut self) {
        self.sandbox = None;
    }

    /// The last failure of a container of this hash.
    pub fn container(&self, name: &str, hash: &str) -> Option<&Failure> {
        self.containers.get(name).filter(|failure| failure.hash == hash)
    }

    /// The last failure of the sandbox.
    pub fn sandbox(&self) -> Option<&Failure> {
        self.sandbox.as_ref()
    }

    pub(crate) fn held_until(&self, name: &str, hash: &str, now: Timestamp) -> Option<Timestamp> {
        self.container(name, hash)
            .map(|failure| failure.until)
            .filter(|until| *until > now)
    }

    pub(crate) fn sandbox_held_until(&self, now: Timestamp) -> Option<Timestamp> {
        self.sandbox
            .as_ref()
            .map(|failure| failure.until)
            .filter(|until| *until > now)
    }
}

fn failure(last: Option<&Failure>, hash: String, reason: &'static str, message: String, now: Timestamp) -> Failure {
    let delay_s = backoff::next_delay_s(last.map_or(0, |last| last.delay_s));
    let until = now.saturating_add(backoff::seconds(delay_s)).unwrap_or(Timestamp::MAX);
    Failure {
        reason,
        message,
        hash,
        until,
        delay_s,
    }
}
