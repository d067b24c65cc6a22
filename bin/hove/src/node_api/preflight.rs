//! What must hold before a run makes anything: images are here or can be had, host ports are free. A pod that is applied may
//! wait for both; a person who runs one in the foreground is told at once.

use apiserver::Failure;
use cri::v1::{ImageSpec, ImageStatusRequest, PullImageRequest};
use http::StatusCode;
use image::Reference;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use network::{PortMapping, Protocol};
use objects::{Kind, Scope};

use super::NodeApi;
use crate::view;

/// Checks a defaulted and validated pod. The first thing that is missing is the answer.
pub async fn check(api: &NodeApi, pod: &Pod) -> Result<(), Failure> {
    let spec = pod.spec.clone().unwrap_or_default();
    let NodeApi {
        objects,
        images,
        network,
        ..
    } = api.clone();
    let mut elsewhere = Vec::new();
    for container in containers(&spec) {
        fetch(api, container).await?;
        let image = container.image.as_deref().unwrap_or_default();
        if runtime_has(api, image).await {
            elsewhere.push(image.to_owned());
        }
    }
    let checks = move || {
        for container in containers(&spec) {
            let image = container.image.as_deref().unwrap_or_default();
            match images.get(image) {
                Err(image::Error::NotFound { .. }) if elsewhere.iter().any(|known| known == image) => {}
                Err(image::Error::NotFound { .. }) => return Err(missing(image, &container.name)),
                Err(error) => return Err(super::images::failure(&error)),
                Ok(_) => {}
            }
        }
        let wanted: Vec<_> = host_ports(&spec).collect();
        if !wanted.is_empty() {
            let pods = objects.list(&Scope::all(Kind::Pod))?.0;
            let pods = pods.iter().filter_map(|object| object.decode::<Pod>().ok());
            let taken: Vec<_> = pods.flat_map(|pod| ports_of(&pod)).collect();
            wanted.iter().try_for_each(|port| check_port(port, &taken))?;
            network
                .check_ports(&wanted)
                .map_err(|error| Failure::conflict(error.to_string()))?;
        }
        Ok(())
    };
    match tokio::task::spawn_blocking(checks).await {
        Ok(result) => result,
        Err(panicked) => Err(Failure::internal(panicked.to_string())),
    }
}

fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

/// Pulls an image that is not here, where its container allows it and a registry may have it.
async fn fetch(api: &NodeApi, container: &Container) -> Result<(), Failure> {
    let image = container.image.as_deref().unwrap_or_default();
    let may_be_pulled = container.image_pull_policy.as_deref() != Some("Never")
        && image.parse::<Reference>().is_ok_and(|reference| !reference.is_local());
    if !may_be_pulled
        || !matches!(api.images.get(image), Err(image::Error::NotFound { .. }))
        || runtime_has(api, image).await
    {
        return Ok(());
    }
    let request = PullImageRequest {
        image: Some(ImageSpec {
            image: image.to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    };
    match api.pulls.pull_image(request).await {
        Ok(_) => Ok(()),
        Err(error) => Err(not_present(format!(
            "image {image} (container {}) is not here, and can't be had: {error}; `hove image import FILE` brings it in from \
             an archive",
            container.name
        ))),
    }
}

/// Whether the runtime has an image that the node's own store may lack: another runtime's images are its own.
async fn runtime_has(api: &NodeApi, image: &str) -> bool {
    let image = Some(ImageSpec {
        image: image.to_owned(),
        ..Default::default()
    });
    let status = api
        .pulls
        .image_status(ImageStatusRequest { image, verbose: false })
        .await;
    status.is_ok_and(|status| status.image.is_some())
}

fn missing(image: &str, container: &str) -> Failure {
    let message = format!(
        "image {image} (container {container}) is not here: `hove image import FILE` brings one in, \
         `hove image ls` lists what is there"
    );
    not_present(message)
}

fn not_present(message: String) -> Failure {
    Failure::with_code(StatusCode::UNPROCESSABLE_ENTITY, "ImageNotPresent", message)
}

fn collide(one: &PortMapping, other: &PortMapping) -> bool {
    let everywhere = |port: &PortMapping| port.host_ip.is_none_or(|ip| ip.is_unspecified());
    let same = one.host_port == other.host_port && one.protocol == other.protocol;
    same && (everywhere(one) || everywhere(other) || one.host_ip == other.host_ip)
}

/// What a pod publishes. A protocol that can't be published is the network's to refuse.
fn host_ports(spec: &PodSpec) -> impl Iterator<Item = PortMapping> {
    let ports = containers(spec).flat_map(|container| container.ports.iter().flatten());
    ports.filter_map(|port| {
        Some(PortMapping {
            host_ip: port.host_ip.as_deref().and_then(|ip| ip.parse().ok()),
            host_port: port
                .host_port
                .and_then(|port| u16::try_from(port).ok())
                .filter(|port| *port != 0)?,
            container_port: u16::try_from(port.container_port).ok()?,
            protocol: match port.protocol.as_deref() {
                Some("UDP") => Protocol::Udp,
                Some("SCTP") => Protocol::Sctp,
                _ => Protocol::Tcp,
            },
        })
    })
}

/// What a pod of this node holds, with its name; nothing once it has ended.
fn ports_of(pod: &Pod) -> Vec<(String, PortMapping)> {
    if matches!(view::phase(pod), "Succeeded" | "Failed") {
        return Vec::new();
    }
    let name = |field: &Option<String>| field.clone().unwrap_or_default();
    let name = format!("{}/{}", name(&pod.metadata.namespace), name(&pod.metadata.name));
    pod.spec
        .iter()
        .flat_map(host_ports)
        .map(|port| (name.clone(), port))
        .collect()
}

/// A pod that waits for its sandbox wants its ports already: the network knows only those that have one.
fn check_port(port: &PortMapping, taken: &[(String, PortMapping)]) -> Result<(), Failure> {
    match taken.iter().find(|(_, other)| collide(port, other)) {
        Some((holder, _)) => Err(Failure::conflict(format!(
            "host port {}/{} is in use by pod {holder}; delete it or choose another hostPort",
            port.host_port, port.protocol
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_collide_on_the_same_address_or_on_all() {
        let port = |ip: &str, protocol| PortMapping {
            host_ip: Some(ip.parse().unwrap()),
            host_port: 80,
            container_port: 8080,
            protocol,
        };
        let all = port("0.0.0.0", Protocol::Tcp);
        assert!(collide(&all, &port("127.0.0.1", Protocol::Tcp)) && collide(&port("127.0.0.1", Protocol::Tcp), &all));
        assert!(collide(&PortMapping { host_ip: None, ..all }, &all));
        assert!(!collide(
            &port("127.0.0.1", Protocol::Tcp),
            &port("127.0.0.2", Protocol::Tcp)
        ));
        assert!(!collide(&all, &port("0.0.0.0", Protocol::Udp)));
        let refusal = check_port(&all, &[("default/web".into(), all)])
            .unwrap_err()
            .to_string();
        assert!(refusal.contains("80/TCP is in use by pod default/web"), "{refusal}");
    }
}
