//! Kubernetes' own paths for Hove's pods, over HTTP: what kubectl and `hove` talk to.
//!
//! ```text
//! /version /healthz /livez /readyz                       discovery.rs
//! /api /api/v1 /apis
//! /api/v1/namespaces[/NS]                                namespaces.rs
//! /api/v1/pods  /api/v1/events                           list.rs, watch.rs
//! /api/v1/namespaces/NS/events
//! /api/v1/namespaces/NS/pods                             pods.rs    GET list or watch, POST create
//! /api/v1/namespaces/NS/pods/POD[/status]                           GET, DELETE
//! /api/v1/namespaces/NS/pods/POD/log                     log.rs     files of the node, the CRI says when they end
//! /api/v1/namespaces/NS/pods/POD/{exec,attach,portforward}  stream.rs  upgraded, then proxied to the URL that the CRI gave
//! ```
//!
//! The server keeps nothing: objects are `objects`', processes are the runtime's behind the CRI. Whoever can open its
//! socket may do everything; the socket's mode is the access control. Errors are Kubernetes' `Status` objects
//! ([`Failure`]), each with a message that says what to do.
//!
//! Deliberately absent: groups of Hove's own (the node merges them in, see [`Api::groups`]), admission, other kinds.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod containers;
mod discovery;
mod document;
mod failure;
mod list;
mod log;
mod namespaces;
mod pods;
mod query;
mod selector;
mod stream;
mod watch;

use std::{path::PathBuf, sync::Arc};

use axum::{Router, routing::get};

pub use document::Document;
pub use failure::Failure;
pub use pods::accept as accept_pod;
pub use query::Query;

/// What the server stands on. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    /// Pods and events.
    pub objects: Arc<objects::Store>,
    /// Where exec, attach, port-forward and the ends of logs come from.
    pub runtime: Arc<dyn cri::RuntimeService>,
    /// The directory of the pods' logs: `ROOT/NAMESPACE_NAME_UID/CONTAINER/ATTEMPT.log`.
    pub log_root: PathBuf,
    /// Groups that the caller serves beside these paths, as `(group, version)`, for `/apis`.
    pub groups: Vec<(&'static str, &'static str)>,
}

/// The same routes, and whatever the caller has merged with them, with every refusal a `Status`: those of the HTTP library are
/// plain text.
pub fn with_status_refusals(router: Router) -> Router {
    router.layer(axum::middleware::map_response(failure::as_status))
}

/// The routes.
pub fn router(api: Api) -> Router {
    const POD: &str = "/api/v1/namespaces/{namespace}/pods/{name}";
    Router::new()
        .route("/version", get(discovery::version))
        .route("/healthz", get(discovery::healthy))
        .route("/livez", get(discovery::healthy))
        .route("/readyz", get(discovery::healthy))
        .route("/api", get(discovery::core_versions))
        .route("/api/v1", get(discovery::core_resources))
        .route("/apis", get(discovery::groups))
        .route("/api/v1/namespaces", get(namespaces::list))
        .route("/api/v1/namespaces/{namespace}", get(namespaces::read))
        .route("/api/v1/pods", get(list::all_pods))
        .route("/api/v1/events", get(list::all_events))
        .route("/api/v1/namespaces/{namespace}/events", get(list::events))
        .route(
            "/api/v1/namespaces/{namespace}/pods",
            get(list::pods).post(pods::create),
        )
        .route(POD, get(pods::read).delete(pods::delete))
        .route(&format!("{POD}/status"), get(pods::read))
        .route(&format!("{POD}/log"), get(log::read))
        .route(&format!("{POD}/exec"), get(stream::exec).post(stream::exec))
        .route(&format!("{POD}/attach"), get(stream::attach).post(stream::attach))
        .route(
            &format!("{POD}/portforward"),
            get(stream::port_forward).post(stream::port_forward),
        )
        .fallback(discovery::unknown_path)
        .method_not_allowed_fallback(discovery::unknown_method)
        .with_state(api)
}
