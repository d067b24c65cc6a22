//! What may be asked of a container while it runs: to pause, its figures, other limits.

#![allow(clippy::unwrap_used)]

mod support;

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
    let before = pod.stats("a").await;
    // Long enough for a loop that runs to show.
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    assert_eq!(pod.stats("a").await.cpu_ns, before.cpu_ns);
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
