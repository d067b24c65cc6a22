//! Which fields of a Pod Hove honours. One table, [`FIELDS`]; a field that is not in it, nor above or below an entry, is refused by
//! name. Nothing is ignored in silence: what needs no doing on a single node is in the table too, with the reason.
//!
//! A path is written as in messages, with `[]` for any element of a list. An entry covers all that is below it.

use std::{collections::HashMap, sync::LazyLock};

use serde_json::Value;

use crate::{Problem, Rule, path::Path, problem::Found};

/// What Hove does with a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// What Kubernetes' documentation says.
    Honoured,
    /// Nothing, because on one node without a cluster there is nothing to do; this is why.
    NoEffect(&'static str),
}

use Support::{Honoured, NoEffect};

/// The table. `{container}` stands for `spec.containers[]` and `spec.initContainers[]`.
pub const FIELDS: &[(&str, Support)] = &[
    ("apiVersion", Honoured),
    ("kind", Honoured),
    ("metadata.annotations", Honoured),
    ("metadata.creationTimestamp", NoEffect("set by the node")),
    ("metadata.deletionGracePeriodSeconds", NoEffect("set by the node")),
    ("metadata.deletionTimestamp", NoEffect("set by the node")),
    ("metadata.generateName", Honoured),
    ("metadata.generation", NoEffect("set by the node")),
    ("metadata.labels", Honoured),
    ("metadata.managedFields", NoEffect("the node keeps no field owners")),
    ("metadata.name", Honoured),
    ("metadata.namespace", Honoured),
    ("metadata.resourceVersion", Honoured),
    ("metadata.selfLink", NoEffect("no longer used by Kubernetes")),
    ("metadata.uid", Honoured),
    (
        "spec.automountServiceAccountToken",
        NoEffect("there are no service accounts, so no token is ever mounted"),
    ),
    ("spec.dnsConfig", Honoured),
    ("spec.dnsPolicy", Honoured),
    ("spec.enableServiceLinks", NoEffect("there are no Services to link to")),
    ("spec.hostAliases", Honoured),
    ("spec.hostIPC", Honoured),
    ("spec.hostNetwork", Honoured),
    ("spec.hostPID", Honoured),
    ("spec.hostUsers", Honoured),
    ("spec.hostname", Honoured),
    ("spec.nodeName", NoEffect("there is one node")),
    ("spec.os", Honoured),
    (
        "spec.preemptionPolicy",
        NoEffect("nothing is preempted: there is no scheduler"),
    ),
    ("spec.restartPolicy", Honoured),
    ("spec.runtimeClassName", Honoured),
    ("spec.schedulerName", NoEffect("there is no scheduler")),
    ("spec.securityContext.fsGroup", Honoured),
    ("spec.securityContext.fsGroupChangePolicy", Honoured),
    ("spec.securityContext.runAsGroup", Honoured),
    ("spec.securityContext.runAsNonRoot", Honoured),
    ("spec.securityContext.runAsUser", Honoured),
    ("spec.securityContext.seccompProfile", Honoured),
    ("spec.securityContext.supplementalGroups", Honoured),
    ("spec.securityContext.supplementalGroupsPolicy", Honoured),
    ("spec.securityContext.sysctls", Honoured),
    ("spec.shareProcessNamespace", Honoured),
    ("spec.terminationGracePeriodSeconds", Honoured),
    ("spec.tolerations", NoEffect("there is one node, without taints")),
    ("spec.volumes[].emptyDir.medium", Honoured),
    ("spec.volumes[].emptyDir.sizeLimit", Honoured),
    ("spec.volumes[].hostPath", Honoured),
    ("spec.volumes[].name", Honoured),
    ("status", NoEffect("set by the node")),
    ("{container}.args", Honoured),
    ("{container}.command", Honoured),
    ("{container}.env[].name", Honoured),
    ("{container}.env[].value", Honoured),
    ("{container}.env[].valueFrom.fieldRef", Honoured),
    ("{container}.image", Honoured),
    ("{container}.imagePullPolicy", Honoured),
    ("{container}.name", Honoured),
    ("{container}.ports", Honoured),
    ("{container}.resources.limits", Honoured),
    ("{container}.resources.requests", Honoured),
    ("{container}.restartPolicy", Honoured),
    ("{container}.securityContext.allowPrivilegeEscalation", Honoured),
    ("{container}.securityContext.capabilities", Honoured),
    ("{container}.securityContext.privileged", Honoured),
    ("{container}.securityContext.readOnlyRootFilesystem", Honoured),
    ("{container}.securityContext.runAsGroup", Honoured),
    ("{container}.securityContext.runAsNonRoot", Honoured),
    ("{container}.securityContext.runAsUser", Honoured),
    ("{container}.securityContext.seccompProfile", Honoured),
    ("{container}.stdin", Honoured),
    ("{container}.stdinOnce", Honoured),
    ("{container}.terminationMessagePath", Honoured),
    ("{container}.terminationMessagePolicy", Honoured),
    ("{container}.tty", Honoured),
    ("{container}.volumeMounts[].mountPath", Honoured),
    ("{container}.volumeMounts[].mountPropagation", Honoured),
    ("{container}.volumeMounts[].name", Honoured),
    ("{container}.volumeMounts[].readOnly", Honoured),
    ("{container}.workingDir", Honoured),
];

const CONTAINERS: [&str; 2] = ["spec.containers[]", "spec.initContainers[]"];

enum Node {
    /// An entry: all below is covered.
    Entry,
    /// On the way to entries.
    Parent,
}

static TREE: LazyLock<HashMap<String, Node>> = LazyLock::new(|| {
    let mut tree = HashMap::new();
    for (path, _) in FIELDS {
        let paths = match path.strip_prefix("{container}") {
            Some(rest) => CONTAINERS
                .iter()
                .map(|container| format!("{container}{rest}"))
                .collect(),
            None => vec![(*path).to_owned()],
        };
        for path in paths {
            for (end, _) in path.match_indices(['.', '[']) {
                tree.insert(path[..end].to_owned(), Node::Parent);
            }
            tree.insert(path, Node::Entry);
        }
    }
    tree
});

/// Every field of a Pod's JSON that is set and is not in the table. Fields that are null or empty ask for nothing.
pub fn check(pod: &Value) -> Vec<Problem> {
    let mut found = Found::default();
    walk(pod, &Path::Root, "", &mut found);
    found.into_list()
}

fn walk(value: &Value, path: &Path<'_>, pattern: &str, found: &mut Found) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let pattern = if pattern.is_empty() {
                    name.clone()
                } else {
                    format!("{pattern}.{name}")
                };
                check_field(value, &path.field(name), &pattern, found);
            }
        }
        Value::Array(elements) => {
            let pattern = format!("{pattern}[]");
            for (index, value) in elements.iter().enumerate() {
                walk(value, &path.index(index), &pattern, found);
            }
        }
        // A value of a wrong type, which strict.rs reports.
        _ => {}
    }
}

fn check_field(value: &Value, path: &Path<'_>, pattern: &str, found: &mut Found) {
    let asks_for_nothing = match value {
        Value::Null => true,
        Value::Object(fields) => fields.is_empty(),
        Value::Array(elements) => elements.is_empty(),
        _ => false,
    };
    match TREE.get(pattern) {
        Some(Node::Entry) => {}
        Some(Node::Parent) => walk(value, path, pattern, found),
        None if asks_for_nothing => {}
        None => found.push(path, Rule::NotHonoured(String::new())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_says_nothing_twice() {
        assert!(FIELDS.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    /// An entry that the type does not have would be a typing error that refuses a good document.
    #[test]
    fn every_entry_is_a_field_of_a_pod() {
        for path in TREE.keys() {
            let mut json = Value::Null;
            for part in path.split('.').rev() {
                let (name, is_list) = part.strip_suffix("[]").map_or((part, false), |name| (name, true));
                let inner = if is_list { Value::Array(vec![json]) } else { json };
                json = serde_json::json!({ name: inner });
            }
            let (_, problems) = crate::strict::read::<k8s_openapi::api::core::v1::Pod>(&json);
            let unknown: Vec<_> = problems
                .iter()
                .filter(|p| matches!(p.rule, Rule::UnknownField(_)))
                .collect();
            assert!(unknown.is_empty(), "{path}: {unknown:?}");
        }
    }
}
