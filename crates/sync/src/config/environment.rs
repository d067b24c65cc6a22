//! A container's environment, and `$(VAR)` in it and in the command
//! (<https://kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables/>).

use std::collections::BTreeMap;

use cri::v1::KeyValue;
use k8s_openapi::api::core::v1::{Container, Pod};

use super::Node;

/// The variables in the order of the spec. A value may refer to those before it.
pub fn variables(pod: &Pod, container: &Container, node: &Node, pod_ips: &[String]) -> Vec<KeyValue> {
    let mut known: BTreeMap<&str, String> = BTreeMap::new();
    let mut order: Vec<&str> = Vec::new();
    for variable in container.env.iter().flatten() {
        let value = match variable
            .value_from
            .as_ref()
            .and_then(|source| source.field_ref.as_ref())
        {
            Some(field) => self::field(pod, &field.field_path, node, pod_ips),
            None => expand(variable.value.as_deref().unwrap_or_default(), &known),
        };
        if known.insert(&variable.name, value).is_none() {
            order.push(&variable.name);
        }
    }
    order
        .into_iter()
        .map(|name| KeyValue {
            key: name.to_owned(),
            value: known.remove(name).unwrap_or_default().into_bytes(),
        })
        .collect()
}

/// Command and arguments with their references expanded.
pub fn command(texts: Option<&Vec<String>>, variables: &[KeyValue]) -> Vec<String> {
    let known = variables
        .iter()
        .map(|variable| {
            (
                variable.key.as_str(),
                String::from_utf8_lossy(&variable.value).into_owned(),
            )
        })
        .collect();
    texts.into_iter().flatten().map(|text| expand(text, &known)).collect()
}

/// `$(NAME)` becomes the value of NAME, if it is known, and stays as it is if not; `$$` is a dollar sign.
fn expand(text: &str, known: &BTreeMap<&str, String>) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            expanded.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|reference| reference.split_once(')')) {
            match known.get(name) {
                Some(value) => expanded.push_str(value),
                None => expanded.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            expanded.push('$');
        }
    }
    expanded + rest
}

/// The value of a field of the pod. Validation knows the same list.
fn field(pod: &Pod, path: &str, node: &Node, pod_ips: &[String]) -> String {
    let metadata = &pod.metadata;
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    if let Some((map, key)) = path.strip_suffix("']").and_then(|path| path.split_once("['")) {
        let map = if map == "metadata.labels" {
            &metadata.labels
        } else {
            &metadata.annotations
        };
        return map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default();
    }
    match path {
        "metadata.name" => text(&metadata.name),
        "metadata.namespace" => text(&metadata.namespace),
        "metadata.uid" => text(&metadata.uid),
        "spec.nodeName" => node.name.clone(),
        "status.hostIP" => node.ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => node.ips.join(","),
        "status.podIP" => pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => pod_ips.join(","),
        // spec.serviceAccountName: there are no service accounts.
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_expanded_as_documented() {
        let known = BTreeMap::from([("A", "1".to_owned()), ("EMPTY", String::new())]);
        for (text, expanded) in [
            ("", ""),
            ("a", "a"),
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$(B)", "$(B)"),
            ("$(EMPTY)", ""),
            ("$A ${A} $", "$A ${A} $"),
            ("$(A", "$(A"),
            ("$()", "$()"),
            ("ü$(A)ü", "ü1ü"),
        ] {
            assert_eq!(expand(text, &known), expanded, "{text}");
        }
    }
}
