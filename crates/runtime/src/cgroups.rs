//! The cgroups above sandboxes: a pod's parent and the supervisors' own, made when missing, taken away with their last
//! user if they are ours.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use cgroup::{Cgroup, Hierarchies, Placement};

use crate::error::Result;
use crate::id::SandboxId;

/// The shared cgroups of a node. All of them are made and removed under one lock, so that none vanishes between its
/// making and its use.
#[derive(Debug)]
pub(crate) struct Cgroups {
    hierarchies: Hierarchies,
    users: Mutex<BTreeMap<String, Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    users: BTreeSet<SandboxId>,
    ours: bool,
}

impl Cgroups {
    pub(crate) fn new(hierarchies: Hierarchies) -> Self {
        Cgroups {
            hierarchies,
            users: Mutex::default(),
        }
    }

    pub(crate) fn hierarchies(&self) -> &Hierarchies {
        &self.hierarchies
    }

    /// Those of `path` and the cgroups above it that do not exist yet, or that exist for other sandboxes' sake: what a
    /// sandbox is to record before it calls [`Cgroups::acquire`]. The last one takes them away, whoever made them.
    pub(crate) fn missing(&self, path: &str) -> Vec<String> {
        let users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        with_ancestors(path)
            .filter(|p| users.get(p).is_some_and(|s| s.ours) || Cgroup::open(&self.hierarchies, p).is_err())
            .collect()
    }

    /// Makes `path` for `sandbox`. `made`: those whose absence the sandbox has recorded.
    pub(crate) fn acquire(&self, path: &str, sandbox: &SandboxId, made: &[String]) -> Result<()> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        Self::note(&mut users, path, sandbox, made);
        Cgroup::create(&self.hierarchies, path)?;
        Ok(())
    }

    /// Notes after a restart that `sandbox` uses `path`.
    pub(crate) fn adopt(&self, path: &str, sandbox: &SandboxId, made: &[String]) {
        Self::note(
            &mut self.users.lock().unwrap_or_else(PoisonError::into_inner),
            path,
            sandbox,
            made,
        );
    }

    fn note(users: &mut BTreeMap<String, Shared>, path: &str, sandbox: &SandboxId, made: &[String]) {
        for path in with_ancestors(path) {
            let ours = made.contains(&path);
            let shared = users.entry(path).or_default();
            shared.ours |= ours;
            shared.users.insert(sandbox.clone());
        }
    }

    /// `sandbox` uses none of them any more. Those without a user that are ours are removed, the lowest first, if they
    /// are empty.
    pub(crate) fn release(&self, sandbox: &SandboxId) -> Result<()> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        for shared in users.values_mut() {
            shared.users.remove(sandbox);
        }
        let unused: Vec<String> = users
            .iter()
            .filter(|(_, s)| s.users.is_empty())
            .map(|(p, _)| p.clone())
            .collect();
        let mut first_error = None;
        // A path sorts before what is below it.
        for path in unused.iter().rev() {
            let ours = users.get(path).is_some_and(|s| s.ours);
            match ours.then(|| cgroup::remove::remove_if_empty(&self.hierarchies, path)) {
                Some(Err(e)) => {
                    first_error.get_or_insert(e);
                }
                _ => {
                    users.remove(path);
                }
            }
        }
        first_error.map_or(Ok(()), |e| Err(e.into()))
    }

    /// What a new process needs to be in `path`.
    pub(crate) fn placement(&self, path: &str) -> Result<Placement> {
        Ok(Cgroup::open(&self.hierarchies, path)?.placement()?)
    }
}

/// `/a/b` → `/a`, `/a/b`.
fn with_ancestors(path: &str) -> impl Iterator<Item = String> {
    let trimmed = path.trim_end_matches('/');
    let ends = trimmed
        .match_indices('/')
        .map(|(at, _)| at)
        .skip(1)
        .chain([trimmed.len()]);
    ends.map(|end| trimmed[..end].to_owned())
        .filter(|p| !p.is_empty())
        .collect::<Vec<_>>()
        .into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ancestors() {
        assert_eq!(with_ancestors("/a/b/c").collect::<Vec<_>>(), ["/a", "/a/b", "/a/b/c"]);
        assert_eq!(with_ancestors("/a/").collect::<Vec<_>>(), ["/a"]);
        assert_eq!(with_ancestors("/").count(), 0);
    }
}
