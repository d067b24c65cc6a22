//! The rules for containers.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, ContainerPort, EnvVar, PodSpec, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity as Text,
};

use super::{Names, Once, ip, names, security, volume};
use crate::{path::Path, problem::Found, quantity::Quantity};

pub fn containers(spec: &PodSpec, path: &Path<'_>, volumes: &Names, found: &mut Found) {
    let mut once = Once::new();
    let mut host_ports = Once::new();
    let init_path = path.field("initContainers");
    for (n, container) in spec.init_containers.iter().flatten().enumerate() {
        let path = init_path.index(n);
        one(spec, container, &path, volumes, found);
        once.check(found, path.field("name"), &container.name);
        match container.restart_policy.as_deref() {
            // A sidecar: it runs beside the containers, so its ports are taken as theirs are.
            Some("Always") => ports(spec, container, &path, &mut host_ports, found),
            None => ports(spec, container, &path, &mut Once::new(), found),
            Some(other) => {
                found.one_of(path.field("restartPolicy"), other, &["Always"]);
            }
        }
    }
    let path = path.field("containers");
    if spec.containers.is_empty() {
        found.required(path);
    }
    for (n, container) in spec.containers.iter().enumerate() {
        let path = path.index(n);
        one(spec, container, &path, volumes, found);
        once.check(found, path.field("name"), &container.name);
        ports(spec, container, &path, &mut host_ports, found);
        if let Some(policy) = &container.restart_policy {
            found.not_honoured(path.field("restartPolicy"), policy);
        }
    }
}

fn one(spec: &PodSpec, container: &Container, path: &Path<'_>, volumes: &Names, found: &mut Found) {
    names::label(found, path.field("name"), &container.name);
    match container.image.as_deref().unwrap_or_default() {
        "" => found.required(path.field("image")),
        image if image.trim() != image => {
            found.invalid(
                path.field("image"),
                image,
                "must not have leading or trailing whitespace",
            );
        }
        _ => {}
    }
    if let Some(policy) = &container.image_pull_policy {
        found.one_of(
            path.field("imagePullPolicy"),
            policy,
            &["Always", "IfNotPresent", "Never"],
        );
    }
    if let Some(policy) = &container.termination_message_policy {
        found.one_of(
            path.field("terminationMessagePolicy"),
            policy,
            &["File", "FallbackToLogsOnError"],
        );
    }
    if let Some(directory) = &container.working_dir
        && !directory.is_empty()
        && !directory.starts_with('/')
    {
        found.invalid(path.field("workingDir"), directory, "must be an absolute path");
    }
    environment(container.env.as_deref().unwrap_or_default(), &path.field("env"), found);
    if let Some(resources) = &container.resources {
        requirements(resources, &path.field("resources"), found);
    }
    volume::mounts(container, &path.field("volumeMounts"), volumes, found);
    security::container(container, &path.field("securityContext"), found);
    if runs_as_root_against_the_rule(spec, container) {
        found.invalid(
            path.field("securityContext").field("runAsUser"),
            0_i64,
            "runAsNonRoot is true, so the user can't be 0",
        );
    }
}

fn runs_as_root_against_the_rule(spec: &PodSpec, container: &Container) -> bool {
    let pod = spec.security_context.as_ref();
    let own = container.security_context.as_ref();
    let non_root = own
        .and_then(|c| c.run_as_non_root)
        .or(pod.and_then(|c| c.run_as_non_root));
    let user = own.and_then(|c| c.run_as_user).or(pod.and_then(|c| c.run_as_user));
    non_root == Some(true) && user == Some(0)
}

/// `host_ports`: those that containers which run at the same time have taken.
fn ports(spec: &PodSpec, container: &Container, path: &Path<'_>, host_ports: &mut Once, found: &mut Found) {
    let path = path.field("ports");
    let mut port_names = Once::new();
    for (n, port) in container.ports.iter().flatten().enumerate() {
        let path = path.index(n);
        if let Some(name) = &port.name {
            names::port(found, path.field("name"), name);
            port_names.check(found, path.field("name"), name);
        }
        match port.container_port {
            0 => found.required(path.field("containerPort")),
            number => in_range(found, path.field("containerPort"), number),
        }
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        found.one_of(path.field("protocol"), protocol, &["SCTP", "TCP", "UDP"]);
        if protocol == "SCTP" && port.host_port.unwrap_or_default() != 0 {
            found.not_honoured(path.field("protocol"), "SCTP with hostPort");
        }
        host_port(spec, port, &path, host_ports, found);
    }
}

fn host_port(spec: &PodSpec, port: &ContainerPort, path: &Path<'_>, host_ports: &mut Once, found: &mut Found) {
    let address = port.host_ip.as_deref().unwrap_or_default();
    if !address.is_empty() {
        ip(found, path.field("hostIP"), address);
    }
    let Some(number) = port.host_port.filter(|number| *number != 0) else {
        return;
    };
    in_range(found, path.field("hostPort"), number);
    if spec.host_network == Some(true) && number != port.container_port {
        found.invalid(
            path.field("containerPort"),
            port.container_port,
            "must match `hostPort` when `hostNetwork` is true",
        );
    }
    let key = format!("{}/{address}/{number}", port.protocol.as_deref().unwrap_or("TCP"));
    if host_ports.0.insert(key.clone(), ()).is_some() {
        found.duplicate(path.field("hostPort"), &key);
    }
}

fn in_range(found: &mut Found, path: Path<'_>, port: i32) {
    if !(1..=65535).contains(&port) {
        found.invalid(path, port, "must be between 1 and 65535, inclusive");
    }
}

/// The fields of its pod that a container's environment can show.
const FIELD_PATHS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

fn environment(variables: &[EnvVar], path: &Path<'_>, found: &mut Found) {
    for (n, variable) in variables.iter().enumerate() {
        let path = path.index(n);
        names::variable(found, path.field("name"), &variable.name);
        let Some(source) = &variable.value_from else { continue };
        let source_path = path.field("valueFrom");
        if variable.value.as_deref().is_some_and(|value| !value.is_empty()) {
            found.invalid(source_path, "", "may not be specified when `value` is not empty");
        }
        let Some(field) = &source.field_ref else {
            if source.config_map_key_ref.is_none()
                && source.secret_key_ref.is_none()
                && source.resource_field_ref.is_none()
            {
                found.invalid(
                    source_path,
                    "",
                    "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
                );
            }
            continue;
        };
        let reference = source_path.field("fieldRef");
        let path = reference.field("fieldPath");
        if field.field_path.is_empty() {
            found.required(path);
        } else if let Some((map, rest)) = field.field_path.split_once("['") {
            if !matches!(map, "metadata.labels" | "metadata.annotations") || !rest.ends_with("']") {
                found.invalid(
                    path,
                    &field.field_path,
                    "only metadata.labels['KEY'] and metadata.annotations['KEY'] take a key",
                );
            }
        } else {
            found.one_of(path, &field.field_path, &FIELD_PATHS);
        }
    }
}

fn requirements(resources: &ResourceRequirements, path: &Path<'_>, found: &mut Found) {
    let limits = amounts(resources.limits.as_ref(), &path.field("limits"), found);
    let requests = amounts(resources.requests.as_ref(), &path.field("requests"), found);
    let requests_path = path.field("requests");
    for (name, request) in requests {
        if let Some(limit) = limits.get(name)
            && request > *limit
        {
            let text = resources
                .requests
                .iter()
                .flatten()
                .find(|(other, _)| *other == name)
                .map_or("", |(_, text)| &text.0);
            found.invalid(
                requests_path.key(name),
                text,
                format!("must be less than or equal to {name} limit"),
            );
        }
    }
}

fn amounts<'r>(
    amounts: Option<&'r BTreeMap<String, Text>>,
    path: &Path<'_>,
    found: &mut Found,
) -> BTreeMap<&'r str, Quantity> {
    let mut parsed = BTreeMap::new();
    for (name, text) in amounts.into_iter().flatten() {
        let path = path.key(name);
        if !matches!(name.as_str(), "cpu" | "memory") {
            found.not_honoured(path, name);
            continue;
        }
        match text.0.parse::<Quantity>() {
            Ok(quantity) if quantity.is_negative() => {
                found.invalid(path, &text.0, "must be greater than or equal to 0")
            }
            Ok(quantity) => {
                parsed.insert(name.as_str(), quantity);
            }
            Err(error) => found.invalid(path, &text.0, error.to_string()),
        }
    }
    parsed
}
