//! The node that comes to harm: this test's binary, run again.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use crate::exhausted;
use crate::life::{Client, Manner};
use crate::place::{Place, on_tokio};
use crate::quarantine;

/// Set for the process that is the node: its place, and what it is to do, as “DIR:CGROUP:TASK”.
const NODE: &str = "HOVE_CRASH_NODE";

/// How soon a hasty client gives up.
const HASTE: Duration = Duration::from_millis(2);

/// How long a node may take for a pod's life, on a machine that is busy with other things.
const LIMIT: Duration = Duration::from_secs(60);

/// What the node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// A pod's life.
    Live,
    /// The same, asked for by a client that does not wait.
    LiveHastily,
    /// The same, and when it does not go to its end, all of it again.
    LivePersistently,
    /// Nothing, after its recovery.
    Recover,
    /// Starts pods, and leaves them running.
    StartPods,
    /// Lives with too few file descriptors.
    LackDescriptors,
    /// Lives with too few processes.
    LackProcesses,
}

/// Not a test: the node.
#[test]
fn node() {
    let Ok(text) = std::env::var(NODE) else { return };
    let [dir, cgroup_parent, task] = text.split(':').collect::<Vec<_>>().try_into().unwrap();
    let place = Place {
        dir: PathBuf::from(dir),
        cgroup_parent: cgroup_parent.into(),
    };
    tracing_subscriber::fmt()
        .with_writer(std::io::stdout)
        .with_ansi(false)
        .init();
    on_tokio(async {
        match task {
            "LackDescriptors" => return exhausted::descriptors(&place).await,
            "StartPods" => return quarantine::start_pods(&place).await,
            "LackProcesses" => return exhausted::processes(&place).await,
            _ => {}
        }
        let node = place.open().await.unwrap();
        let manner = match task {
            "LiveHastily" => Manner::Hasty(HASTE),
            _ => Manner::Patient,
        };
        if task != "Recover" {
            let client = Client::new(&node.runtime, &place, manner);
            let life = async {
                match task {
                    "LivePersistently" => client.lead_persistently().await,
                    _ => client.lead().await,
                }
            };
            tokio::time::timeout(LIMIT, life)
                .await
                .expect("the pod's life takes too long")
                .unwrap();
        }
    });
}

/// Runs a node with these failpoints, to its end.
pub fn run(place: &Place, task: Task, failpoints: &str) -> Output {
    run_with(place, task, failpoints, "")
}

/// The same; `shims` are the failpoints of its supervisors.
pub fn run_with(place: &Place, task: Task, failpoints: &str, shims: &str) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "node::node", "--nocapture"])
        .env(
            NODE,
            format!("{}:{}:{task:?}", place.dir.display(), place.cgroup_parent),
        )
        .env(sys::failpoint::VARIABLE, failpoints)
        .env(sys::failpoint::SUPERVISORS, shims)
        .output()
        .inspect(|output| {
            // Who looks at few cases wants to see what they do.
            if std::env::var_os("HOVE_CRASH_ONLY").is_some() {
                println!("{failpoints} {shims}\n{}", String::from_utf8_lossy(&output.stdout));
            }
        })
        .unwrap()
}
