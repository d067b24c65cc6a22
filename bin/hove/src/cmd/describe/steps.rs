//! How a pod came up: the steps of its start with their times, out of its events (pure).

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;

/// What happens on the way from nothing to a running container.
const STEPS: [&str; 5] = ["SandboxStarted", "Pulling", "Pulled", "Created", "Started"];

/// A row for each step that was taken: what, of which container, how long after the first one. Events that are counted again and
/// again (a container that restarts) are told with their first time.
pub fn rows(events: &[Event]) -> Vec<Vec<String>> {
    let mut steps: Vec<(Timestamp, &Event)> = events
        .iter()
        .filter(|event| event.reason.as_deref().is_some_and(|reason| STEPS.contains(&reason)))
        .filter_map(|event| Some((event.event_time.as_ref()?.0, event)))
        .collect();
    steps.sort_by_key(|(time, _)| *time);
    let Some((begin, _)) = steps.first() else {
        return Vec::new();
    };
    let row = |(time, event): &(Timestamp, &Event)| {
        vec![
            event.reason.clone().unwrap_or_default(),
            container(event).to_owned(),
            after(time.duration_since(*begin).as_micros()),
        ]
    };
    steps.iter().map(row).collect()
}

/// Of `spec.containers{nginx}`, the name.
fn container(event: &Event) -> &str {
    let path = event.involved_object.field_path.as_deref().unwrap_or_default();
    let name = path.split_once('{').map(|(_, name)| name.trim_end_matches('}'));
    name.unwrap_or("the pod")
}

fn after(micros: i128) -> String {
    match micros {
        0 => "0".into(),
        1..10_000 => format!("+{:.1} ms", micros as f64 / 1e3),
        10_000..10_000_000 => format!("+{} ms", micros / 1000),
        _ => format!("+{:.1} s", micros as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(reason: &str, path: &str, time: &str) -> Event {
        let object = json!({"fieldPath": path});
        serde_json::from_value(json!({"metadata": {}, "involvedObject": object, "reason": reason, "eventTime": time}))
            .unwrap()
    }

    #[test]
    fn steps_are_told_in_order_with_their_times() {
        let events = [
            event("Started", "spec.containers{web}", "2026-01-01T00:00:00.012345Z"),
            event("SandboxStarted", "", "2026-01-01T00:00:00.000000Z"),
            event("Created", "spec.containers{web}", "2026-01-01T00:00:00.004500Z"),
            event("BackOff", "spec.containers{web}", "2026-01-01T00:00:01.000000Z"),
            event("Started", "spec.containers{slow}", "2026-01-01T00:00:12.500000Z"),
        ];
        assert_eq!(
            rows(&events),
            [
                ["SandboxStarted", "the pod", "0"],
                ["Created", "web", "+4.5 ms"],
                ["Started", "web", "+12 ms"],
                ["Started", "slow", "+12.5 s"],
            ]
        );
        assert!(rows(&[]).is_empty());
    }
}
