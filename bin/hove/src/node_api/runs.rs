//! Runs: a pod whose life is a connection's.
//!
//! The answer is a line of JSON ([`Line`]) for each change of the pod and each event about it, until the pod is gone. When
//! the client goes first, the pod is deleted with its own grace period: a terminal that is closed leaves nothing behind.
//! When the node goes first, the client takes its lease again at the next one ([`super::leases`]).

use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use apiserver::{Document, Failure, Query};
use axum::{
    body::Body,
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use http::header;
use k8s_openapi::api::core::v1::Pod;
use objects::{Key, Kind, Object, Scope, Watch, WatchEvent};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{
    NodeApi,
    leases::{self, Lease},
    preflight,
};

/// How often a silent answer says that it is alive, by an empty line: a client that is gone is noticed by then.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// One line of the answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    /// What it is.
    #[serde(rename = "type")]
    pub kind: LineKind,
    /// Since the request came, in milliseconds.
    pub elapsed_ms: u64,
    /// The pod, or the event.
    pub object: Value,
}

/// What a line tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum LineKind {
    /// The pod was made or changed.
    Pod,
    /// Something happened to it.
    Event,
    /// It is gone. The last line.
    Gone,
}

/// `POST namespaces/NS/runs`. With `lease=false` the pod stays when the client goes.
pub async fn create(
    State(api): State<NodeApi>,
    Path(namespace): Path<String>,
    query: Query,
    Document(body): Document,
) -> Result<Response, Failure> {
    let begin = Instant::now();
    let leased = query.get("lease") != Some("false");
    let mut json = apiserver::accept_pod(&namespace, &body)?;
    leases::mark(&mut json, leased);
    let pod: Pod = serde_json::from_value(json.clone()).map_err(|error| Failure::internal(error.to_string()))?;
    // A name that is taken is found here before any port is looked at, and again, for good, by `create`.
    let name = pod.metadata.name.clone().unwrap_or_default();
    if !name.is_empty() && api.objects.get(&Key::pod(&namespace, &name)).is_ok() {
        return Err(objects::Error::AlreadyExists(Key::pod(&namespace, &name)).into());
    }
    preflight::check(&api, &pod).await?;

    let store = api.objects.clone();
    // The watches begin before the pod: nothing of its life is missed.
    let version = store.version();
    let created = tokio::task::spawn_blocking(move || store.create(Kind::Pod, json)).await;
    let created = created.map_err(|panicked| Failure::internal(panicked.to_string()))??;
    let lease = leased.then(|| api.leases.hold(created.key(), created.uid()));
    let pods = (Some(version), version);
    follow(&api, begin, &created, lease, pods)
}

/// `POST namespaces/NS/runs/NAME?uid=UID`: takes the lease of a pod again, and tells its life from now on.
pub async fn resume(
    State(api): State<NodeApi>,
    Path((namespace, name)): Path<(String, String)>,
    query: Query,
) -> Result<Response, Failure> {
    let key = Key::pod(&namespace, &name);
    let pod = api.objects.get(&key)?;
    if query.get("uid") != Some(pod.uid()) {
        // Another one of its name.
        return Err(objects::Error::NotFound(key).into());
    }
    let lease = leases::is_marked(&pod).then(|| api.leases.hold(key, pod.uid()));
    let version = api.objects.version();
    follow(&api, Instant::now(), &pod, lease, (None, version))
}

/// Answers with the pod's life: its changes and its events after these versions; without one, the pod as it is comes first.
fn follow(
    api: &NodeApi,
    begin: Instant,
    pod: &Object,
    lease: Option<Lease>,
    (pod_version, event_version): (Option<u64>, u64),
) -> Result<Response, Failure> {
    let scope = |kind, name: Option<&str>| Scope {
        kind,
        namespace: Some(pod.namespace().to_owned()),
        name: name.map(str::to_owned),
    };
    let progress = Progress {
        begin,
        pods: api.objects.watch(scope(Kind::Pod, Some(pod.name())), pod_version)?,
        events: api.objects.watch(scope(Kind::Event, None), Some(event_version))?,
        uid: pod.uid().to_owned(),
        lease,
        stop: api.leases.stop().clone(),
        gone: false,
    };
    let lines = stream::unfold(progress, |mut progress| async move {
        let line = progress.next().await?;
        Some((Ok::<_, Infallible>(line), progress))
    });
    Ok(([(header::CONTENT_TYPE, "application/json")], Body::from_stream(lines)).into_response())
}

struct Progress {
    begin: Instant,
    pods: Watch,
    events: Watch,
    uid: String,
    lease: Option<Lease>,
    stop: CancellationToken,
    gone: bool,
}

impl Progress {
    async fn next(&mut self) -> Option<Bytes> {
        while !self.gone {
            tokio::select! {
                // What happened is told before what came of it.
                biased;
                () = self.stop.cancelled() => return None,
                event = self.events.next() => {
                    let event = event?.ok()?;
                    let about = &event.object().json()["involvedObject"]["uid"];
                    if about == self.uid.as_str() && !matches!(event, WatchEvent::Deleted(_)) {
                        return Some(self.line(LineKind::Event, event.object().json()));
                    }
                }
                change = self.pods.next() => {
                    let change = change?.ok()?;
                    if change.object().uid() != self.uid {
                        continue;
                    }
                    let deleted = matches!(change, WatchEvent::Deleted(_));
                    if deleted {
                        self.gone = true;
                        if let Some(lease) = self.lease.take() {
                            lease.end();
                        }
                    }
                    let kind = if deleted { LineKind::Gone } else { LineKind::Pod };
                    return Some(self.line(kind, change.object().json()));
                }
                () = tokio::time::sleep(KEEP_ALIVE) => return Some(Bytes::from_static(b"\n")),
            }
        }
        None
    }

    fn line(&self, kind: LineKind, object: &Value) -> Bytes {
        let elapsed_ms = u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        let line = Line {
            kind,
            elapsed_ms,
            object: object.clone(),
        };
        let mut bytes = serde_json::to_vec(&line).unwrap_or_default();
        bytes.push(b'\n');
        bytes.into()
    }
}
