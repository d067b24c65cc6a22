//! What must hold before a run makes anything: images are here, host ports are free. A pod that is applied may wait for
//! both; a person who runs one in the foreground is told at once.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
};

use apiserver::Failure;
use http::StatusCode;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use objects::{Kind, Scope};

use super::{NodeApi, images};
use crate::view;

/// Checks a defaulted and validated pod. The first thing that is missing is the answer.
pub async fn check(api: &NodeApi, pod: &Pod) -> Result<(), Failure> {
    let spec = pod.spec.clone().unwrap_or_default();
    let (store, objects) = (api.images.clone(), api.objects.clone());
    let checks = move || {
        for container in containers(&spec) {
            let image = container.image.as_deref().unwrap_or_default();
            store.get(image).map_err(|error| match error {
                image::Error::NotFound { .. } => missing(image, &container.name),
                error => images::failure(&error),
            })?;
        }
        let wanted: Vec<_> = host_ports(&spec).collect();
        if !wanted.is_empty() {
            let pods = objects.list(&Scope::all(Kind::Pod))?.0;
            let pods = pods.iter().filter_map(|object| object.decode::<Pod>().ok());
            let taken: Vec<_> = pods.flat_map(|pod| ports_of(&pod)).collect();
            wanted.iter().try_for_each(|port| check_port(port, &taken))?;
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

fn missing(image: &str, container: &str) -> Failure {
    let message = format!(
        "image {image} (container {container}) is not here: `hove image import FILE` brings one in, \
         `hove image ls` lists what is there"
    );
    Failure::with_code(StatusCode::UNPROCESSABLE_ENTITY, "ImageNotPresent", message)
}

/// A port of the host that a pod publishes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct HostPort {
    ip: IpAddr,
    number: u16,
    protocol: String,
}

impl HostPort {
    fn collides(&self, other: &HostPort) -> bool {
        let everywhere = self.ip.is_unspecified() || other.ip.is_unspecified();
        self.number == other.number && self.protocol == other.protocol && (everywhere || self.ip == other.ip)
    }
}

fn host_ports(spec: &PodSpec) -> impl Iterator<Item = HostPort> {
    let ports = containers(spec).flat_map(|container| container.ports.iter().flatten());
    ports.filter_map(|port| {
        let number = port
            .host_port
            .and_then(|port| u16::try_from(port).ok())
            .filter(|port| *port != 0)?;
        let ip = port
            .host_ip
            .as_deref()
            .and_then(|ip| ip.parse().ok())
            .unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into());
        Some(HostPort { ip, number, protocol })
    })
}

/// What a pod of this node holds, with its name; nothing once it has ended.
fn ports_of(pod: &Pod) -> Vec<(String, HostPort)> {
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

/// Looks who of our own holds the port, then tries it and lets it go: whoever else holds it is bound to it. The network
/// binds it for good when the sandbox is made.
fn check_port(port: &HostPort, taken: &[(String, HostPort)]) -> Result<(), Failure> {
    let HostPort { ip, number, protocol } = port;
    let refuse = |why: String| {
        Err(Failure::conflict(format!(
            "host port {number}/{protocol} can't be published on {ip}: {why}"
        )))
    };
    if let Some((holder, _)) = taken.iter().find(|(_, other)| other.collides(port)) {
        return refuse(format!("it is in use by pod {holder}"));
    }
    let address = SocketAddr::new(*ip, *number);
    let bound = match protocol.as_str() {
        "TCP" => TcpListener::bind(address).map(drop),
        "UDP" => UdpSocket::bind(address).map(drop),
        _ => Ok(()),
    };
    match bound {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            refuse(format!("it is in use (`ss -lnp 'sport = :{number}'` shows by whom)"))
        }
        Err(error) => refuse(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_collide_on_the_same_address_or_on_all() {
        let port = |ip: &str, protocol: &str| HostPort {
            ip: ip.parse().unwrap(),
            number: 80,
            protocol: protocol.into(),
        };
        let all = port("0.0.0.0", "TCP");
        assert!(all.collides(&port("127.0.0.1", "TCP")) && port("127.0.0.1", "TCP").collides(&all));
        assert!(!port("127.0.0.1", "TCP").collides(&port("127.0.0.2", "TCP")));
        assert!(!all.collides(&port("0.0.0.0", "UDP")));
        let refusal = check_port(&all, &[("default/web".into(), all.clone())])
            .unwrap_err()
            .to_string();
        assert!(refusal.ends_with("in use by pod default/web"), "{refusal}");
    }
}
