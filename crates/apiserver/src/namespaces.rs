//! Namespaces exist by being used; `default` always does.

use std::collections::BTreeSet;

use axum::{
    Json,
    extract::{Path, State},
};
use objects::{Kind, Scope};
use serde_json::{Value, json};

use crate::{
    Api,
    failure::{Failure, Result},
};

/// `GET /api/v1/namespaces`.
pub async fn list(State(api): State<Api>) -> Result<Json<Value>> {
    let (used, version) = used(&api)?;
    let items: Vec<_> = used.iter().map(|name| namespace(name)).collect();
    let metadata = json!({"resourceVersion": version.to_string()});
    Ok(Json(
        json!({"apiVersion": "v1", "kind": "NamespaceList", "metadata": metadata, "items": items}),
    ))
}

/// `GET /api/v1/namespaces/NAME`.
pub async fn read(State(api): State<Api>, Path(name): Path<String>) -> Result<Json<Value>> {
    if !used(&api)?.0.contains(&name) {
        return Err(Failure::not_found(format!("namespaces \"{name}\" not found")));
    }
    Ok(Json(namespace(&name)))
}

fn used(api: &Api) -> Result<(BTreeSet<String>, u64)> {
    let (pods, version) = api.objects.list(&Scope::all(Kind::Pod))?;
    let mut names: BTreeSet<String> = pods.iter().map(|pod| pod.namespace().to_owned()).collect();
    names.insert("default".into());
    Ok((names, version))
}

fn namespace(name: &str) -> Value {
    let metadata = json!({"name": name, "labels": {"kubernetes.io/metadata.name": name}});
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata, "status": {"phase": "Active"}})
}
