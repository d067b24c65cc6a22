//! RunPodSandbox, StopPodSandbox, RemovePodSandbox, UpdatePodSandboxResources, PodSandboxStatus, ListPodSandbox.

use std::collections::BTreeMap;
use std::sync::Arc;

use cri::v1::*;
use cri::{Error, ErrorKind, Result};

use super::info;
use crate::clock::now_ns;
use crate::id::SandboxId;
use crate::node::Node;
use crate::records::{Intent, SandboxRecord};
use crate::sandbox::{Message, Phase, Sandbox, Step, View, cgroup_parent};
use crate::{spec, status};

/// Host names that the kernel takes (`__NEW_UTS_LEN`).
const HOSTNAME_BYTES: usize = 64;

/// The same sandbox for the same name, for as long as that is being made or ready; concurrent callers share one creation.
pub(super) async fn run(node: &Arc<Node>, request: RunPodSandboxRequest) -> Result<RunPodSandboxResponse> {
    let config = request.config.unwrap_or_default();
    let name = config
        .metadata
        .clone()
        .filter(|m| !m.name.is_empty() && !m.uid.is_empty());
    let Some(name) = name else {
        return Err(Error::invalid("config.metadata: a sandbox needs a name and a uid"));
    };
    let foreign = node.config.handler(&request.runtime_handler)?.cloned();
    spec::check_namespaces(&config).map_err(crate::Error::from)?;
    if foreign.is_some() && spec::user_maps(&config).map_err(crate::Error::from)?.is_some() {
        return Err(Error::new(
            ErrorKind::Unimplemented,
            "namespace_options.userns_options: a pod of this handler can't have a user namespace; use Hove's own handler",
        ));
    }
    let record = first_record(node, config, request.runtime_handler, foreign)?;
    let handle = node.registry.sandbox_named((&name).into(), || {
        let sandbox = Sandbox::new(node.clone(), record, Phase::Creating);
        let handle = sandbox.handle();
        sandbox.spawn_creation();
        handle
    });
    handle.made().await?;
    Ok(RunPodSandboxResponse {
        pod_sandbox_id: handle.id.to_string(),
    })
}

/// A sandbox that is not there has been stopped.
pub(super) async fn stop(node: &Node, request: StopPodSandboxRequest) -> Result<StopPodSandboxResponse> {
    match node.registry.sandbox(&request.pod_sandbox_id) {
        Ok(sandbox) => gone_is_done(sandbox.ask(Message::Stop).await)?,
        Err(e) => gone_is_done(Err(e))?,
    }
    Ok(StopPodSandboxResponse {})
}

/// A sandbox that is not there has been removed.
pub(super) async fn remove(node: &Node, request: RemovePodSandboxRequest) -> Result<RemovePodSandboxResponse> {
    match node.registry.sandbox(&request.pod_sandbox_id) {
        Ok(sandbox) => gone_is_done(sandbox.ask(Message::Remove).await)?,
        Err(e) => gone_is_done(Err(e))?,
    }
    Ok(RemovePodSandboxResponse {})
}

/// Told of a pod-level resize, after or before those of the containers.
pub(super) async fn update_resources(
    node: &Node,
    request: UpdatePodSandboxResourcesRequest,
) -> Result<UpdatePodSandboxResourcesResponse> {
    let sandbox = node.registry.sandbox(&request.pod_sandbox_id)?;
    sandbox
        .ask(|reply| Message::UpdateSandbox(Box::new(request), reply))
        .await?;
    Ok(UpdatePodSandboxResourcesResponse {})
}

pub(super) fn status(node: &Node, request: PodSandboxStatusRequest) -> Result<PodSandboxStatusResponse> {
    let sandbox = node.registry.sandbox(&request.pod_sandbox_id)?;
    let view = sandbox.view();
    Ok(PodSandboxStatusResponse {
        status: Some(status::sandbox(&view)),
        info: if request.verbose {
            info::sandbox(&node.layout.sandbox(&sandbox.id), &view)
        } else {
            BTreeMap::new()
        },
        containers_statuses: view.containers.values().map(|c| status::container(c)).collect(),
        timestamp: now_ns(),
    })
}

pub(super) fn list(node: &Node, filter: Option<PodSandboxFilter>) -> Vec<PodSandbox> {
    let filter = filter.unwrap_or_default();
    let views = node.registry.sandboxes().into_iter().map(|s| s.view());
    views
        .filter(|v| shown(v, &filter))
        .map(|v| status::sandbox_item(&v))
        .collect()
}

/// A sandbox that is being made has no state that the CRI could name, so it is not shown before it is ready.
fn shown(view: &View, filter: &PodSandboxFilter) -> bool {
    !matches!(view.phase, Phase::Creating | Phase::Failed(_) | Phase::Removed)
        && view.record.id.as_str().starts_with(&filter.id)
        && filter
            .state
            .is_none_or(|s| s.state == i32::from(status::sandbox_state(view)))
        && has_labels(&view.record.config.labels, &filter.label_selector)
}

pub(super) fn has_labels(labels: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// What is not there needs no stopping and no removing.
pub(super) fn gone_is_done(result: Result<()>) -> Result<()> {
    match result {
        Err(e) if e.kind == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn first_record(
    node: &Node,
    config: PodSandboxConfig,
    runtime_handler: String,
    foreign: Option<shim_api::Handler>,
) -> Result<SandboxRecord> {
    let id = SandboxId::random();
    Ok(SandboxRecord {
        intent: Intent::Create,
        step: Step::Reserved,
        created_at_ns: now_ns(),
        hostname: hostname(&config)?,
        cgroup_parent: cgroup_parent(&config, &node.config),
        cgroups_made: Vec::new(),
        netns: (!spec::host_network(&config)).then(|| node.network.namespace_path(id.as_str())),
        ips: Vec::new(),
        shim: None,
        image: None,
        runtime_handler,
        foreign,
        config,
        id,
    })
}

/// The configured name, else the host's; on the host's network always the host's, since its UTS namespace is.
fn hostname(config: &PodSandboxConfig) -> Result<String> {
    if config.hostname.len() > HOSTNAME_BYTES {
        return Err(Error::invalid(format!(
            "hostname: {:?} is longer than {HOSTNAME_BYTES} bytes",
            config.hostname
        )));
    }
    if !config.hostname.is_empty() && !spec::host_network(config) {
        return Ok(config.hostname.clone());
    }
    Ok(rustix::system::uname().nodename().to_string_lossy().into_owned())
}
