//! Which ids on the host a pod gets that has a user namespace of its own.
//!
//! The CRI knows: every sandbox's status says what it has, also after a restart of the engine. What was chosen and is not there yet
//! is remembered here, and no two pods choose at the same time.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use cri::{RuntimeService, v1};

use crate::{
    config::users::{self, LENGTH, UserIds},
    observe::unless_gone,
    observed,
};

/// The ids that were chosen for sandboxes that are being made.
#[derive(Debug, Default)]
pub(crate) struct Choices {
    made: Mutex<BTreeSet<UserIds>>,
    turn: tokio::sync::Mutex<()>,
}

/// Ids that are nobody else's while this lives. From the sandbox's start on, the CRI knows them.
#[derive(Debug)]
pub(crate) struct Chosen<'a> {
    pub ids: UserIds,
    choices: &'a Choices,
}

impl Choices {
    /// Chooses ids for a sandbox of the handler. An error says why there are none.
    pub(crate) async fn choose(&self, runtime: &dyn RuntimeService, handler: &str) -> Result<Chosen<'_>, String> {
        let _turn = self.turn.lock().await;
        check_support(runtime, handler).await?;
        // In this order: what is made meanwhile is in the list.
        let mut taken: Vec<_> = self.lock().iter().map(|ids| (ids.0, LENGTH)).collect();
        taken.extend(taken_by_sandboxes(runtime).await.map_err(|error| error.message)?);
        let ids = UserIds::choose(&taken).ok_or("hostUsers: false: all ranges of ids are in use by other pods")?;
        self.lock().insert(ids);
        Ok(Chosen { ids, choices: self })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<UserIds>> {
        // Nothing in here panics half-way through a change.
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Chosen<'_> {
    fn drop(&mut self) {
        self.choices.lock().remove(&self.ids);
    }
}

/// A runtime that does not know of user namespaces would leave them out in silence.
async fn check_support(runtime: &dyn RuntimeService, handler: &str) -> Result<(), String> {
    let status = runtime.status(v1::StatusRequest::default()).await;
    let handlers = status.map_err(|error| error.message)?.runtime_handlers;
    let features = handlers.iter().find(|known| known.name == handler);
    let supported = features.and_then(|known| known.features.as_ref());
    if supported.is_some_and(|features| features.user_namespaces) {
        return Ok(());
    }
    Err(format!(
        "hostUsers: false: the runtime does not support user namespaces for its handler {handler:?}; leave hostUsers out, or use another runtime class"
    ))
}

/// Whoever's they are.
async fn taken_by_sandboxes(runtime: &dyn RuntimeService) -> cri::Result<Vec<(u32, u32)>> {
    let mut taken = Vec::new();
    let listed = runtime.list_pod_sandbox(v1::ListPodSandboxRequest::default()).await?;
    for sandbox in listed.items {
        let request = v1::PodSandboxStatusRequest {
            pod_sandbox_id: sandbox.id,
            ..Default::default()
        };
        let status = unless_gone(runtime.pod_sandbox_status(request).await)?.and_then(|response| response.status);
        if let Some(options) = status.as_ref().and_then(observed::namespace_options) {
            taken.extend(users::ranges(options));
        }
    }
    Ok(taken)
}
