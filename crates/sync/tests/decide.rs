//! What should happen to a pod: a table of what was observed and what follows, and a simulation of whole lives.

#![allow(clippy::unwrap_used, clippy::missing_docs_in_private_items)]

use k8s_openapi::{
    api::core::v1::Pod,
    jiff::{SignedDuration, Timestamp},
};
use proptest::prelude::*;
use sync::{
    decide::{PodActions, compute_pod_actions, garbage, hash},
    memory::Memory,
    observed::{Container, PodStatusFromCri, Sandbox, State},
    status,
};

fn pod(policy: &str, init: &str, names: &str) -> Pod {
    let list = |names: &str| {
        names
            .split_whitespace()
            .map(|name| match name.strip_suffix('*') {
                Some(sidecar) => format!("{{name: '{sidecar}', image: i, restartPolicy: Always}}"),
                None => format!("{{name: '{name}', image: i}}"),
            })
            .collect::<Vec<_>>()
            .join(",")
    };
    let text = format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: p, uid: u}}, spec: {{restartPolicy: {policy}, initContainers: [{}], containers: [{}]}}}}",
        list(init),
        list(names)
    );
    pod::load(&text, "p")
        .unwrap_or_else(|problems| panic!("{problems}"))
        .remove(0)
        .pod
}

fn now() -> Timestamp {
    Timestamp::from_second(10_000).unwrap()
}

fn sandbox(attempt: u32, ready: bool) -> Sandbox {
    Sandbox {
        id: format!("s{attempt}"),
        attempt,
        ready,
        ips: vec!["10.0.0.2".into()],
        host_network: Some(false),
        users: None,
    }
}

/// `a0 running`, `a1 exited 1`, `a0 created`, `a0 unknown`, in sandbox s0; `a0@1 …`: in s1; `…!`: of another image.
fn container(text: &str) -> Container {
    let mut words = text.split(' ');
    let (place, what) = (words.next().unwrap(), words.next().unwrap());
    let (place, sandbox) = place.split_once('@').unwrap_or((place, "0"));
    let (name, attempt) = place.split_at(1);
    let changed = text.ends_with('!');
    let spec = k8s_openapi::api::core::v1::Container {
        name: name.into(),
        image: Some(if changed { "old" } else { "i" }.into()),
        ..Default::default()
    };
    Container {
        id: place.to_owned(),
        sandbox_id: format!("s{sandbox}"),
        name: name.into(),
        attempt: attempt.parse().unwrap(),
        state: match what.trim_end_matches('!') {
            "running" => State::Running,
            "exited" => State::Exited,
            "created" => State::Created,
            _ => State::Unknown,
        },
        exit_code: words
            .next()
            .and_then(|code| code.trim_end_matches('!').parse().ok())
            .unwrap_or_default(),
        started_at: Some(now() - SignedDuration::from_secs(5)),
        finished_at: Some(now() - SignedDuration::from_secs(4)),
        hash: hash(&spec),
        ..Default::default()
    }
}

/// The actions, as a line: `kill-sandbox create 1 stop a0 init a0 start b0,c1 wait d`.
fn line(actions: &PodActions) -> String {
    let mut words = Vec::new();
    words.extend(actions.kill_sandbox.map(|_| "kill-sandbox".to_owned()));
    words.extend(actions.create_sandbox.map(|attempt| format!("create {attempt}")));
    words.extend(actions.kill_containers.iter().map(|kill| format!("stop {}", kill.id)));
    let starts = |starts: &[sync::decide::Start]| {
        starts
            .iter()
            .map(|start| {
                format!(
                    "{}{}{}",
                    start.name,
                    start.attempt,
                    if start.made.is_some() { "=" } else { "" }
                )
            })
            .collect::<Vec<_>>()
            .join(",")
    };
    if !actions.start_init_containers.is_empty() {
        words.push(format!("init {}", starts(&actions.start_init_containers)));
    }
    if !actions.start_containers.is_empty() {
        words.push(format!("start {}", starts(&actions.start_containers)));
    }
    words.extend(actions.waiting.keys().map(|name| format!("wait {name}")));
    words.join(" ")
}

#[test]
fn the_table() {
    let s0 = || vec![sandbox(0, true)];
    let dead = || vec![sandbox(0, false)];
    type Row<'r> = (&'r str, Pod, Vec<Sandbox>, &'r [&'r str], &'r str);
    let table: Vec<Row<'_>> = vec![
        (
            "a new pod",
            pod("Always", "", "a b"),
            vec![],
            &[],
            "create 0 start a0,b0",
        ),
        (
            "a new pod with init containers",
            pod("Always", "x y", "a"),
            vec![],
            &[],
            "create 0 init x0",
        ),
        (
            "all is well",
            pod("Always", "", "a b"),
            s0(),
            &["a0 running", "b0 running"],
            "",
        ),
        (
            "one is missing",
            pod("Always", "", "a b"),
            s0(),
            &["a0 running"],
            "start b0",
        ),
        (
            "interrupted between create and start",
            pod("Always", "", "a"),
            s0(),
            &["a0 created"],
            "start a0=",
        ),
        // restartPolicy
        (
            "Always, ended well",
            pod("Always", "", "a b"),
            s0(),
            &["a0 exited 0", "b0 running"],
            "start a1",
        ),
        (
            "OnFailure, ended well",
            pod("OnFailure", "", "a b"),
            s0(),
            &["a0 exited 0", "b0 running"],
            "",
        ),
        (
            "OnFailure, failed",
            pod("OnFailure", "", "a b"),
            s0(),
            &["a0 exited 1", "b0 running"],
            "start a1",
        ),
        (
            "Never, failed",
            pod("Never", "", "a b"),
            s0(),
            &["a0 exited 1", "b0 running"],
            "",
        ),
        (
            "Never, one was never started",
            pod("Never", "", "a b"),
            s0(),
            &["a0 exited 1"],
            "start b0",
        ),
        (
            "Never, all ended",
            pod("Never", "", "a b"),
            s0(),
            &["a0 exited 1", "b0 exited 0"],
            "kill-sandbox",
        ),
        (
            "OnFailure, all ended well",
            pod("OnFailure", "", "a"),
            s0(),
            &["a0 exited 0"],
            "kill-sandbox",
        ),
        ("unknown", pod("Always", "", "a"), s0(), &["a0 unknown"], "stop a0"),
        // the sandbox
        (
            "dead sandbox",
            pod("Always", "", "a b"),
            dead(),
            &["a0 exited 0", "b3 exited 1"],
            "kill-sandbox create 1 start a1,b4",
        ),
        (
            "dead sandbox, never started",
            pod("Never", "", "a"),
            dead(),
            &[],
            "kill-sandbox create 1 start a0",
        ),
        (
            "dead sandbox, Never",
            pod("Never", "", "a b"),
            dead(),
            &["a0 exited 1"],
            "",
        ),
        (
            "dead sandbox, OnFailure, one done",
            pod("OnFailure", "", "a b"),
            dead(),
            &["a0 exited 0", "b0 exited 1"],
            "kill-sandbox create 1 start b1",
        ),
        (
            "dead sandbox, OnFailure, all done",
            pod("OnFailure", "", "a"),
            dead(),
            &["a0 exited 0"],
            "",
        ),
        (
            "dead sandbox with init",
            pod("Always", "x", "a"),
            dead(),
            &["x0 exited 0", "a0 exited 0"],
            "kill-sandbox create 1 init x1",
        ),
        (
            "two sandboxes",
            pod("Always", "", "a"),
            vec![sandbox(0, true), sandbox(1, true)],
            &["a0 running"],
            "kill-sandbox create 2 start a1",
        ),
        (
            "a new sandbox is empty",
            pod("Always", "", "a"),
            vec![sandbox(1, true), sandbox(0, false)],
            &["a0 exited 0"],
            "start a1",
        ),
        // init containers
        ("the first runs", pod("Always", "x y", "a"), s0(), &["x0 running"], ""),
        (
            "the first is done",
            pod("Always", "x y", "a"),
            s0(),
            &["x0 exited 0"],
            "init y0",
        ),
        (
            "the last is done",
            pod("Always", "x y", "a b"),
            s0(),
            &["x0 exited 0", "y0 exited 0"],
            "start a0,b0",
        ),
        (
            "one failed",
            pod("Always", "x y", "a"),
            s0(),
            &["x0 exited 1"],
            "init x1",
        ),
        (
            "one failed, OnFailure",
            pod("OnFailure", "x", "a"),
            s0(),
            &["x0 exited 1"],
            "init x1",
        ),
        (
            "one failed, Never",
            pod("Never", "x", "a"),
            s0(),
            &["x0 exited 1"],
            "kill-sandbox",
        ),
        (
            "one failed, Never, killed",
            pod("Never", "x", "a"),
            dead(),
            &["x0 exited 1"],
            "",
        ),
        (
            "interrupted",
            pod("Always", "x", "a"),
            s0(),
            &["x0 created"],
            "init x0=",
        ),
        (
            "initialised, its init containers are gone",
            pod("Always", "x", "a b"),
            s0(),
            &["a0 running"],
            "start b0",
        ),
        (
            "a new sandbox begins anew",
            pod("Always", "x", "a"),
            vec![sandbox(1, true), sandbox(0, false)],
            &["x0 exited 0", "a0 exited 0"],
            "init x1",
        ),
        // sidecars
        ("a sidecar first", pod("Always", "s* x", "a"), s0(), &[], "init s0"),
        (
            "a sidecar runs",
            pod("Always", "s* x", "a"),
            s0(),
            &["s0 running"],
            "init x0",
        ),
        (
            "a sidecar died before the next",
            pod("Always", "s* x", "a"),
            s0(),
            &["s0 exited 0"],
            "init s1",
        ),
        (
            "a sidecar last",
            pod("Always", "s*", "a"),
            s0(),
            &["s0 running"],
            "start a0",
        ),
        (
            "a sidecar died",
            pod("Always", "x s*", "a"),
            s0(),
            &["x0 exited 0", "s0 exited 1", "a0 running"],
            "init s1",
        ),
        (
            "a sidecar of a Never pod died",
            pod("Never", "s*", "a"),
            s0(),
            &["s0 exited 1", "a0 running"],
            "init s1",
        ),
        (
            "only sidecars are left",
            pod("Never", "s*", "a"),
            s0(),
            &["s0 running", "a0 exited 0"],
            "kill-sandbox",
        ),
        // changes
        (
            "an image changed",
            pod("Always", "", "a b"),
            s0(),
            &["a0 running!", "b0 running"],
            "stop a0 start a1",
        ),
        (
            "of a Never pod",
            pod("Never", "", "a b"),
            s0(),
            &["a0 running!", "b0 running"],
            "stop a0 start a1",
        ),
        (
            "of a sidecar",
            pod("Always", "s*", "a"),
            s0(),
            &["s0 running!", "a0 running"],
            "stop s0 init s1",
        ),
    ];
    for (what, pod, sandboxes, containers, wanted) in table {
        let status = PodStatusFromCri::new(sandboxes, containers.iter().map(|text| container(text)).collect());
        let actions = compute_pod_actions(&pod, &status, &Memory::default(), false, now());
        assert_eq!(line(&actions), wanted, "{what}");
        // What is over stays over.
        let over = compute_pod_actions(&pod, &status, &Memory::default(), true, now());
        assert_eq!(
            line(&over),
            if status.is_anything_alive() { "kill-sandbox" } else { "" },
            "{what}, over"
        );
    }
}

#[test]
fn back_off_is_waited_for() {
    let pod = pod("Always", "", "a");
    let mut crashed = container("a1 exited 1");
    crashed.restart_delay_s = 10;
    let status = PodStatusFromCri::new(vec![sandbox(0, true)], vec![crashed]);
    let early = compute_pod_actions(&pod, &status, &Memory::default(), false, now());
    assert_eq!(line(&early), "wait a");
    let end = now() + SignedDuration::from_secs(6);
    assert_eq!(early.wake_at, Some(end));
    let late = compute_pod_actions(&pod, &status, &Memory::default(), false, end);
    assert_eq!(line(&late), "start a2");
    assert_eq!(late.start_containers[0].restart_delay_s, 20);

    let mut memory = Memory::default();
    let spec = &pod.spec.as_ref().unwrap().containers[0];
    memory.container_failed("a", hash(spec), "ErrImagePull", "no".into(), now());
    let status = PodStatusFromCri::new(vec![sandbox(0, true)], vec![]);
    let held = compute_pod_actions(&pod, &status, &memory, false, now());
    assert_eq!(
        (line(&held), held.wake_at),
        ("wait a".to_owned(), Some(now() + SignedDuration::from_secs(10)))
    );
    // Another image may be tried at once.
    let mut changed = pod.clone();
    changed.spec.as_mut().unwrap().containers[0].image = Some("other".into());
    assert_eq!(
        line(&compute_pod_actions(&changed, &status, &memory, false, now())),
        "start a0"
    );

    memory.sandbox_failed("FailedCreatePodSandBox", "no".into(), now());
    let held = compute_pod_actions(&pod, &PodStatusFromCri::default(), &memory, false, now());
    assert_eq!(
        (line(&held), held.wake_at),
        (String::new(), Some(now() + SignedDuration::from_secs(10)))
    );
}

#[test]
fn of_each_name_two_are_kept() {
    let containers = ["a0 exited", "a1@1 exited", "a2@2 running", "b0@2 running"]
        .map(container)
        .to_vec();
    let status = PodStatusFromCri::new(vec![sandbox(0, false), sandbox(1, false), sandbox(2, true)], containers);
    assert_eq!(garbage(&status), (vec!["a0"], vec!["s0"]));
    assert_eq!(
        garbage(&PodStatusFromCri::new(vec![sandbox(0, false)], vec![])),
        (vec![], vec![])
    );
}

/// One pod's life against a perfect runtime: the actions are carried out, and between looks things end.
struct World {
    pod: Pod,
    status: PodStatusFromCri,
    now: Timestamp,
    phase: Option<String>,
}

impl World {
    fn look(&mut self) -> PodActions {
        self.now += SignedDuration::from_secs(1);
        let is_over = status::is_over(self.phase.as_deref());
        let actions = compute_pod_actions(&self.pod, &self.status, &Memory::default(), is_over, self.now);
        let (waiting, memory) = (actions.waiting.clone(), Memory::default());
        let input = status::Input {
            pod: &self.pod,
            observed: &self.status,
            memory: &memory,
            waiting: &waiting,
            is_terminated: false,
            host_ips: &[],
            now: self.now,
        };
        let status = status::pod_status(&input);
        self.phase = status.phase.clone();
        self.pod.status = Some(status);
        actions
    }

    fn end(&mut self, n: usize, code: i32) {
        let now = self.now;
        let running: Vec<&mut Container> = self
            .status
            .containers
            .iter_mut()
            .filter(|c| c.state == State::Running)
            .collect();
        let count = running.len();
        if let Some(container) = running.into_iter().nth(n % count.max(1)) {
            container.state = State::Exited;
            container.exit_code = code;
            container.finished_at = Some(now);
        }
    }

    fn kill_all(&mut self) {
        let now = self.now;
        for container in self.status.containers.iter_mut().filter(|c| c.may_run()) {
            container.state = State::Exited;
            container.exit_code = 137;
            container.finished_at = Some(now);
        }
        self.status
            .sandboxes
            .iter_mut()
            .for_each(|sandbox| sandbox.ready = false);
    }

    /// Carries the actions out, and checks what must never happen.
    fn act(&mut self, actions: &PodActions) {
        if actions.kill_sandbox.is_some() {
            self.kill_all();
        }
        for kill in &actions.kill_containers {
            let container = self
                .status
                .containers
                .iter_mut()
                .find(|container| container.id == kill.id)
                .unwrap();
            container.state = State::Exited;
            container.finished_at = Some(self.now);
        }
        let mut sandboxes = self.status.sandboxes.clone();
        if let Some(attempt) = actions.create_sandbox {
            assert!(
                sandboxes.iter().all(|sandbox| !sandbox.ready),
                "never two sandboxes alive"
            );
            assert!(sandboxes.iter().all(|sandbox| sandbox.attempt != attempt));
            sandboxes.push(sandbox(attempt, true));
        }
        let mut containers = self.status.containers.clone();
        let current = sandboxes
            .iter()
            .filter(|sandbox| sandbox.ready)
            .map(|sandbox| sandbox.id.clone())
            .next_back();
        let spec = self.pod.spec.clone().unwrap();
        for start in actions.start_init_containers.iter().chain(&actions.start_containers) {
            let sandbox_id = current
                .clone()
                .expect("a container is started in a sandbox that is alive");
            if actions.start_containers.contains(start) {
                for init in spec.init_containers.iter().flatten() {
                    let here: Vec<&Container> = containers
                        .iter()
                        .filter(|c| c.name == init.name && c.sandbox_id == sandbox_id)
                        .collect();
                    let begun = containers
                        .iter()
                        .any(|c| c.sandbox_id == sandbox_id && spec.containers.iter().any(|s| s.name == c.name));
                    let sidecar = init.restart_policy.is_some();
                    assert!(
                        begun
                            || here.iter().any(|c| if sidecar {
                                c.state == State::Running
                            } else {
                                c.succeeded()
                            }),
                        "init comes first"
                    );
                }
            }
            assert!(
                containers.iter().all(|c| c.name != start.name || !c.may_run()),
                "never two of one name"
            );
            assert!(
                containers
                    .iter()
                    .all(|c| c.name != start.name || c.attempt != start.attempt),
                "never an attempt twice"
            );
            let all = spec.init_containers.iter().flatten().chain(&spec.containers);
            containers.push(Container {
                id: format!("{}{}", start.name, start.attempt),
                sandbox_id,
                name: start.name.clone(),
                attempt: start.attempt,
                state: State::Running,
                started_at: Some(self.now),
                restart_delay_s: start.restart_delay_s,
                hash: all.into_iter().find(|spec| spec.name == start.name).map(hash).unwrap(),
                ..Default::default()
            });
        }
        self.status = PodStatusFromCri::new(sandboxes, containers);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    /// Whatever ends whenever: the rules hold at every step, and when nothing ends any more the pod comes to rest.
    #[test]
    fn every_life_keeps_the_rules_and_comes_to_rest(
        policy in prop_oneof![Just("Always"), Just("OnFailure"), Just("Never")],
        init in prop_oneof![Just(""), Just("x"), Just("x y"), Just("s*"), Just("s* x"), Just("x s* y")],
        names in prop_oneof![Just("a"), Just("a b")],
        happenings in proptest::collection::vec((0usize..8, 0i32..3, 0u8..10), 0..40),
    ) {
        let mut world = World { pod: pod(policy, init, names), status: Default::default(), now: now(), phase: None };
        for (n, code, what) in happenings {
            let actions = world.look();
            world.act(&actions);
            match what {
                0 => world.kill_all(),
                1..7 => world.end(n, code),
                _ => world.now += SignedDuration::from_secs(30),
            }
        }
        let mut quiet = 0;
        for _ in 0..200 {
            let actions = world.look();
            world.act(&actions);
            // Init containers go on to succeed; the others keep running.
            let init: Vec<String> = world.pod.spec.iter().flat_map(|s| s.init_containers.iter().flatten()).filter(|s| s.restart_policy.is_none()).map(|s| s.name.clone()).collect();
            let now = world.now;
            for container in world.status.containers.iter_mut().filter(|c| c.state == State::Running && init.contains(&c.name)) {
                container.state = State::Exited;
                container.finished_at = Some(now);
            }
            world.now += SignedDuration::from_secs(60);
            quiet = if line(&actions).is_empty() { quiet + 1 } else { 0 };
        }
        prop_assert!(quiet > 100, "no rest: {:?}", world.status);
        let phase = world.phase.as_deref().unwrap();
        prop_assert!(phase == "Running" || status::is_over(Some(phase)), "{phase} {:?}", world.status);
        if policy == "Always" {
            prop_assert_eq!(phase, "Running");
        }
        if status::is_over(Some(phase)) {
            prop_assert!(!world.status.is_anything_alive(), "a pod that is over has nothing alive");
        }
    }
}
