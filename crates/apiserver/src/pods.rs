//! Pods, one at a time: create, read, delete.

use axum::{
    Json,
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use http::StatusCode;
use objects::{Deletion, Key, Kind};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    Api, Document, Query,
    failure::{Failure, Result},
};

/// `POST /api/v1/namespaces/NS/pods`: JSON or YAML.
pub async fn create(
    State(api): State<Api>,
    Path(namespace): Path<String>,
    query: Query,
    Document(body): Document,
) -> Result<Response> {
    let json = accept(&namespace, &body)?;
    if query.get("dryRun").is_some() {
        return Ok((StatusCode::CREATED, Json(json)).into_response());
    }
    let object = blocking(move || api.objects.create(Kind::Pod, json)).await?;
    Ok((StatusCode::CREATED, Json(object.json())).into_response())
}

/// `GET …/pods/NAME` and `…/status`.
pub async fn read(State(api): State<Api>, Path((namespace, name)): Path<(String, String)>) -> Result<Response> {
    let object = api.objects.get(&Key::pod(namespace, name))?;
    Ok(Json(object.json()).into_response())
}

/// `DELETE …/pods/NAME`, with its grace period in the query or in a body of DeleteOptions.
pub async fn delete(
    State(api): State<Api>,
    Path((namespace, name)): Path<(String, String)>,
    query: Query,
    Document(body): Document,
) -> Result<Response> {
    #[derive(Deserialize, Default)]
    #[serde(rename_all = "camelCase", default)]
    struct DeleteOptions {
        grace_period_seconds: Option<i64>,
        preconditions: Option<Preconditions>,
    }
    #[derive(Deserialize)]
    struct Preconditions {
        uid: Option<String>,
    }
    let mut options = DeleteOptions::default();
    if !body.is_empty() {
        // By way of a map: a struct could be read from an array as well.
        let fields: serde_json::Result<serde_json::Map<String, Value>> = serde_json::from_slice(&body);
        options = fields
            .and_then(|fields| serde_json::from_value(fields.into()))
            .map_err(|error| Failure::bad_request(format!("the body is not DeleteOptions: {error}")))?;
    }
    let grace = query
        .number::<i64>("gracePeriodSeconds")?
        .or(options.grace_period_seconds);
    if let Some(negative) = grace.filter(|grace| *grace < 0) {
        return Err(Failure::bad_request(format!(
            "gracePeriodSeconds={negative}: want 0 or more"
        )));
    }
    let uid = options.preconditions.and_then(|preconditions| preconditions.uid);
    let key = Key::pod(namespace, name);
    let deletion = blocking(move || api.objects.delete(&key, uid.as_deref(), grace)).await?;
    let (Deletion::Marked(object) | Deletion::Removed(object)) = deletion;
    Ok(Json(object.json()).into_response())
}

/// A pod as its user wrote it → as it is kept: parsed strictly, defaulted, validated. `namespace` is that of the
/// request; the pod may leave its own out, but not name another.
pub fn accept(namespace: &str, body: &[u8]) -> Result<Value> {
    let text = std::str::from_utf8(body).map_err(|error| Failure::bad_request(format!("the body: {error}")))?;
    let documents = pod::load(text, "body").map_err(refuse)?;
    let [document] = &documents[..] else {
        let count = documents.len();
        return Err(Failure::bad_request(format!(
            "the body has {count} objects; one is created at a time"
        )));
    };
    let mut pod = document.pod.clone();
    match &pod.metadata.namespace {
        Some(own) if own != namespace => {
            return Err(Failure::bad_request(format!(
                "the namespace of the provided object does not match the namespace sent on the request: \
                 {own} is not {namespace}"
            )));
        }
        _ => pod.metadata.namespace = Some(namespace.into()),
    }
    serde_json::to_value(pod).map_err(|error| Failure::internal(error.to_string()))
}

/// What can't be read is a bad request; what can be read and breaks rules is an invalid object, with a cause for each.
fn refuse(problems: pod::Problems) -> Failure {
    if problems
        .list
        .iter()
        .any(|problem| matches!(problem.rule, pod::Rule::Syntax(_)))
    {
        return Failure::bad_request(problems.to_string());
    }
    let causes = problems
        .list
        .into_iter()
        .map(|problem| (problem.path, problem.rule.to_string()))
        .collect();
    Failure::invalid("Pod", "", causes)
}

/// Runs a durable write, which waits for the disk, beside the event loop.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> objects::Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result?),
        Err(panicked) => Err(Failure::internal(panicked.to_string())),
    }
}
