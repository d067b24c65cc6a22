//! A container's environment, and `$(VAR)` in it and in the command
//! (<https://kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables/>).

use std::collections::BTreeMap;

use cri::v1::KeyValue;
use k8s_openapi::api::core::v1::{Container, Pod};

use super::Node;

/// How long a value, an argument may be: the kernel gives no longer string to a program (execve(2), MAX_ARG_STRLEN).
const STRING_BYTES_MAX: usize = 128 << 10;
/// How much all values or all arguments together may be: nor does it give more than this (execve(2): three quarters of 8 MiB).
const TOTAL_BYTES_MAX: usize = 6 << 20;

/// The variables in the order of the spec. A value may refer to those before it. An error names the one that is too long: references
/// double what they refer to as often as a spec likes.
pub fn variables(pod: &Pod, container: &Container, node: &Node, pod_ips: &[String]) -> Result<Vec<KeyValue>, String> {
    let mut known: BTreeMap<&str, String> = BTreeMap::new();
    let mut order: Vec<&str> = Vec::new();
    let mut room = Room::default();
    for variable in container.env.iter().flatten() {
        let value = match variable
            .value_from
            .as_ref()
            .and_then(|source| source.field_ref.as_ref())
        {
            Some(field) => Some(self::field(pod, &field.field_path, node, pod_ips)),
            None => expand(variable.value.as_deref().unwrap_or_default(), &known),
        };
        let value = room
            .take(value)
            .map_err(|why| format!("env {}: {why}", variable.name))?;
        if known.insert(&variable.name, value).is_none() {
            order.push(&variable.name);
        }
    }
    let variables = order.into_iter().map(|name| KeyValue {
        key: name.to_owned(),
        value: known.remove(name).unwrap_or_default().into_bytes(),
    });
    Ok(variables.collect())
}

/// Command or arguments, `what` of the spec, with their references expanded.
pub fn command(what: &str, texts: Option<&Vec<String>>, variables: &[KeyValue]) -> Result<Vec<String>, String> {
    let known = variables
        .iter()
        .map(|variable| {
            (
                variable.key.as_str(),
                String::from_utf8_lossy(&variable.value).into_owned(),
            )
        })
        .collect();
    let mut room = Room::default();
    let texts = texts.into_iter().flatten().enumerate();
    texts
        .map(|(n, text)| {
            room.take(expand(text, &known))
                .map_err(|why| format!("{what}[{n}]: {why}"))
        })
        .collect()
}

/// How much has been expanded.
#[derive(Default)]
struct Room(usize);

impl Room {
    /// One more text; none is one that was too long.
    fn take(&mut self, text: Option<String>) -> Result<String, String> {
        let text = text.filter(|text| text.len() <= STRING_BYTES_MAX).ok_or_else(|| {
            format!("longer than {STRING_BYTES_MAX} bytes, which is the most that a program can be given")
        })?;
        self.0 += text.len();
        match self.0 <= TOTAL_BYTES_MAX {
            true => Ok(text),
            false => Err(format!(
                "more than {TOTAL_BYTES_MAX} bytes with those before it, which is the most that a program can be given"
            )),
        }
    }
}

/// `$(NAME)` becomes the value of NAME, if it is known, and stays as it is if not; `$$` is a dollar sign. None: it would be longer than
/// [`STRING_BYTES_MAX`].
fn expand(text: &str, known: &BTreeMap<&str, String>) -> Option<String> {
    let mut expanded = String::new();
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
        if expanded.len() > STRING_BYTES_MAX {
            return None;
        }
    }
    Some(expanded + rest)
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
            assert_eq!(expand(text, &known).unwrap(), expanded, "{text}");
        }
    }
}
