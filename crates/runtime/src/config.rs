//! What a runtime is told when it is opened.

use std::path::{Path, PathBuf};

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
            registries: image::registry::Config::default(),
            resolv_conf: "/etc/resolv.conf".into(),
        }
    }

    pub(crate) fn shims_cgroup(&self) -> String {
        format!("{}/shims", self.cgroup_parent.trim_end_matches('/'))
    }
}
