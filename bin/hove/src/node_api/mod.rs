//! The node's own group, `/apis/hove.dev/v1`: what Kubernetes has no path for.
//!
//! ```text
//! namespaces/NS/runs                    runs.rs        POST a Pod: creates it and streams its progress; the connection is its lease
//! namespaces/NS/runs/POD                               POST takes the lease again after a node's end (leases.rs)
//! namespaces/NS/pods/POD/namespaces     namespaces.rs  GET whose namespaces the pod's are, and which processes are in them
//! images                                images/        GET
//! images:pull, images:push                             POST which one: answers with its progress
//! images:import                                        POST an archive
//! images:importLayout, images:importRootfs             POST which directory
//! images:export                                        GET an archive
//! images:tag, images:prune                             POST
//! images:mount, images:unmount, images:mounts          POST, POST, GET
//! images/NAME…                                         GET, DELETE
//! node:retire                                          POST ends a node that a command has started, for a daemon that comes to stay
//! ```

mod images;
mod leases;
mod namespaces;
mod preflight;
mod runs;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use apiserver::Failure;
use axum::{
    Json, Router,
    extract::State,
    routing::{get, post},
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

pub use images::{ImageLine, LayerStage, Login};
pub use leases::{Leases, RETURN_TIMEOUT};
pub use runs::{Line, LineKind};

/// The group and its version.
pub const GROUP: (&str, &str) = ("hove.dev", "v1");
/// What its paths begin with.
pub const BASE: &str = "/apis/hove.dev/v1";

/// What the group stands on.
#[derive(Clone)]
pub struct NodeApi {
    /// Pods and events.
    pub objects: Arc<objects::Store>,
    /// Images.
    pub images: Arc<image::Store>,
    /// The way to those of others.
    pub registries: Arc<image::registry::Registries>,
    /// Which pods live as long as a client.
    pub leases: Leases,
    /// How those get here that are not.
    pub pulls: Arc<dyn cri::ImageService>,
    /// Ends the node, if it is one that a command has started.
    pub retirement: Option<CancellationToken>,
    /// Whose host ports are whose.
    pub network: Arc<network::Network>,
    /// The runtime, behind the CRI.
    pub runtime: Arc<dyn cri::RuntimeService>,
}

/// The routes.
pub fn router(api: NodeApi) -> Router {
    Router::new()
        .route(BASE, get(resources))
        .route(&format!("{BASE}/namespaces/{{namespace}}/runs"), post(runs::create))
        .route(
            &format!("{BASE}/namespaces/{{namespace}}/runs/{{name}}"),
            post(runs::resume),
        )
        .route(
            &format!("{BASE}/namespaces/{{namespace}}/pods/{{name}}/namespaces"),
            get(namespaces::read),
        )
        .route(&format!("{BASE}/images"), get(images::list))
        .route(&format!("{BASE}/images:pull"), post(images::pull))
        .route(&format!("{BASE}/images:push"), post(images::push))
        .route(&format!("{BASE}/images:export"), get(images::export))
        .route(&format!("{BASE}/images:tag"), post(images::tag))
        .route(&format!("{BASE}/images:prune"), post(images::prune))
        .route(&format!("{BASE}/images:mount"), post(images::mount))
        .route(&format!("{BASE}/images:unmount"), post(images::unmount))
        .route(&format!("{BASE}/images:mounts"), get(images::mounts))
        .route(&format!("{BASE}/images:import"), post(images::import))
        .route(&format!("{BASE}/images:importLayout"), post(images::import_layout))
        .route(&format!("{BASE}/images:importRootfs"), post(images::import_rootfs))
        .route(
            &format!("{BASE}/images/{{*name}}"),
            get(images::inspect).delete(images::remove),
        )
        .route(&format!("{BASE}/node:retire"), post(retire))
        // An archive has any size.
        .layer(axum::extract::DefaultBodyLimit::disable())
        .with_state(api)
}

/// `POST node:retire`.
async fn retire(State(api): State<NodeApi>) -> Result<Json<Value>, Failure> {
    let retirement = api
        .retirement
        .ok_or_else(|| Failure::conflict("this node was started by `hove daemon`, and stays until it is stopped"))?;
    retirement.cancel();
    Ok(Json(json!({})))
}

async fn resources() -> Json<Value> {
    let resource = |name: &str, namespaced: bool, kind: &str, verbs: &[&str]| json!({"name": name, "singularName": "", "namespaced": namespaced, "kind": kind, "verbs": verbs});
    Json(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": format!("{}/{}", GROUP.0, GROUP.1),
        "resources": [
            resource("images", false, "Image", &["delete", "get", "list"]),
            resource("runs", true, "Run", &["create"]),
            resource("pods/namespaces", true, "PodNamespaces", &["get"]),
        ],
    }))
}
