//! CreateContainer, StartContainer, StopContainer, RemoveContainer, ContainerStatus, ListContainers,
//! UpdateContainerResources, ReopenContainerLog.

use std::collections::BTreeMap;
use std::time::Duration;

use cri::v1::*;
use cri::{Error, ErrorKind, Result};

use super::info;
use super::sandboxes::{gone_is_done, has_labels};
use crate::container::Container as Owned;
use crate::container::signal::SIGKILL;
use crate::id::ContainerId;
use crate::node::Node;
use crate::sandbox::{Handle, Message, View};
use crate::status;

/// How long a killed container may take to end. The kernel needs a millisecond, a process in uninterruptible sleep for ever.
pub(super) const KILL_LIMIT: Duration = Duration::from_secs(10);

pub(super) async fn create(node: &Node, request: CreateContainerRequest) -> Result<CreateContainerResponse> {
    let sandbox = node.registry.sandbox(&request.pod_sandbox_id)?;
    let config = Box::new(request.config.unwrap_or_default());
    let id = sandbox.ask(|reply| Message::CreateContainer(config, reply)).await?;
    Ok(CreateContainerResponse {
        container_id: id.to_string(),
    })
}

pub(super) async fn start(node: &Node, request: StartContainerRequest) -> Result<StartContainerResponse> {
    let (id, sandbox) = node.registry.container(&request.container_id)?;
    sandbox.ask(|reply| Message::StartContainer(id, reply)).await?;
    Ok(StartContainerResponse {})
}

/// The container's own signal, then, after the grace, the kill. A container that is not there has stopped.
pub(super) async fn stop(node: &Node, request: StopContainerRequest) -> Result<StopContainerResponse> {
    match node.registry.container(&request.container_id) {
        Ok((id, sandbox)) => {
            let grace = Duration::from_secs(u64::try_from(request.timeout).unwrap_or(0));
            gone_is_done(stop_within(&sandbox, &id, grace).await)?;
        }
        Err(e) => gone_is_done(Err(e))?,
    }
    Ok(StopContainerResponse {})
}

/// Whatever state it is in. A container that is not there has been removed.
pub(super) async fn remove(node: &Node, request: RemoveContainerRequest) -> Result<RemoveContainerResponse> {
    match node.registry.container(&request.container_id) {
        Ok((id, sandbox)) => {
            gone_is_done(stop_within(&sandbox, &id, Duration::ZERO).await)?;
            gone_is_done(sandbox.ask(|reply| Message::RemoveContainer(id, reply)).await)?;
        }
        Err(e) => gone_is_done(Err(e))?,
    }
    Ok(RemoveContainerResponse {})
}

async fn stop_within(sandbox: &Handle, id: &ContainerId, grace: Duration) -> Result<()> {
    let view = sandbox.view();
    let Some(container) = view.containers.get(id).filter(|c| c.is_running()) else {
        return Ok(());
    };
    if !grace.is_zero() {
        let signal = container.record.stop_signal;
        sandbox
            .ask(|reply| Message::SignalContainer {
                id: id.clone(),
                signal,
                all: false,
                reply,
            })
            .await?;
        if ended_within(sandbox, id, grace).await? {
            return Ok(());
        }
    }
    sandbox
        .ask(|reply| Message::SignalContainer {
            id: id.clone(),
            signal: SIGKILL,
            all: true,
            reply,
        })
        .await?;
    if ended_within(sandbox, id, KILL_LIMIT).await? {
        return Ok(());
    }
    let pid = container.process.map(|p| p.pid).unwrap_or_default();
    Err(Error::new(
        ErrorKind::DeadlineExceeded,
        format!(
            "container {id} was killed {KILL_LIMIT:?} ago and has not ended: see /proc/{pid}/stack for what it waits for"
        ),
    ))
}

async fn ended_within(sandbox: &Handle, id: &ContainerId, limit: Duration) -> Result<bool> {
    let ended = |v: &View| v.containers.get(id).is_none_or(|c| !c.is_running());
    match tokio::time::timeout(limit, sandbox.when(ended)).await {
        Ok(ended) => ended.map(|_| true),
        Err(_) => Ok(false),
    }
}

pub(super) fn status(node: &Node, request: ContainerStatusRequest) -> Result<ContainerStatusResponse> {
    let (id, sandbox) = node.registry.container(&request.container_id)?;
    let view = sandbox.view();
    let container = find(&view, &id)?;
    let dir = node.layout.sandbox(&sandbox.id).container(&id);
    Ok(ContainerStatusResponse {
        status: Some(status::container(container)),
        info: if request.verbose {
            info::container(&dir, container)
        } else {
            BTreeMap::new()
        },
    })
}

pub(super) fn list(node: &Node, filter: Option<ContainerFilter>) -> Vec<Container> {
    let filter = filter.unwrap_or_default();
    let views = node.registry.sandboxes().into_iter().map(|s| s.view());
    views
        .filter(|v| v.record.id.as_str().starts_with(&filter.pod_sandbox_id))
        .flat_map(|v| {
            v.containers
                .values()
                .filter(|c| shown(c, &filter))
                .map(|c| status::container_item(c))
                .collect::<Vec<_>>()
        })
        .collect()
}

fn shown(container: &Owned, filter: &ContainerFilter) -> bool {
    container.is_made()
        && container.record.id.as_str().starts_with(&filter.id)
        && filter
            .state
            .is_none_or(|s| s.state == i32::from(status::container_state(container)))
        && has_labels(&container.record.config.labels, &filter.label_selector)
}

pub(super) async fn update_resources(
    node: &Node,
    request: UpdateContainerResourcesRequest,
) -> Result<UpdateContainerResourcesResponse> {
    let (id, sandbox) = node.registry.container(&request.container_id)?;
    let Some(resources) = request.linux else {
        return Err(Error::invalid("linux: an update needs the resources to set"));
    };
    sandbox
        .ask(|reply| Message::UpdateContainer(id, Box::new(resources), reply))
        .await?;
    Ok(UpdateContainerResourcesResponse {})
}

pub(super) async fn reopen_log(node: &Node, request: ReopenContainerLogRequest) -> Result<ReopenContainerLogResponse> {
    let (id, sandbox) = node.registry.container(&request.container_id)?;
    let view = sandbox.view();
    let shim = view
        .shim
        .as_ref()
        .filter(|_| find(&view, &id).is_ok_and(|c| c.is_running()));
    let Some(shim) = shim else {
        return Err(Error::new(
            ErrorKind::FailedPrecondition,
            format!("container {id} does not run, so its log is closed"),
        ));
    };
    shim.reopen_log(id.as_str()).await.map_err(crate::Error::from)?;
    Ok(ReopenContainerLogResponse {})
}

pub(super) fn find<'a>(view: &'a View, id: &ContainerId) -> Result<&'a Owned> {
    view.containers
        .get(id)
        .map(|c| &**c)
        .ok_or_else(|| Error::not_found(format_args!("container {id}")))
}
