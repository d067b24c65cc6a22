//! `…/pods/NAME/log`: a container's output from its file, as long as the CRI says that there may be more.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, RawFd},
    path::{Path as FilePath, PathBuf},
    time::Duration,
};

use axum::{
    body::Body,
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use cri::v1::{ContainerState, ContainerStatusRequest};
use futures_util::stream;
use http::header;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use logs::{Follower, Progress, Reader};
use objects::{Kind, Scope, WatchEvent};
use tokio::io::{Interest, unix::AsyncFd};

use crate::{
    Api, Query,
    containers::{self, Found},
    failure::{Failure, Result},
};

/// How often a follower asks the runtime by itself whether its container still runs. It hears of a container's end by
/// the pod's status; this is for a status that is late.
const RECHECK_INTERVAL: Duration = Duration::from_secs(10);

/// `GET …/pods/NAME/log`.
pub async fn read(
    State(api): State<Api>,
    Path((namespace, name)): Path<(String, String)>,
    query: Query,
) -> Result<Response> {
    let found = containers::find_pod(&api, &namespace, &name)?;
    let container = found.container_name(query.get("container"))?;
    let wanted = wanted(&query, Timestamp::now())?;
    let source = find(&api, &found, &container, query.flag("previous")?).await?;
    let body = match source.running.filter(|_| query.flag("follow").unwrap_or(false)) {
        Some(container_id) => {
            let scope = Scope {
                kind: Kind::Pod,
                namespace: Some(namespace),
                name: Some(name),
            };
            follow(api, &source.path, &wanted, container_id, scope)?
        }
        None => whole(&source.path, &wanted)?,
    };
    Ok(([(header::CONTENT_TYPE, "text/plain")], body).into_response())
}

/// What of the log is asked for.
fn wanted(query: &Query, now: Timestamp) -> Result<logs::Query> {
    query.flag("follow")?;
    let since_time = query.get("sinceTime").map(|text| {
        text.parse::<Timestamp>()
            .map_err(|_| Failure::bad_request(format!("sinceTime={text}: want RFC 3339")))
    });
    let since = match (query.number::<i64>("sinceSeconds")?, since_time.transpose()?) {
        (Some(_), Some(_)) => {
            return Err(Failure::bad_request(
                "at most one of sinceTime or sinceSeconds may be specified",
            ));
        }
        (Some(seconds), None) if seconds < 1 => {
            return Err(Failure::bad_request(format!("sinceSeconds={seconds}: want 1 or more")));
        }
        (Some(seconds), None) => Some(
            now.saturating_sub(SignedDuration::from_secs(seconds))
                .unwrap_or(Timestamp::MIN),
        ),
        (None, time) => time,
    };
    Ok(logs::Query {
        tail_lines: query.number("tailLines")?,
        since,
        stream: None,
        timestamps: query.flag("timestamps")?,
        limit_bytes: query.number("limitBytes")?,
    })
}

/// Where a log is.
struct Source {
    path: PathBuf,
    /// The container's id, when it may write more.
    running: Option<String>,
}

async fn find(api: &Api, found: &Found, container: &str, previous: bool) -> Result<Source> {
    let attempts = containers::attempts(api, &found.uid, container).await?;
    let pod = found.pod.metadata.name.as_deref().unwrap_or_default();
    let directory = directory(api, found).join(container);
    if previous {
        let newest = attempts
            .first()
            .map(containers::attempt)
            .or_else(|| newest_attempt(&directory));
        let path = newest
            .and_then(|newest| newest.checked_sub(1))
            .map(|attempt| directory.join(format!("{attempt}.log")));
        return path
            .filter(|path| path.exists())
            .map(|path| Source { path, running: None })
            .ok_or_else(|| {
                Failure::bad_request(format!(
                    "previous terminated container \"{container}\" in pod \"{pod}\" not found"
                ))
            });
    }
    if let Some(newest) = attempts.first() {
        let request = ContainerStatusRequest {
            container_id: newest.id.clone(),
            verbose: false,
        };
        let status = api.runtime.container_status(request).await?.status.unwrap_or_default();
        let path = match status.log_path.is_empty() {
            true => directory.join(format!("{}.log", containers::attempt(newest))),
            false => PathBuf::from(status.log_path),
        };
        let ended = newest.state() == ContainerState::ContainerExited;
        if path.exists() || !ended {
            return Ok(Source {
                path,
                running: (!ended).then(|| newest.id.clone()),
            });
        }
    }
    match newest_attempt(&directory) {
        Some(attempt) => Ok(Source {
            path: directory.join(format!("{attempt}.log")),
            running: None,
        }),
        None => {
            let reason = waiting_reason(&found.pod, container).unwrap_or("ContainerCreating".into());
            Err(Failure::bad_request(format!(
                "container \"{container}\" in pod \"{pod}\" is waiting to start: {reason}"
            )))
        }
    }
}

/// A pod's own directory below the log root.
fn directory(api: &Api, found: &Found) -> PathBuf {
    let metadata = &found.pod.metadata;
    let namespace = metadata.namespace.as_deref().unwrap_or("default");
    let name = metadata.name.as_deref().unwrap_or_default();
    api.log_root.join(format!("{namespace}_{name}_{}", found.uid))
}

/// The highest attempt that has a log in `directory`.
fn newest_attempt(directory: &FilePath) -> Option<u32> {
    let names = std::fs::read_dir(directory)
        .ok()?
        .flatten()
        .map(|entry| entry.file_name());
    names
        .filter_map(|name| name.to_str()?.strip_suffix(".log")?.parse().ok())
        .max()
}

fn waiting_reason(pod: &Pod, container: &str) -> Option<String> {
    let status = pod.status.as_ref()?;
    let all = [&status.container_statuses, &status.init_container_statuses];
    let one = all
        .into_iter()
        .flatten()
        .flatten()
        .find(|status| status.name == container)?;
    one.state.as_ref()?.waiting.as_ref()?.reason.clone()
}

/// The log as it is now.
fn whole(path: &FilePath, query: &logs::Query) -> Result<Body> {
    let reader = match Reader::open(path, query) {
        Ok(reader) => reader,
        // The container was started and wrote nothing yet.
        Err(logs::Error::Missing { .. }) => return Ok(Body::empty()),
        Err(error) => return Err(Failure::internal(error.to_string())),
    };
    let chunks = stream::unfold(Some(reader), |reader| async {
        let mut reader = reader?;
        let mut out = Vec::new();
        loop {
            match reader.read(&mut out) {
                Ok(Progress::More) if out.is_empty() => {}
                Ok(Progress::More) => return Some((Ok(Bytes::from(out)), Some(reader))),
                Ok(Progress::End | Progress::Limit) => return Some((Ok(Bytes::from(out)), None)),
                Err(error) => return Some((Err(io::Error::other(error)), None)),
            }
        }
    });
    Ok(Body::from_stream(chunks))
}

/// The log as it grows, until the container has ended.
fn follow(api: Api, path: &FilePath, query: &logs::Query, container_id: String, scope: Scope) -> Result<Body> {
    let internal = |error: &dyn std::fmt::Display| Failure::internal(error.to_string());
    let follower = Follower::open(path, query).map_err(|error| internal(&error))?;
    // Deprecated for types whose number may be anyone's; `Readable` owns its descriptor. The new form is unsafe.
    #[allow(deprecated)]
    let follower = AsyncFd::with_interest(Readable(follower), Interest::READABLE).map_err(|error| internal(&error))?;
    let ended = tokio::spawn(until_ended(api, container_id, scope));
    let following = Following {
        follower,
        ended: AbortOnDrop(ended),
        last_round: false,
    };
    let chunks = stream::unfold(Some(following), |following| async {
        let mut following = following?;
        match following.next().await {
            Ok(Some(bytes)) => Some((Ok(bytes), Some(following))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    });
    Ok(Body::from_stream(chunks))
}

struct Following {
    follower: AsyncFd<Readable>,
    ended: AbortOnDrop,
    /// The container has ended: what the file has now is all.
    last_round: bool,
}

impl Following {
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            let mut out = Vec::new();
            let progress = self.follower.get_mut().0.read(&mut out).map_err(io::Error::other)?;
            if !out.is_empty() {
                return Ok(Some(out.into()));
            }
            match progress {
                Progress::More => {}
                Progress::Limit => return Ok(None),
                Progress::End if self.last_round => return Ok(None),
                Progress::End => tokio::select! {
                    ready = self.follower.readable() => ready?.clear_ready(),
                    _ = &mut self.ended.0 => self.last_round = true,
                },
            }
        }
    }
}

/// Returns when the container will write nothing more: the runtime announces an end after the last byte is in the log.
async fn until_ended(api: Api, container_id: String, scope: Scope) {
    loop {
        let Ok(mut watch) = api.objects.watch(scope.clone(), None) else {
            return;
        };
        loop {
            let request = ContainerStatusRequest {
                container_id: container_id.clone(),
                verbose: false,
            };
            match api.runtime.container_status(request).await {
                Ok(answer) => {
                    let state = answer.status.unwrap_or_default().state();
                    if !matches!(
                        state,
                        ContainerState::ContainerRunning | ContainerState::ContainerCreated
                    ) {
                        return;
                    }
                }
                Err(error) if error.kind == cri::ErrorKind::NotFound => return,
                Err(error) => tracing::debug!(%error, "a log's follower can't see its container"),
            }
            match tokio::time::timeout(RECHECK_INTERVAL, watch.next()).await {
                Ok(None | Some(Ok(WatchEvent::Deleted(_)))) => return,
                // Fell behind: watch anew.
                Ok(Some(Err(_))) => break,
                Ok(Some(Ok(_))) | Err(_) => {}
            }
        }
    }
}

/// tokio asks for a number where the follower lends a descriptor.
struct Readable(Follower);

impl AsRawFd for Readable {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// The task ends with whoever waits for it.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for() {
        let now: Timestamp = "2026-11-22T08:00:00Z".parse().unwrap();
        let parsed = wanted(
            &Query::parse("tailLines=3&sinceSeconds=60&timestamps=true&limitBytes=10"),
            now,
        )
        .unwrap();
        let since = "2026-11-22T07:59:00Z".parse().ok();
        let expected = logs::Query {
            tail_lines: Some(3),
            since,
            stream: None,
            timestamps: true,
            limit_bytes: Some(10),
        };
        assert_eq!(parsed, expected);
        for bad in [
            "sinceSeconds=0",
            "sinceTime=yesterday",
            "sinceSeconds=1&sinceTime=2026-11-22T08:00:00Z",
            "tailLines=-1",
        ] {
            assert!(wanted(&Query::parse(bad), now).is_err(), "{bad}");
        }
    }
}
