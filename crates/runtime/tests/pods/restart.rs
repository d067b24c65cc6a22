//! The daemon dies, pods do not; what it finds when it is started again.

use cri::RuntimeService;
use cri::v1::*;

use crate::host::{dies, kill, lives, on_a_host, shell, told};

#[test]
fn pods_are_taken_up_again() {
    on_a_host(|host| async move {
        let sandbox = host.run(host.pod("stays")).await.unwrap();
        let id = host
            .shell(&sandbox, "main", "while :; do echo tick; sleep 0.1; done")
            .await;
        let short = host.shell(&sandbox, "short", "exec sleep 1").await;
        let created = host.create(&sandbox, shell("created", "echo late")).await.unwrap();
        let before = host.sandbox_status(&sandbox).await.unwrap().status.unwrap();
        let pid = host.sandbox_pid(&sandbox, "pid").await;

        let host = host.restart().await;
        assert!(lives(pid));
        let after = host.sandbox_status(&sandbox).await.unwrap().status.unwrap();
        assert_eq!(after, before);
        assert_eq!(host.run(host.pod("stays")).await.unwrap(), sandbox);
        assert_eq!(host.status(&id).await.state(), ContainerState::ContainerRunning);
        assert_eq!(host.exec(&id, &["echo", "hi"]).await.unwrap().stdout, b"hi\n");
        assert_eq!(
            host.ended(&short).await.exit_code,
            0,
            "the end is seen by whoever watches then"
        );
        host.start(&created).await.unwrap();
        assert_eq!(host.ended(&created).await.exit_code, 0);
        assert_eq!(host.log(&created).await, "late\n");

        let host = host.restart().await;
        assert_eq!(host.status(&short).await.exit_code, 0, "and is remembered");
        host.stop_container(&id, 0).await.unwrap();
        host.remove(&sandbox).await.unwrap();
    });
}

#[test]
fn an_end_during_the_gap_is_not_missed() {
    on_a_host(|host| async move {
        let sandbox = host.run(host.pod("gap")).await.unwrap();
        let id = host.shell(&sandbox, "main", "exec sleep 1000").await;
        let pid = host.container_pid(&id).await;
        drop(host.runtime);
        kill(pid);
        assert!(dies(pid).await);
        let runtime = runtime::Runtime::open(host.config.clone(), host.images.clone(), host.network.clone())
            .await
            .unwrap();
        let host = crate::host::Host { runtime, ..host };
        let status = host.ended(&id).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"));
        host.remove(&sandbox).await.unwrap();
    });
}

#[test]
fn half_made_sandboxes_are_undone() {
    on_a_host(|host| async move {
        let sandbox = host.run(host.pod("half")).await.unwrap();
        let id = host.shell(&sandbox, "main", "exec sleep 1000").await;
        let pid = host.sandbox_pid(&sandbox, "pid").await;
        // As a daemon leaves it that dies between the last step and its end.
        edit(
            &host.sandbox_dir(&sandbox).join("sandbox.json"),
            "\"intent\":\"Run\"",
            "\"intent\":\"Create\"",
        );
        let host = host.restart().await;
        assert!(dies(pid).await);
        assert_eq!(
            host.sandbox_status(&sandbox).await.unwrap_err().kind,
            cri::ErrorKind::NotFound
        );
        let gone = ContainerStatusRequest {
            container_id: id,
            verbose: false,
        };
        assert_eq!(
            host.runtime.container_status(gone).await.unwrap_err().kind,
            cri::ErrorKind::NotFound
        );
        drop(host);
    });
}

#[test]
fn a_broken_record_keeps_nothing_else_from_starting() {
    on_a_host(|host| async move {
        let sound = host.run(host.pod("sound")).await.unwrap();
        let mut pod = host.pod("broken");
        let parent = format!("{}/pod-of-broken", host.config.cgroup_parent);
        pod.linux.get_or_insert_default().cgroup_parent.clone_from(&parent);
        let broken = host.run(pod).await.unwrap();
        let id = host.shell(&broken, "main", "exec sleep 1000").await;
        let pid = host.sandbox_pid(&broken, "pid").await;
        std::fs::write(host.sandbox_dir(&broken).join("sandbox.json"), "{ torn").unwrap();

        let host = host.restart().await;
        let status = host.sandbox_status(&sound).await.unwrap().status.unwrap();
        assert_eq!(status.state(), PodSandboxState::SandboxReady);
        assert!(host.sandbox_status(&broken).await.is_err());
        assert!(dies(pid).await, "what it held is released");
        let set_aside = host
            .config
            .state
            .join("sandboxes")
            .join(format!("{broken}.quarantined-1"));
        assert!(set_aside.join("containers").join(&id).is_dir());
        let of_the_pod = cgroup::Cgroup::open(&cgroup::Hierarchies::detect().unwrap(), &parent);
        assert!(
            matches!(of_the_pod, Err(cgroup::Error::NotFound { .. })),
            "{of_the_pod:?}"
        );
        host.remove(&sound).await.unwrap();
    });
}

/// The program is not there for a while, as on a full disk, without processes, or in the middle of an upgrade.
#[test]
fn a_pod_whose_supervisor_cant_be_replaced_yet_is_left_alone() {
    on_a_host(|mut host| async move {
        let sandbox = host.run(host.pod("left-alone")).await.unwrap();
        let id = host.shell(&sandbox, "main", "exec sleep 1000").await;
        let shim = host.sandbox_pid(&sandbox, "shimPid").await;
        let later = host.config.state.join("hove-shim");
        let binary = std::mem::replace(&mut host.config.shim, later.clone());
        let host = host.restart().await;
        let mut notices = host.runtime.notices();
        kill(shim);
        told(&mut notices, "SupervisorMissing").await;
        // Nor does a node touch the pod that starts meanwhile.
        let host = host.restart().await;
        let mut notices = host.runtime.notices();
        told(&mut notices, "SupervisorMissing").await;
        let status = host.sandbox_status(&sandbox).await.unwrap().status.unwrap();
        assert_eq!(status.state(), PodSandboxState::SandboxReady);
        assert_eq!(host.status(&id).await.state(), ContainerState::ContainerRunning);
        let error = host.exec(&id, &["echo", "hi"]).await.unwrap_err();
        assert_eq!(error.kind, cri::ErrorKind::Unavailable, "{error}");

        std::os::unix::fs::symlink(binary, later).unwrap();
        told(&mut notices, "SupervisorReplaced").await;
        assert_eq!(host.exec(&id, &["echo", "hi"]).await.unwrap().stdout, b"hi\n");
        let status = host.status(&id).await;
        assert_eq!(status.state(), ContainerState::ContainerRunning);
        host.remove(&sandbox).await.unwrap();
    });
}

#[test]
fn a_supervisor_that_dies_again_and_again_leaves_its_pod_not_ready() {
    on_a_host(|host| async move {
        let sandbox = host.run(host.pod("lost")).await.unwrap();
        let id = host.shell(&sandbox, "main", "exec sleep 1000").await;
        let mut notices = host.runtime.notices();
        let mut killed = 0;
        while host.sandbox_status(&sandbox).await.unwrap().status.unwrap().state() == PodSandboxState::SandboxReady {
            let shim = host.sandbox_pid(&sandbox, "shimPid").await;
            if ![0, killed].contains(&shim) {
                kill(shim);
                killed = shim;
            }
            tokio::task::yield_now().await;
        }
        let message = told(&mut notices, "SupervisorLost").await;
        assert!(message.contains("is not replaced any more"), "{message}");
        assert_eq!(host.status(&id).await.state(), ContainerState::ContainerUnknown);

        // A restart of the node is a new chance.
        let host = host.restart().await;
        let status = host.sandbox_status(&sandbox).await.unwrap().status.unwrap();
        assert_eq!(status.state(), PodSandboxState::SandboxReady);
        assert_eq!(host.exec(&id, &["echo", "hi"]).await.unwrap().stdout, b"hi\n");
        host.remove(&sandbox).await.unwrap();
    });
}

fn edit(path: &std::path::Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(path, text.replace(from, to)).unwrap();
}
