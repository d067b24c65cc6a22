//! PodSandboxConfig.

use std::collections::BTreeMap;

use cri::v1::{LinuxPodSandboxConfig, PodSandboxConfig, PodSandboxMetadata, PortMapping, Protocol};
use k8s_openapi::api::core::v1::{Pod, PodSpec};

use super::{Identity, Node, all_containers, dns, resources, security};
use crate::{decide::is_sidecar, labels};

/// How long a hostname may be (HOST_NAME_MAX is 64 with the final zero).
const HOSTNAME_LIMIT: usize = 63;

/// The sandbox of `pod`, as its attempt.
pub fn config(pod: &Pod, attempt: u32, node: &Node) -> PodSandboxConfig {
    let spec = pod.spec.clone().unwrap_or_default();
    let identity = Identity::of(pod);
    let on_host = spec.host_network.unwrap_or_default();
    let sysctls = spec
        .security_context
        .iter()
        .flat_map(|context| context.sysctls.iter().flatten());
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: identity.name.to_owned(),
            uid: identity.uid.to_owned(),
            namespace: identity.namespace.to_owned(),
            attempt,
        }),
        hostname: if on_host {
            String::new()
        } else {
            hostname(&spec, identity.name)
        },
        log_directory: identity.log_directory(node).to_string_lossy().into_owned(),
        dns_config: Some(dns::config(&spec, &node.resolv_conf)),
        port_mappings: if on_host { Vec::new() } else { ports(&spec) },
        labels: own_labels(pod),
        annotations: annotations(pod),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: cgroup_parent(node, identity),
            security_context: Some(security::sandbox(&spec)),
            sysctls: sysctls
                .map(|sysctl| (sysctl.name.replace('/', "."), sysctl.value.clone()))
                .collect(),
            resources: Some(resources::pod(&spec)),
            ..LinuxPodSandboxConfig::default()
        }),
        ..PodSandboxConfig::default()
    }
}

/// The pod's hostname: `spec.hostname`, else its name, cut to what the kernel takes.
pub fn hostname(spec: &PodSpec, name: &str) -> String {
    let given = spec
        .hostname
        .as_deref()
        .filter(|hostname| !hostname.is_empty())
        .unwrap_or(name);
    let cut = given.get(..HOSTNAME_LIMIT).unwrap_or(given);
    cut.trim_end_matches(['-', '.']).to_owned()
}

/// The user's labels, those by which the pod is found again, and the owner's.
fn own_labels(pod: &Pod) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<String, String> = pod.metadata.labels.clone().unwrap_or_default().into_iter().collect();
    labels.extend(identity_labels(Identity::of(pod)));
    labels
}

/// What every sandbox and container of a pod carries.
pub(super) fn identity_labels(identity: Identity<'_>) -> [(String, String); 4] {
    [
        (labels::POD_NAME.into(), identity.name.into()),
        (labels::POD_NAMESPACE.into(), identity.namespace.into()),
        (labels::POD_UID.into(), identity.uid.into()),
        (labels::OWNER.into(), labels::OWNER_SYNC.into()),
    ]
}

fn annotations(pod: &Pod) -> BTreeMap<String, String> {
    let mut annotations: BTreeMap<String, String> = pod
        .metadata
        .annotations
        .clone()
        .unwrap_or_default()
        .into_iter()
        .collect();
    annotations.insert(labels::CONFIG_SOURCE.into(), "api".into());
    annotations
}

fn cgroup_parent(node: &Node, identity: Identity<'_>) -> String {
    pod_cgroup(&node.cgroup_parent, identity.uid)
}

/// The cgroup of the pod with this uid, below the one of all pods.
pub fn pod_cgroup(parent: &str, uid: &str) -> String {
    format!("{}/pod{uid}", parent.trim_end_matches('/'))
}

/// The ports of the containers that run at the same time.
fn ports(spec: &PodSpec) -> Vec<PortMapping> {
    let mut mappings = Vec::new();
    for container in all_containers(spec) {
        let is_init = spec
            .init_containers
            .iter()
            .flatten()
            .any(|init| std::ptr::eq(init, container));
        if is_init && !is_sidecar(container) {
            continue;
        }
        for port in container
            .ports
            .iter()
            .flatten()
            .filter(|port| port.host_port.unwrap_or_default() != 0)
        {
            let protocol = match port.protocol.as_deref() {
                Some("UDP") => Protocol::Udp,
                Some("SCTP") => Protocol::Sctp,
                _ => Protocol::Tcp,
            };
            mappings.push(PortMapping {
                protocol: protocol as i32,
                container_port: port.container_port,
                host_port: port.host_port.unwrap_or_default(),
                host_ip: port.host_ip.clone().unwrap_or_default(),
            });
        }
    }
    mappings
}
