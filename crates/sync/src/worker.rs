//! One pod's task.
//!
//! ```text
//!            ┌──────────────── object changed · CRI event · back-off over ◄──────────────┐
//!            ▼                                                                            │
//!   observe ─► decide ─► publish the status ─► sync_pod ─► again while there is something to do ─► wait
//!            │
//!            └─ the object is marked as deleted, or gone: stop ─► remove ─► volumes, logs ─► finalise ─► end
//! ```

use std::{sync::Arc, time::Duration};

use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};
use objects::{EventType, Key, Object};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    config::Identity,
    decide,
    engine::Shared,
    files,
    memory::Memory,
    observe::observe,
    observed::PodStatusFromCri,
    report::Reporter,
    status, stop,
    sync_pod::{Pass, report_back_off, sync_pod},
};

/// How long to wait after the CRI, or the disk, failed.
const RETRY: Duration = Duration::from_secs(5);
/// How often a pod may be looked at in one go. A healthy one needs a look per init container and two more.
const LOOKS_LIMIT: usize = 64;
/// A pod whose object is lost gets this long if its containers do not say.
const DEFAULT_GRACE_S: i64 = 30;

/// What should become of the pod.
#[derive(Debug, Clone)]
pub(crate) enum Desired {
    /// What its object says.
    Object(Arc<Object>),
    /// There is no object: nothing may be left.
    Nothing,
}

impl Desired {
    fn is_deletion(&self) -> bool {
        match self {
            Desired::Object(object) => object.is_being_deleted(),
            Desired::Nothing => true,
        }
    }

    /// Within how many seconds a deletion must be done.
    fn grace_s(&self) -> Option<i64> {
        match self {
            Desired::Object(object) => object.json()["metadata"]["deletionGracePeriodSeconds"].as_i64(),
            Desired::Nothing => None,
        }
    }
}

/// Which pod it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodId {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

pub(crate) struct Worker {
    pub shared: Arc<Shared>,
    pub id: PodId,
    pub mailbox: watch::Receiver<Desired>,
    pub poke: Arc<Notify>,
    /// Cancelled by the first look at the pod.
    pub looked: CancellationToken,
    pub shutdown: CancellationToken,
}

/// What a worker waits for after a look.
enum Next {
    /// Something happens.
    Event,
    /// That, or this moment.
    At(Timestamp),
    /// That, or a while after a failure.
    Retry,
}

impl Worker {
    /// Works until the pod is gone, or the engine stops.
    pub async fn run(mut self) {
        let mut memory = Memory::default();
        // A panic is an end as well.
        let _ended = self.looked.clone().drop_guard();
        loop {
            let desired = self.mailbox.borrow_and_update().clone();
            let next = match &desired {
                Desired::Object(_) if !desired.is_deletion() => match self.current() {
                    Ok(pod) => self.sync_unless_interrupted(pod, &mut memory).await,
                    // Gone meanwhile: the mailbox says so too.
                    Err(objects::Error::NotFound(_)) => Next::Event,
                    Err(error) => self.retry("read the object", &error),
                },
                _ => tokio::select! {
                    done = self.terminate(&desired) => match done {
                        true => return,
                        false => Next::Retry,
                    },
                    () = self.shorter_grace(desired.grace_s()) => continue,
                    () = self.shutdown.cancelled() => return,
                },
            };
            self.looked.cancel();
            self.wait(next).await;
            if self.shutdown.is_cancelled() {
                return;
            }
        }
    }

    /// The object as the store has it: the one in the mailbox may be older than the status that was written last.
    fn current(&self) -> objects::Result<Pod> {
        let object = self.shared.store.get(&Key::pod(&self.id.namespace, &self.id.name))?;
        match object.uid() == self.id.uid {
            true => object.decode(),
            false => Err(objects::Error::NotFound(object.key())),
        }
    }

    async fn wait(&mut self, next: Next) {
        let pause = match next {
            Next::Event => None,
            Next::At(time) => Some(Duration::try_from(time.duration_since(Timestamp::now())).unwrap_or_default()),
            Next::Retry => Some(RETRY),
        };
        let timer = async {
            match pause {
                // A millisecond more, so that the time has come when the clock is asked again.
                Some(pause) => tokio::time::sleep(pause + Duration::from_millis(1)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = self.mailbox.changed() => if changed.is_err() {
                // The engine is gone: so is the reason to run.
                self.shutdown.cancel();
            },
            () = self.poke.notified() => {}
            () = timer => {}
            () = self.shutdown.cancelled() => {}
        }
    }

    /// A deletion, or the end of the engine, ends a sync at its next step, and at once where it waits for something that may take long:
    /// a pull, a container that has its grace period. What is being made is made first, so that it can be found.
    async fn sync_unless_interrupted(&self, pod: Pod, memory: &mut Memory) -> Next {
        let interrupt = CancellationToken::new();
        let sync = self.sync(pod, memory, &interrupt);
        tokio::pin!(sync);
        tokio::select! {
            next = &mut sync => return next,
            () = self.deletion() => {}
            () = self.shutdown.cancelled() => {}
        }
        interrupt.cancel();
        sync.await
    }

    /// Until the pod is to be deleted.
    async fn deletion(&self) {
        let mut mailbox = self.mailbox.clone();
        // An error: nobody can ask for a deletion any more.
        if mailbox.wait_for(Desired::is_deletion).await.is_err() {
            std::future::pending().await
        }
    }

    /// Until a deletion that is under way has less time than it was begun with.
    async fn shorter_grace(&self, begun_with: Option<i64>) {
        let mut mailbox = self.mailbox.clone();
        let is_shorter = |desired: &Desired| match (desired.grace_s(), begun_with) {
            (Some(now), Some(then)) => now < then,
            _ => false,
        };
        if mailbox.wait_for(is_shorter).await.is_err() {
            std::future::pending().await
        }
    }

    /// Looks, decides and does until there is nothing to do now.
    async fn sync(&self, mut pod: Pod, memory: &mut Memory, interrupt: &CancellationToken) -> Next {
        for _ in 0..LOOKS_LIMIT {
            if interrupt.is_cancelled() {
                return Next::Event;
            }
            let observed = match observe(&*self.shared.runtime, &self.id.uid).await {
                Ok(observed) => observed,
                Err(error) => return self.retry("ask the runtime", &error),
            };
            let is_over = status::is_over(pod.status.as_ref().and_then(|status| status.phase.as_deref()));
            let actions = decide::compute_pod_actions(&pod, &observed, memory, is_over, Timestamp::now());
            let is_idle = actions
                == decide::PodActions {
                    waiting: actions.waiting.clone(),
                    wake_at: actions.wake_at,
                    ..Default::default()
                };
            if is_idle {
                report_back_off(&self.shared, &pod, &observed, &actions);
            }
            if let Err(error) = self.publish(&mut pod, &observed, memory, &actions.waiting, false) {
                return self.retry("write the status", &error);
            }
            self.looked.cancel();
            if is_idle {
                self.collect_garbage(&observed).await;
                return actions.wake_at.map_or(Next::Event, Next::At);
            }
            let pass = Pass {
                shared: &self.shared,
                pod: &pod,
                status: &observed,
                memory,
                actions: &actions,
                interrupt,
            };
            if let Err(error) = sync_pod(pass).await {
                return self.retry("bring the pod to its spec", &error);
            }
        }
        tracing::warn!(
            pod = self.id.name,
            "{LOOKS_LIMIT} looks in a row found something to do: pausing"
        );
        Next::Retry
    }

    fn retry(&self, what: &str, error: &dyn std::error::Error) -> Next {
        tracing::warn!(
            pod = self.id.name,
            namespace = self.id.namespace,
            "can't {what}: {error}; trying again in {RETRY:?}"
        );
        Next::Retry
    }

    /// Writes the status, if it changed, and keeps it in `pod`, where the next one takes its times from.
    fn publish(
        &self,
        pod: &mut Pod,
        observed: &PodStatusFromCri,
        memory: &Memory,
        waiting: &std::collections::BTreeMap<String, Timestamp>,
        is_terminated: bool,
    ) -> objects::Result<()> {
        let now = Timestamp::now();
        let host_ips = &self.shared.node.ips;
        let status = status::pod_status(&status::Input {
            pod,
            observed,
            memory,
            waiting,
            host_ips,
            is_terminated,
            now,
        });
        let json = serde_json::to_value(&status).map_err(|error| objects::Error::Invalid(error.to_string()))?;
        pod.status = Some(status);
        let key = Key::pod(&self.id.namespace, &self.id.name);
        match self.shared.store.update_status(&key, &self.id.uid, json) {
            // Deleted meanwhile: the mailbox says so too.
            Ok(_) | Err(objects::Error::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// What fails here is tried again at the next look.
    async fn collect_garbage(&self, observed: &PodStatusFromCri) {
        let (containers, sandboxes) = decide::garbage(observed);
        let runtime = &*self.shared.runtime;
        let removed = stop::remove_containers(runtime, &containers)
            .await
            .and(stop::remove_sandboxes(runtime, &sandboxes).await);
        if let Err(error) = removed {
            tracing::warn!(
                pod = self.id.name,
                "what is no longer needed can't be removed yet: {error}"
            );
        }
    }

    /// Takes the pod down and everything of it away. Whether it is done.
    async fn terminate(&self, desired: &Desired) -> bool {
        // That it goes is known already; how long it takes is up to its containers.
        self.looked.cancel();
        let mut pod = match desired {
            Desired::Object(object) => object.decode::<Pod>().unwrap_or_default(),
            Desired::Nothing => Pod::default(),
        };
        match self.take_down(&mut pod, desired).await {
            Ok(()) => true,
            Err(message) => {
                tracing::warn!(
                    pod = self.id.name,
                    namespace = self.id.namespace,
                    "{message}; trying again in {RETRY:?}"
                );
                if let Desired::Object(_) = desired {
                    Reporter::of(&self.shared.recorder, &pod).pod(EventType::Warning, "FailedKillPod", &message);
                }
                false
            }
        }
    }

    async fn take_down(&self, pod: &mut Pod, desired: &Desired) -> Result<(), String> {
        let runtime = &*self.shared.runtime;
        let ask = || async {
            observe(runtime, &self.id.uid)
                .await
                .map_err(|error| format!("can't ask the runtime: {error}"))
        };
        let has_object = matches!(desired, Desired::Object(_));
        let observed = ask().await?;
        let grace = self.grace(desired, &observed);
        let identity = self.identity();
        let reporter = Reporter {
            recorder: &self.shared.recorder,
            pod: identity,
        };
        stop::stop_pod(runtime, &reporter, pod.spec.as_ref(), &observed, grace)
            .await
            .map_err(|error| format!("error killing pod: {error}"))?;
        let observed = ask().await?;
        if has_object {
            // Last words for those who watch: how the containers ended.
            self.publish(pod, &observed, &Memory::default(), &Default::default(), true)
                .map_err(|error| format!("can't write the status: {error}"))?;
        }
        stop::remove_pod(runtime, &observed)
            .await
            .map_err(|error| format!("error removing pod: {error}"))?;
        self.remove_files().await?;
        if has_object {
            let (store, id) = (Arc::clone(&self.shared.store), self.id.clone());
            tokio::task::spawn_blocking(move || store.finalise(&Key::pod(&id.namespace, &id.name), &id.uid))
                .await
                .map_err(|error| error.to_string())?
                .map_err(|error| format!("can't remove the object: {error}"))?;
        }
        Ok(())
    }

    async fn remove_files(&self) -> Result<(), String> {
        let (shared, id) = (Arc::clone(&self.shared), self.id.clone());
        let remove = move || {
            let volumes = shared
                .volumes
                .teardown(&id.uid)
                .map_err(|error| format!("can't take the volumes away: {error}"));
            let identity = Identity {
                namespace: &id.namespace,
                name: &id.name,
                uid: &id.uid,
            };
            let logs = files::remove_log_directory(identity, &shared.node).map_err(|error| error.to_string());
            volumes.and(logs)
        };
        tokio::task::spawn_blocking(remove)
            .await
            .map_err(|error| error.to_string())?
    }

    /// How long the containers have. A deletion that another engine began has what is left of it.
    fn grace(&self, desired: &Desired, observed: &PodStatusFromCri) -> Duration {
        let seconds = match desired {
            Desired::Nothing => observed
                .containers
                .iter()
                .filter_map(|container| container.grace_s)
                .max()
                .unwrap_or(DEFAULT_GRACE_S),
            Desired::Object(object) => {
                let grace = desired.grace_s().unwrap_or(DEFAULT_GRACE_S);
                let end = object.json()["metadata"]["deletionTimestamp"]
                    .as_str()
                    .and_then(|text| text.parse::<Timestamp>().ok());
                // The timestamp has lost its part of a second.
                let left = end.map_or(grace, |end| end.duration_since(Timestamp::now()).as_secs() + 1);
                left.clamp(0, grace)
            }
        };
        Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
    }

    fn identity(&self) -> Identity<'_> {
        Identity {
            namespace: &self.id.namespace,
            name: &self.id.name,
            uid: &self.id.uid,
        }
    }
}
