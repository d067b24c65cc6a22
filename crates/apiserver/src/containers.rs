//! From a pod's name and a container's name to the container that the runtime knows.

use axum::extract::{FromRequestParts, Path};
use cri::v1::{Container, ContainerFilter, ContainerState, ListContainersRequest};
use http::request::Parts;
use k8s_openapi::api::core::v1::Pod;
use objects::Key;

use crate::{
    Api, Query,
    failure::{Failure, Result},
};

/// kubelet's labels, which `sync` sets on all that it makes.
const POD_UID: &str = "io.kubernetes.pod.uid";
const CONTAINER_NAME: &str = "io.kubernetes.container.name";

/// A pod that exists.
pub struct Found {
    /// Its object.
    pub pod: Pod,
    /// `metadata.uid`.
    pub uid: String,
}

/// The pod, or 404.
pub fn find_pod(api: &Api, namespace: &str, name: &str) -> Result<Found> {
    let object = api.objects.get(&Key::pod(namespace, name))?;
    Ok(Found {
        pod: object.decode()?,
        uid: object.uid().to_owned(),
    })
}

impl Found {
    /// The container that a request means: the one it names, or the only normal one.
    pub fn container_name(&self, asked: Option<&str>) -> Result<String> {
        let pod = self.pod.metadata.name.as_deref().unwrap_or_default();
        let names = self.container_names();
        let normal = self.pod.spec.as_ref().map_or(0, |spec| spec.containers.len());
        match (asked, &names[..normal]) {
            (Some(asked), _) if names.contains(&asked) => Ok(asked.into()),
            (Some(asked), _) => Err(Failure::bad_request(format!(
                "container {asked} is not valid for pod {pod}; it has: {}",
                names.join(", ")
            ))),
            (None, [only]) => Ok((*only).into()),
            (None, _) => {
                let names = names.join(" ");
                Err(Failure::bad_request(format!(
                    "a container name must be specified for pod {pod}, choose one of: [{names}]"
                )))
            }
        }
    }

    /// Normal containers first, then init and ephemeral ones.
    fn container_names(&self) -> Vec<&str> {
        let Some(spec) = &self.pod.spec else { return Vec::new() };
        let normal = spec.containers.iter().map(|container| container.name.as_str());
        let init = spec
            .init_containers
            .iter()
            .flatten()
            .map(|container| container.name.as_str());
        let ephemeral = spec
            .ephemeral_containers
            .iter()
            .flatten()
            .map(|container| container.name.as_str());
        normal.chain(init).chain(ephemeral).collect()
    }
}

/// Of a request to `…/namespaces/NS/pods/NAME/…?container=CONTAINER`: the id of the container that it means, which runs.
pub struct RunningContainer(pub String);

impl FromRequestParts<Api> for RunningContainer {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<RunningContainer> {
        let path = Path::<(String, String)>::from_request_parts(parts, api).await;
        let Path((namespace, name)) = path.map_err(|rejection| Failure::bad_request(rejection.body_text()))?;
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        let found = find_pod(api, &namespace, &name)?;
        let container = found.container_name(query.get("container"))?;
        running(api, &found, &container).await.map(RunningContainer)
    }
}

/// All attempts of a pod's container that the runtime still has, newest first.
pub async fn attempts(api: &Api, uid: &str, container: &str) -> Result<Vec<Container>> {
    let labels = [(POD_UID, uid), (CONTAINER_NAME, container)];
    let filter = ContainerFilter {
        label_selector: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        ..Default::default()
    };
    let mut found = api
        .runtime
        .list_containers(ListContainersRequest { filter: Some(filter) })
        .await?
        .containers;
    found.sort_by_key(|container| std::cmp::Reverse((attempt(container), container.created_at)));
    Ok(found)
}

/// Which start of the container in its pod this is, from 0.
pub fn attempt(container: &Container) -> u32 {
    container.metadata.as_ref().map_or(0, |metadata| metadata.attempt)
}

/// The id of the running attempt, or 400.
async fn running(api: &Api, found: &Found, container: &str) -> Result<String> {
    let attempts = attempts(api, &found.uid, container).await?;
    let running = attempts
        .iter()
        .find(|container| container.state() == ContainerState::ContainerRunning);
    running.map(|container| container.id.clone()).ok_or_else(|| {
        let pod = found.pod.metadata.name.as_deref().unwrap_or_default();
        let state = match attempts.first().map(Container::state) {
            Some(ContainerState::ContainerExited) => "it has ended",
            Some(ContainerState::ContainerCreated) => "it is being started",
            Some(_) => "the runtime does not know its state",
            None => "it has not been created yet",
        };
        Failure::bad_request(format!("container {container} of pod {pod} is not running: {state}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_normal_container_need_not_be_named() {
        let found = |normal: &[&str]| {
            let containers = |names: &[&str]| -> Vec<_> {
                names
                    .iter()
                    .map(|name| serde_json::json!({"name": name, "image": "i"}))
                    .collect()
            };
            let pod = serde_json::json!({
                "metadata": {"name": "p"},
                "spec": {"containers": containers(normal), "initContainers": containers(&["first"])},
            });
            Found {
                pod: serde_json::from_value(pod).unwrap(),
                uid: String::new(),
            }
        };
        assert_eq!(found(&["web"]).container_name(None).unwrap(), "web");
        assert_eq!(found(&["web"]).container_name(Some("first")).unwrap(), "first");
        assert!(found(&["web"]).container_name(Some("second")).is_err());
        assert!(found(&["web", "log"]).container_name(None).is_err());
    }
}
