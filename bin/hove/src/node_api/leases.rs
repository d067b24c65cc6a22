//! Leases: pods whose life is a client's.
//!
//! ```text
//!            hold                 the client goes
//!   pod ───────────► held ──────────────────────────► the pod is deleted
//!                     │ the node goes                     ▲
//!                     ▼           nobody came in time     │
//!                  awaited ───────────────────────────────┘
//!                     └── a client comes back: held
//! ```
//!
//! The mark is in the pod's object, so the next node knows: a node that dies takes no pod with it, and leaves none behind
//! that nobody watches over. After a reboot no client can come back, so such a pod is deleted before anything is started for it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use objects::{Key, Kind, Object, Scope, Store};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// The annotation of a leased pod.
const MARK: &str = "hove.dev/lease";
/// Whose lease it is: a `hove run`'s.
const HOLDER: &str = "run";
/// The annotation with the boot in which the client lives.
const BOOT: &str = "hove.dev/lease-boot";
/// How long a new node waits for the clients of pods that it finds.
pub const RETURN_TIMEOUT: Duration = Duration::from_secs(30);

/// The leases of a node.
#[derive(Clone)]
pub struct Leases {
    store: Arc<Store>,
    /// The node's end, which is no client's end.
    stop: CancellationToken,
    /// By the pod's uid: cancelled when its client is back.
    awaited: Arc<Mutex<HashMap<String, CancellationToken>>>,
}

impl Leases {
    /// None yet.
    pub fn new(store: Arc<Store>, stop: CancellationToken) -> Leases {
        Leases {
            store,
            stop,
            awaited: Arc::default(),
        }
    }

    /// The node's end.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Takes the lease of a pod: dropped, it takes the pod down.
    pub fn hold(&self, key: Key, uid: &str) -> Lease {
        if let Some(awaited) = self.take_awaited(uid) {
            awaited.cancel();
        }
        Lease {
            leases: self.clone(),
            key,
            uid: uid.to_owned(),
        }
    }

    /// Deletes the pods whose clients went with the machine's last boot. For the start of a node, before its engine's.
    pub fn end_those_of_other_boots(&self) -> objects::Result<()> {
        let (pods, _) = self.store.list(&Scope::all(Kind::Pod))?;
        for pod in pods.iter().filter(|pod| is_marked(pod) && is_of_another_boot(pod)) {
            // Nothing of it runs: there is nobody to be patient with.
            match self.store.delete(&pod.key(), Some(pod.uid()), Some(0)) {
                Ok(_) => tracing::info!(
                    pod = pod.key().name,
                    "it ended with the machine's last boot, as its client did"
                ),
                Err(objects::Error::NotFound(_) | objects::Error::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Gives the clients of the leased pods that are there `patience` to come back. For the start of a node.
    pub fn await_clients(&self, patience: Duration) -> objects::Result<()> {
        let (pods, _) = self.store.list(&Scope::all(Kind::Pod))?;
        for pod in pods.iter().filter(|pod| is_marked(pod) && !pod.is_being_deleted()) {
            let back = CancellationToken::new();
            self.awaited().insert(pod.uid().to_owned(), back.clone());
            let (leases, key, uid) = (self.clone(), pod.key(), pod.uid().to_owned());
            tracing::info!(pod = key.name, "its client has {patience:?} to come back");
            tokio::spawn(async move {
                tokio::select! {
                    () = tokio::time::sleep(patience) => {}
                    () = back.cancelled() => return,
                    () = leases.stop.cancelled() => return,
                }
                // Who takes it out of the table decides.
                if leases.take_awaited(&uid).is_some() {
                    let delete = move || leases.delete(&key, &uid);
                    let _ = tokio::task::spawn_blocking(delete).await;
                }
            });
        }
        Ok(())
    }

    fn awaited(&self) -> std::sync::MutexGuard<'_, HashMap<String, CancellationToken>> {
        // Each change is one call, whole or not there.
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_awaited(&self, uid: &str) -> Option<CancellationToken> {
        self.awaited().remove(uid)
    }

    fn delete(&self, key: &Key, uid: &str) {
        match self.store.delete(key, Some(uid), None) {
            Ok(_) => tracing::info!(pod = key.name, "the client is gone: its pod is taken down"),
            Err(objects::Error::NotFound(_) | objects::Error::Conflict { .. }) => {}
            Err(error) => tracing::error!(pod = key.name, %error, "a pod whose client is gone can't be taken down"),
        }
    }
}

/// Marks a new pod as leased, or makes sure that it is not.
pub fn mark(pod: &mut Value, leased: bool) {
    if leased {
        pod["metadata"]["annotations"][MARK] = json!(HOLDER);
        // Without the boot's name the client has its time to come back, as after the end of a node.
        if let Ok(boot) = record::boot_id() {
            pod["metadata"]["annotations"][BOOT] = json!(boot);
        }
    } else if let Some(annotations) = pod.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(MARK);
        annotations.remove(BOOT);
    }
}

/// Whether a pod is leased.
pub fn is_marked(pod: &Object) -> bool {
    pod.json()["metadata"]["annotations"][MARK] == HOLDER
}

fn is_of_another_boot(pod: &Object) -> bool {
    let noted = pod.json()["metadata"]["annotations"][BOOT].as_str();
    matches!((noted, record::boot_id()), (Some(noted), Ok(now)) if noted != now)
}

/// Takes the pod down when it is dropped: hyper drops an answer whose client is gone.
pub struct Lease {
    leases: Leases,
    key: Key,
    uid: String,
}

impl Lease {
    /// The pod is gone already.
    pub fn end(mut self) {
        self.uid.clear();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.uid.is_empty() {
            return;
        }
        if self.leases.stop.is_cancelled() {
            tracing::info!(pod = self.key.name, "its client finds it at the next node");
            return;
        }
        let (leases, key, uid) = (self.leases.clone(), self.key.clone(), std::mem::take(&mut self.uid));
        let delete = move || leases.delete(&key, &uid);
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(delete)),
            Err(_) => delete(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_comes_and_goes_without_a_trace() {
        let plain = json!({"metadata": {"name": "web"}});
        let mut pod = plain.clone();
        mark(&mut pod, false);
        assert_eq!(pod, plain, "no null");
        pod["metadata"]["annotations"] = json!({"a": "b"});
        let annotated = pod.clone();
        mark(&mut pod, true);
        assert_eq!(pod["metadata"]["annotations"][MARK], HOLDER);
        mark(&mut pod, false);
        assert_eq!(pod, annotated);
    }
}
