//! The life of pause, and of what lives and dies with it.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};
use shim_api::Kind;
use shim_api::shim::{Kind as Event, ProcessState};
use support::{Pod, eventually, read_log, sh};

fn namespace(pid: u32, kind: &str) -> String {
    fs::read_link(format!("/proc/{pid}/ns/{kind}"))
        .unwrap()
        .display()
        .to_string()
}

fn kill(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid as i32).unwrap(), signal).unwrap();
}

#[tokio::test]
async fn a_new_pause_holds_the_same_namespaces() {
    let pod = Pod::start(false).await;
    let mut watch = pod.watch().await;
    let container = pod.run("a", sh("exec sleep 1000")).await;
    let old = pod.state().await.pause.pid;
    let kept = ["ipc", "uts"].map(|kind| namespace(old, kind));
    let old_pid_namespace = namespace(old, "pid");
    kill(old, Signal::TERM);

    let notice = watch.until(|e| e.kind == Event::KIND_NOTICE.into()).await;
    assert!(
        notice.process.message.contains("a new one holds the namespaces"),
        "{}",
        notice.process.message
    );
    watch
        .until(|e| e.kind == Event::KIND_STARTED.into() && e.process.container_id.is_empty())
        .await;
    let new = pod.state().await.pause.pid;
    assert_ne!(new, old);
    assert_eq!(["ipc", "uts"].map(|kind| namespace(new, kind)), kept);
    assert_ne!(namespace(new, "pid"), old_pid_namespace);
    assert_eq!(namespace(container, "ipc"), kept[0]);
    assert!(pod.log().contains("Shutting down, got signal"), "{}", pod.log());

    // The pod goes on: nobody else noticed, and new containers join.
    pod.run("b", sh("hostname")).await;
    assert_eq!(pod.wait("b", "").await, 0);
    assert_eq!(
        read_log(&pod.bundle("b").join("0.log"), &Default::default()),
        "the-pod\n"
    );
    let record = fs::read_to_string(pod.dir().join("shim.json")).unwrap();
    assert!(
        record.contains(&format!("\"pid\":{new}")) && record.contains("\"pause_restarts\":1"),
        "{record}"
    );
    assert_eq!(pod.shut_down().await, 0);
}

#[tokio::test]
async fn a_pod_that_shares_its_pid_namespace_dies_with_pause() {
    let pod = Pod::start(true).await;
    pod.run("a", sh("exec sleep 1000")).await;
    let mut watch = pod.watch().await;
    kill(pod.state().await.pause.pid, Signal::KILL);
    // The pod's end comes first, though pause is the last to be dead: nobody is to start "a" again in this pod.
    let first = watch.until(|event| event.kind == Event::KIND_EXITED.into()).await;
    assert_eq!(first.process.container_id, "");
    assert_eq!(pod.wait("a", "").await, 137);
    let client = pod.client.clone();
    let sandbox = client
        .sandbox
        .wait_sandbox(shim_api::deadline(support::LIMIT), &Default::default())
        .await
        .unwrap();
    assert_eq!(sandbox.exit_status, 137);
    let status = client
        .sandbox
        .sandbox_status(shim_api::deadline(support::LIMIT), &Default::default())
        .await
        .unwrap();
    assert_eq!(status.state, "SANDBOX_NOTREADY");
    assert_eq!(pod.create("b", sh("true")).await.unwrap_err().kind, Kind::Precondition);
    assert!(
        pod.log().contains("shared its PID namespace and is dead"),
        "{}",
        pod.log()
    );
    pod.stop(5).await.unwrap();
    assert_eq!(pod.shut_down().await, 0);
}

#[tokio::test]
async fn a_pause_that_keeps_dying_is_given_up() {
    let pod = Pod::start(false).await;
    let mut watch = pod.watch().await;
    loop {
        let state = pod.state().await;
        if state.pause.state == ProcessState::PROCESS_STATE_EXITED.into() {
            break;
        }
        kill(state.pause.pid, Signal::KILL);
        watch
            .until(|e| e.process.container_id.is_empty() && e.kind != Event::KIND_NOTICE.into())
            .await;
    }
    assert!(pod.log().contains("given up"), "{}", pod.log());
    assert_eq!(pod.shut_down().await, 0);
}

#[tokio::test]
async fn pause_is_pid_1_and_reaps_ten_thousand_orphans() {
    let pod = Pod::start(true).await;
    let orphans = "i=0; while [ $i -lt 10000 ]; do (true &); i=$((i+1)); done; head -c 7 /proc/1/cmdline";
    pod.run("a", sh(orphans)).await;
    assert_eq!(pod.wait("a", "").await, 0);
    assert_eq!(
        read_log(&pod.bundle("a").join("0.log"), &Default::default()).trim_end_matches('\0'),
        "/pause"
    );
    let (pause, shim) = (pod.state().await.pause.pid, pod.shim.id());
    eventually("no zombie", || zombies_of(pause) + zombies_of(shim) == 0).await;
    assert_eq!(pod.shut_down().await, 0);
}

#[tokio::test]
async fn the_shim_reaps_what_outlives_a_private_pid_namespace() {
    let pod = Pod::start(false).await;
    pod.run("a", sh("exec sleep 1000")).await;
    // An exec's orphans belong to the container's first process, which does not reap here; when that ends, the kernel
    // gives all of them to the namespace's end.
    pod.exec("a", "e", "i=0; while [ $i -lt 200 ]; do (true &); i=$((i+1)); done", "")
        .await;
    pod.kill("a", "", 9, false).await.unwrap();
    assert_eq!(pod.wait("a", "").await, 137);
    let shim = pod.shim.id();
    eventually("no zombie", || zombies_of(shim) == 0).await;
    assert_eq!(pod.shut_down().await, 0);
}

#[tokio::test]
async fn no_signal_ends_the_shim() {
    let pod = Pod::start(false).await;
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        kill(pod.shim.id(), signal);
    }
    eventually("the signals are noted", || pod.log().matches("ignored").count() == 3).await;
    assert_eq!(pod.state().await.sandbox_id, pod.id);
    assert_eq!(pod.shut_down().await, 0);
}

fn zombies_of(parent: u32) -> usize {
    let stat = |entry: &Path| fs::read_to_string(entry.join("stat")).ok();
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| stat(&entry.unwrap().path()))
        .filter_map(|stat| {
            Some(
                stat.rsplit_once(')')?
                    .1
                    .split_whitespace()
                    .map(str::to_string)
                    .collect::<Vec<_>>(),
            )
        })
        .filter(|fields| fields[0] == "Z" && fields[1] == parent.to_string())
        .count()
}
