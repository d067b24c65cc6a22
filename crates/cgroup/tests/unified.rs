//! What only a machine with cgroup v2 alone shows, where all controllers are in one tree. `cargo xtask vm -p cgroup` has one.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cgroup::{Cgroup, Error, Hierarchies, Mode};
use oci_spec::runtime::{
    LinuxDeviceCgroup, LinuxDeviceType, LinuxHugepageLimit, LinuxMemory, LinuxPids, LinuxResources,
};

/// Nothing here waits for that long when all is well.
const LIMIT: Duration = Duration::from_secs(60);

/// A container's cgroup below one of the test's own, with the processes that were started in it.
struct Container {
    parent: String,
    group: Cgroup,
    children: Vec<Child>,
}

impl Container {
    /// `None`, and a word, on another machine.
    fn new(test: &str) -> Option<Container> {
        let hierarchies = Hierarchies::detect().unwrap();
        if hierarchies.mode() != Mode::V2 {
            println!("SKIPPED: this node has cgroup {}, not v2 alone", hierarchies.mode());
            return None;
        }
        let parent = format!("/hove-test-{}-{test}", std::process::id());
        let group = Cgroup::create(&hierarchies, &format!("{parent}/container")).unwrap();
        Some(Container {
            parent,
            group,
            children: Vec::new(),
        })
    }

    fn dir(&self) -> PathBuf {
        let mount = &self.group.hierarchies().v2().unwrap().mount;
        mount.join(&self.group.path()[1..])
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.dir().join(file)).unwrap().trim().to_owned()
    }

    /// A shell in the cgroup at `below` the container's; returns once it is inside.
    fn spawn(&mut self, below: &str, script: &str) -> usize {
        let procs = self.dir().join(below).join("cgroup.procs");
        let script = format!("echo 0 >{} || exit 99; echo; {script}", procs.display());
        let mut child = Command::new("/bin/sh")
            .args(["-c", &script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        self.children.push(child);
        self.children.len() - 1
    }

    fn apply(&self, change: impl FnOnce(&mut LinuxResources)) -> cgroup::Result<()> {
        let mut limits = LinuxResources::default();
        change(&mut limits);
        self.group.apply(&limits)
    }

    fn signal_of(&mut self, child: usize) -> Option<i32> {
        self.children[child].wait().unwrap().signal()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.group.kill();
        for child in &mut self.children {
            let _ = child.wait();
        }
        let removed = Hierarchies::detect().and_then(|h| Cgroup::open(&h, &self.parent)?.remove());
        removed.expect("the test's cgroups are removed");
    }
}

fn until(what: &str, mut is_true: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !is_true() {
        assert!(Instant::now() < end, "{what}: not after {LIMIT:?}");
        std::thread::yield_now();
    }
}

fn unified(pairs: &[(&str, &str)]) -> Option<HashMap<String, String>> {
    Some(pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect())
}

#[test]
fn controllers_are_passed_on_along_the_path() {
    let Some(container) = Container::new("path") else {
        return;
    };
    let available = container.read("cgroup.controllers");
    for controller in ["cpu", "cpuset", "io", "memory", "hugetlb", "pids"] {
        assert!(
            available.split(' ').any(|c| c == controller),
            "{controller}: {available}"
        );
    }
    assert_eq!(
        container.read("cgroup.subtree_control"),
        "",
        "its own are its own to pass on"
    );
}

#[test]
fn a_parent_with_processes_cannot_pass_controllers_on() {
    let Some(mut container) = Container::new("internal") else {
        return;
    };
    container.spawn("", "exec sleep 1000");
    let inner = format!("{}/inner", container.group.path());
    let inner = Cgroup::create(container.group.hierarchies(), &inner).unwrap();
    // Not so a threaded controller (cpu, cpuset, pids), which may stand between a process and its parent.
    let mut memory = LinuxMemory::default();
    memory.set_limit(Some(32 << 20));
    let mut limits = LinuxResources::default();
    limits.set_memory(Some(memory));
    let error = inner.apply(&limits).unwrap_err().to_string();
    assert!(
        error.contains("memory") && error.contains("processes of its own"),
        "{error}"
    );
    // It takes processes all the same.
    let inside = container.spawn("inner", "exec sleep 1000");
    inner.kill().unwrap();
    assert_eq!(container.signal_of(inside), Some(9));
}

#[test]
fn keys_reach_their_files() {
    let Some(container) = Container::new("keys") else {
        return;
    };
    let keys = unified(&[
        ("memory.high", "33554432"),
        ("memory.oom.group", "1"),
        ("cpu.weight", "77"),
        ("pids.max", "44"),
        ("cgroup.max.depth", "3"),
    ]);
    container
        .apply(|limits| {
            limits.set_unified(keys);
        })
        .unwrap();
    for (file, value) in [
        ("memory.high", "33554432"),
        ("memory.oom.group", "1"),
        ("cpu.weight", "77"),
        ("pids.max", "44"),
        ("cgroup.max.depth", "3"),
    ] {
        assert_eq!(container.read(file), value, "{file}");
    }
    for (key, value) in [("memory.nonsense", "1"), ("memory.high", "lots")] {
        let refused = container.apply(|limits| {
            limits.set_unified(unified(&[(key, value)]));
        });
        let message = refused.unwrap_err().to_string();
        assert!(message.contains(key), "{message}");
    }
}

#[test]
fn swap_and_huge_pages_have_limits_of_their_own() {
    let Some(container) = Container::new("swap") else {
        return;
    };
    let mut memory = LinuxMemory::default();
    memory.set_limit(Some(64 << 20)).set_swap(Some(80 << 20));
    let mut huge = LinuxHugepageLimit::default();
    huge.set_page_size("2MB".into()).set_limit(4 << 20);
    container
        .apply(|limits| {
            limits.set_memory(Some(memory)).set_hugepage_limits(Some(vec![huge]));
        })
        .unwrap();
    assert_eq!(container.read("memory.max"), (64 << 20).to_string());
    assert_eq!(container.read("memory.swap.max"), (16 << 20).to_string());
    assert_eq!(container.read("hugetlb.2MB.max"), (4 << 20).to_string());
    assert_eq!(container.read("hugetlb.2MB.rsvd.max"), (4 << 20).to_string());
}

/// As kubelet asks for it: a container that is short of memory ends whole.
#[test]
fn a_group_dies_together_for_lack_of_memory() {
    let Some(mut container) = Container::new("oom-group") else {
        return;
    };
    let mut memory = LinuxMemory::default();
    memory.set_limit(Some(16 << 20)).set_swap(Some(16 << 20));
    container
        .apply(|limits| {
            limits
                .set_memory(Some(memory))
                .set_unified(unified(&[("memory.oom.group", "1")]));
        })
        .unwrap();
    let bystander = container.spawn("", "exec sleep 1000");
    let hungry = container.spawn("", "exec tail /dev/zero");
    assert_eq!(container.signal_of(hungry), Some(9));
    assert_eq!(container.signal_of(bystander), Some(9));
    assert!(container.group.oom_kills().unwrap() >= 2);
}

#[test]
fn a_container_makes_cgroups_of_its_own() {
    let Some(mut container) = Container::new("nested") else {
        return;
    };
    let mut pids = LinuxPids::default();
    pids.set_limit(10);
    let mut memory = LinuxMemory::default();
    memory.set_limit(Some(32 << 20)).set_swap(Some(32 << 20));
    container
        .apply(|limits| {
            limits.set_pids(Some(pids)).set_memory(Some(memory));
        })
        .unwrap();
    let oom = container.group.oom_events().unwrap();
    // As an init system does it: everybody out of the way, then the controllers for those below.
    fs::create_dir_all(container.dir().join("init")).unwrap();
    fs::create_dir_all(container.dir().join("services/one")).unwrap();
    let init = container.spawn("init", "exec sleep 1000");
    fs::write(container.dir().join("cgroup.subtree_control"), "+pids +memory").unwrap();
    fs::write(container.dir().join("services/cgroup.subtree_control"), "+pids +memory").unwrap();
    container.spawn("services/one", "sleep 1000 & sleep 1000 & wait");
    until("all are seen", || container.group.pids().unwrap().len() == 4);

    // One more is started for an exec: into a leaf, since the container's own cgroup takes no process any more.
    let leaf = container.group.exec_leaf("exec-1").unwrap();
    let exec = container.spawn("exec-1", "exec sleep 1000");
    leaf.kill().unwrap();
    assert_eq!(container.signal_of(exec), Some(9));
    leaf.remove().unwrap();

    // What is below it counts against its limits, and what happens there is told there and above.
    assert!(oom.kills().unwrap() == 0 && container.group.oom_kills().unwrap() == 0);
    let hungry = container.spawn("services/one", "exec tail /dev/zero");
    assert_eq!(container.signal_of(hungry), Some(9));
    until("the kill is counted", || oom.kills().unwrap() >= 1);

    assert!(container.children[init].try_wait().unwrap().is_none());
    container.group.kill().unwrap();
    assert_eq!(container.signal_of(init), Some(9));
    until("nobody is left", || container.group.pids().unwrap().is_empty());
    container.group.remove().unwrap();
    assert!(!container.dir().exists(), "with the cgroups that the container made");
    // For the end of the test.
    container.group = Cgroup::create(container.group.hierarchies(), container.group.path()).unwrap();
}

#[test]
fn device_rules_hold_below_too() {
    let Some(mut container) = Container::new("devices-below") else {
        return;
    };
    let rule = |allow, typ, major, minor| {
        let mut rule = LinuxDeviceCgroup::default();
        rule.set_allow(allow)
            .set_typ(Some(typ))
            .set_major(major)
            .set_minor(minor)
            .set_access(Some("rwm".into()));
        rule
    };
    let rules = vec![
        rule(false, LinuxDeviceType::A, None, None),
        rule(true, LinuxDeviceType::C, Some(1), Some(3)),
    ];
    container
        .apply(|limits| {
            limits.set_devices(Some(rules));
        })
        .unwrap();
    container.group.exec_leaf("exec-1").unwrap();
    for below in ["", "exec-1"] {
        let child = container.spawn(
            below,
            ": </dev/null || exit 1; (: </dev/zero) 2>/dev/null && exit 2; exit 0",
        );
        assert_eq!(container.children[child].wait().unwrap().code(), Some(0), "{below:?}");
    }
}

#[test]
fn a_fork_bomb_stays_below_its_limit_and_dies_at_once() {
    const MOST: usize = 40;
    let Some(mut container) = Container::new("bomb") else {
        return;
    };
    let mut pids = LinuxPids::default();
    pids.set_limit(MOST as i64);
    container
        .apply(|limits| {
            limits.set_pids(Some(pids));
        })
        .unwrap();
    let bomb = container.spawn(
        "",
        "while :; do (while :; do (:) & done) 2>/dev/null & done 2>/dev/null",
    );
    let refused = || {
        let events = fs::read_to_string(container.dir().join("pids.events")).unwrap();
        events.split_whitespace().nth(1) != Some("0")
    };
    until("a fork is refused", refused);
    assert!(container.group.stats().unwrap().pids.unwrap().current <= MOST as u64);
    container.group.kill().unwrap();
    assert_eq!(container.signal_of(bomb), Some(9));
    until("nobody is left", || container.group.pids().unwrap().is_empty());
}

#[test]
fn a_cgroup_in_use_is_not_removed() {
    let Some(mut container) = Container::new("busy") else {
        return;
    };
    container.spawn("", "exec sleep 1000");
    assert!(matches!(container.group.remove(), Err(Error::Busy { pids, .. }) if pids.len() == 1));
}
