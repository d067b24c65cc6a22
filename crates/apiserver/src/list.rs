//! Lists of pods and events; with `watch=true` the same paths are streams.

use axum::{
    Json,
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use objects::{Kind, Scope};
use serde_json::json;

use crate::{Api, Query, failure::Result, selector::Selector, watch};

/// `GET /api/v1/pods`.
pub async fn all_pods(State(api): State<Api>, query: Query) -> Result<Response> {
    answer(&api, Kind::Pod, None, &query)
}

/// `GET /api/v1/namespaces/NS/pods`.
pub async fn pods(State(api): State<Api>, Path(namespace): Path<String>, query: Query) -> Result<Response> {
    answer(&api, Kind::Pod, Some(namespace), &query)
}

/// `GET /api/v1/events`.
pub async fn all_events(State(api): State<Api>, query: Query) -> Result<Response> {
    answer(&api, Kind::Event, None, &query)
}

/// `GET /api/v1/namespaces/NS/events`.
pub async fn events(State(api): State<Api>, Path(namespace): Path<String>, query: Query) -> Result<Response> {
    answer(&api, Kind::Event, Some(namespace), &query)
}

fn answer(api: &Api, kind: Kind, namespace: Option<String>, query: &Query) -> Result<Response> {
    let selector = Selector::parse(kind, query.get("labelSelector"), query.get("fieldSelector"))?;
    let scope = Scope {
        kind,
        namespace: namespace.or_else(|| selector.exact("metadata.namespace").map(Into::into)),
        name: selector.exact("metadata.name").map(Into::into),
    };
    if query.flag("watch")? {
        return watch::stream(api, scope, selector, query);
    }
    let (all, version) = api.objects.list(&scope)?;
    let items: Vec<_> = all
        .iter()
        .map(|object| object.json())
        .filter(|json| selector.matches(json))
        .collect();
    let list = json!({
        "apiVersion": kind.api_version(),
        "kind": format!("{}List", kind.name()),
        "metadata": {"resourceVersion": version.to_string()},
        "items": items,
    });
    Ok(Json(list).into_response())
}
