//! From a Pod to the CRI's configurations. Pure: a file per section.

pub mod container;
pub mod dns;
pub mod environment;
pub mod hosts;
pub mod resources;
pub mod sandbox;
pub mod security;
pub mod users;

use k8s_openapi::api::core::v1::{Pod, PodSpec};

/// What the node is to its pods.
#[derive(Debug, Clone, Default)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub ips: Vec<String>,
    /// Its memory in bytes, for the shares of oom_score_adj.
    pub memory_bytes: u64,
    /// Whether its cgroups are those of version 2 alone.
    pub cgroup_v2: bool,
    /// The text of its resolv.conf.
    pub resolv_conf: String,
    /// The text of its /etc/hosts, for pods on its network.
    pub hosts: String,
    /// Below which cgroup each pod gets one of its own.
    pub cgroup_parent: String,
    /// The directory of all pods' logs.
    pub log_root: std::path::PathBuf,
    /// The directory of a pod's own files: `ROOT/pods`.
    pub pods_root: std::path::PathBuf,
}

/// A pod's identity, borrowed.
#[derive(Debug, Clone, Copy)]
pub struct Identity<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its uid.
    pub uid: &'a str,
}

impl<'a> Identity<'a> {
    /// That of `pod`.
    pub fn of(pod: &'a Pod) -> Identity<'a> {
        let text = |text: &'a Option<String>| text.as_deref().unwrap_or_default();
        Identity {
            namespace: text(&pod.metadata.namespace),
            name: text(&pod.metadata.name),
            uid: text(&pod.metadata.uid),
        }
    }

    /// `LOG_ROOT/NAMESPACE_NAME_UID`: no two pods share it, and none of the parts has a '_' of its own.
    pub fn log_directory(&self, node: &Node) -> std::path::PathBuf {
        node.log_root
            .join(format!("{}_{}_{}", self.namespace, self.name, self.uid))
    }
}

/// Every container, the init containers first.
pub fn all_containers(spec: &PodSpec) -> impl Iterator<Item = &k8s_openapi::api::core::v1::Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}
