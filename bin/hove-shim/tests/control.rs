//! What may be asked of a container while it runs: to pause, its figures, other limits.

#![allow(clippy::unwrap_used)]

mod support;

use protobuf::Message;
use shim_api::shim::Kind as Event;
use shim_api::{Failure, Kind, deadline, task};
use support::{LIMIT, Pod, eventually, sh};

async fn pause(pod: &Pod, container: &str) -> Result<(), Failure> {
    let mut request = task::PauseRequest::new();
    request.id = container.to_string();
    pod.client.task.pause(deadline(LIMIT), &request).await?;
    Ok(())
}

async fn resume(pod: &Pod, container: &str) -> Result<(), Failure> {
    let mut request = task::ResumeRequest::new();
    request.id = container.to_string();
    pod.client.task.resume(deadline(LIMIT), &request).await?;
    Ok(())
}

#[tokio::test]
async fn a_paused_container_stands_still_until_it_is_resumed() {
    let pod = Pod::start(false).await;
    pod.run("a", sh("while :; do :; done")).await;
    let exec = pod.begin_exec("a", "e", "exec sleep 1000", false).await.unwrap();
    assert_eq!(resume(&pod, "a").await.unwrap_err().kind, Kind::Precondition);
    assert_eq!(pod.status("a", "").await, task::Status::RUNNING);

    pause(&pod, "a").await.unwrap();
    assert_eq!(pod.status("a", "").await, task::Status::PAUSED);
    assert_eq!(pod.status("a", "e").await, task::Status::PAUSED);
    // The kernel counts a process as stopped a moment before it is off its CPU.
    let limit = std::time::Instant::now() + LIMIT;
    let before = loop {
        let before = pod.stats("a").await;
        // Long enough for a loop that runs to show.
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        if pod.stats("a").await.cpu_ns == before.cpu_ns {
            break before;
        }
        assert!(std::time::Instant::now() < limit, "it does not stand still");
    };
    assert_eq!(pause(&pod, "a").await.unwrap_err().kind, Kind::Precondition);
    let why = pod.begin_exec("a", "f", "true", false).await.err().unwrap();
    assert!(why.message.contains("is paused"), "{why}");

    resume(&pod, "a").await.unwrap();
    assert_eq!(pod.status("a", "").await, task::Status::RUNNING);
    let limit = std::time::Instant::now() + LIMIT;
    while pod.stats("a").await.cpu_ns == before.cpu_ns {
        assert!(std::time::Instant::now() < limit, "it does not run again");
    }
    assert_eq!(pod.start_process("a", "f").await.map(|_| ()), Ok(()));
    drop(exec);
    assert_eq!(pod.shut_down().await, 0);
}

#[tokio::test]
async fn a_paused_container_can_be_killed_and_stopped() {
    let pod = Pod::start(false).await;
    pod.run("killed", sh("exec sleep 1000")).await;
    let polite = pod
        .run("polite", sh("trap 'exit 3' TERM; while :; do sleep 0.01; done"))
        .await;
    eventually("the trap is set", || {
        let status = std::fs::read_to_string(format!("/proc/{polite}/status")).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        u64::from_str_radix(caught.trim(), 16).unwrap() & (1 << 14) != 0
    })
    .await;
    for container in ["killed", "polite"] {
        pause(&pod, container).await.unwrap();
    }
    pod.kill("killed", "", 9, false).await.unwrap();
    assert_eq!(pod.wait("killed", "").await, 137);
    assert_eq!(pause(&pod, "killed").await.unwrap_err().kind, Kind::Precondition);
    assert_eq!(pod.status("killed", "").await, task::Status::STOPPED);
    // It hears the signal and has its grace period.
    pod.stop(20).await.unwrap();
    assert_eq!(pod.wait("polite", "").await, 3);
    assert_eq!(pod.shut_down().await, 0);
}

#[tokio::test]
async fn stats_are_those_of_the_whole_container() {
    let pod = Pod::start(false).await;
    pod.run(
        "a",
        sh("sleep 1000 & sleep 1000 & dd if=/dev/zero of=/tmp/file bs=64k count=8; while :; do :; done")
            .with_memory_limit(32 << 20),
    )
    .await;
    let limit = std::time::Instant::now() + LIMIT;
    loop {
        let stats = pod.stats("a").await;
        if stats.pids == 3 && stats.cpu_ns > 1_000_000 && stats.memory >= 512 << 10 {
            assert_eq!(stats.memory_limit, 32 << 20);
            assert!(stats.memory < 32 << 20, "{stats:?}");
            break;
        }
        assert!(std::time::Instant::now() < limit, "{stats:?}");
    }
    let mut request = task::StatsRequest::new();
    request.id = "none".to_string();
    let why = pod.client.task.stats(deadline(LIMIT), &request).await.unwrap_err();
    assert_eq!(Failure::from(why).kind, Kind::NotFound);
    assert_eq!(pod.shut_down().await, 0);
}

#[tokio::test]
async fn limits_are_changed_while_a_container_runs() {
    let pod = Pod::start(false).await;
    pod.run("a", sh("exec sleep 1000").with_memory_limit(64 << 20)).await;
    assert_eq!(pod.stats("a").await.memory_limit, 64 << 20);
    for mib in [32, 96] {
        update(&pod, "a", &format!(r#"{{"memory": {{"limit": {}}}}}"#, mib << 20))
            .await
            .unwrap();
        assert_eq!(pod.stats("a").await.memory_limit, mib << 20);
    }
    assert_eq!(update(&pod, "a", "7").await.unwrap_err().kind, Kind::Invalid);
    pod.kill("a", "", 9, false).await.unwrap();
    pod.wait("a", "").await;
    assert_eq!(update(&pod, "a", "{}").await.unwrap_err().kind, Kind::Precondition);
    assert_eq!(pod.shut_down().await, 0);
}

async fn update(pod: &Pod, container: &str, resources: &str) -> Result<(), Failure> {
    let mut request = task::UpdateTaskRequest::new();
    request.id = container.to_string();
    let mut any = protobuf::well_known_types::any::Any::new();
    any.value = resources.as_bytes().to_vec();
    request.resources = Some(any).into();
    pod.client.task.update(deadline(LIMIT), &request).await?;
    Ok(())
}

#[tokio::test]
async fn a_kill_for_lack_of_memory_is_told_and_recorded() {
    let pod = Pod::start(false).await;
    let mut watch = pod.watch().await;
    pod.run("a", sh("exec tail /dev/zero").with_memory_limit(16 << 20))
        .await;
    assert_eq!(pod.wait("a", "").await, 137);
    watch
        .until(|event| event.kind == Event::KIND_OOM.into() && event.process.container_id == "a")
        .await;
    let exited = watch.until(|event| event.kind == Event::KIND_EXITED.into()).await;
    assert!(exited.process.oom_killed);
    assert!(pod.state().await.containers[0].oom_killed);
    let record = std::fs::read_to_string(pod.bundle("a").join("exit.json")).unwrap();
    assert!(record.contains("\"oom_killed\":true"), "{record}");

    // A helper's end is told while the container goes on.
    pod.run(
        "b",
        sh("tail /dev/zero; echo went on; read line; exit 0")
            .with_memory_limit(16 << 20)
            .with_stdin(),
    )
    .await;
    watch
        .until(|event| event.kind == Event::KIND_OOM.into() && event.process.container_id == "b")
        .await;
    assert_eq!(pod.status("b", "").await, task::Status::RUNNING);
    pod.close_stdin("b", "").await;
    assert_eq!(pod.wait("b", "").await, 0);
    let exited = watch.until(|event| event.kind == Event::KIND_EXITED.into()).await;
    assert!(!exited.process.oom_killed, "it ended well");
    assert_eq!(pod.shut_down().await, 0);
}

/// containerd 1 calls the same service by its older name.
#[tokio::test]
async fn the_task_service_answers_under_its_older_name() {
    let pod = Pod::start(false).await;
    let pid = pod.run("a", sh("exec sleep 1000")).await;
    let socket = format!("unix://{}", pod.dir().join("shim.sock").display());
    let connection = ttrpc::r#async::Client::connect(&socket).await.unwrap();
    let mut state = task::StateRequest::new();
    state.id = "a".to_string();
    let mut request = ttrpc::Request::new();
    request.service = "containerd.task.v2.Task".to_string();
    request.method = "State".to_string();
    request.payload = state.write_to_bytes().unwrap();
    let answer = connection.request(request).await.unwrap();
    let state = task::StateResponse::parse_from_bytes(&answer.payload).unwrap();
    assert_eq!((state.pid, state.status), (pid, task::Status::RUNNING.into()));
    assert_eq!(pod.shut_down().await, 0);
}
