//! What the API server fills into a Pod, field by field as the API reference says
//! (<https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/>).

use k8s_openapi::{
    api::core::v1::{Container, EmptyDirVolumeSource, HTTPGetAction, Pod, PodSecurityContext, PodSpec, Probe, Volume},
    apimachinery::pkg::util::intstr::IntOrString,
};

/// The permissions of files that a volume projects: 0644.
const FILE_MODE: i32 = 0o644;

/// Fills in what is not set. Doing it again changes nothing.
pub fn default(pod: &mut Pod) {
    let spec = pod.spec.get_or_insert_default();
    set(&mut spec.restart_policy, "Always");
    set(&mut spec.dns_policy, "ClusterFirst");
    set(&mut spec.scheduler_name, "default-scheduler");
    spec.termination_grace_period_seconds.get_or_insert(30);
    spec.enable_service_links.get_or_insert(true);
    spec.security_context.get_or_insert_with(PodSecurityContext::default);
    let host_network = spec.host_network.unwrap_or_default();
    for container in containers(spec) {
        default_container(container, host_network);
    }
    for volume in spec.volumes.iter_mut().flatten() {
        default_volume(volume);
    }
}

fn containers(spec: &mut PodSpec) -> impl Iterator<Item = &mut Container> {
    spec.init_containers.iter_mut().flatten().chain(&mut spec.containers)
}

fn default_container(container: &mut Container, host_network: bool) {
    if container.image_pull_policy.is_none() {
        let policy = if asks_for_latest(container.image.as_deref().unwrap_or_default()) {
            "Always"
        } else {
            "IfNotPresent"
        };
        set(&mut container.image_pull_policy, policy);
    }
    set(&mut container.termination_message_path, "/dev/termination-log");
    set(&mut container.termination_message_policy, "File");
    for port in container.ports.iter_mut().flatten() {
        set(&mut port.protocol, "TCP");
        // On the host's network the container's port is the host's.
        if host_network && port.host_port.unwrap_or_default() == 0 {
            port.host_port = Some(port.container_port);
        }
    }
    for variable in container.env.iter_mut().flatten() {
        if let Some(field) = variable
            .value_from
            .as_mut()
            .and_then(|source| source.field_ref.as_mut())
        {
            set(&mut field.api_version, "v1");
        }
    }
    let resources = container.resources.get_or_insert_default();
    if let Some(limits) = &resources.limits {
        let requests = resources.requests.get_or_insert_default();
        for (name, limit) in limits {
            requests.entry(name.clone()).or_insert_with(|| limit.clone());
        }
    }
    for probe in [
        &mut container.liveness_probe,
        &mut container.readiness_probe,
        &mut container.startup_probe,
    ] {
        probe.iter_mut().for_each(default_probe);
    }
    if let Some(lifecycle) = &mut container.lifecycle {
        for handler in [&mut lifecycle.post_start, &mut lifecycle.pre_stop] {
            handler
                .iter_mut()
                .filter_map(|handler| handler.http_get.as_mut())
                .for_each(default_http_get);
        }
    }
}

fn default_probe(probe: &mut Probe) {
    probe.timeout_seconds.get_or_insert(1);
    probe.period_seconds.get_or_insert(10);
    probe.success_threshold.get_or_insert(1);
    probe.failure_threshold.get_or_insert(3);
    probe.http_get.iter_mut().for_each(default_http_get);
    if let Some(grpc) = &mut probe.grpc {
        set(&mut grpc.service, "");
    }
}

fn default_http_get(action: &mut HTTPGetAction) {
    set(&mut action.path, "/");
    set(&mut action.scheme, "HTTP");
    if action.port == IntOrString::String(String::new()) {
        action.port = IntOrString::Int(0);
    }
}

fn default_volume(volume: &mut Volume) {
    let has_source =
        serde_json::to_value(&*volume).is_ok_and(|json| json.as_object().is_some_and(|fields| fields.len() > 1));
    if !has_source {
        volume.empty_dir = Some(EmptyDirVolumeSource::default());
    }
    if let Some(host_path) = &mut volume.host_path {
        set(&mut host_path.type_, "");
    }
    if let Some(config_map) = &mut volume.config_map {
        config_map.default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(secret) = &mut volume.secret {
        secret.default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(downward) = &mut volume.downward_api {
        downward.default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(projected) = &mut volume.projected {
        projected.default_mode.get_or_insert(FILE_MODE);
    }
}

/// Whether an image's reference names the tag `latest`, or neither a tag nor a digest.
fn asks_for_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    // A colon before the last slash belongs to the registry's port.
    let name = image.rsplit('/').next().unwrap_or_default();
    name.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

fn set(field: &mut Option<String>, value: &str) {
    if field.is_none() {
        *field = Some(value.to_owned());
    }
}
