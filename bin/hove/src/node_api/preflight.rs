//! What must hold before a run makes anything: images are here, host ports are free. A pod that is applied may wait for
//! both; a person who runs one in the foreground is told at once.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
};

use apiserver::Failure;
use http::StatusCode;
use k8s_openapi::api::core::v1::{Container, ContainerPort, Pod, PodSpec};

use super::{NodeApi, images};

/// Checks a defaulted and validated pod. The first thing that is missing is the answer.
pub async fn check(api: &NodeApi, pod: &Pod) -> Result<(), Failure> {
    let spec = pod.spec.clone().unwrap_or_default();
    let store = api.images.clone();
    let checks = move || {
        for container in containers(&spec) {
            let image = container.image.as_deref().unwrap_or_default();
            store.get(image).map_err(|error| match error {
                image::Error::NotFound { .. } => missing(image, &container.name),
                error => images::failure(&error),
            })?;
        }
        containers(&spec)
            .flat_map(|container| container.ports.iter().flatten())
            .try_for_each(check_port)
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

/// Tries the port and lets it go: whoever holds it, another pod or a program of the host's, is bound to it. The network
/// binds it for good when the sandbox is made.
fn check_port(port: &ContainerPort) -> Result<(), Failure> {
    let Some(number) = port
        .host_port
        .and_then(|port| u16::try_from(port).ok())
        .filter(|port| *port != 0)
    else {
        return Ok(());
    };
    let ip: IpAddr = port
        .host_ip
        .as_deref()
        .and_then(|ip| ip.parse().ok())
        .unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    let address = SocketAddr::new(ip, number);
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let bound = match protocol {
        "TCP" => bind_tcp(address),
        "UDP" => UdpSocket::bind(address).map(drop),
        _ => Ok(()),
    };
    let because = match bound {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == ErrorKind::AddrInUse => "it is in use".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(Failure::conflict(format!(
        "host port {number}/{protocol} can't be published on {ip}: {because} (`ss -lnp 'sport = :{number}'` shows by whom)"
    )))
}

fn bind_tcp(address: SocketAddr) -> std::io::Result<()> {
    TcpListener::bind(address).map(drop)
}
