//! What may change in a Pod that exists (<https://kubernetes.io/docs/concepts/workloads/pods/#pod-update-and-replacement>).

use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use crate::{Problem, path::Path, problem::Found};

/// Checks a change of `old` to `new`, both with defaults. Only the images of containers may change in the
/// spec.
pub fn validate_update(old: &Pod, new: &Pod) -> Vec<Problem> {
    let mut found = Found::default();
    let mut allowed = old.clone();
    if let (Some(allowed), Some(new)) = (&mut allowed.spec, &new.spec) {
        let pairs = allowed.containers.iter_mut().zip(&new.containers);
        let init_pairs = allowed
            .init_containers
            .iter_mut()
            .flatten()
            .zip(new.init_containers.iter().flatten());
        for (allowed, new) in pairs.chain(init_pairs) {
            allowed.image.clone_from(&new.image);
        }
    }
    let json = |pod: &Pod| serde_json::to_value(&pod.spec).unwrap_or(Value::Null);
    if json(&allowed) != json(new) {
        let changed = changed_fields(&json(&allowed), &json(new));
        found.forbidden(
            Path::Root.field("spec"),
            format!(
                "pod updates may not change fields other than `spec.containers[*].image` and `spec.initContainers[*].image` \
                 (changed: {changed}); delete the pod and apply it again"
            ),
        );
    }
    found.into_list()
}

fn changed_fields(old: &Value, new: &Value) -> String {
    let empty = serde_json::Map::new();
    let (old, new) = (old.as_object().unwrap_or(&empty), new.as_object().unwrap_or(&empty));
    let mut fields: Vec<&str> = old
        .keys()
        .chain(new.keys())
        .filter(|field| old.get(*field) != new.get(*field))
        .map(String::as_str)
        .collect();
    fields.sort_unstable();
    fields.dedup();
    fields.join(", ")
}
