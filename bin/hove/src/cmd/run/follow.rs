//! Each container's output, from its start to its end; again when it is started again.

use std::{collections::HashSet, sync::Arc, time::Duration};

use bytes::Bytes;
use http::Method;
use k8s_openapi::api::core::v1::Pod;
use tokio::task::JoinSet;

use super::screen::Screen;
use crate::{
    client::{self, Client, path, pod_path},
    cmd::logs::{Prefixes, container_names},
    terminal, view,
};

/// How long the last lines may take when the pod is gone.
const LAST_LINES: Duration = Duration::from_secs(5);

/// The followers of a pod's containers.
pub struct Followers {
    client: Client,
    namespace: String,
    screen: Arc<Screen>,
    names: Vec<String>,
    prefixes: Prefixes,
    /// Containers, by the runtime's id, whose output is shown or was.
    seen: HashSet<String>,
    tasks: JoinSet<()>,
}

impl Followers {
    /// Nobody is followed yet.
    pub fn new(client: Client, namespace: String, pod: &Pod, screen: Arc<Screen>) -> Followers {
        let names = container_names(pod);
        let prefixes = Prefixes::new(&names, terminal::stdout_colours());
        Followers {
            client,
            namespace,
            screen,
            names,
            prefixes,
            seen: HashSet::new(),
            tasks: JoinSet::new(),
        }
    }

    /// Follows the containers that were started since the last look.
    pub fn look(&mut self, pod: &Pod) {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        for status in view::init_statuses(pod).iter().chain(view::container_statuses(pod)) {
            let started = status
                .state
                .as_ref()
                .is_some_and(|state| state.running.is_some() || state.terminated.is_some());
            let id = status.container_id.clone().unwrap_or_default();
            let Some(index) = self.names.iter().position(|name| *name == status.name) else {
                continue;
            };
            if !started || id.is_empty() || !self.seen.insert(id) {
                continue;
            }
            let query = [("container", status.name.clone()), ("follow", "true".into())];
            let path = path(&format!("{}/log", pod_path(&self.namespace, name)), &query);
            let (client, screen) = (self.client.clone(), self.screen.clone());
            let prefix = self.prefixes.get(index).to_owned();
            self.tasks.spawn(async move {
                // A connection that breaks is the node's end, which is told once.
                if let Err(error @ client::Error::Refused { .. }) = follow(&client, &path, &screen, &prefix).await {
                    screen.say(&format!("{prefix}(its output can't be shown: {error})"));
                }
            });
        }
    }

    /// Waits for the last lines.
    pub async fn finish(&mut self) {
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(LAST_LINES, all).await.is_err() {
            self.tasks.abort_all();
        }
    }
}

async fn follow(client: &Client, path: &str, screen: &Screen, prefix: &str) -> client::Result<()> {
    let mut log = client.lines(Method::GET, path, Bytes::new()).await?;
    while let Some(line) = log.next().await? {
        screen.output(prefix, &line);
    }
    Ok(())
}
