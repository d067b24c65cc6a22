//! How long a pod lives: as long as the client that ran it.

use anyhow::{Result, ensure};
use end_to_end::instance::{PATIENT, QUICK, condition};
use end_to_end::{Host, Instance, case, http};
use rustix::process::Signal;
use serde_json::Value;

fn ready(pod: &Value) -> bool {
    condition(pod, "Ready").is_some_and(|c| c["status"] == "True")
}

fn server(host: &Host, name: &str, port: u16) -> Result<std::path::PathBuf> {
    host.manifest(
        &format!("{name}.yaml"),
        &format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 2\n  containers:\n  \
             - name: web\n    image: localhost/hove/busybox:1\n    imagePullPolicy: Never\n    \
             command: [sh, -c, 'mkdir /www; echo I am {name} > /www/index.html; exec httpd -f -p 80 -h /www']\n    \
             ports:\n    - {{containerPort: 80, hostPort: {port}}}\n"
        ),
    )
}

fn serves(port: u16, name: &str) -> Result<()> {
    let wanted = format!("I am {name}");
    http::get_until(([127, 0, 0, 1], port).into(), "/", PATIENT, |answer| {
        answer.body.contains(&wanted)
    })
    .map(drop)
}

/// Killed without a word, the client can't take its pod down: its connection's end does.
#[test]
fn the_clients_death_takes_the_pod_down() {
    case(&["busybox"], |host: &Host| -> Result<()> {
        let node = host.node()?;
        node.import(&["busybox"])?;
        let manifest = server(host, "web", 8080)?;
        let run = node.spawn(["run".as_ref(), manifest.as_os_str()])?;
        node.wait_for_pod("web", ready)?;
        serves(8080, "web")?;
        run.signal(Signal::KILL)?;
        node.wait_for_pod_gone("web")?;
        drop(run);
        // The same again, at once: the name, the port and the address are free.
        let run = node.spawn(["run".as_ref(), manifest.as_os_str()])?;
        node.wait_for_pod("web", ready)?;
        serves(8080, "web")?;
        run.signal(Signal::TERM)?;
        run.wait(PATIENT)?;
        Ok(())
    });
}

/// A pod that ends by itself ends the command, with its last exit code's meaning.
#[test]
fn a_pod_that_ends() {
    case(&["busybox"], |host: &Host| -> Result<()> {
        let node = host.node()?;
        node.import(&["busybox"])?;
        let pod = |name: &str, command: &str| {
            host.manifest(
                &format!("{name}.yaml"),
                &format!(
                    "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: Never\n  containers:\n  \
                     - {{name: c, image: 'localhost/hove/busybox:1', imagePullPolicy: Never, command: [sh, -c, '{command}']}}\n"
                ),
            )
        };
        let good = node
            .spawn(["run".as_ref(), pod("good", "echo done")?.as_os_str()])?
            .wait(PATIENT)?;
        ensure!(good.code() == 0 && good.stdout.contains("done"), "{good:?}");
        let bad = node
            .spawn(["run".as_ref(), pod("bad", "echo failing; exit 3")?.as_os_str()])?
            .wait(PATIENT)?;
        ensure!(bad.code() != 0 && bad.stdout.contains("failing"), "{bad:?}");
        Ok(())
    });
}

/// Nobody told them about each other: each state directory has a bridge and a subnet of its own.
#[test]
fn two_nodes_that_nobody_configured() {
    case(&["busybox"], |host: &Host| -> Result<()> {
        let nodes = [host.node_with_default_network()?, host.node_with_default_network()?];
        let mut running = Vec::new();
        let mut subnets = Vec::new();
        for (n, node) in nodes.iter().enumerate() {
            node.import(&["busybox"])?;
            let name = format!("web{n}");
            let manifest = server(host, &name, 8080 + n as u16)?;
            running.push(node.spawn(["run".as_ref(), manifest.as_os_str()])?);
            let pod = node.wait_for_pod(&name, ready)?;
            let ip = pod["status"]["podIP"].as_str().unwrap_or_default().to_owned();
            http::get_until(format!("{ip}:80").parse()?, "/", PATIENT, |answer| {
                answer.body.contains(&name)
            })?;
            subnets.push(ip.split('.').take(2).collect::<Vec<_>>().join("."));
        }
        ensure!(subnets[0] != subnets[1], "{subnets:?}");
        serves(8080, "web0")?;
        serves(8081, "web1")?;
        for run in running {
            run.signal(Signal::INT)?;
            run.wait(PATIENT)?;
        }
        Ok(())
    });
}

/// Two nodes on one host: each its own pods, addresses and ports; a port is one node's or the other's.
#[test]
fn two_nodes_at_once() {
    case(&["busybox"], |host: &Host| -> Result<()> {
        let nodes: [Instance; 2] = [host.node()?, host.node()?];
        let mut running = Vec::new();
        for (n, node) in nodes.iter().enumerate() {
            node.import(&["busybox"])?;
            let name = format!("web{n}");
            let manifest = server(host, &name, 8080 + n as u16)?;
            running.push(node.spawn(["run".as_ref(), manifest.as_os_str()])?);
            node.wait_for_pod(&name, ready)?;
        }
        serves(8080, "web0")?;
        serves(8081, "web1")?;
        ensure!(nodes[0].pod("web1")?.is_none() && nodes[1].pod("web0")?.is_none());
        let taken = server(host, "thief", 8080)?;
        let error = nodes[1].refused(["run".as_ref(), taken.as_os_str()])?;
        ensure!(error.contains("8080") && error.contains("in use"), "{error}");
        for run in running {
            run.signal(Signal::INT)?;
            run.wait(PATIENT)?;
        }
        Ok(())
    });
}

/// One node per directory: the second one hears of it at once, and leaves nothing of its own.
#[test]
fn a_second_daemon_is_refused() {
    case(&[], |host: &Host| -> Result<()> {
        let node = host.node()?;
        let daemon = node.spawn(["daemon"])?;
        daemon.wait_for_words("the node is ready", QUICK)?;
        let words = node.refused(["daemon"])?;
        ensure!(
            words.contains("another node owns") && !words.contains("it may take"),
            "{words}"
        );
        let state = host.directory().join("other-state");
        let words = node.refused(["daemon".as_ref(), "--state".as_ref(), state.as_os_str()])?;
        ensure!(words.contains("another process"), "{words}");
        ensure!(!state.exists(), "{} is left", state.display());
        daemon.signal(Signal::TERM)?;
        ensure!(daemon.wait(PATIENT)?.code() == 0);
        node.output(["get", "pods"])?;
        Ok(())
    });
}
