//! `hove describe pod`.

mod steps;

use std::{fmt::Write, process::ExitCode};

use anyhow::Result;
use jiff::Timestamp;
use k8s_openapi::{
    List,
    api::core::v1::{Container, ContainerState, ContainerStatus, EnvVar, Event, Pod, Volume},
    apimachinery::pkg::api::resource::Quantity,
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::table::Columns;
use crate::{
    args::OnePod,
    client::{path, pod_path, segment},
    config::Settings,
    reach, terminal, view,
};

pub async fn pod(settings: Settings, args: OnePod) -> Result<ExitCode> {
    let client = reach::node(&settings).await?;
    let pod: Pod = client.get(&pod_path(&args.namespace, &args.name)).await?;
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let base = format!("/api/v1/namespaces/{}/events", segment(&args.namespace));
    let events: List<Event> = client
        .get(&path(&base, &[("fieldSelector", format!("involvedObject.uid={uid}"))]))
        .await?;
    terminal::print(&describe(&pod, events.items, Timestamp::now()))?;
    Ok(ExitCode::SUCCESS)
}

/// The whole text.
fn describe(pod: &Pod, events: Vec<Event>, now: Timestamp) -> String {
    let mut text = Text(String::new());
    let metadata = &pod.metadata;
    let status = pod.status.clone().unwrap_or_default();
    text.field("Name", metadata.name.as_deref());
    text.field("Namespace", metadata.namespace.as_deref());
    let spec = pod.spec.clone().unwrap_or_default();
    text.optional("Node", spec.node_name.as_deref().or(status.host_ip.as_deref()));
    text.field("Start Time", status.start_time.as_ref().map(time).as_deref());
    text.pairs("Labels", metadata.labels.iter().flatten());
    text.pairs("Annotations", metadata.annotations.iter().flatten());
    match &metadata.deletion_timestamp {
        Some(deletion) => {
            let grace = metadata.deletion_grace_period_seconds.unwrap_or_default();
            let (since, word) = if deletion.0 > now {
                (now, "by")
            } else {
                (deletion.0, "since")
            };
            let how_long = if deletion.0 > now {
                time(deletion)
            } else {
                view::ago(since, now)
            };
            text.field(
                "Status",
                Some(&format!("Terminating ({word} {how_long}, grace period {grace}s)")),
            );
        }
        None => text.field("Status", Some(view::phase(pod))),
    }
    text.optional("Reason", status.reason.as_deref());
    text.optional("Message", status.message.as_deref());
    text.field("IP", status.pod_ip.as_deref());
    let ips: Vec<_> = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).collect();
    text.field(
        "IPs",
        Some(&ips.join(", ")).filter(|ips| !ips.is_empty()).map(String::as_str),
    );
    if let Some(init) = spec.init_containers.as_deref().filter(|init| !init.is_empty()) {
        text.containers("Init Containers", init, view::init_statuses(pod));
    }
    text.containers("Containers", &spec.containers, view::container_statuses(pod));
    text.line("Conditions:");
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let rows: Vec<Vec<String>> = conditions
        .iter()
        .map(|condition| {
            let why = [condition.reason.as_deref(), condition.message.as_deref()];
            let why: Vec<_> = why.into_iter().flatten().filter(|why| !why.is_empty()).collect();
            vec![condition.type_.clone(), condition.status.clone(), why.join(": ")]
        })
        .collect();
    text.table(["Type", "Status", "Why"], &rows);
    let volumes: Vec<_> = spec.volumes.iter().flatten().collect();
    if !volumes.is_empty() {
        text.line("Volumes:");
        for volume in volumes {
            text.field(&format!("  {}", volume.name), Some(&volume_kind(volume)));
        }
    }
    text.field("Restart Policy", spec.restart_policy.as_deref());
    text.optional("QoS Class", status.qos_class.as_deref());
    let steps = steps::rows(&events);
    if !steps.is_empty() {
        text.line("Start:");
        text.table(["Step", "Of", "After"], &steps);
    }
    text.events(events, now);
    text.0
}

/// A text of fields, two columns wide.
struct Text(String);

impl Text {
    fn line(&mut self, line: &str) {
        self.0.push_str(line);
        self.0.push('\n');
    }

    fn field(&mut self, name: &str, value: Option<&str>) {
        // Writing to a String can't fail.
        let _ = writeln!(self.0, "{:<20}{}", format!("{name}:"), value.unwrap_or("<none>"));
    }

    fn optional(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            self.field(name, Some(value));
        }
    }

    fn pairs<'a>(&mut self, name: &str, pairs: impl Iterator<Item = (&'a String, &'a String)>) {
        let mut name = Some(name);
        for (key, value) in pairs {
            let label = name.take().map(|name| format!("{name}:")).unwrap_or_default();
            let _ = writeln!(self.0, "{label:<20}{key}={value}");
        }
        if let Some(name) = name {
            self.field(name, None);
        }
    }

    fn containers(&mut self, title: &str, containers: &[Container], statuses: &[ContainerStatus]) {
        self.line(&format!("{title}:"));
        for container in containers {
            let status = statuses.iter().find(|status| status.name == container.name);
            self.line(&format!("  {}:", container.name));
            self.field(
                "    Container ID",
                status.and_then(|status| status.container_id.as_deref()),
            );
            self.field("    Image", container.image.as_deref());
            self.optional("    Image ID", status.map(|status| status.image_id.as_str()));
            let ports: Vec<_> = container.ports.iter().flatten().map(port).collect();
            self.optional("    Ports", Some(&ports.join(", ")));
            self.optional(
                "    Command",
                Some(
                    &container
                        .command
                        .iter()
                        .flatten()
                        .cloned()
                        .collect::<Vec<_>>()
                        .join(" "),
                ),
            );
            self.optional(
                "    Args",
                Some(&container.args.iter().flatten().cloned().collect::<Vec<_>>().join(" ")),
            );
            if let Some(status) = status {
                self.state("State", status.state.as_ref());
                if let Some(last) = status.last_state.as_ref().filter(|last| last.terminated.is_some()) {
                    self.state("Last State", Some(last));
                }
                self.field("    Ready", Some(if status.ready { "True" } else { "False" }));
                self.field("    Restarts", Some(&status.restart_count.to_string()));
            }
            let resources = container.resources.clone().unwrap_or_default();
            for (name, quantities) in [("    Limits", resources.limits), ("    Requests", resources.requests)] {
                self.optional(
                    name,
                    Some(&quantities.iter().flatten().map(quantity).collect::<Vec<_>>().join(", ")),
                );
            }
            let environment: Vec<_> = container.env.iter().flatten().collect();
            if !environment.is_empty() {
                self.line("    Environment:");
                for variable in environment {
                    self.line(&format!("      {}", variable_line(variable)));
                }
            }
            let mounts: Vec<_> = container.volume_mounts.iter().flatten().collect();
            if !mounts.is_empty() {
                self.line("    Mounts:");
                for mount in mounts {
                    let mode = if mount.read_only == Some(true) { "ro" } else { "rw" };
                    self.line(&format!("      {} from {} ({mode})", mount.mount_path, mount.name));
                }
            }
        }
    }

    fn state(&mut self, name: &str, state: Option<&ContainerState>) {
        let state = state.cloned().unwrap_or_default();
        let name = format!("    {name}");
        if let Some(running) = state.running {
            self.field(&name, Some("Running"));
            self.optional("      Started", running.started_at.as_ref().map(time).as_deref());
        } else if let Some(end) = state.terminated {
            self.field(&name, Some("Terminated"));
            self.field("      Reason", Some(&view::end_word(&end)));
            self.optional("      Message", end.message.as_deref());
            self.field("      Exit Code", Some(&end.exit_code.to_string()));
            self.optional("      Started", end.started_at.as_ref().map(time).as_deref());
            self.optional("      Finished", end.finished_at.as_ref().map(time).as_deref());
        } else {
            self.field(&name, Some("Waiting"));
            let waiting = state.waiting.unwrap_or_default();
            self.optional("      Reason", waiting.reason.as_deref());
            self.optional("      Message", waiting.message.as_deref());
        }
    }

    fn events(&mut self, mut events: Vec<Event>, now: Timestamp) {
        if events.is_empty() {
            return self.field("Events", None);
        }
        self.line("Events:");
        let last = |event: &Event| event.last_timestamp.as_ref().map(|time| time.0);
        events.sort_by_key(|event| (last(event), event.metadata.name.clone()));
        let rows: Vec<Vec<String>> = events
            .into_iter()
            .map(|event| {
                let age = last(&event).map(|last| view::ago(last, now)).unwrap_or_default();
                let age = match event.count.unwrap_or(1) {
                    1 => age,
                    count => format!("{age} (x{count})"),
                };
                let from = event
                    .reporting_component
                    .clone()
                    .or_else(|| event.source.clone()?.component);
                vec![
                    event.type_.unwrap_or_default(),
                    event.reason.unwrap_or_default(),
                    age,
                    from.unwrap_or_default(),
                    event.message.unwrap_or_default(),
                ]
            })
            .collect();
        self.table(["Type", "Reason", "Age", "From", "Message"], &rows);
    }

    fn table<const N: usize>(&mut self, headers: [&'static str; N], rows: &[Vec<String>]) {
        for line in Columns::new(headers).with_headers(rows).lines() {
            self.line(&format!("  {line}"));
        }
    }
}

fn port(port: &k8s_openapi::api::core::v1::ContainerPort) -> String {
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    match port.host_port {
        Some(host) => format!("{host} -> {}/{protocol}", port.container_port),
        None => format!("{}/{protocol}", port.container_port),
    }
}

fn quantity((resource, quantity): (&String, &Quantity)) -> String {
    format!("{resource} {}", quantity.0)
}

fn variable_line(variable: &EnvVar) -> String {
    let field = variable.value_from.as_ref().and_then(|from| from.field_ref.as_ref());
    match field {
        Some(field) => format!("{}: the pod's {}", variable.name, field.field_path),
        None => format!("{}: {}", variable.name, variable.value.as_deref().unwrap_or_default()),
    }
}

/// What a volume is, in a line.
fn volume_kind(volume: &Volume) -> String {
    if let Some(host) = &volume.host_path {
        let kind = host.type_.as_deref().filter(|kind| !kind.is_empty());
        let kind = kind.map(|kind| format!(" ({kind})")).unwrap_or_default();
        return format!("the host's {}{kind}", host.path);
    }
    let empty = volume.empty_dir.clone().unwrap_or_default();
    let medium = empty
        .medium
        .filter(|medium| !medium.is_empty())
        .map(|medium| format!(" in {medium}"));
    let limit = empty.size_limit.map(|limit| format!(", at most {}", limit.0));
    format!(
        "empty directory{}{}",
        medium.unwrap_or_default(),
        limit.unwrap_or_default()
    )
}

fn time(time: &Time) -> String {
    time.0.strftime("%a, %d %b %Y %H:%M:%S %z").to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn it_says_why_a_pod_is_not_ready() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "two-containers", "namespace": "default"},
            "spec": {
                "containers": [{
                    "name": "writer",
                    "image": "debian",
                    "env": [{"name": "A", "value": "b"}, {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
                    "resources": {"limits": {"cpu": "2", "memory": "64Mi"}},
                }],
                "restartPolicy": "Never",
                "volumes": [{"name": "cache", "emptyDir": {"medium": "Memory"}}, {"name": "srv", "hostPath": {"path": "/srv"}}],
            },
            "status": {
                "phase": "Running",
                "podIP": "10.85.0.2",
                "conditions": [{"type": "Ready", "status": "False", "reason": "ContainersNotReady",
                    "message": "containers with unready status: [writer]"}],
                "containerStatuses": [{"name": "writer", "ready": false, "restartCount": 0, "image": "debian", "imageID": "sha256:1",
                    "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}],
            },
        }))
        .unwrap();
        let event: Event = serde_json::from_value(json!({
            "metadata": {}, "involvedObject": {}, "type": "Normal", "reason": "Started", "message": "Started container writer",
            "count": 2, "lastTimestamp": "1970-01-01T00:00:00Z", "eventTime": "1970-01-01T00:00:00.000001Z",
        }))
        .unwrap();
        let text = describe(&pod, vec![event], Timestamp::from_second(60).unwrap());
        for expected in [
            "IP:                 10.85.0.2\n",
            "      Reason:       Completed\n",
            "Ready   False    ContainersNotReady: containers with unready status: [writer]",
            "Normal   Started   60s (x2)",
            "    Limits:         cpu 2, memory 64Mi\n",
            "      A: b\n      IP: the pod's status.podIP\n",
            "  cache:            empty directory in Memory\n  srv:              the host's /srv\n",
            "Start:\n  Step      Of        After\n  Started   the pod   0\n",
            "Restart Policy:     Never\n",
        ] {
            assert!(text.contains(expected), "{expected:?} in\n{text}");
        }
    }
}
