//! Stopping: containers side by side, sidecars after them, the sandbox last.

use std::{cmp::Reverse, time::Duration};

use cri::{RuntimeService, v1};
use futures_util::future::join_all;
use k8s_openapi::api::core::v1::PodSpec;
use objects::EventType;
use tokio::time::Instant;

use crate::{
    decide::is_sidecar,
    observe::unless_gone,
    observed::{Container, PodStatusFromCri},
    report::Reporter,
};

/// Stops all containers of a pod within `grace`, then its sandboxes. Attempts everything, then reports the first failure.
///
/// The containers end side by side. The sidecars end after them, one by one, the last one first: those that were started earlier
/// may serve the others (<https://kubernetes.io/docs/concepts/workloads/pods/sidecar-containers/>). They share the grace period.
pub(crate) async fn stop_pod(
    runtime: &dyn RuntimeService,
    reporter: &Reporter<'_>,
    spec: Option<&PodSpec>,
    status: &PodStatusFromCri,
    grace: Duration,
) -> cri::Result<()> {
    let end = Instant::now() + grace;
    let sidecars: Vec<&str> = spec
        .iter()
        .flat_map(|spec| spec.init_containers.iter().flatten())
        .filter(|init| is_sidecar(init))
        .map(|init| init.name.as_str())
        .collect();
    let (mut beside, others): (Vec<&Container>, Vec<&Container>) = status
        .containers
        .iter()
        .filter(|container| container.may_run())
        .partition(|container| sidecars.contains(&container.name.as_str()));
    beside.sort_by_key(|container| Reverse(sidecars.iter().position(|name| *name == container.name)));

    let mut stops = Vec::with_capacity(others.len());
    for container in others {
        stops.push(stop_container(
            runtime,
            reporter,
            container,
            grace,
            "Stopping container",
        ));
    }
    let mut results = join_all(stops).await;
    for container in beside {
        let left = end.saturating_duration_since(Instant::now());
        results.push(stop_container(runtime, reporter, container, left, "Stopping container").await);
    }
    for sandbox in &status.sandboxes {
        let request = v1::StopPodSandboxRequest {
            pod_sandbox_id: sandbox.id.clone(),
        };
        results.push(unless_gone(runtime.stop_pod_sandbox(request).await).map(|_| ()));
    }
    results.into_iter().collect()
}

/// Stops a container: its stop signal, and SIGKILL when the time is over.
pub(crate) async fn stop_container(
    runtime: &dyn RuntimeService,
    reporter: &Reporter<'_>,
    container: &Container,
    grace: Duration,
    why: &str,
) -> cri::Result<()> {
    reporter.container(
        &container.name,
        EventType::Normal,
        "Killing",
        &format!("{why} {}", container.name),
    );
    // Whole seconds on the wire: a part of one is rounded up, so that a grace period is never none.
    let timeout = i64::try_from(grace.as_millis().div_ceil(1000)).unwrap_or(i64::MAX);
    let request = v1::StopContainerRequest {
        container_id: container.id.clone(),
        timeout,
    };
    unless_gone(runtime.stop_container(request).await).map(|_| ())
}

/// Removes what is left of a pod in the runtime. Attempts everything, then reports the first failure.
pub(crate) async fn remove_pod(runtime: &dyn RuntimeService, status: &PodStatusFromCri) -> cri::Result<()> {
    let containers: Vec<&str> = status
        .containers
        .iter()
        .map(|container| container.id.as_str())
        .collect();
    let sandboxes: Vec<&str> = status.sandboxes.iter().map(|sandbox| sandbox.id.as_str()).collect();
    let removed = remove_containers(runtime, &containers).await;
    removed.and(remove_sandboxes(runtime, &sandboxes).await)
}

pub(crate) async fn remove_containers(runtime: &dyn RuntimeService, ids: &[&str]) -> cri::Result<()> {
    let mut result = Ok(());
    for id in ids {
        let request = v1::RemoveContainerRequest {
            container_id: (*id).to_owned(),
        };
        let removed = unless_gone(runtime.remove_container(request).await).map(|_| ());
        result = result.and(removed);
    }
    result
}

pub(crate) async fn remove_sandboxes(runtime: &dyn RuntimeService, ids: &[&str]) -> cri::Result<()> {
    let mut result = Ok(());
    for id in ids {
        let request = v1::RemovePodSandboxRequest {
            pod_sandbox_id: (*id).to_owned(),
        };
        let removed = unless_gone(runtime.remove_pod_sandbox(request).await).map(|_| ());
        result = result.and(removed);
    }
    result
}
