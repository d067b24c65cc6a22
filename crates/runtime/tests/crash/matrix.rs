//! Every failpoint, every time that a pod's life comes by, with every action.

use std::collections::{BTreeMap, VecDeque};
use std::os::unix::process::ExitStatusExt;
use std::process::Output;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use cri::v1::{ContainerState, PodSandboxState};
use inspect::audit::Snapshot;

use crate::life::{Client, Manner};
use crate::node::{Task, run, run_with};
use crate::place::{Node, Place, at_a_place, on_tokio};

const SIGKILL: i32 = 9;

/// How long a pod's life may take, on a machine that is busy with other things.
const LIFE_LIMIT: Duration = Duration::from_secs(60);

/// How often a pod's life comes by each point, from a node that nothing happens to; and what the machine is like after it.
fn survey(place: &Place) -> (BTreeMap<String, u32>, Snapshot) {
    let trace = place.dir.join("trace");
    let order = format!("trace={}", trace.display());
    let shims = place.dir.join("shim-trace");
    let output = run_with(place, Task::Live, &order, &format!("trace={}", shims.display()));
    assert!(output.status.success(), "{}", said(&output));
    // What stays for the next pod (the bridge) goes when a node ends that has none.
    on_tokio(async { close(place.open().await.unwrap()) });
    let shims = std::fs::read_to_string(shims).unwrap();
    let text = std::fs::read_to_string(trace).unwrap();
    let mut counts = BTreeMap::new();
    // Records are the node's points here; its supervisor's have points of their own about them.
    for point in text.lines().chain(shims.lines().filter(|p| !is_nodes(p))) {
        *counts.entry(point.to_owned()).or_insert(0) += 1;
    }
    (counts, place.look())
}

/// All cases of the points that `chosen` takes.
fn cases(counts: &BTreeMap<String, u32>, chosen: fn(&str) -> bool) -> VecDeque<(String, u32)> {
    let only = std::env::var("HOVE_CRASH_ONLY").unwrap_or_default();
    let points = sys::failpoint::POINTS.iter().filter(|p| chosen(p));
    let cases = points.flat_map(|point| {
        let count = counts.get(*point).copied().unwrap_or(0);
        assert!(count > 0, "no step of a pod's life comes by the failpoint {point}");
        (1..=count).map(|n| ((*point).to_owned(), n))
    });
    cases.filter(|(point, _)| point.starts_with(&only)).collect()
}

fn is_nodes(point: &str) -> bool {
    !is_supervisors(point)
}

/// A case: at this place, whose clean state is this, under this name.
type Case = fn(&Place, &Snapshot, &str) -> Result<(), String>;

/// How many places cases take place at, at a time: each waits for the kernel half of its time.
const PLACES: usize = 3;

/// The cases that are left to do, once they are known, and how those went that were done.
#[derive(Default)]
struct Progress {
    rest: Option<VecDeque<(String, u32)>>,
    done: usize,
    failed: Vec<String>,
}

/// Goes through all points that `chosen` takes, and tells of all that went wrong. A case that did may have spoilt its
/// place, so the next one has another.
fn go_through(chosen: fn(&str) -> bool, case: Case) {
    let began = Instant::now();
    let progress = Mutex::new(Progress::default());
    let lock = || progress.lock().unwrap_or_else(PoisonError::into_inner);
    let go_through_some = || {
        while lock().rest.as_ref().is_none_or(|rest| !rest.is_empty()) {
            at_a_place(|place| {
                let (counts, clean) = survey(place);
                lock().rest.get_or_insert_with(|| cases(&counts, chosen));
                let next = || lock().rest.as_mut().and_then(VecDeque::pop_front);
                while let Some((point, occurrence)) = next() {
                    lock().done += 1;
                    let name = format!("{point}@{occurrence}");
                    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| case(place, &clean, &name)));
                    if let Err(why) = outcome.unwrap_or_else(|panic| Err(message(&*panic))) {
                        eprintln!("{name}: {why}\n");
                        return lock().failed.push(name);
                    }
                }
            });
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..PLACES {
            scope.spawn(go_through_some);
        }
    });
    let Progress { done, failed, .. } = progress.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("{done} cases in {:.1} s", began.elapsed().as_secs_f64());
    assert!(failed.is_empty(), "{} of {done} cases: {failed:#?}", failed.len());
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
        .unwrap_or_default()
}

fn said(output: &Output) -> String {
    format!(
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Another node takes the place over: it finds what it can account for, the same pod lives its life to the end, and
/// nothing stays.
fn converges(place: &Place, clean: &Snapshot) -> Result<(), String> {
    let led = on_tokio(async {
        let node = place.open().await?;
        accounts_for_everything(place, &node, clean).await?;
        let client = Client::new(&node.runtime, place, Manner::Patient);
        let life = tokio::time::timeout(LIFE_LIMIT, client.lead()).await;
        life.map_err(|_| "the pod's life takes too long afterwards".to_owned())?
            .map_err(|e| format!("the same requests do not succeed afterwards: {e}"))?;
        close(node);
        Ok::<_, String>(())
    });
    led?;
    is_clean(place, clean)
}

fn close(node: Node) {
    drop(node.runtime);
    assert!(node.network.close_if_unused().unwrap(), "attachments are left");
}

fn is_clean(place: &Place, clean: &Snapshot) -> Result<(), String> {
    match place.leftovers(clean).as_slice() {
        [] => Ok(()),
        left => Err(format!("left on the machine:\n  {}", left.join("\n  "))),
    }
}

/// What is there after a recovery is what the runtime says is there, neither more nor less.
async fn accounts_for_everything(place: &Place, node: &Node, clean: &Snapshot) -> Result<(), String> {
    let client = Client::new(&node.runtime, place, Manner::Patient);
    let (sandboxes, containers) = (client.sandboxes().await, client.containers().await);
    if sandboxes.is_empty() {
        // The bridge stays for the next pod.
        node.network.close_if_unused().map_err(|e| e.to_string())?;
        return is_clean(place, clean).map_err(|e| format!("after the recovery: {e}"));
    }
    let ready = sandboxes.iter().filter(|s| s.state() == PodSandboxState::SandboxReady);
    let ready = ready.count();
    let entries = |dir: &str| std::fs::read_dir(place.state().join(dir)).unwrap().count();
    let snapshots = node.images.snapshots().len();
    let running = containers
        .iter()
        .filter(|c| c.state() == ContainerState::ContainerRunning);
    // A shim and a pause for each sandbox, a program for each container.
    let processes = 2 * ready + running.count();
    let roots = if place.has_sandbox_image() { sandboxes.len() } else { 0 };
    let expected = [
        ("sandbox directories", entries("sandboxes"), sandboxes.len()),
        ("net namespaces", entries("netns"), ready),
        ("attachments", entries("network/attachments"), ready),
        // Of its root and of its image volume; and those that images' programs stand on in pause's place.
        ("snapshots", snapshots, 2 * containers.len() + roots),
        ("processes", place.settled_processes(processes), processes),
    ];
    for (what, found, told) in expected {
        if found != told {
            return Err(format!(
                "after the recovery there are {found} {what}, and the runtime tells of {told}: {sandboxes:?} {containers:?}"
            ));
        }
    }
    Ok(())
}

/// The same where an image's program takes pause's place.
#[test]
fn killed_with_a_sandbox_image() {
    let is_a_sandboxs = |point: &str| is_nodes(point) && point.starts_with("sandbox.");
    go_through(is_a_sandboxs, |place, clean, case| {
        place.use_sandbox_image();
        let output = run(place, Task::Live, &format!("{case}=kill"));
        if output.status.signal() != Some(SIGKILL) && !output.status.success() {
            return Err(format!("it was not killed there: {}", said(&output)));
        }
        converges(place, clean)
    });
}

#[test]
fn killed() {
    go_through(is_nodes, |place, clean, case| {
        let output = run(place, Task::Live, &format!("{case}=kill"));
        // How often a life comes by a point depends on what happens first: it may have ended before.
        let passed_by = output.status.success() && !case.ends_with("@1");
        if output.status.signal() != Some(SIGKILL) && !passed_by {
            return Err(format!("it was not killed there: {}", said(&output)));
        }
        converges(place, clean)
    });
}

/// A life whose first supervisor has these failpoints. The node lives, and so does the next supervisor.
fn goes_on_after(place: &Place, clean: &Snapshot, supervisors: &str) -> Result<(), String> {
    let output = run_with(place, Task::LivePersistently, "", supervisors);
    if !output.status.success() {
        return Err(format!("the life did not go on: {}", said(&output)));
    }
    on_tokio(async { place.open().await.map(close) })?;
    is_clean(place, clean)
}

fn is_supervisors(point: &str) -> bool {
    point.starts_with("shim.")
}

#[test]
fn supervisor_killed() {
    go_through(is_supervisors, |place, clean, case| {
        goes_on_after(place, clean, &format!("{case}=kill"))
    });
}

/// Each step of the supervisor's fails, or takes its time.
#[test]
fn supervisor_failing_or_slow() {
    go_through(is_supervisors, |place, clean, case| {
        goes_on_after(place, clean, &format!("{case}=error"))?;
        goes_on_after(place, clean, &format!("{case}=delay(20)"))
    });
}

/// Both die: first the supervisor, and the node at one of the steps that it takes then.
#[test]
fn supervisor_killed_and_node_too() {
    go_through(is_supervisors, |place, clean, case| {
        let node = "sandbox.undo.shutdown=kill;container.start.created=kill;container.exit.recorded=kill";
        run_with(place, Task::LivePersistently, node, &format!("{case}=kill"));
        // The supervisor may be dead, may be being replaced, or may come to its end now.
        let led = on_tokio(async {
            let node = place.open().await?;
            let client = Client::new(&node.runtime, place, Manner::Patient);
            let life = tokio::time::timeout(LIFE_LIMIT, client.lead_persistently()).await;
            life.map_err(|_| "the pod's life takes too long afterwards".to_owned())?
                .map_err(|e| format!("the same requests do not succeed afterwards: {e}"))?;
            close(node);
            Ok::<_, String>(())
        });
        led.and_then(|()| is_clean(place, clean))
    });
}

#[test]
fn failing() {
    go_through(is_nodes, |place, clean, case| {
        let output = run(place, Task::Live, &format!("{case}=error"));
        if !output.status.success() {
            return Err(format!("the life did not go on: {}", said(&output)));
        }
        on_tokio(async { place.open().await.map(close) })?;
        is_clean(place, clean)
    });
}

#[test]
fn slow_and_asked_twice() {
    go_through(is_nodes, |place, clean, case| {
        let output = run(place, Task::LiveHastily, &format!("{case}=delay(10)"));
        if !output.status.success() {
            return Err(format!("the life did not go on: {}", said(&output)));
        }
        on_tokio(async { place.open().await.map(close) })?;
        is_clean(place, clean)
    });
}

/// Killed when a sandbox is all but made: whatever there is to undo is there.
const HALF_MADE: &str = "sandbox.pause.started=kill";

/// A recovery is a life too: a node that takes down what another left half-made is killed on the way.
#[test]
fn killed_in_the_recovery() {
    let in_recovery = |point: &str| {
        let is_undo = point.starts_with("sandbox.undo.") || point.starts_with("network.release.");
        is_undo || (point.starts_with("sandbox.remove.") && point != "sandbox.remove.recorded")
    };
    go_through(in_recovery, |place, clean, case| {
        if case.ends_with("@1") {
            assert_eq!(run(place, Task::Live, HALF_MADE).status.signal(), Some(SIGKILL));
            let output = run(place, Task::Recover, &format!("{case}=kill"));
            if output.status.signal() != Some(SIGKILL) {
                return Err(format!("it was not killed there: {}", said(&output)));
            }
            converges(place, clean)?;
        }
        Ok(())
    });
}
