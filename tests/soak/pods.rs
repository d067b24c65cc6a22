//! One pod, from its creation to its end, and what must hold on the way.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use end_to_end::instance::{QUICK, condition, container};
use end_to_end::{http, numbered};
use serde_json::{Value, json};

use crate::node::Node;
use crate::plan::{Kind, Moment, Plan};

const PODS: &str = "/api/v1/namespaces/default/pods";
/// Lines of a pod that bursts.
const BURST: usize = 3000;
/// The first host port; each worker has its own, so that a port that is not given back is found out.
const FIRST_PORT: u16 = 20_000;

/// Lets pod `number` live as the plan says.
pub fn live(node: &Node, plan: Plan, number: u64, worker: u16) -> Result<()> {
    let name = format!("soak-{number}");
    let strike = |now: Moment| -> Result<()> {
        match plan.death {
            Some((victim, moment)) if moment == now => {
                if let Moment::Starting(after) | Moment::Ending(after) = moment {
                    // No waiting for something: this is when the plan wants it to happen.
                    std::thread::sleep(after);
                }
                node.kill(victim, &name)
            }
            _ => Ok(()),
        }
    };
    let planned = plan.death.map_or(Moment::Running, |(_, moment)| moment);

    create(node, &manifest(&name, plan.kind, worker)).context("create")?;
    if matches!(planned, Moment::Starting(_)) {
        strike(planned)?;
    }
    let pod = wait_until_up(node, &name, plan.kind)?;
    if plan.death.is_some() && planned == Moment::Running && plan.kind != Kind::Burst {
        strike(planned)?;
        let after = match plan.survives() {
            true => wait_until_up(node, &name, plan.kind)?,
            // Its containers died with it, and come again in another sandbox.
            false => wait_for(node, &name, |after| is_ready(after) && ids(after) != ids(&pod))?,
        };
        ensure!(
            !plan.survives() || ids(&after) == ids(&pod),
            "other containers: {pod:#}\n{after:#}"
        );
    }
    if plan.exec && plan.kind != Kind::Burst {
        exec(node, &name)?;
    }
    check_logs(node, &name, plan.kind)?;

    delete(node, &name).context("delete")?;
    if matches!(planned, Moment::Ending(_)) {
        strike(planned)?;
    }
    node.ask(|| node.instance().wait_for_pod_gone(&name))
}

fn manifest(name: &str, kind: Kind, worker: u16) -> Value {
    let container = |number: u16, script: &str| {
        let port = FIRST_PORT + worker;
        let ports = match kind {
            Kind::Published => json!([{"containerPort": 80, "hostPort": port}]),
            _ => json!([]),
        };
        json!({
            "name": format!("c{number}"),
            "image": "localhost/hove/busybox:1",
            "imagePullPolicy": "Never",
            "command": ["sh", "-c", script],
            "ports": ports,
        })
    };
    let (script, restart) = match kind {
        // A kill before its container runs is not the container's failure: it may be started again.
        Kind::Burst => (numbered::first(BURST), "OnFailure"),
        _ => (numbered::endless("0.05"), "Always"),
    };
    let containers: Vec<_> = (0..containers(kind)).map(|number| container(number, &script)).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": restart,
            "terminationGracePeriodSeconds": 0,
            "shareProcessNamespace": kind == Kind::Shared,
            "containers": containers,
        },
    })
}

fn containers(kind: Kind) -> u16 {
    if kind == Kind::Shared { 2 } else { 1 }
}

/// Whoever asked and got no answer asks again, and may hear that it was done.
fn create(node: &Node, manifest: &Value) -> Result<()> {
    let (socket, body) = (node.instance().api_socket(), manifest.to_string());
    node.ask(|| {
        let answer = http::post_unix(&socket, PODS, &body, QUICK)?.response()?;
        ensure!(matches!(answer.status, 201 | 409), "{answer:?}");
        Ok(())
    })
}

fn delete(node: &Node, name: &str) -> Result<()> {
    let (socket, path) = (node.instance().api_socket(), format!("{PODS}/{name}"));
    node.ask(|| {
        let answer = http::delete_unix(&socket, &path, QUICK)?.response()?;
        ensure!(matches!(answer.status, 200 | 202 | 404), "{answer:?}");
        Ok(())
    })
}

/// It works; right after the supervisor's death it may fail, until the pod has the next one.
fn exec(node: &Node, name: &str) -> Result<()> {
    let deadline = Instant::now() + QUICK;
    loop {
        let said = node.undisturbed(|| node.instance().output(["exec", name, "-c", "c0", "--", "echo", "here"]));
        match said {
            Ok(said) => {
                ensure!(said == "here\n", "exec said {said:?}");
                return Ok(());
            }
            Err(error) if Instant::now() > deadline => return Err(error),
            // Nobody tells that a pod has its next supervisor.
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

fn wait_until_up(node: &Node, name: &str, kind: Kind) -> Result<Value> {
    wait_for(node, name, |pod| match kind {
        Kind::Burst => pod["status"]["phase"] == "Succeeded",
        _ => is_ready(pod),
    })
}

fn wait_for(node: &Node, name: &str, accept: impl Fn(&Value) -> bool) -> Result<Value> {
    node.ask(|| node.instance().wait_for_pod(name, &accept))
}

fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready").is_some_and(|ready| ready["status"] == "True")
}

/// The containers, by what the runtime calls them.
fn ids(pod: &Value) -> Vec<&Value> {
    let names = ["c0", "c1"];
    names
        .into_iter()
        .filter_map(|name| Some(&container(pod, name)?["containerID"]))
        .collect()
}

/// Each container's lines: none missing, none twice; of a burst, all.
fn check_logs(node: &Node, name: &str, kind: Kind) -> Result<()> {
    let socket = node.instance().api_socket();
    for number in 0..containers(kind) {
        let path = format!("{PODS}/{name}/log?container=c{number}");
        let log = node.ask(|| {
            let answer = http::get_unix(&socket, &path, QUICK)?.response()?;
            match answer.status {
                200 => Ok(answer.body),
                _ => bail!("GET {path}: {answer:?}"),
            }
        })?;
        let lines = numbered::count(&log).with_context(|| format!("the log of c{number}"))?;
        ensure!(kind != Kind::Burst || lines == BURST, "{lines} lines of {BURST}");
    }
    Ok(())
}
