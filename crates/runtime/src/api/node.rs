//! Version, Status, RuntimeConfig, UpdateRuntimeConfig: the node as a whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use cri::Result;
use cri::v1::*;
use serde_json::json;
use tracing::debug;

use crate::node::Node;

/// The version of the kubelet's own API for runtimes that this answer follows; the only one there ever was.
const KUBE_API_VERSION: &str = "0.1.0";

pub(super) fn version(_: VersionRequest) -> VersionResponse {
    VersionResponse {
        version: KUBE_API_VERSION.into(),
        runtime_name: "hove".into(),
        runtime_version: env!("CARGO_PKG_VERSION").into(),
        runtime_api_version: "v1".into(),
    }
}

/// Ready as soon as it answers: what could make it not ready keeps it from starting.
pub(super) async fn status(node: &Arc<Node>, request: StatusRequest) -> Result<StatusResponse> {
    let condition = |kind: &str| RuntimeCondition {
        r#type: kind.into(),
        status: true,
        ..Default::default()
    };
    Ok(StatusResponse {
        status: Some(RuntimeStatus {
            conditions: vec![condition("RuntimeReady"), condition("NetworkReady")],
        }),
        info: if request.verbose { info(node) } else { BTreeMap::new() },
        runtime_handlers: node.config.runtime_handlers(),
        features: Some(RuntimeFeatures {
            supplemental_groups_policy: true,
            user_namespaces_host_network: false,
        }),
    })
}

fn info(node: &Node) -> BTreeMap<String, String> {
    let config = json!({
        "state": node.config.state,
        "shim": node.config.shim,
        "cgroupParent": node.config.cgroup_parent,
        "cgroupMode": format!("{:?}", node.cgroups.hierarchies().mode()),
        "sandboxes": node.registry.sandboxes().len(),
    });
    BTreeMap::from([("config".to_owned(), config.to_string())])
}

/// Cgroups are made through cgroupfs.
pub(super) fn runtime_config() -> RuntimeConfigResponse {
    RuntimeConfigResponse {
        linux: Some(LinuxRuntimeConfiguration {
            cgroup_driver: CgroupDriver::Cgroupfs.into(),
        }),
    }
}

/// The pods' addresses are configured on the node; a range that the cluster hands out is for network plug-ins.
pub(super) fn update_runtime_config(request: UpdateRuntimeConfigRequest) -> UpdateRuntimeConfigResponse {
    let cidr = request
        .runtime_config
        .and_then(|c| c.network_config)
        .map(|n| n.pod_cidr)
        .unwrap_or_default();
    debug!(cidr, "a pod CIDR is offered; the built-in network keeps its own");
    UpdateRuntimeConfigResponse {}
}
