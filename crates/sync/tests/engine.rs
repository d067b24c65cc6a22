//! The engine on a runtime in memory: order, restarts, deletion, recovery, and death at every call.

#![allow(clippy::unwrap_used, clippy::missing_docs_in_private_items)]

mod machine;

use std::{sync::Arc, time::Duration};

use cri::ErrorKind;
use k8s_openapi::api::core::v1::{Event, Pod};
use machine::Machine;
use objects::{Key, Kind, Scope, Store};
use sync::{Config, Engine};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Long enough for a slow machine; nobody waits that long when all is well.
const PATIENCE: Duration = Duration::from_secs(20);

struct Node {
    machine: Arc<Machine>,
    store: Arc<Store>,
    dir: tempfile::TempDir,
    engine: Option<(JoinHandle<Result<(), sync::Error>>, CancellationToken)>,
}

impl Node {
    fn new() -> Node {
        Node::with(Machine::new(true))
    }

    fn with(machine: Machine) -> Node {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&dir.path().join("objects.redb")).unwrap());
        let mut node = Node {
            machine: Arc::new(machine),
            store,
            dir,
            engine: None,
        };
        node.start();
        node
    }

    fn start(&mut self) {
        let engine = self.make_engine();
        self.run(engine);
    }

    fn run(&mut self, engine: Engine) {
        let shutdown = CancellationToken::new();
        self.engine = Some((tokio::spawn(engine.run(shutdown.clone())), shutdown));
    }

    fn make_engine(&self) -> Engine {
        let mut config = Config::new(self.dir.path());
        config.log_root = self.dir.path().join("logs");
        config.relist_without_events = Duration::from_millis(20);
        let volumes = volume::Volumes::new(self.dir.path());
        Engine::new(
            config,
            self.machine.clone(),
            self.machine.clone(),
            self.store.clone(),
            volumes,
        )
        .unwrap()
    }

    /// As SIGKILL: nothing is finished.
    async fn kill(&mut self) {
        let (task, _) = self.engine.take().unwrap();
        task.abort();
        let _ = task.await;
    }

    fn apply(&self, yaml: &str) -> Key {
        let mut pods = pod::load(yaml, "test.yaml").unwrap_or_else(|problems| panic!("{problems}"));
        let json = serde_json::to_value(&pods.remove(0).pod).unwrap();
        self.store.create(Kind::Pod, json).unwrap().key()
    }

    /// Waits until the pod is as `wanted`.
    async fn until(&self, key: &Key, what: &str, wanted: impl Fn(&Pod) -> bool) -> Pod {
        let mut watch = self
            .store
            .watch(
                Scope {
                    kind: Kind::Pod,
                    namespace: None,
                    name: Some(key.name.clone()),
                },
                None,
            )
            .unwrap();
        let mut last = None;
        let found = tokio::time::timeout(PATIENCE, async {
            loop {
                let pod: Pod = watch.next().await.unwrap().unwrap().object().decode().unwrap();
                if wanted(&pod) {
                    return pod;
                }
                last = Some(pod);
            }
        });
        match found.await {
            Ok(pod) => pod,
            Err(_) => panic!(
                "not {what}: {:#?}\n{:#?}",
                last.and_then(|pod| pod.status),
                self.machine.journal()
            ),
        }
    }

    async fn until_gone(&self, key: &Key) {
        let mut watch = self
            .store
            .watch(
                Scope {
                    kind: Kind::Pod,
                    namespace: None,
                    name: Some(key.name.clone()),
                },
                None,
            )
            .unwrap();
        let gone = async {
            while self.store.get(key).is_ok() {
                watch.next().await.unwrap().unwrap();
            }
        };
        if tokio::time::timeout(PATIENCE, gone).await.is_err() {
            panic!("not gone: {:#?}", self.machine.journal());
        }
    }

    fn events(&self) -> Vec<(String, String)> {
        let mut events: Vec<Event> = self
            .store
            .list(&Scope::all(Kind::Event))
            .unwrap()
            .0
            .iter()
            .map(|e| e.decode().unwrap())
            .collect();
        events.sort_by(|a, b| a.metadata.resource_version.cmp(&b.metadata.resource_version));
        events
            .into_iter()
            .map(|event| (event.reason.unwrap(), event.message.unwrap()))
            .collect()
    }

    fn reasons(&self) -> Vec<String> {
        self.events().into_iter().map(|(reason, _)| reason).collect()
    }
}

fn phase(pod: &Pod) -> &str {
    pod.status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or_default()
}

fn condition<'p>(pod: &'p Pod, type_: &str) -> (&'p str, &'p str, &'p str) {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions
        .into_iter()
        .flatten()
        .find(|condition| condition.type_ == type_)
        .map_or(("", "", ""), |condition| {
            (
                &condition.status,
                condition.reason.as_deref().unwrap_or_default(),
                condition.message.as_deref().unwrap_or_default(),
            )
        })
}

fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").0 == "True"
}

/// `Waiting CrashLoopBackOff`, `Running`, `Terminated Error 3`.
fn state(pod: &Pod, name: &str) -> String {
    let Some(status) = &pod.status else {
        return String::new();
    };
    let all = status
        .init_container_statuses
        .iter()
        .flatten()
        .chain(status.container_statuses.iter().flatten());
    let Some(state) = all
        .into_iter()
        .find(|status| status.name == name)
        .and_then(|status| status.state.clone())
    else {
        return String::new();
    };
    if let Some(waiting) = state.waiting {
        return format!("Waiting {}", waiting.reason.unwrap_or_default());
    }
    if let Some(terminated) = state.terminated {
        return format!(
            "Terminated {} {}",
            terminated.reason.unwrap_or_default(),
            terminated.exit_code
        );
    }
    if state.running.is_some() {
        "Running".into()
    } else {
        String::new()
    }
}

fn restarts(pod: &Pod, name: &str) -> i32 {
    let statuses = pod
        .status
        .as_ref()
        .and_then(|status| status.container_statuses.as_ref());
    statuses
        .into_iter()
        .flatten()
        .find(|status| status.name == name)
        .map_or(-1, |status| status.restart_count)
}

const TWO: &str = "apiVersion: v1
kind: Pod
metadata: {name: two}
spec:
  restartPolicy: Never
  volumes: [{name: v, emptyDir: {}}]
  containers:
  - {name: server, image: i, imagePullPolicy: IfNotPresent, volumeMounts: [{name: v, mountPath: /srv}]}
  - {name: writer, image: i, imagePullPolicy: IfNotPresent, volumeMounts: [{name: v, mountPath: /out}]}
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_that_ended_leaves_the_pod_not_ready_and_says_so() {
    let node = Node::new();
    let key = node.apply(TWO);
    let pod = node.until(&key, "ready", is_ready).await;
    assert_eq!(phase(&pod), "Running");
    assert!(pod.status.as_ref().unwrap().pod_ip.is_some());
    assert_eq!(pod.status.as_ref().unwrap().qos_class.as_deref(), Some("BestEffort"));
    assert_eq!(
        node.machine.journal(),
        [
            "RunPodSandbox 0",
            "CreateContainer server 0",
            "StartContainer server 0",
            "CreateContainer writer 0",
            "StartContainer writer 0"
        ]
    );
    node.machine.end("writer", 0, "Completed");
    let pod = node.until(&key, "not ready", |pod| !is_ready(pod)).await;
    assert_eq!(phase(&pod), "Running");
    assert_eq!(
        condition(&pod, "Ready"),
        (
            "False",
            "ContainersNotReady",
            "containers with unready status: [writer]"
        )
    );
    assert_eq!(condition(&pod, "Initialized").0, "True");
    assert_eq!(state(&pod, "writer"), "Terminated Completed 0");
    // And the server's end ends the pod.
    node.machine.end("server", 3, "");
    let pod = node.until(&key, "failed", |pod| phase(pod) == "Failed").await;
    assert_eq!(state(&pod, "server"), "Terminated Error 3");
    node.store.delete(&key, None, None).unwrap();
    node.until_gone(&key).await;
    assert!(node.machine.is_empty());
    assert_eq!(node.machine.broken_rules(), Vec::<String>::new());
    assert!(!node.dir.path().join("pods").join(pod.metadata.uid.unwrap()).exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn init_containers_run_one_after_another_and_only_once() {
    let node = Node::new();
    node.machine.ends_at_once("a", 0);
    let key = node.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: init}\nspec:\n  initContainers:\n  - {name: a, image: i, imagePullPolicy: Never}\n  \
         - {name: side, image: i, imagePullPolicy: Never, restartPolicy: Always}\n  - {name: b, image: i, imagePullPolicy: Never}\n  \
         containers: [{name: c, image: i, imagePullPolicy: Never}]\n",
    );
    let pod = node.until(&key, "at b", |pod| state(pod, "b") == "Running").await;
    assert_eq!(phase(&pod), "Pending");
    assert_eq!(
        condition(&pod, "Initialized"),
        (
            "False",
            "ContainersNotInitialized",
            "containers with incomplete status: [b]"
        )
    );
    assert_eq!(state(&pod, "c"), "Waiting PodInitializing");
    assert_eq!(state(&pod, "a"), "Terminated Completed 0");
    assert_eq!(state(&pod, "side"), "Running");
    node.machine.end("b", 0, "");
    node.until(&key, "ready", is_ready).await;
    // A sidecar that ends is started again; the others are not.
    node.machine.end("side", 1, "");
    node.until(&key, "ready again", |pod| {
        is_ready(pod) && pod.status.as_ref().unwrap().init_container_statuses.as_ref().unwrap()[1].restart_count == 1
    })
    .await;
    let starts: Vec<String> = node
        .machine
        .journal()
        .into_iter()
        .filter(|line| line.starts_with("Start"))
        .collect();
    assert_eq!(
        starts,
        [
            "StartContainer a 0",
            "StartContainer side 0",
            "StartContainer b 0",
            "StartContainer c 0",
            "StartContainer side 1"
        ]
    );
    // The sidecar ends after the container.
    node.store.delete(&key, None, Some(7)).unwrap();
    node.until_gone(&key).await;
    let stops: Vec<String> = node
        .machine
        .journal()
        .into_iter()
        .filter(|line| line.starts_with("Stop"))
        .collect();
    assert_eq!(
        stops[..2],
        [
            "StopContainer c 0 within 7".to_owned(),
            "StopContainer side 1 within 7".to_owned()
        ]
    );
    assert_eq!(node.machine.broken_rules(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_init_container_that_fails_for_good_fails_the_pod() {
    let node = Node::new();
    node.machine.ends_at_once("a", 2);
    let key = node.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: init}\nspec:\n  restartPolicy: Never\n  initContainers: [{name: a, image: i, \
         imagePullPolicy: Never}]\n  containers: [{name: c, image: i, imagePullPolicy: Never}]\n",
    );
    let pod = node.until(&key, "failed", |pod| phase(pod) == "Failed").await;
    assert_eq!(state(&pod, "a"), "Terminated Error 2");
    assert!(
        !node
            .machine
            .journal()
            .iter()
            .any(|line| line.contains("StartContainer c"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crashing_container_backs_off() {
    let node = Node::new();
    node.machine.ends_at_once("c", 1);
    let key = node.apply("apiVersion: v1\nkind: Pod\nmetadata: {name: crash}\nspec: {containers: [{name: c, image: i, imagePullPolicy: Never}]}\n");
    let pod = node
        .until(&key, "backing off", |pod| state(pod, "c") == "Waiting CrashLoopBackOff")
        .await;
    assert_eq!(restarts(&pod, "c"), 1, "the first restart is at once");
    assert_eq!(phase(&pod), "Running");
    let status = &pod.status.as_ref().unwrap().container_statuses.as_ref().unwrap()[0];
    assert_eq!(
        status
            .last_state
            .as_ref()
            .unwrap()
            .terminated
            .as_ref()
            .unwrap()
            .exit_code,
        1
    );
    let message = status
        .state
        .as_ref()
        .unwrap()
        .waiting
        .as_ref()
        .unwrap()
        .message
        .clone()
        .unwrap();
    assert!(
        message.starts_with("back-off 10s restarting failed container=c pod=crash_default("),
        "{message}"
    );
    assert!(node.reasons().contains(&"BackOff".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_failure_restarts_until_success() {
    let node = Node::new();
    let key = node.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: job}\nspec:\n  restartPolicy: OnFailure\n  containers: [{name: c, image: i, \
         imagePullPolicy: Never}]\n",
    );
    node.until(&key, "ready", is_ready).await;
    node.machine.end("c", 1, "OOMKilled");
    let pod = node
        .until(&key, "restarted", |pod| restarts(pod, "c") == 1 && is_ready(pod))
        .await;
    let status = &pod.status.as_ref().unwrap().container_statuses.as_ref().unwrap()[0];
    let last = status.last_state.as_ref().unwrap().terminated.as_ref().unwrap();
    assert_eq!((last.exit_code, last.reason.as_deref()), (1, Some("OOMKilled")));
    node.machine.end("c", 0, "");
    let pod = node.until(&key, "done", |pod| phase(pod) == "Succeeded").await;
    assert_eq!(condition(&pod, "Ready").1, "PodCompleted");
    // Its sandbox is stopped: its address is free.
    tokio::time::timeout(PATIENCE, async {
        while node.machine.ready_sandboxes() > 0 {
            tokio::task::yield_now().await
        }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_change_restarts_that_container_alone() {
    let node = Node::new();
    let key = node.apply(&TWO.replace("Never", "Always"));
    let pod = node.until(&key, "ready", is_ready).await;
    let ip = pod.status.unwrap().pod_ip;
    node.store
        .modify(&key, |json| {
            json["spec"]["containers"][0]["image"] = "i:2".into();
            Ok(())
        })
        .unwrap();
    let pod = node
        .until(&key, "updated", |pod| restarts(pod, "server") == 1 && is_ready(pod))
        .await;
    assert_eq!(restarts(&pod, "writer"), 0);
    assert_eq!(pod.status.unwrap().pod_ip, ip);
    let journal = node.machine.journal();
    assert_eq!(
        journal.iter().filter(|line| line.starts_with("RunPodSandbox")).count(),
        1
    );
    assert!(
        journal.contains(&"StopContainer server 0 within 30".to_owned())
            && !journal.iter().any(|line| line.contains("StopContainer writer"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_sandbox_is_replaced() {
    let node = Node::new();
    let key = node.apply(&TWO.replace("Never", "Always"));
    node.until(&key, "ready", is_ready).await;
    node.machine.kill_sandboxes();
    let pod = node
        .until(&key, "back", |pod| is_ready(pod) && restarts(pod, "server") == 1)
        .await;
    assert_eq!(restarts(&pod, "writer"), 1);
    assert!(node.reasons().contains(&"SandboxChanged".to_owned()));
    assert_eq!(node.machine.broken_rules(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_not_be_started_says_why() {
    let node = Node::new();
    for (name, policy, image, wanted) in [
        ("never", "Never", "absent", "Waiting ErrImageNeverPull"),
        ("pull", "IfNotPresent", "absent", "Waiting ImagePullBackOff"),
        ("always", "Always", "absent", "Waiting ImagePullBackOff"),
    ] {
        let key = node.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{containers: [{{name: c, image: {image}, imagePullPolicy: {policy}}}]}}\n"
        ));
        let pod = node.until(&key, wanted, |pod| state(pod, "c") == wanted).await;
        assert_eq!(phase(&pod), "Pending");
    }
    let events = node.events();
    assert!(
        events
            .iter()
            .any(|(reason, message)| reason == "Failed" && message.contains("import it with `hove image import FILE`")),
        "{events:#?}"
    );
    // What is in the store runs though the node can't pull.
    let key =
        node.apply("apiVersion: v1\nkind: Pod\nmetadata: {name: latest}\nspec: {containers: [{name: c, image: i}]}\n");
    node.until(&key, "ready", is_ready).await;

    node.machine.fail_once(
        "RunPodSandbox",
        ErrorKind::ResourceExhausted,
        "port 80 is in use by pod default/web",
    );
    let key = node.apply("apiVersion: v1\nkind: Pod\nmetadata: {name: port}\nspec: {containers: [{name: c, image: i, imagePullPolicy: Never}]}\n");
    let pod = node
        .until(&key, "refused", |pod| {
            pod.status.as_ref().is_some_and(|status| status.reason.is_some())
        })
        .await;
    assert_eq!(
        pod.status.unwrap().message.unwrap(),
        "Failed to create pod sandbox: port 80 is in use by pod default/web"
    );

    node.machine.fail_once("CreateContainer", ErrorKind::Internal, "no");
    let key = node.apply("apiVersion: v1\nkind: Pod\nmetadata: {name: create}\nspec: {containers: [{name: c, image: i, imagePullPolicy: Never}]}\n");
    node.until(&key, "CreateContainerError", |pod| {
        state(pod, "c") == "Waiting CreateContainerError"
    })
    .await;
    // Pods that never came up are deleted as any other.
    let (pods, _) = node.store.list(&Scope::all(Kind::Pod)).unwrap();
    for pod in &pods {
        node.store.delete(&pod.key(), None, None).unwrap();
    }
    for pod in &pods {
        node.until_gone(&pod.key()).await;
    }
    assert!(node.machine.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_can_be_made_shorter_while_it_waits() {
    let node = Node::new();
    node.machine.is_stubborn("server");
    let key = node.apply(TWO);
    node.until(&key, "ready", is_ready).await;
    let begin = std::time::Instant::now();
    node.store.delete(&key, None, Some(600)).unwrap();
    tokio::time::timeout(PATIENCE, async {
        while !node
            .machine
            .journal()
            .iter()
            .any(|line| line.starts_with("StopContainer server"))
        {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    node.store.delete(&key, None, Some(0)).unwrap();
    node.until_gone(&key).await;
    assert!(begin.elapsed() < PATIENCE);
    assert!(
        node.machine
            .journal()
            .contains(&"StopContainer server 0 within 0".to_owned())
    );
}

/// Needs root: the volume changes its group.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fs_group_owns_the_volumes() {
    use std::os::unix::fs::MetadataExt as _;
    let node = Node::new();
    let with_group = "spec:\n  securityContext: {fsGroup: 4242, fsGroupChangePolicy: OnRootMismatch}";
    let key = node.apply(&TWO.replace("spec:", with_group));
    node.until(&key, "ready", is_ready).await;
    let uid = node.store.get(&key).unwrap().uid().to_owned();
    let volume = node.dir.path().join("pods").join(uid).join("volumes/empty-dir/v");
    let metadata = volume.metadata().unwrap();
    assert_eq!((metadata.gid(), metadata.mode() & 0o7777), (4242, 0o2777));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_outlive_the_engine_and_are_found_again() {
    let mut node = Node::new();
    let key = node.apply(&TWO.replace("Never", "Always"));
    node.until(&key, "ready", is_ready).await;
    let before = node.machine.journal();
    let (task, shutdown) = node.engine.take().unwrap();
    shutdown.cancel();
    task.await.unwrap().unwrap();
    assert_eq!(node.machine.journal(), before, "the end of the engine touches no pod");
    node.machine.end("writer", 1, "");
    node.start();
    let pod = node
        .until(&key, "back", |pod| restarts(pod, "writer") == 1 && is_ready(pod))
        .await;
    assert_eq!(restarts(&pod, "server"), 0);
    // An object that vanished while the engine was away takes its pod with it.
    node.kill().await;
    let uid = node.store.get(&key).unwrap().uid().to_owned();
    node.store.finalise(&key, &uid).unwrap();
    node.start();
    tokio::time::timeout(PATIENCE, async {
        while !node.machine.is_empty() {
            tokio::task::yield_now().await
        }
    })
    .await
    .unwrap();
    assert_eq!(node.machine.broken_rules(), Vec::<String>::new());
}

/// Who asks a node that has just started must not read what its predecessor wrote.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_settled_engine_has_seen_what_happened_before_it() {
    let mut node = Node::new();
    let key = node.apply(TWO);
    node.until(&key, "ready", is_ready).await;
    node.kill().await;
    node.machine.end("writer", 3, "");
    let engine = node.make_engine();
    let settled = engine.settled();
    node.run(engine);
    tokio::time::timeout(PATIENCE, settled).await.unwrap();
    let pod: Pod = node.store.get(&key).unwrap().decode().unwrap();
    assert_eq!(state(&pod, "writer"), "Terminated Error 3");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_events_a_relist_sees_what_happened() {
    let node = Node::with(Machine::new(false));
    let key = node.apply(&TWO.replace("Never", "Always"));
    node.until(&key, "ready", is_ready).await;
    node.machine.end("writer", 1, "");
    node.until(&key, "restarted", |pod| restarts(pod, "writer") == 1 && is_ready(pod))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_at_rest_cost_nothing_and_a_slow_one_delays_nobody() {
    const PODS: usize = 100;
    let node = Node::new();
    // This one takes its whole grace period to end.
    node.machine.is_stubborn("server");
    let slow = node.apply(TWO);
    node.until(&slow, "ready", is_ready).await;
    node.store.delete(&slow, None, Some(600)).unwrap();

    let begin = std::time::Instant::now();
    let keys: Vec<Key> = (0..PODS)
        .map(|n| {
            node.apply(&format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: p{n}}}\nspec: {{containers: [{{name: c, image: i, imagePullPolicy: Never}}]}}\n"
            ))
        })
        .collect();
    for key in &keys {
        node.until(key, "ready", is_ready).await;
    }
    println!("{PODS} pods are ready after {:?}", begin.elapsed());
    // The events of the last starts may still be on their way.
    let asked = || node.machine.questions.load(std::sync::atomic::Ordering::Relaxed);
    let mut before = 0;
    while before != asked() {
        before = asked();
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(asked(), before, "nobody asks while nothing happens");
    assert!(node.store.get(&slow).is_ok());
}

/// The engine dies at every changing call of a pod's life, before and after the call's effect, and the next one goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn death_at_any_call_changes_nothing_in_the_end() {
    let manifest = "apiVersion: v1\nkind: Pod\nmetadata: {name: life}\nspec:\n  initContainers:\n  - {name: a, image: i, imagePullPolicy: Never}\n  \
                    - {name: side, image: i, imagePullPolicy: Never, restartPolicy: Always}\n  containers:\n  \
                    - {name: c, image: i, imagePullPolicy: Never}\n  - {name: d, image: i, imagePullPolicy: Never}\n  volumes: [{name: v}]\n";
    let mut crashes = 0;
    for before in [true, false] {
        for n in 1.. {
            let mut node = Node::new();
            node.machine.ends_at_once("a", 0);
            node.machine.burn(n, before);
            let key = node.apply(manifest);
            for goal in ["ready", "gone"] {
                if goal == "gone" {
                    node.store.delete(&key, None, Some(1)).unwrap();
                }
                let machine = node.machine.clone();
                let reached = async {
                    match goal {
                        "ready" => drop(node.until(&key, goal, is_ready).await),
                        _ => node.until_gone(&key).await,
                    }
                };
                let crashed = tokio::select! {
                    () = reached => false,
                    () = machine.crash.notified() => true,
                };
                if crashed {
                    crashes += 1;
                    node.kill().await;
                    node.start();
                    match goal {
                        "ready" => drop(node.until(&key, goal, is_ready).await),
                        _ => node.until_gone(&key).await,
                    }
                }
                if goal == "ready" {
                    assert_eq!(node.machine.ready_sandboxes(), 1);
                }
            }
            assert!(node.machine.is_empty(), "{n} {before}: {:#?}", node.machine.journal());
            assert_eq!(node.machine.broken_rules(), Vec::<String>::new(), "{n} {before}");
            if node.machine.put_fuse_out() {
                break;
            }
            node.kill().await;
        }
    }
    assert!(crashes > 20, "{crashes}");
}

const OWN_USERS: &str = "{hostUsers: false, terminationGracePeriodSeconds: 0, containers: [{name: c, image: i}]}";

fn pod_named(name: &str, spec: &str) -> String {
    format!("{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: ns}}, spec: {spec}}}")
}

#[tokio::test]
async fn pods_with_user_namespaces_have_ids_that_nobody_else_has() {
    let mut node = Node::new();
    let keys: Vec<Key> = (0..8)
        .map(|n| node.apply(&pod_named(&format!("p{n}"), OWN_USERS)))
        .collect();
    for key in &keys {
        node.until(key, "ready", is_ready).await;
    }
    let before = node.machine.users();
    assert_eq!(before.len(), keys.len());
    let mut firsts: Vec<u32> = before.values().map(|ids| ids.host_id).collect();
    firsts.sort_unstable();
    assert!(firsts.windows(2).all(|pair| pair[1] - pair[0] >= 65536), "{firsts:?}");
    assert!(before.values().all(|ids| (ids.container_id, ids.length) == (0, 65536)));

    // Another engine finds them again: a container that is started anew gets its sandbox's.
    node.kill().await;
    node.machine.end("c", 1, "Error");
    node.start();
    let another = node.apply(&pod_named("another", OWN_USERS));
    node.until(&another, "ready", is_ready).await;
    for key in &keys {
        node.until(key, "ready", is_ready).await;
    }
    let after = node.machine.users();
    assert!(before.iter().all(|(name, ids)| after.get(name) == Some(ids)));
    assert!(!firsts.contains(&after["another"].host_id));

    // What is free again is given again.
    let freed = before["p0"].host_id;
    node.store.delete(&keys[0], None, Some(0)).unwrap();
    node.until_gone(&keys[0]).await;
    let last = node.apply(&pod_named("last", OWN_USERS));
    node.until(&last, "ready", is_ready).await;
    assert_eq!(node.machine.users()["last"].host_id, freed);
    assert_eq!(node.machine.broken_rules(), Vec::<String>::new());
}

#[tokio::test]
async fn a_runtime_without_user_namespaces_is_told_of_and_starts_nothing() {
    let machine = Machine::new(true);
    machine.knows_users.store(false, std::sync::atomic::Ordering::Relaxed);
    let node = Node::with(machine);
    node.apply(&pod_named("p", OWN_USERS));
    let told = async {
        while !node.events().iter().any(|(reason, text)| {
            reason == "FailedCreatePodSandBox"
                && text.contains("hostUsers: false: the runtime does not support user namespaces")
        }) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, told)
        .await
        .unwrap_or_else(|_| panic!("{:?}", node.events()));
    assert!(node.machine.is_empty());
}
