//! Handlers by name: Hove's own, those that are configured, those that are not. With `cargo xtask handlers`, what the keeper of
//! another vendor's shim does beyond the suite.

use cri::ErrorKind;
use cri::RuntimeService;
use cri::v1::*;
use runtime::{Handler, Runtime};

use crate::host::{Host, containerds_shim, dies, kill, lives, on_a_host, shell};

async fn run_with(host: &Host, name: &str, handler: &str) -> cri::Result<String> {
    let request = RunPodSandboxRequest {
        config: Some(host.pod(name)),
        runtime_handler: handler.into(),
    };
    Ok(host.runtime.run_pod_sandbox(request).await?.pod_sandbox_id)
}

#[test]
fn by_name() {
    on_a_host(|mut host| async move {
        host.config.handlers.insert("own".into(), Handler::Native);
        host.config.handlers.insert("runc".into(), containerds_shim("runc"));
        let host = host.restart().await;

        let refused = run_with(&host, "lost", "gvisor").await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::InvalidArgument);
        assert!(refused.message.contains("\"gvisor\" is not configured"), "{refused}");

        let status = host.runtime.status(StatusRequest::default()).await.unwrap();
        let names: Vec<_> = status.runtime_handlers.iter().map(|h| h.name.as_str()).collect();
        assert!(["", "own", "runc"].iter().all(|name| names.contains(name)), "{names:?}");

        let sandbox = run_with(&host, "named", "own").await.unwrap();
        let status = host.sandbox_status(&sandbox).await.unwrap().status.unwrap();
        assert_eq!(status.runtime_handler, "own");
        host.remove(&sandbox).await.unwrap();
    });
}

#[test]
fn a_shim_that_is_not_there_is_named_and_everything_undone() {
    on_a_host(|mut host| async move {
        let missing = shim_api::Handler {
            shim: "containerd-shim-nowhere-v2".into(),
            ..Default::default()
        };
        host.config.handlers.insert("nowhere".into(), Handler::Shim(missing));
        let host = host.restart().await;
        let error = run_with(&host, "lost", "nowhere").await.unwrap_err();
        assert!(error.message.contains("containerd-shim-nowhere-v2"), "{error}");
    });
}

#[test]
fn an_option_that_a_shim_does_not_have_keeps_the_node_from_starting() {
    on_a_host(|mut host| async move {
        let Handler::Shim(mut runc) = containerds_shim("runc") else {
            unreachable!()
        };
        runc.options.insert("Binary".into(), shim_api::Setting::Switch(true));
        host.config.handlers.insert("runc".into(), Handler::Shim(runc));
        drop(host.runtime.clone());
        let opened = Runtime::open(host.config.clone(), host.images.clone(), host.network.clone()).await;
        let refused = opened.err().unwrap().to_string();
        assert!(refused.contains("[handlers.runc] options.Binary"), "{refused}");
    });
}

/// The process of the handler's shim, as the keeper has written it down.
fn shim_of(host: &Host, sandbox: &str) -> i32 {
    let text = std::fs::read(host.sandbox_dir(sandbox).join("foreign.json")).unwrap();
    let record: serde_json::Value = serde_json::from_slice(&text).unwrap();
    record["record"]["process"]["pid"].as_i64().unwrap().try_into().unwrap()
}

#[test]
#[ignore = "needs Debian's containerd and runc: cargo xtask handlers"]
fn the_shims_death_ends_the_pod_and_leaves_nothing() {
    on_a_host(|mut host| async move {
        host.config.handlers.insert("runc".into(), containerds_shim("runc"));
        let host = host.restart().await;
        let sandbox = run_with(&host, "orphaned", "runc").await.unwrap();
        let id = host.create(&sandbox, shell("main", "exec sleep 1000")).await.unwrap();
        host.start(&id).await.unwrap();
        let pid = host.container_pid(&id).await;
        assert!(lives(pid));
        kill(shim_of(&host, &sandbox));
        assert_eq!(host.ended(&id).await.exit_code, 137);
        assert!(dies(pid).await);
        host.remove(&sandbox).await.unwrap();
    });
}

#[test]
#[ignore = "needs Debian's containerd and runc: cargo xtask handlers"]
fn node_keeper_and_shim_die_at_once_and_nothing_is_left() {
    on_a_host(|mut host| async move {
        host.config.handlers.insert("runc".into(), containerds_shim("runc"));
        let host = host.restart().await;
        let sandbox = run_with(&host, "struck", "runc").await.unwrap();
        let id = host.create(&sandbox, shell("main", "exec sleep 1000")).await.unwrap();
        host.start(&id).await.unwrap();
        let (pid, keeper) = (
            host.container_pid(&id).await,
            host.sandbox_pid(&sandbox, "shimPid").await,
        );
        let host = {
            kill(shim_of(&host, &sandbox));
            kill(keeper);
            host.restart().await
        };
        assert!(dies(pid).await);
        host.remove(&sandbox).await.unwrap();
    });
}
