//! The shim dies by SIGKILL, and another takes the pod over: nothing is lost, doubled or restarted.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use shim_api::shim::{Event, Process, ProcessState};
use shim_api::task;
use support::{Pod, eventually, read_log, sh};

fn kill(pid: u32) {
    kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::KILL).unwrap();
}

fn pidfd(pid: u32) -> OwnedFd {
    pidfd_open(Pid::from_raw(pid as i32).unwrap(), PidfdFlags::empty()).unwrap()
}

/// Whether this kernel keeps how a process has ended for its pidfd (Linux 6.15).
fn kernel_keeps_ends() -> bool {
    let mut child = std::process::Command::new("/bin/true").spawn().unwrap();
    let kept = pidfd(child.id());
    child.wait().unwrap();
    matches!(sys::pidfd_info::end(kept), Ok(Some(_)))
}

/// An older kernel says how a process ended until it is waited for, and who knows when its new parent does that.
fn check_code(name: &str, code: u32, expected: u32) {
    assert!(
        code == expected || (code == 255 && !kernel_keeps_ends()),
        "{name}: {code}, not {expected}"
    );
}

fn log(pod: &Pod, container: &str) -> PathBuf {
    pod.bundle(container).join("0.log")
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |m| m.len())
}

async fn container(pod: &Pod, id: &str) -> Process {
    let state = pod.state().await;
    let found = state.containers.into_iter().find(|p| p.container_id == id);
    found.unwrap_or_else(|| panic!("container {id} is unknown"))
}

/// What a container has written, over all of its rotated logs.
fn said(pod: &Pod, container: &str, rotations: usize) -> String {
    let all = pod.dir().join(format!("{container}.all"));
    let logs = (0..rotations)
        .map(|n| pod.bundle(container).join(format!("0.log.{n:03}")))
        .chain([log(pod, container)]);
    let bytes: Vec<u8> = logs.flat_map(|log| fs::read(log).unwrap_or_default()).collect();
    fs::write(&all, bytes).unwrap();
    read_log(&all, &Default::default())
}

/// Scripts that write numbered lines as fast as they can until they get SIGTERM, say so, and exit with 3: a write for each
/// line, for a thousand of them, for a part of one.
fn writer(name: &str) -> String {
    let line = match name {
        "lines" => "echo $i; i=$((i+1))",
        "blocks" => "seq $i $((i+999)); i=$((i+1000))",
        "long" => "echo $i$x; i=$((i+1))",
        _ => unreachable!(),
    };
    format!("x=$(head -c 20000 /dev/zero | tr '\\0' x); trap 'printf end; exit 3' TERM; i=1; while :; do {line}; done")
}

/// Whether all was written that such a script writes, and once.
fn check(name: &str, said: &str) {
    let x = if name == "long" {
        "x".repeat(20_000)
    } else {
        String::new()
    };
    let (lines, end) = said.rsplit_once('\n').unwrap();
    assert_eq!(end, "end", "{name}");
    let mut count = 0;
    for line in lines.lines() {
        count += 1;
        let expected = format!("{count}{x}");
        assert!(line == expected, "{name}: {line:.40} where {expected:.40} should be");
    }
    println!("{name}: {count} lines");
}

const WRITERS: [&str; 3] = ["lines", "blocks", "long"];

async fn all_write(pod: &Pod) {
    let before = WRITERS.map(|name| length(&log(pod, name)));
    eventually("all of them write", || {
        let mut them = WRITERS.iter().zip(before);
        them.all(|(name, before)| length(&log(pod, name)) > before + 1000)
    })
    .await;
}

#[tokio::test]
async fn three_containers_write_on_as_fast_as_they_can() {
    const DEATHS: usize = 16;
    let mut pod = Pod::start(false).await;
    let mut pids = Vec::new();
    for name in WRITERS {
        pids.push((name.to_string(), pod.run(name, sh(&writer(name))).await));
    }
    for _ in 0..DEATHS {
        all_write(&pod).await;
        pod.replace_shim().await;
    }
    for (name, pid) in pids {
        assert_eq!(container(&pod, &name).await.pid, pid);
        pod.kill(&name, "", 15, false).await.unwrap();
        check_code(&name, pod.wait(&name, "").await, 3);
        check(&name, &said(&pod, &name, 0));
    }
    pod.run("d", sh("exec sleep 1000")).await;
    assert_eq!(pod.exec("d", "e", "echo again", "").await.stdout, "again\n");
    pod.stop(0).await.unwrap();
    assert_eq!(pod.shut_down().await, 0);
}

#[tokio::test]
async fn a_log_is_rotated_between_any_two_steps() {
    const DEATHS: usize = 18;
    let mut pod = Pod::start(false).await;
    for name in WRITERS {
        pod.run(name, sh(&writer(name))).await;
    }
    for n in 0..DEATHS {
        all_write(&pod).await;
        let rotate = |pod: &Pod| {
            for name in WRITERS {
                fs::rename(log(pod, name), pod.bundle(name).join(format!("0.log.{n:03}"))).unwrap();
            }
        };
        // While the shim lives, or while there is none; it may be told, or die first.
        match n % 3 {
            0 => {
                rotate(&pod);
                pod.replace_shim().await;
            }
            1 => {
                pod.kill_shim();
                rotate(&pod);
                pod.adopt(&[]).await;
                pod.reopen_log("long").await.unwrap();
            }
            _ => {
                rotate(&pod);
                for name in WRITERS {
                    pod.reopen_log(name).await.unwrap();
                }
                pod.replace_shim().await;
            }
        }
    }
    for name in WRITERS {
        pod.kill(name, "", 15, false).await.unwrap();
        check_code(name, pod.wait(name, "").await, 3);
        check(name, &said(&pod, name, DEATHS));
    }
    assert_eq!(pod.shut_down().await, 0);
}

#[tokio::test]
async fn what_ends_while_there_is_no_shim() {
    let mut pod = Pod::start(false).await;
    // The runtime holds a container's FIFOs and a pidfd.
    let held = pod
        .run("held", sh("echo last words; read x; exit 7").with_stdin())
        .await;
    let lost = pod.run("lost", sh("exec sleep 1000")).await;
    let ended = pod.run("ended", sh("exit 5")).await;
    assert_eq!(pod.wait("ended", "").await, 5);
    let fifo = sys::fifo::open_both_ends(&pod.bundle("held").join("stdout"), true).unwrap();
    let known = pidfd(held);
    let stdin = sys::fifo::open_both_ends(&pod.bundle("held").join("stdin"), true).unwrap();
    pod.kill_shim();
    rustix::io::write(&stdin, b"go\n").unwrap();
    kill(lost);
    eventually("both have ended, and whoever got them has waited for them", || {
        [held, lost]
            .iter()
            .all(|pid| !Path::new(&format!("/proc/{pid}")).exists())
    })
    .await;
    pod.adopt(&[("held", known)]).await;
    assert_eq!(pod.wait("held", "").await, if kernel_keeps_ends() { 7 } else { 255 });
    assert_eq!(container(&pod, "held").await.end_unseen, !kernel_keeps_ends());
    assert_eq!(pod.wait("lost", "").await, 255);
    assert!(container(&pod, "lost").await.end_unseen);
    let ended_before = container(&pod, "ended").await;
    assert_eq!((ended_before.pid, ended_before.exit_code), (ended, 5));
    assert_eq!(read_log(&log(&pod, "held"), &Default::default()), "last words\n");
    drop(fifo);
    assert_eq!(pod.shut_down().await, 0);
}

#[tokio::test]
async fn an_end_after_the_take_over_has_its_code() {
    let mut pod = Pod::start(false).await;
    pod.run("code", sh("read x; exit 9").with_stdin()).await;
    let killed = pod.run("killed", sh("exec sleep 1000")).await;
    let stdin = sys::fifo::open_both_ends(&pod.bundle("code").join("stdin"), true).unwrap();
    pod.replace_shim().await;
    rustix::io::write(&stdin, b"go\n").unwrap();
    kill(killed);
    for (name, code) in [("code", 9), ("killed", 137)] {
        check_code(name, pod.wait(name, "").await, code);
    }
    assert_eq!(pod.shut_down().await, 0);
}

#[tokio::test]
async fn an_exec_goes_on_and_its_end_is_recorded() {
    let mut pod = Pod::start(false).await;
    pod.run("a", sh("exec sleep 1000")).await;
    let exec = pod
        .begin_exec("a", "e", "read x; echo got $x; exit 4", false)
        .await
        .unwrap();
    let terminal = pod.begin_exec("a", "t", "exec sleep 1000", true).await.unwrap();
    pod.replace_shim().await;
    let state = pod.state().await;
    let pids: Vec<_> = state.execs.iter().map(|p| (p.exec_id.as_str(), p.pid)).collect();
    assert_eq!(pids, [("e", exec.pid), ("t", terminal.pid)]);
    rustix::io::write(&exec.stdin, b"it\n").unwrap();
    check_code("e", pod.wait("a", "e").await, 4);
    assert_eq!(
        std::io::read_to_string(fs::File::from(exec.stdout)).unwrap(),
        "got it\n"
    );
    // The hang-up of its terminal.
    check_code("t", pod.wait("a", "t").await, 129);
    pod.delete("a", "e").await.unwrap();
    assert_eq!(pod.status("a", "").await, task::Status::RUNNING);
    assert_eq!(pod.shut_down().await, 0);
}

#[tokio::test]
async fn a_container_that_is_being_made_is_undone() {
    let mut pod = Pod::start(false).await;
    let begun = std::time::Instant::now();
    pod.run("whole", sh("exec sleep 1000")).await;
    let whole = begun.elapsed();
    let mut came_up = 0;
    for n in 0..24 {
        let client = pod.client.clone();
        let create = pod.create_request("a", sh("echo up; exec sleep 1000"));
        let start = async {
            client.task.create(shim_api::deadline(support::LIMIT), &create).await?;
            let mut request = task::StartRequest::new();
            request.id = "a".to_string();
            client.task.start(shim_api::deadline(support::LIMIT), &request).await
        };
        let shim = pod.shim.id();
        // At moments all over a start.
        let death = async {
            tokio::time::sleep(whole * n / 16).await;
            kill(shim);
        };
        let (started, ()) = tokio::join!(start, death);
        pod.kill_shim();
        pod.adopt(&[]).await;
        let mut known = pod.state().await.containers;
        known.retain(|process| process.container_id == "a");
        if started.is_ok() {
            assert_eq!(known.len(), 1, "a start that was announced holds");
        }
        if let [process] = known.as_slice() {
            came_up += 1;
            assert_eq!(process.state, ProcessState::PROCESS_STATE_RUNNING.into(), "{process}");
            pod.kill("a", "", 9, true).await.unwrap();
            pod.wait("a", "").await;
            pod.delete("a", "").await.unwrap();
        }
        fs::remove_file(log(&pod, "a")).ok();
    }
    println!("{came_up} of 24 came up");
    pod.run("a", sh("exec sleep 1000")).await;
    assert_eq!(pod.shut_down().await, 0);
}

#[tokio::test]
async fn pause_dies_with_the_shim() {
    let mut pod = Pod::start(false).await;
    let one = pod.run("a", sh("exec sleep 1000")).await;
    let names = |pid: u32| ["ipc", "uts"].map(|kind| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap());
    let pause = pod.state().await.pause.pid;
    let before = names(pause);
    pod.kill_shim();
    kill(pause);
    pod.adopt(&[]).await;
    let mut watch = pod.watch().await;
    let is_new = |e: &Event, old: &[u32]| {
        let runs = e.process.state == ProcessState::PROCESS_STATE_RUNNING.into();
        runs && e.process.container_id.is_empty() && !old.contains(&e.process.pid)
    };
    // Its end is seen, or it has ended before.
    while pod.client_sandbox_ready().await.is_none_or(|pid| pid == pause) {
        watch.until(|e| is_new(e, &[pause])).await;
    }
    let state = pod.state().await;
    assert_ne!(state.pause.pid, pause);
    assert_eq!(names(state.pause.pid), before);
    assert_eq!(container(&pod, "a").await.pid, one);
    pod.run("b", sh("hostname")).await;
    assert_eq!(pod.wait("b", "").await, 0);
    assert_eq!(read_log(&log(&pod, "b"), &Default::default()), "the-pod\n");
    // And one that dies later is replaced as ever.
    let second = state.pause.pid;
    kill(second);
    watch.until(|e| is_new(e, &[pause, second])).await;
    assert_eq!(pod.shut_down().await, 0);
}

#[tokio::test]
async fn a_shared_pid_namespace_dies_with_pause_and_the_shim() {
    let mut pod = Pod::start(true).await;
    pod.run("a", sh("exec sleep 1000")).await;
    let pause = pod.state().await.pause.pid;
    pod.kill_shim();
    kill(pause);
    pod.adopt(&[]).await;
    pod.wait("a", "").await;
    let client = pod.client.clone();
    client
        .sandbox
        .wait_sandbox(shim_api::deadline(support::LIMIT), &Default::default())
        .await
        .unwrap();
    let status = client
        .sandbox
        .sandbox_status(shim_api::deadline(support::LIMIT), &Default::default())
        .await
        .unwrap();
    assert_eq!(status.state, "SANDBOX_NOTREADY");
    assert!(
        pod.log().contains("shared its PID namespace and is dead"),
        "{}",
        pod.log()
    );
    assert_eq!(pod.shut_down().await, 0);
}

#[tokio::test]
async fn a_broken_record_costs_its_container_alone() {
    let mut pod = Pod::start(false).await;
    let one = pod.run("sound", sh("echo said; exec sleep 1000")).await;
    let two = pod
        .run(
            "journals",
            sh("echo said; read x; echo more; exec sleep 1000").with_stdin(),
        )
        .await;
    let three = pod.run("broken", sh("exec sleep 1000")).await;
    eventually("both have spoken", || {
        ["sound", "journals"].iter().all(|name| length(&log(&pod, name)) > 0)
    })
    .await;
    pod.kill_shim();
    fs::write(pod.bundle("broken").join("process.json"), "{ torn").unwrap();
    fs::write(pod.bundle("journals").join("log.journal"), "torn").unwrap();
    pod.adopt(&[]).await;
    let state = pod.state().await;
    let pids: Vec<u32> = state.containers.iter().map(|p| p.pid).collect();
    assert_eq!(pids, [two, one]);
    eventually("what nobody can supervise is killed", || {
        !Path::new(&format!("/proc/{three}")).exists()
    })
    .await;
    assert!(pod.bundle("broken").join("process.json.quarantined-1").exists());
    let stdin = sys::fifo::open_both_ends(&pod.bundle("journals").join("stdin"), true).unwrap();
    rustix::io::write(&stdin, b"go\n").unwrap();
    eventually("its output goes on", || {
        read_log(&log(&pod, "journals"), &Default::default()).ends_with("more\n")
    })
    .await;
    assert_eq!(pod.shut_down().await, 0);
}
