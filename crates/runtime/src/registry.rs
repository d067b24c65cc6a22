//! Who is there: sandboxes by id and by name, containers by id. Held for a look-up or an entry, never across a wait.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cri::v1::PodSandboxMetadata;

use crate::id::{ContainerId, SandboxId};
use crate::sandbox::Handle;

/// A sandbox's name: RunPodSandbox repeated with the same one means the same sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct SandboxName {
    namespace: String,
    name: String,
    uid: String,
    attempt: u32,
}

impl From<&PodSandboxMetadata> for SandboxName {
    fn from(m: &PodSandboxMetadata) -> Self {
        SandboxName {
            namespace: m.namespace.clone(),
            name: m.name.clone(),
            uid: m.uid.clone(),
            attempt: m.attempt,
        }
    }
}

/// The table, as some see it: everybody's sandboxes, or only those that no engine of this node owns.
#[derive(Clone, Default)]
pub(crate) struct Registry {
    tables: Arc<Mutex<Tables>>,
    hides_owned: bool,
}

#[derive(Default)]
struct Tables {
    sandboxes: BTreeMap<SandboxId, Handle>,
    names: HashMap<SandboxName, SandboxId>,
    containers: BTreeMap<ContainerId, SandboxId>,
}

impl Registry {
    /// The same table, without the sandboxes that an engine of this node owns.
    pub(crate) fn without_owned(&self) -> Registry {
        Registry {
            tables: self.tables.clone(),
            hides_owned: true,
        }
    }

    fn shows(&self, sandbox: &Handle) -> bool {
        !(self.hides_owned && sandbox.view().is_owned())
    }

    /// The sandbox of this name, or the one that `make` starts, entered under its name and id.
    pub(crate) fn sandbox_named(&self, name: SandboxName, make: impl FnOnce() -> Handle) -> Handle {
        let mut tables = self.lock();
        if let Some(handle) = tables.names.get(&name).and_then(|id| tables.sandboxes.get(id)) {
            return handle.clone();
        }
        let handle = make();
        tables.names.insert(name, handle.id.clone());
        tables.sandboxes.insert(handle.id.clone(), handle.clone());
        handle
    }

    /// Enters a sandbox that was found after a restart.
    pub(crate) fn enter(&self, name: SandboxName, handle: Handle, containers: impl Iterator<Item = ContainerId>) {
        let mut tables = self.lock();
        tables.names.insert(name, handle.id.clone());
        tables.containers.extend(containers.map(|c| (c, handle.id.clone())));
        tables.sandboxes.insert(handle.id.clone(), handle);
    }

    /// Takes a sandbox, its name and its containers out.
    pub(crate) fn remove_sandbox(&self, id: &SandboxId) {
        let mut tables = self.lock();
        tables.sandboxes.remove(id);
        tables.names.retain(|_, holder| holder != id);
        tables.containers.retain(|_, sandbox| sandbox != id);
    }

    pub(crate) fn add_container(&self, container: &ContainerId, sandbox: &SandboxId) {
        self.lock().containers.insert(container.clone(), sandbox.clone());
    }

    pub(crate) fn remove_container(&self, container: &ContainerId) {
        self.lock().containers.remove(container);
    }

    /// All sandboxes, by id.
    pub(crate) fn sandboxes(&self) -> Vec<Handle> {
        let tables = self.lock();
        tables.sandboxes.values().filter(|s| self.shows(s)).cloned().collect()
    }

    /// The images, by id, that sandboxes use which are not shown.
    pub(crate) fn images_of_hidden(&self) -> BTreeSet<String> {
        if !self.hides_owned {
            return BTreeSet::new();
        }
        let mut images = BTreeSet::new();
        for sandbox in self.lock().sandboxes.values().filter(|s| !self.shows(s)) {
            let view = sandbox.view();
            for container in view.containers.values() {
                images.insert(container.record.image_id.clone());
                images.extend(container.record.image_volumes.values().cloned());
            }
        }
        images
    }

    /// The sandbox whose id is, or alone begins with, `id`.
    pub(crate) fn sandbox(&self, id: &str) -> cri::Result<Handle> {
        let tables = self.lock();
        let found = unique(&tables.sandboxes, &SandboxId::from(id), SandboxId::as_str, "sandbox")?;
        let sandbox = tables.sandboxes.get(&found).filter(|s| self.shows(s));
        sandbox
            .cloned()
            .ok_or_else(|| cri::Error::not_found(format_args!("sandbox {id}")))
    }

    /// The container whose id is, or alone begins with, `id`, and its sandbox.
    pub(crate) fn container(&self, id: &str) -> cri::Result<(ContainerId, Handle)> {
        let tables = self.lock();
        let found = unique(
            &tables.containers,
            &ContainerId::from(id),
            ContainerId::as_str,
            "container",
        )?;
        let sandbox = tables.sandboxes.get(&tables.containers[&found]);
        sandbox
            .filter(|s| self.shows(s))
            .map(|s| (found, s.clone()))
            .ok_or_else(|| cri::Error::not_found(format_args!("container {id}")))
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        // Nothing in here panics half-way through a change.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The key that equals `id`, or the only one that begins with it.
fn unique<K: Ord + Clone, V>(map: &BTreeMap<K, V>, id: &K, text: impl Fn(&K) -> &str, what: &str) -> cri::Result<K> {
    if text(id).is_empty() {
        return Err(cri::Error::invalid(format!("the id of a {what} is missing")));
    }
    let mut matching = map
        .range((Bound::Included(id), Bound::Unbounded))
        .map(|(key, _)| key)
        .take_while(|key| text(key).starts_with(text(id)));
    match (matching.next(), matching.next()) {
        (None, _) => Err(cri::Error::not_found(format_args!("{what} {}", text(id)))),
        (Some(first), second) if second.is_none() || first == id => Ok(first.clone()),
        _ => Err(cri::Error::invalid(format!(
            "the id {} fits more than one {what}; give more of it",
            text(id)
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes() {
        let map: BTreeMap<String, ()> = ["ab", "abc", "b1", "b2"].map(|k| (k.to_owned(), ())).into();
        let find = |id: &str| unique(&map, &id.to_owned(), String::as_str, "sandbox").map_err(|e| e.message);
        assert_eq!(find("ab"), Ok("ab".into()));
        assert_eq!(find("abc"), Ok("abc".into()));
        assert_eq!(find("b1"), Ok("b1".into()));
        assert_eq!(
            find("b"),
            Err("the id b fits more than one sandbox; give more of it".into())
        );
        assert_eq!(find("x"), Err("sandbox x not found".into()));
        assert_eq!(find(""), Err("the id of a sandbox is missing".into()));
    }
}
