//! Whose namespaces a pod's are: the runtime says which processes it started and what they should share, /proc says what
//! is so.

use std::collections::BTreeMap;

use apiserver::Failure;
use axum::{
    Json,
    extract::{Path, State},
};
use cri::v1::{
    ContainerFilter, ContainerState, ContainerStatusRequest, ListContainersRequest, ListPodSandboxRequest,
    NamespaceMode, NamespaceOption, PodSandboxFilter, PodSandboxState, PodSandboxStatusRequest,
};
use inspect::{
    namespace::Kind,
    view::{Owner, PAUSE, Recorded, Subject, View},
};
use objects::Key;
use serde_json::Value;

use super::NodeApi;

/// `GET namespaces/NS/pods/POD/namespaces`.
pub async fn read(
    State(api): State<NodeApi>,
    Path((namespace, name)): Path<(String, String)>,
) -> Result<Json<View>, Failure> {
    let pod = api.objects.get(&Key::pod(&namespace, &name))?;
    let subject = subject(&api, format!("{namespace}/{name}"), pod.uid()).await?;
    match tokio::task::spawn_blocking(move || inspect::view::look(&subject)).await {
        Ok(Ok(view)) => Ok(Json(view)),
        Ok(Err(error)) => Err(Failure::internal(error.to_string())),
        Err(panicked) => Err(Failure::internal(panicked.to_string())),
    }
}

/// What the runtime's record says of the pod: its processes, and in whose namespaces each should be.
async fn subject(api: &NodeApi, pod: String, uid: &str) -> Result<Subject, Failure> {
    let filter = PodSandboxFilter {
        label_selector: [("io.kubernetes.pod.uid".to_owned(), uid.to_owned())].into(),
        ..Default::default()
    };
    let mut sandboxes = api
        .runtime
        .list_pod_sandbox(ListPodSandboxRequest { filter: Some(filter) })
        .await?
        .items;
    // The newest, and one that is ready before all others.
    sandboxes.sort_by_key(|sandbox| (sandbox.state() == PodSandboxState::SandboxReady, sandbox.created_at));
    let Some(sandbox) = sandboxes.pop() else {
        return Err(Failure::conflict(format!(
            "pod {pod} has no sandbox (yet): its namespaces do not exist"
        )));
    };
    let request = PodSandboxStatusRequest {
        pod_sandbox_id: sandbox.id.clone(),
        verbose: true,
    };
    let status = api.runtime.pod_sandbox_status(request).await?;
    let linux = status.status.unwrap_or_default().linux.unwrap_or_default();
    let options = linux.namespaces.unwrap_or_default().options.unwrap_or_default();
    let pause = recorded(&status.info, PAUSE.into(), expected(&options, None));

    let filter = ContainerFilter {
        pod_sandbox_id: sandbox.id,
        ..Default::default()
    };
    let mut containers = Vec::new();
    for container in api
        .runtime
        .list_containers(ListContainersRequest { filter: Some(filter) })
        .await?
        .containers
    {
        if container.state() != ContainerState::ContainerRunning {
            continue;
        }
        let name = container.metadata.clone().unwrap_or_default().name;
        let request = ContainerStatusRequest {
            container_id: container.id,
            verbose: true,
        };
        let Ok(status) = api.runtime.container_status(request).await else {
            continue;
        };
        let expected = expected(&options, Some(&name));
        containers.extend(recorded(&status.info, name, expected).map(|one| (container.created_at, one)));
    }
    containers.sort_by_key(|(created_at, _)| *created_at);
    let containers = containers.into_iter().map(|(_, container)| container).collect();
    Ok(Subject { pod, pause, containers })
}

/// A process of the record, from the `info` of a verbose status; `None` while there is none.
fn recorded(info: &BTreeMap<String, String>, name: String, expected: BTreeMap<Kind, Owner>) -> Option<Recorded> {
    let info: Value = serde_json::from_str(info.get("info")?).ok()?;
    let pid = info["pid"]
        .as_u64()
        .and_then(|pid| u32::try_from(pid).ok())
        .filter(|pid| *pid != 0)?;
    let start_time_ticks = info["startTimeTicks"].as_u64().filter(|ticks| *ticks != 0);
    Some(Recorded {
        name,
        pid,
        start_time_ticks,
        expected,
    })
}

/// Whose namespaces the process should be in, by the sandbox's options: pause's, or those of `container`.
fn expected(options: &NamespaceOption, container: Option<&str>) -> BTreeMap<Kind, Owner> {
    let shared = |mode: NamespaceMode| match mode {
        NamespaceMode::Node => Owner::Host,
        _ => Owner::Sandbox,
    };
    let own = |name: &str| Owner::Container(name.to_owned());
    let pid = match (options.pid(), container) {
        (NamespaceMode::Node, _) => Owner::Host,
        (NamespaceMode::Container, Some(name)) => own(name),
        _ => Owner::Sandbox,
    };
    // A pod on the host's network has the host's name as well.
    let uts = shared(options.network());
    let mnt = container.map_or(Owner::Sandbox, own);
    [
        (Kind::Net, shared(options.network())),
        (Kind::Ipc, shared(options.ipc())),
        (Kind::Uts, uts),
        (Kind::Pid, pid),
        (Kind::Mnt, mnt),
    ]
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_shares_all_but_mounts_and_processes() {
        let options = NamespaceOption {
            pid: NamespaceMode::Container.into(),
            ..Default::default()
        };
        let expected = expected(&options, Some("web"));
        assert_eq!(expected[&Kind::Net], Owner::Sandbox);
        assert_eq!(expected[&Kind::Pid], Owner::Container("web".into()));
        assert_eq!(expected[&Kind::Mnt], Owner::Container("web".into()));
    }

    #[test]
    fn what_does_not_run_is_not_recorded() {
        let info = |pid: u32| [("info".to_owned(), format!("{{\"pid\":{pid},\"startTimeTicks\":5}}"))].into();
        assert_eq!(recorded(&info(0), "web".into(), BTreeMap::new()), None);
        let web = recorded(&info(7), "web".into(), BTreeMap::new()).unwrap();
        assert_eq!((web.pid, web.start_time_ticks), (7, Some(5)));
    }
}
