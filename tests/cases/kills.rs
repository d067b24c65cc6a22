//! The node is killed, with its client or without: what of a pod goes on, what comes back, what is taken down.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use end_to_end::instance::{PATIENT, QUICK, condition, container};
use end_to_end::{Host, case, numbered};
use rustix::process::Signal;
use serde_json::Value;

/// How long a new node waits for the clients of the pods that it finds (`node_api::RETURN_TIMEOUT`).
const RETURN_TIMEOUT: Duration = Duration::from_secs(30);

fn ready(pod: &Value) -> bool {
    condition(pod, "Ready").is_some_and(|c| c["status"] == "True")
}

fn counter(host: &Host) -> Result<PathBuf> {
    let manifest = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: counter}}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers:\n  \
         - {{name: c, image: 'localhost/hove/busybox:1', imagePullPolicy: Never, command: [sh, -c, '{}']}}\n",
        numbered::endless("0.1")
    );
    host.manifest("counter.yaml", &manifest)
}

fn container_id(pod: &Value) -> Result<String> {
    let status = container(pod, "c").context("no status of c")?;
    Ok(status["containerID"].as_str().context("no containerID")?.to_owned())
}

/// The pod does not notice, and its client takes it over at the next node, which that client starts.
#[test]
fn a_killed_node_is_replaced_under_a_run() {
    case(&["busybox"], |host: &Host| -> Result<()> {
        let node = host.node()?;
        node.import(&["busybox"])?;
        let run = node.spawn(["run".as_ref(), counter(host)?.as_os_str()])?;
        let before = container_id(&node.wait_for_pod("counter", ready)?)?;
        run.wait_for_output("number 5", QUICK)?;
        node.kill_node()?;
        run.wait_for_words("the next node has pod counter", PATIENT)?;
        let pod = node.wait_for_pod("counter", ready)?;
        ensure!(container_id(&pod)? == before, "another container: {pod:#}");
        ensure!(container(&pod, "c").is_some_and(|c| c["restartCount"] == 0), "{pod:#}");
        run.wait_for_output("number 30", QUICK)?;
        run.signal(Signal::INT)?;
        let ended = run.wait(PATIENT)?;
        ensure!(ended.code() == 128 + 2, "{ended:?}");
        ensure!(node.pod("counter")?.is_none(), "the pod is still there");
        // Each line once, in order, over the gap.
        numbered::count(&ended.stdout)?;
        Ok(())
    });
}

/// Nobody is left who could take it down: the next node does, once its client had its time to come back.
#[test]
fn a_pod_whose_node_and_client_were_killed_is_taken_down() {
    case(&["busybox"], |host: &Host| -> Result<()> {
        let node = host.node()?;
        node.import(&["busybox"])?;
        let run = node.spawn(["run".as_ref(), counter(host)?.as_os_str()])?;
        let before = container_id(&node.wait_for_pod("counter", ready)?)?;
        // The node first: it would hear of its client's end.
        node.kill_node()?;
        run.signal(Signal::KILL)?;
        drop(run);
        let begin = Instant::now();
        node.output(["get", "pods"])?;
        let pod = node.wait_for_pod("counter", ready)?;
        ensure!(container_id(&pod)? == before, "another container: {pod:#}");
        node.wait_for_pod_gone("counter")?;
        let took = begin.elapsed();
        ensure!(
            took > RETURN_TIMEOUT - Duration::from_secs(5),
            "its client had {took:?} to come back"
        );
        ensure!(took < RETURN_TIMEOUT + PATIENT, "gone after {took:?}");
        Ok(())
    });
}

/// What the node saw last is what its user wants to know after it was killed.
#[test]
fn a_killed_node_forgets_no_event() {
    case(&["busybox"], |host: &Host| -> Result<()> {
        let node = host.node()?;
        node.import(&["busybox"])?;
        node.output(["run".as_ref(), "-d".as_ref(), counter(host)?.as_os_str()])?;
        node.wait_for_pod("counter", ready)?;
        let before = node.output(["describe", "pod", "counter"])?;
        // The store's limit, `objects::flush::FLUSH_WITHIN`, and as much again.
        std::thread::sleep(Duration::from_millis(500));
        node.kill_node()?;
        let after = node.output(["describe", "pod", "counter"])?;
        for reason in ["SandboxStarted", "Created", "Started"] {
            ensure!(before.contains(reason), "{reason} is not in\n{before}");
        }
        let events = |text: &str| {
            let events = text.split("Events:").nth(1).unwrap_or_default();
            let lines = events
                .lines()
                .map(|line| line.split_whitespace().take(2).collect::<Vec<_>>().join(" "));
            lines.filter(|line| !line.is_empty()).collect::<Vec<_>>()
        };
        for event in events(&before) {
            ensure!(events(&after).contains(&event), "{event} is lost:\n{before}\n{after}");
        }
        node.output(["delete", "pod", "counter"])?;
        Ok(())
    });
}

/// Node and supervisor at once: the next node gives the pod another supervisor; its container does not notice, no line is lost.
#[test]
fn a_supervisor_that_was_killed_with_its_node_is_replaced() {
    case(&["busybox"], |host: &Host| -> Result<()> {
        let node = host.node()?;
        node.import(&["busybox"])?;
        node.output(["run".as_ref(), "-d".as_ref(), counter(host)?.as_os_str()])?;
        let before = container_id(&node.wait_for_pod("counter", ready)?)?;
        node.kill_node()?;
        ensure!(node.kill_shims()? == 1, "there was no supervisor");
        node.output(["get", "pods"])?;
        let pod = node.wait_for_pod("counter", ready)?;
        ensure!(container_id(&pod)? == before, "another container: {pod:#}");
        ensure!(container(&pod, "c").is_some_and(|c| c["restartCount"] == 0), "{pod:#}");
        let said = node.output(["exec", "counter", "--", "echo", "still here"])?;
        ensure!(said == "still here\n", "{said}");
        numbered::count(&node.output(["logs", "counter"])?)?;
        let described = node.output(["describe", "pod", "counter"])?;
        ensure!(described.contains("SupervisorReplaced"), "{described}");
        node.output(["delete", "pod", "counter"])?;
        Ok(())
    });
}
