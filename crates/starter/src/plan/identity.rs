//! As whom the process runs, as far as that is known before it has its root.

use oci_spec::runtime::{Process, Spec};

use super::step::Step;
use crate::handshake::Packed;
use crate::identity::{Identity, NO_ID, Wanted};
use crate::request::{GROUPS_POLICY_ANNOTATION, USER_ANNOTATION};
use crate::{Error, Result};

/// What is known, and what has to be asked.
#[derive(Debug)]
pub(crate) struct Decided {
    pub known: Identity,
    pub wanted: Wanted,
    ask: bool,
    home_is_missing: bool,
}

impl Decided {
    /// `annotated`: the spec whose annotations apply. `nothing_to_read`: the root is empty.
    pub fn new(process: &Process, annotated: Option<&Spec>, nothing_to_read: bool) -> Result<Self> {
        let annotation = |key: &str| {
            annotated
                .and_then(|s| s.annotations().as_ref())
                .and_then(|a| a.get(key))
        };
        let named = annotation(USER_ANNOTATION).filter(|user| !user.is_empty());
        let policy = annotation(GROUPS_POLICY_ANNOTATION).map(String::as_str);
        let merge_groups = match policy {
            // Without a word of either, the config's numbers are all there is (OCI).
            None => named.is_some(),
            Some("Merge") => true,
            Some("Strict") => false,
            Some(other) => {
                let field = format!("annotations[{GROUPS_POLICY_ANNOTATION}]");
                return Err(Error::spec(field, other, "must be Merge or Strict"));
            }
        };
        let user = process.user();
        let additional = user
            .additional_gids()
            .iter()
            .flatten()
            .map(|gid| ("additionalGids", *gid));
        for (field, id) in [("uid", user.uid()), ("gid", user.gid())].into_iter().chain(additional) {
            if id == NO_ID {
                let rule = "is not an id: to the kernel it means \"leave it as it is\", which is root";
                return Err(Error::spec(format!("process.user.{field}"), id, rule));
            }
        }
        let groups = user.additional_gids().clone().unwrap_or_default();
        let home = process
            .env()
            .iter()
            .flatten()
            .rev()
            .find_map(|e| e.strip_prefix("HOME="));
        let home_is_missing = home.is_none() && !nothing_to_read;
        Ok(Decided {
            known: Identity {
                uid: user.uid(),
                gid: user.gid(),
                groups: groups.clone(),
                home: home.unwrap_or("/").to_owned(),
            },
            wanted: Wanted {
                uid: user.uid(),
                gid: user.gid(),
                groups,
                user: named.cloned(),
                merge_groups,
            },
            ask: !nothing_to_read && (named.is_some() || merge_groups || home_is_missing),
            home_is_missing,
        })
    }

    /// Whether the container's passwd or group file has to be read.
    pub fn must_ask(&self) -> bool {
        self.ask
    }

    /// Whether HOME is to be added to the environment.
    pub fn home_is_missing(&self) -> bool {
        self.home_is_missing
    }

    /// What the child starts from.
    pub fn packed(&self) -> Result<Packed> {
        // HOME is in the environment already, or comes with the answer.
        let identity = Identity {
            home: String::new(),
            ..self.known.clone()
        };
        Packed::new(&identity).ok_or_else(|| {
            Error::spec(
                "process.user.additionalGids",
                identity.groups.len(),
                "at most 1024 groups",
            )
        })
    }
}

pub(crate) fn oom_score(process: &Process, steps: &mut Vec<Step>) {
    if let Some(value) = process.oom_score_adj() {
        steps.push(Step::OomScore { value });
    }
}
