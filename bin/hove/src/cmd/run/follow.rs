//! Each container's output, from its start to its end; again when it is started again.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

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
    /// By the runtime's id: the containers whose output is shown or was.
    seen: HashMap<String, Arc<Shown>>,
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
            seen: HashMap::new(),
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
            if !started || id.is_empty() {
                continue;
            }
            let shown = self.seen.entry(id).or_default().clone();
            if shown.is_followed.swap(true, Ordering::Relaxed) {
                continue;
            }
            let query = [("container", status.name.clone()), ("follow", "true".into())];
            let path = path(&format!("{}/log", pod_path(&self.namespace, name)), &query);
            let (client, screen) = (self.client.clone(), self.screen.clone());
            let prefix = self.prefixes.get(index).to_owned();
            self.tasks.spawn(async move {
                // A connection that breaks is the node's end, which is told once.
                if let Err(error @ client::Error::Refused { .. }) =
                    follow(&client, &path, &screen, &prefix, &shown).await
                {
                    screen.say(&format!("{prefix}(its output can't be shown: {error})"));
                }
            });
        }
    }

    /// The node is gone: what was not shown to its end is followed again at the next look, from where it was.
    pub async fn node_ended(&mut self) {
        self.tasks.shutdown().await;
        for shown in self.seen.values() {
            shown
                .is_followed
                .store(shown.is_whole.load(Ordering::Relaxed), Ordering::Relaxed);
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

/// How much of a container's output has been shown.
#[derive(Default)]
struct Shown {
    lines: AtomicU64,
    is_followed: AtomicBool,
    is_whole: AtomicBool,
}

async fn follow(client: &Client, path: &str, screen: &Screen, prefix: &str, shown: &Shown) -> client::Result<()> {
    let mut log = client.lines(Method::GET, path, Bytes::new()).await?;
    let mut again = shown.lines.load(Ordering::Relaxed);
    while let Some(line) = log.next().await? {
        if again > 0 {
            again -= 1;
            continue;
        }
        screen.output(prefix, &line);
        shown.lines.fetch_add(1, Ordering::Relaxed);
    }
    shown.is_whole.store(true, Ordering::Relaxed);
    Ok(())
}
