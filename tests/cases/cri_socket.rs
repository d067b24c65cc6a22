//! The CRI's socket of a daemon: what kubelet and crictl talk to.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use cri::conformance::{Subject, run};
use cri::{RuntimeService, v1};
use end_to_end::instance::{PATIENT, QUICK};
use end_to_end::running::wait_for_end;
use end_to_end::{Host, case};
use rustix::process::Signal;

/// Longer than a node with nothing to do stays.
const IDLE: Duration = Duration::from_secs(4);

/// The suite passes through the socket, beside a pod of the daemon's own engine, which callers don't see.
#[test]
fn a_daemon_serves_the_cri() {
    case(&["busybox"], |host: &Host| -> Result<()> {
        let node = host.node()?;
        let daemon = node.spawn(["daemon"])?;
        daemon.wait_for_words("the node is ready", QUICK)?;
        node.import(&["busybox"])?;
        let own = host.manifest(
            "own.yaml",
            "apiVersion: v1\nkind: Pod\nmetadata: {name: own}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  \
             - {name: c, image: 'localhost/hove/busybox:1', imagePullPolicy: Never, command: [sleep, '1000']}\n",
        )?;
        node.output(["run".as_ref(), "--detach".as_ref(), own.as_os_str()])?;

        let socket = node.state().join("hove.sock");
        let mode = std::fs::metadata(&socket)?.permissions().mode() & 0o777;
        ensure!(mode == 0o600, "{mode:o}");
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        tokio.block_on(async {
            let client = Arc::new(cri_grpc::Client::connect(&format!("unix://{}", socket.display())).await?);
            let seen = client.list_pod_sandbox(Default::default()).await?.items;
            ensure!(seen.is_empty(), "{seen:?}");
            let subject = Subject {
                runtime: client.clone(),
                images: client,
                image: "localhost/hove/busybox:1".into(),
                logs: host.directory().join("cri-logs"),
            };
            let broken = run(&subject).await;
            ensure!(broken.is_empty(), "{broken:#?}");
            Ok(())
        })?;

        node.output(["delete", "pod", "own"])?;
        node.wait_for_pod_gone("own")?;
        daemon.signal(Signal::TERM)?;
        let ended = daemon.wait(PATIENT)?;
        ensure!(ended.code() == 0, "{ended:?}");
        ensure!(!socket.exists(), "the socket outlives its daemon");
        // It leaves bridge and rules to the daemon that comes next: here one that ends by itself and leaves nothing.
        node.output(["get", "pods"])?;
        Ok(())
    });
}

/// A kubelet's sandbox keeps its addresses when a command comes in between two daemons: the command's node is not idle, and gives
/// nothing back.
#[test]
fn a_kubelets_pod_outlives_a_commands_node() {
    case(&["busybox"], |host: &Host| -> Result<()> {
        let node = host.node()?;
        let daemon = node.spawn(["daemon"])?;
        daemon.wait_for_words("the node is ready", QUICK)?;
        node.import(&["busybox"])?;
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let socket = format!("unix://{}", node.state().join("hove.sock").display());
        let config = v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: "kubelets".into(),
                uid: "1".into(),
                namespace: "default".into(),
                attempt: 0,
            }),
            ..Default::default()
        };
        let status = async |client: &cri_grpc::Client, id: &str| {
            let asked = v1::PodSandboxStatusRequest {
                pod_sandbox_id: id.to_owned(),
                verbose: false,
            };
            let status = client.pod_sandbox_status(asked).await?.status.unwrap_or_default();
            let ip = status.network.clone().unwrap_or_default().ip;
            anyhow::Ok((status.state(), ip))
        };
        let (id, before) = tokio.block_on(async {
            let client = cri_grpc::Client::connect(&socket).await?;
            let asked = v1::RunPodSandboxRequest {
                config: Some(config),
                ..Default::default()
            };
            let id = client.run_pod_sandbox(asked).await?.pod_sandbox_id;
            let before = status(&client, &id).await?;
            anyhow::Ok((id, before))
        })?;
        ensure!(
            before.0 == v1::PodSandboxState::SandboxReady && !before.1.is_empty(),
            "{before:?}"
        );
        daemon.signal(Signal::KILL)?;
        daemon.wait(QUICK)?;

        node.output(["get", "pods"])?;
        let commands = node.daemon()?;
        ensure!(
            !wait_for_end(commands, IDLE)?,
            "the command's node took itself for idle"
        );
        let daemon = node.spawn(["daemon"])?;
        daemon.wait_for_words("the node is ready", QUICK)?;
        tokio.block_on(async {
            let client = cri_grpc::Client::connect(&socket).await?;
            let after = status(&client, &id).await?;
            ensure!(after == before, "{before:?} {after:?}");
            let asked = v1::RemovePodSandboxRequest { pod_sandbox_id: id };
            client.remove_pod_sandbox(asked).await?;
            Ok(())
        })?;
        daemon.signal(Signal::TERM)?;
        let ended = daemon.wait(PATIENT)?;
        ensure!(ended.code() == 0, "{ended:?}");
        node.output(["get", "pods"])?;
        Ok(())
    });
}

/// A command that found a daemon dead, and started a node, does not keep the next daemon out.
#[test]
fn a_daemon_takes_over_from_a_commands_node() {
    case(&["busybox"], |host: &Host| -> Result<()> {
        let node = host.node()?;
        node.import(&["busybox"])?;
        let manifest = host.manifest(
            "stays.yaml",
            "apiVersion: v1\nkind: Pod\nmetadata: {name: stays}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  \
             - {name: c, image: 'localhost/hove/busybox:1', imagePullPolicy: Never, command: [sleep, '1000']}\n",
        )?;
        node.output(["run".as_ref(), "--detach".as_ref(), manifest.as_os_str()])?;
        let before = node.wait_for_pod("stays", |pod| pod["status"]["phase"] == "Running")?;

        let daemon = node.spawn(["daemon"])?;
        daemon.wait_for_words("the node is ready", QUICK)?;
        ensure!(node.state().join("hove.sock").exists());
        let after = node.wait_for_pod("stays", |pod| pod["status"]["phase"] == "Running")?;
        let id = |pod: &serde_json::Value| pod["status"]["containerStatuses"][0]["containerID"].clone();
        ensure!(id(&before) == id(&after) && id(&after).is_string(), "{before} {after}");
        let refused = node.refused(["daemon"])?;
        ensure!(refused.contains("another node owns"), "{refused}");

        node.output(["delete", "pod", "stays"])?;
        node.wait_for_pod_gone("stays")?;
        daemon.signal(Signal::TERM)?;
        let ended = daemon.wait(PATIENT)?;
        ensure!(ended.code() == 0, "{ended:?}");
        node.output(["get", "pods"])?;
        Ok(())
    });
}
