//! Watches: one JSON object per line and change, until the client goes or its time is over.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use http::header;
use objects::{Scope, WatchEvent};
use serde_json::{Value, json};

use crate::{
    Api, Query,
    failure::{Failure, Result},
    selector::Selector,
};

/// How often a watcher that asked for bookmarks gets one while nothing happens.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);

/// Starts a watch. `resourceVersion` absent or 0: from what exists now.
pub fn stream(api: &Api, scope: Scope, selector: Selector, query: &Query) -> Result<Response> {
    let version = query.number::<u64>("resourceVersion")?.filter(|version| *version != 0);
    let bookmarks = query.flag("allowWatchBookmarks")?;
    let end = query
        .number::<u64>("timeoutSeconds")?
        .map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let kind = scope.kind;
    let watcher = Watcher {
        watch: api.objects.watch(scope, version)?,
        view: View {
            selector,
            shown: HashSet::new(),
            complete: version.is_none(),
        },
        kind,
        bookmarks,
        end,
        broken: false,
    };
    let lines = stream::unfold(watcher, |mut watcher| async move {
        let line = watcher.next().await?;
        Some((
            std::result::Result::<Bytes, std::convert::Infallible>::Ok(line),
            watcher,
        ))
    });
    Ok(([(header::CONTENT_TYPE, "application/json")], Body::from_stream(lines)).into_response())
}

struct Watcher {
    watch: objects::Watch,
    view: View,
    kind: objects::Kind,
    bookmarks: bool,
    end: Option<Instant>,
    broken: bool,
}

impl Watcher {
    /// The next line; `None` ends the answer.
    async fn next(&mut self) -> Option<Bytes> {
        while !self.broken {
            let left = self.end.map(|end| end.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return None;
            }
            let wait = left.unwrap_or(BOOKMARK_INTERVAL).min(BOOKMARK_INTERVAL);
            match tokio::time::timeout(wait, self.watch.next()).await {
                Ok(None) => return None,
                Ok(Some(Ok(change))) => {
                    if let Some(type_name) = self.view.show(&change) {
                        return Some(line(type_name, change.object().json()));
                    }
                }
                Ok(Some(Err(error))) => {
                    self.broken = true;
                    let status = serde_json::to_value(Failure::from(error).status()).unwrap_or_default();
                    return Some(line("ERROR", &status));
                }
                Err(_) if self.bookmarks => return Some(line("BOOKMARK", &self.bookmark())),
                Err(_) => {}
            }
        }
        None
    }

    fn bookmark(&self) -> Value {
        let metadata = json!({"resourceVersion": self.watch.version().to_string(), "creationTimestamp": null});
        json!({"apiVersion": self.kind.api_version(), "kind": self.kind.name(), "metadata": metadata})
    }
}

/// What a watcher with a selector has before its eyes: an object that begins to match is ADDED to it, one that ends to
/// match is DELETED from it.
struct View {
    selector: Selector,
    shown: HashSet<String>,
    /// Whether the watch began with everything that exists. Else an object that was not shown yet may be in the list
    /// that the watcher had before, and its first change is MODIFIED.
    complete: bool,
}

impl View {
    fn show(&mut self, change: &WatchEvent) -> Option<&'static str> {
        let object = change.object();
        let matches = self.selector.matches(object.json());
        match change {
            WatchEvent::Deleted(_) => {
                let shown = self.shown.remove(object.uid());
                (shown || matches).then_some("DELETED")
            }
            WatchEvent::Added(_) | WatchEvent::Modified(_) if matches => {
                let is_new = self.shown.insert(object.uid().to_owned());
                let added = matches!(change, WatchEvent::Added(_)) || (is_new && self.complete);
                Some(if added { "ADDED" } else { "MODIFIED" })
            }
            WatchEvent::Added(_) | WatchEvent::Modified(_) => self.shown.remove(object.uid()).then_some("DELETED"),
        }
    }
}

fn line(type_name: &str, object: &Value) -> Bytes {
    let mut line = json!({"type": type_name, "object": object}).to_string();
    line.push('\n');
    line.into()
}
