//! What a runtime is told when it is opened.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::handlers::Handler;
use crate::id::SandboxId;
use crate::records::SandboxRecord;

/// A runtime's configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where sandboxes are kept; what dies with the boot.
    pub state: PathBuf,
    /// The supervisor's binary.
    pub shim: PathBuf,
    /// The cgroup below which a sandbox goes that names no parent, and below which (`…/shims`) the supervisors are,
    /// outside of any pod.
    pub cgroup_parent: String,
    /// How registries are reached.
    pub registries: image::registry::Config,
    /// Handlers (Kubernetes' RuntimeClass) by name. Hove's own needs no entry.
    pub handlers: BTreeMap<String, Handler>,
    /// The handler of a pod that names none; the empty name is Hove's own.
    pub default_handler: String,
    /// The image whose program is a sandbox's first process; `None`: the pause that is a part of Hove. It is pulled when it is
    /// missing. That it is never collected is the store's to see to ([`image::Store::pin`]).
    pub sandbox_image: Option<String>,
    /// The host's resolver configuration, for pods that bring none.
    pub resolv_conf: PathBuf,
}

impl Config {
    /// The configuration of the node whose state directory is `state`, with `shim` as its supervisor.
    pub fn below(state: &Path, shim: &Path) -> Config {
        Config {
            state: state.into(),
            shim: shim.into(),
            cgroup_parent: "/hove".into(),
            sandbox_image: None,
            handlers: BTreeMap::new(),
            default_handler: String::new(),
            registries: image::registry::Config::default(),
            resolv_conf: "/etc/resolv.conf".into(),
        }
    }

    /// The cgroup of a sandbox's supervisor: all have one in common, but where another vendor's shim is below it, both have
    /// their own, with which all that such a shim has started on the host can be killed.
    pub(crate) fn supervisors_cgroup(&self, sandbox: &SandboxRecord) -> String {
        match sandbox.foreign {
            None => self.shims_cgroup(),
            Some(_) => self.own_supervisors_cgroup(&sandbox.id),
        }
    }

    /// The cgroup of a sandbox's supervisor, if that has one of its own.
    pub(crate) fn own_supervisors_cgroup(&self, id: &SandboxId) -> String {
        format!("{}/{id}", self.shims_cgroup())
    }

    fn shims_cgroup(&self) -> String {
        format!("{}/shims", self.cgroup_parent.trim_end_matches('/'))
    }
}
