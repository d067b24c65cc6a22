//! Asks the CRI for one pod.

use std::{collections::BTreeMap, path::Path};

use cri::{ErrorKind, RuntimeService, v1};

use crate::{
    files, labels,
    observed::{self, PodStatusFromCri, State},
};

/// The pod with this uid, as far as it is ours.
pub(crate) async fn observe(runtime: &dyn RuntimeService, uid: &str) -> cri::Result<PodStatusFromCri> {
    let selector = BTreeMap::from([
        (labels::POD_UID.to_owned(), uid.to_owned()),
        (labels::OWNER.to_owned(), labels::OWNER_SYNC.to_owned()),
    ]);
    let filter = v1::PodSandboxFilter {
        label_selector: selector.clone(),
        ..Default::default()
    };
    let listed = runtime
        .list_pod_sandbox(v1::ListPodSandboxRequest { filter: Some(filter) })
        .await?
        .items;
    let filter = v1::ContainerFilter {
        label_selector: selector,
        ..Default::default()
    };
    let containers = runtime
        .list_containers(v1::ListContainersRequest { filter: Some(filter) })
        .await?
        .containers;

    let mut sandboxes = Vec::with_capacity(listed.len());
    for listed in &listed {
        let request = v1::PodSandboxStatusRequest {
            pod_sandbox_id: listed.id.clone(),
            ..Default::default()
        };
        // What is gone since the list was made is gone.
        if let Some(response) = unless_gone(runtime.pod_sandbox_status(request).await)? {
            sandboxes.push(observed::sandbox(listed, response.status.as_ref()));
        }
    }
    let mut all = Vec::with_capacity(containers.len());
    for container in &containers {
        let request = v1::ContainerStatusRequest {
            container_id: container.id.clone(),
            ..Default::default()
        };
        if let Some(status) = unless_gone(runtime.container_status(request).await)?.and_then(|response| response.status)
        {
            all.push(observed::container(&container.pod_sandbox_id, &status));
        }
    }
    for container in all.iter_mut().filter(|container| container.state == State::Exited) {
        if let Some((path, policy)) = &container.termination_message {
            let message = files::termination_message(
                Path::new(path),
                policy,
                container.exit_code,
                Path::new(&container.log_path),
            );
            if !message.is_empty() {
                container.message = message;
            }
        }
    }
    Ok(PodStatusFromCri::new(sandboxes, all))
}

/// `None` if the object does not exist (any more).
pub(crate) fn unless_gone<T>(result: cri::Result<T>) -> cri::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
