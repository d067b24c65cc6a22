//! Pods as people read them: kubectl's columns and words (pure).

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, Pod};

/// A pod's line in a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    pub namespace: String,
    pub name: String,
    pub ready: String,
    pub status: String,
    pub restarts: String,
    pub age: String,
    pub ip: String,
}

impl Summary {
    /// What `kubectl get pods` would show.
    pub fn of(pod: &Pod, now: Timestamp) -> Summary {
        let total = pod.spec.as_ref().map_or(0, |spec| spec.containers.len());
        let ready = container_statuses(pod).iter().filter(|status| status.ready).count();
        let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        Summary {
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            name: pod.metadata.name.clone().unwrap_or_default(),
            ready: format!("{ready}/{total}"),
            status: status_word(pod),
            restarts: restarts(pod, now),
            age: created.map_or_else(|| "<unknown>".into(), |created| ago(created, now)),
            ip: pod
                .status
                .as_ref()
                .and_then(|status| status.pod_ip.clone())
                .unwrap_or_else(|| "<none>".into()),
        }
    }
}

/// The statuses of the normal containers.
pub fn container_statuses(pod: &Pod) -> &[ContainerStatus] {
    pod.status
        .as_ref()
        .and_then(|status| status.container_statuses.as_deref())
        .unwrap_or_default()
}

/// The statuses of the init containers.
pub fn init_statuses(pod: &Pod) -> &[ContainerStatus] {
    pod.status
        .as_ref()
        .and_then(|status| status.init_container_statuses.as_deref())
        .unwrap_or_default()
}

/// The phase, as far as it is known.
pub fn phase(pod: &Pod) -> &str {
    pod.status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or("Pending")
}

/// Whether the pod's condition `kind` is true.
pub fn condition(pod: &Pod, kind: &str) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default();
    conditions
        .iter()
        .any(|condition| condition.type_ == kind && condition.status == "True")
}

/// The column STATUS: the most telling of phase, reasons and states.
fn status_word(pod: &Pod) -> String {
    let reason = pod.status.as_ref().and_then(|status| status.reason.clone());
    let word = match (initialising(pod), reason) {
        (Some(word), _) => word,
        (None, reason) => normal_word(pod, reason.unwrap_or_else(|| phase(pod).into())),
    };
    let over = matches!(phase(pod), "Succeeded" | "Failed");
    if pod.metadata.deletion_timestamp.is_some() && !over {
        "Terminating".into()
    } else {
        word
    }
}

/// While init containers are at work: which, or what is wrong with it.
fn initialising(pod: &Pod) -> Option<String> {
    let specs = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.init_containers.as_deref())
        .unwrap_or_default();
    let is_sidecar = |name: &str| {
        specs
            .iter()
            .any(|spec| spec.name == name && spec.restart_policy.as_deref() == Some("Always"))
    };
    for (done, status) in init_statuses(pod).iter().enumerate() {
        match &status.state {
            Some(ContainerState {
                terminated: Some(end), ..
            }) if end.exit_code == 0 => {}
            Some(ContainerState {
                terminated: Some(end), ..
            }) => return Some(format!("Init:{}", end_word(end))),
            _ if is_sidecar(&status.name) && status.started == Some(true) => {}
            Some(ContainerState {
                waiting: Some(waiting), ..
            }) if waiting
                .reason
                .as_deref()
                .is_some_and(|reason| !reason.is_empty() && reason != "PodInitializing") =>
            {
                return Some(format!("Init:{}", waiting.reason.as_deref().unwrap_or_default()));
            }
            _ => return Some(format!("Init:{done}/{}", specs.len())),
        }
    }
    None
}

fn normal_word(pod: &Pod, phase: String) -> String {
    let mut word = phase;
    let mut running = false;
    // The first container has the last word.
    for status in container_statuses(pod).iter().rev() {
        match &status.state {
            Some(ContainerState {
                waiting: Some(waiting), ..
            }) if waiting.reason.is_some() => {
                word = waiting.reason.clone().unwrap_or_default();
            }
            Some(ContainerState {
                terminated: Some(end), ..
            }) => word = end_word(end),
            Some(ContainerState { running: Some(_), .. }) if status.ready => running = true,
            _ => {}
        }
    }
    if word == "Completed" && running {
        return if condition(pod, "Ready") {
            "Running".into()
        } else {
            "NotReady".into()
        };
    }
    word
}

/// How a container ended, in a word.
pub fn end_word(end: &ContainerStateTerminated) -> String {
    match (
        end.reason.as_deref().filter(|reason| !reason.is_empty()),
        end.signal.unwrap_or_default(),
    ) {
        (Some(reason), _) => reason.into(),
        (None, 0) => format!("ExitCode:{}", end.exit_code),
        (None, signal) => format!("Signal:{signal}"),
    }
}

fn restarts(pod: &Pod, now: Timestamp) -> String {
    let all = || container_statuses(pod).iter().chain(init_statuses(pod));
    let count: i32 = all().map(|status| status.restart_count).sum();
    let last = all()
        .filter_map(|status| status.last_state.as_ref()?.terminated.as_ref()?.finished_at.as_ref())
        .map(|time| time.0)
        .max();
    match last {
        Some(last) if count > 0 => format!("{count} ({} ago)", ago(last, now)),
        _ => count.to_string(),
    }
}

/// How long ago `then` was, in kubectl's rounding: two units where the larger is small.
pub fn ago(then: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(then).as_secs().max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    let two = |large: i64, unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{large}{unit}"),
        small => format!("{large}{unit}{small}{small_unit}"),
    };
    match seconds {
        ..120 => format!("{seconds}s"),
        120..600 => two(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, "d", hours % 24, "h"),
        _ if days < 730 => format!("{days}d"),
        _ => two(days / 365, "y", days % 365, "d"),
    }
}

/// Bytes as people read them, in powers of 1000, as docker shows images.
pub fn bytes(count: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 || value >= 100.0 {
        format!("{value:.0}{}", units[unit])
    } else {
        format!("{value:.1}{}", units[unit])
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn summary(spec: Value, status: Value) -> Summary {
        let pod = json!({"metadata": {"name": "web", "namespace": "default"}, "spec": spec, "status": status});
        Summary::of(&serde_json::from_value(pod).unwrap(), Timestamp::UNIX_EPOCH)
    }

    fn container(name: &str, ready: bool, state: Value) -> Value {
        json!({"name": name, "ready": ready, "restartCount": 0, "image": "", "imageID": "", "state": state})
    }

    fn two() -> Value {
        json!({"containers": [{"name": "a"}, {"name": "b"}]})
    }

    #[test]
    fn a_pod_that_lost_a_container_is_not_ready() {
        let statuses = [
            container("a", true, json!({"running": {}})),
            container(
                "b",
                false,
                json!({"terminated": {"exitCode": 0, "reason": "Completed"}}),
            ),
        ];
        let seen = summary(two(), json!({"phase": "Running", "containerStatuses": statuses}));
        assert_eq!((seen.ready.as_str(), seen.status.as_str()), ("1/2", "NotReady"));
    }

    #[test]
    fn states() {
        for (state, expected) in [
            (json!({"waiting": {"reason": "CrashLoopBackOff"}}), "CrashLoopBackOff"),
            (json!({"terminated": {"exitCode": 3}}), "ExitCode:3"),
            (json!({"terminated": {"exitCode": 137, "signal": 9}}), "Signal:9"),
            (
                json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}),
                "OOMKilled",
            ),
            (json!({"running": {}}), "Running"),
        ] {
            let status = json!({"phase": "Running", "containerStatuses": [container("a", false, state)]});
            assert_eq!(summary(two(), status).status, expected);
        }
    }

    #[test]
    fn init_containers_come_first() {
        let spec = json!({"containers": [{"name": "a"}], "initContainers": [{"name": "i"}, {"name": "j"}]});
        let done = container("i", true, json!({"terminated": {"exitCode": 0}}));
        for (second, expected) in [
            (json!({"running": {}}), "Init:1/2"),
            (json!({"waiting": {"reason": "PodInitializing"}}), "Init:1/2"),
            (json!({"waiting": {"reason": "ErrImagePull"}}), "Init:ErrImagePull"),
            (json!({"terminated": {"exitCode": 1, "reason": "Error"}}), "Init:Error"),
        ] {
            let status =
                json!({"phase": "Pending", "initContainerStatuses": [done.clone(), container("j", false, second)]});
            assert_eq!(summary(spec.clone(), status).status, expected);
        }
    }

    #[test]
    fn a_new_pod_is_pending() {
        let seen = summary(two(), json!({}));
        assert_eq!(
            (seen.ready.as_str(), seen.status.as_str(), seen.ip.as_str()),
            ("0/2", "Pending", "<none>")
        );
    }

    #[test]
    fn ages() {
        for (seconds, expected) in [
            (5, "5s"),
            (119, "119s"),
            (125, "2m5s"),
            (1800, "30m"),
            (10_800, "3h"),
            (12_000, "3h20m"),
            (90_000, "25h"),
            (200_000, "2d7h"),
            (864_000, "10d"),
        ] {
            assert_eq!(
                ago(Timestamp::UNIX_EPOCH, Timestamp::from_second(seconds).unwrap()),
                expected
            );
        }
    }

    #[test]
    fn sizes() {
        for (count, expected) in [(757, "757B"), (1500, "1.5kB"), (142_000_000, "142MB")] {
            assert_eq!(bytes(count), expected);
        }
    }
}
