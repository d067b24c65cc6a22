//! What this server is and what it serves, in the form that kubectl's discovery reads.

use axum::{Json, extract::State};
use http::{Method, StatusCode, Uri};
use serde_json::{Value, json};

use crate::{Api, failure::Failure};

/// The version of the Kubernetes API whose paths and objects are served.
const KUBERNETES: (&str, &str) = ("1", "36");

/// `/version`.
pub async fn version() -> Json<Value> {
    Json(json!({
        "major": KUBERNETES.0,
        "minor": KUBERNETES.1,
        "gitVersion": format!("v{}.{}.0+hove-{}", KUBERNETES.0, KUBERNETES.1, env!("CARGO_PKG_VERSION")),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("linux/{}", if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }),
    }))
}

/// `/healthz`, `/livez`, `/readyz`: who answers is well.
pub async fn healthy() -> &'static str {
    "ok"
}

/// `/api`.
pub async fn core_versions() -> Json<Value> {
    Json(json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}))
}

/// `/api/v1`.
pub async fn core_resources() -> Json<Value> {
    let resource = |name: &str, singular: &str, namespaced: bool, kind: &str, verbs: &[&str], short: &[&str]| {
        let mut resource =
            json!({"name": name, "singularName": singular, "namespaced": namespaced, "kind": kind, "verbs": verbs});
        if !short.is_empty() {
            resource["shortNames"] = json!(short);
        }
        resource
    };
    Json(json!({
        "kind": "APIResourceList",
        "groupVersion": "v1",
        "resources": [
            resource("events", "event", true, "Event", &["get", "list", "watch"], &["ev"]),
            resource("namespaces", "namespace", false, "Namespace", &["get", "list"], &["ns"]),
            resource("pods", "pod", true, "Pod", &["create", "delete", "get", "list", "watch"], &["po"]),
            resource("pods/attach", "", true, "PodAttachOptions", &["create", "get"], &[]),
            resource("pods/exec", "", true, "PodExecOptions", &["create", "get"], &[]),
            resource("pods/log", "", true, "Pod", &["get"], &[]),
            resource("pods/portforward", "", true, "PodPortForwardOptions", &["create", "get"], &[]),
            resource("pods/status", "", true, "Pod", &["get"], &[]),
        ],
    }))
}

/// `/apis`.
pub async fn groups(State(api): State<Api>) -> Json<Value> {
    let groups: Vec<_> = api
        .groups
        .iter()
        .map(|(name, version)| {
            let version = json!({"groupVersion": format!("{name}/{version}"), "version": version});
            json!({"name": name, "versions": [version], "preferredVersion": version})
        })
        .collect();
    Json(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
}

/// Any other path.
pub async fn unknown_path(uri: Uri) -> Failure {
    Failure::not_found(format!(
        "the server could not find the requested resource: {}",
        uri.path()
    ))
}

/// Another method on a path that is served.
pub async fn unknown_method(method: Method, uri: Uri) -> Failure {
    let message = format!("the server does not allow {method} on {}", uri.path());
    Failure::with_code(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
}
