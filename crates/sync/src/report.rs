//! Events about a pod, with Kubernetes' reasons.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use objects::{EventType, Recorder};

use crate::config::Identity;

/// Reports on one pod.
pub(crate) struct Reporter<'a> {
    pub recorder: &'a Recorder,
    pub pod: Identity<'a>,
}

impl<'a> Reporter<'a> {
    pub fn of(recorder: &'a Recorder, pod: &'a Pod) -> Reporter<'a> {
        Reporter {
            recorder,
            pod: Identity::of(pod),
        }
    }

    pub fn pod(&self, type_: EventType, reason: &str, message: &str) {
        self.recorder.record(&self.reference(None), type_, reason, message);
    }

    pub fn container(&self, name: &str, type_: EventType, reason: &str, message: &str) {
        self.recorder
            .record(&self.reference(Some(name)), type_, reason, message);
    }

    fn reference(&self, container: Option<&str>) -> ObjectReference {
        ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            namespace: Some(self.pod.namespace.into()),
            name: Some(self.pod.name.into()),
            uid: Some(self.pod.uid.into()),
            field_path: container.map(|name| format!("spec.containers{{{name}}}")),
            ..ObjectReference::default()
        }
    }
}

/// How long a step took, for a person: `870 µs`, `12 ms`, `3.2 s`.
pub(crate) fn took(duration: Duration) -> String {
    match duration.as_micros() {
        micros @ 0..1000 => format!("{micros} µs"),
        micros @ 1000..1_000_000 => format!("{} ms", micros / 1000),
        _ => format!("{:.1} s", duration.as_secs_f64()),
    }
}
