//! What a container does to its cgroups, and what stays true of its pod meanwhile. On cgroup v1, hybrid and v2.

#![allow(clippy::unwrap_used)]

mod support;

use cgroup::{Cgroup, Hierarchies, Mode};
use serde_json::json;
use support::{Pod, eventually, read_log, sh};

fn cgroup_of(pod: &Pod, container: &str) -> Cgroup {
    Cgroup::open(&Hierarchies::detect().unwrap(), &pod.cgroup(container)).unwrap()
}

fn is_gone(pod: &Pod, container: &str) -> bool {
    Cgroup::open(&Hierarchies::detect().unwrap(), &pod.cgroup(container)).is_err()
}

/// A fork bomb has its limit; the pod's other containers start, and it dies as any other.
#[tokio::test]
async fn a_fork_bomb_is_its_own_trouble() {
    const MOST: u64 = 64;
    let pod = Pod::start(false).await;
    // The shell that can't fork any more ends; what it has forked stays, and so does the first process.
    let bomb = "echo armed; (while :; do sleep 1000 & done) 2>/dev/null; exec sleep 1000";
    let limits = json!({"pids": {"limit": MOST}, "cpu": {"shares": 2}});
    pod.run(
        "bomb",
        sh(bomb).with(move |config| config["linux"]["resources"] = limits.clone()),
    )
    .await;
    eventually("it has filled its cgroup", || {
        let pids = cgroup_of(&pod, "bomb").stats().unwrap().pids.unwrap();
        assert!(pids.current <= MOST);
        pids.current > MOST / 2
    })
    .await;
    pod.run("a", sh("echo unharmed")).await;
    assert_eq!(pod.wait("a", "").await, 0);
    assert_eq!(
        read_log(&pod.bundle("a").join("0.log"), &Default::default()),
        "unharmed\n"
    );
    pod.kill("bomb", "", 9, true).await.unwrap();
    assert_eq!(pod.wait("bomb", "").await, 137);
    pod.delete("bomb", "").await.unwrap();
    assert!(is_gone(&pod, "bomb"));
    assert_eq!(pod.shut_down().await, 0);
}

/// As an init system in a container does: cgroups of its own, controllers passed on to them. Execs go on, and all is gone
/// with the container.
#[tokio::test]
async fn a_container_that_makes_cgroups() {
    let v2 = Hierarchies::detect().unwrap().mode() == Mode::V2;
    let pids = if v2 { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/pids" };
    let pass_controllers_on = if v2 {
        "mkdir init; echo 0 >init/cgroup.procs; echo '+pids +memory' >cgroup.subtree_control;"
    } else {
        ""
    };
    let script = format!(
        "set -e; cd {pids}; mkdir -p services/one; {pass_controllers_on} \
         sh -c 'echo 0 >services/one/cgroup.procs; exec sleep 1000' & \
         until grep -q . services/one/cgroup.procs; do :; done; echo up; exec sleep 1000"
    );
    let pod = Pod::start(false).await;
    let with_cgroups = |config: &mut serde_json::Value| {
        config["mounts"].as_array_mut().unwrap().extend([
            json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]}),
            json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                   "options": ["nosuid", "noexec", "nodev", "relatime", "rw"]}),
        ]);
        config["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .push(json!({"type": "cgroup"}));
    };
    pod.run("a", sh(&script).with(with_cgroups)).await;
    let log = pod.bundle("a").join("0.log");
    eventually("it has made them", || {
        read_log(&log, &Default::default()).ends_with("up\n")
    })
    .await;
    let group = cgroup_of(&pod, "a");
    assert!(
        group.pids().unwrap().len() >= 2,
        "all are the container's: {:?}",
        group.pids()
    );
    assert_eq!(pod.exec("a", "e", "echo in", "").await.stdout, "in\n");
    pod.kill("a", "", 9, false).await.unwrap();
    assert_eq!(pod.wait("a", "").await, 137);
    assert!(group.pids().unwrap().is_empty(), "with all that it had started");
    pod.delete("a", "").await.unwrap();
    assert!(is_gone(&pod, "a"));
    assert_eq!(pod.shut_down().await, 0);
}

/// The supervisor is in none of its pod's cgroups, so nothing that the pod uses up is its own.
#[tokio::test]
async fn lack_of_memory_takes_neither_the_shim_nor_pause() {
    let pod = Pod::start(true).await;
    let pause = pod.state().await.pause.pid;
    for round in ["a", "b", "c"] {
        pod.run(
            round,
            sh("tail /dev/zero & tail /dev/zero & exec tail /dev/zero").with_memory_limit(16 << 20),
        )
        .await;
        assert_eq!(pod.wait(round, "").await, 137);
    }
    let state = pod.state().await;
    assert_eq!(state.pause.pid, pause);
    assert!(state.containers.iter().all(|container| container.oom_killed));
    for name in ["a", "sandbox"] {
        let pids = cgroup_of(&pod, name).pids().unwrap();
        assert!(!pids.contains(&pod.shim.id().cast_signed()), "{name}: {pids:?}");
    }
    assert_eq!(pod.shut_down().await, 0);
}
