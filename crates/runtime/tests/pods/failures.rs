//! What goes wrong: a clear error, and nothing half-made left.

use cri::ErrorKind;
use cri::v1::*;
use runtime::Runtime;

use crate::host::{container, dies, kill, lives, on_a_host, on_a_native_host, shell, told};

#[test]
fn a_missing_supervisor_is_named_and_everything_undone() {
    on_a_host(|mut host| async move {
        host.config.shim = "/no/such/hove-shim".into();
        drop(host.runtime);
        host.runtime = Runtime::open(host.config.clone(), host.images.clone(), host.network.clone())
            .await
            .unwrap();
        let error = host.run(host.pod("unlucky")).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::FailedPrecondition);
        assert!(
            error.message.contains("/no/such/hove-shim") && error.message.contains("--shim"),
            "{error}"
        );
    });
}

#[test]
fn a_supervisor_that_dies_at_once_is_quoted() {
    on_a_host(|mut host| async move {
        let script = host.dir.path().join("bad-shim");
        std::fs::write(&script, "#!/bin/sh\necho I cannot >&2\nexit 1\n").unwrap();
        std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        host.config.shim = script;
        drop(host.runtime);
        host.runtime = Runtime::open(host.config.clone(), host.images.clone(), host.network.clone())
            .await
            .unwrap();
        let error = host.run(host.pod("unlucky")).await.unwrap_err();
        assert!(error.message.contains("I cannot"), "{error}");
    });
}

#[test]
fn a_port_in_use_is_named_and_the_name_is_free_again() {
    on_a_host(|host| async move {
        let with_port = |name: &str, port: i32| {
            let mut config = host.pod(name);
            config.port_mappings = vec![PortMapping {
                container_port: 80,
                host_port: port,
                ..Default::default()
            }];
            config
        };
        let first = host.run(with_port("first", 18080)).await.unwrap();
        let error = host.run(with_port("second", 18080)).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::FailedPrecondition);
        assert!(error.message.contains("18080"), "{error}");
        let second = host.run(with_port("second", 18081)).await.unwrap();
        let absurd = host.run(with_port("third", 70000)).await.unwrap_err();
        assert_eq!(absurd.kind, ErrorKind::InvalidArgument, "{absurd}");
        host.remove(&first).await.unwrap();
        host.remove(&second).await.unwrap();
    });
}

#[test]
fn an_impossible_cgroup_parent_is_undone() {
    on_a_host(|host| async move {
        let mut config = host.pod("astray");
        config.linux = Some(LinuxPodSandboxConfig {
            cgroup_parent: "/../out".into(),
            ..Default::default()
        });
        let error = host.run(config).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidArgument, "{error}");
    });
}

#[test]
fn what_cant_be_made_is_refused_with_its_reason() {
    on_a_host(|host| async move {
        let unnamed = PodSandboxConfig {
            metadata: None,
            ..host.pod("x")
        };
        assert_eq!(host.run(unnamed).await.unwrap_err().kind, ErrorKind::InvalidArgument);
        let request = RunPodSandboxRequest {
            config: Some(host.pod("x")),
            runtime_handler: "gvisor".into(),
        };
        let error = cri::RuntimeService::run_pod_sandbox(&*host.runtime, request)
            .await
            .unwrap_err();
        assert!(error.message.contains("gvisor"), "{error}");

        let sandbox = host.run(host.pod("pod")).await.unwrap();
        let mut no_image = shell("a", "true");
        no_image.image = Some(ImageSpec {
            image: "nowhere/nothing:1".into(),
            ..Default::default()
        });
        let error = host.create(&sandbox, no_image).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotFound);
        assert!(error.message.contains("nowhere/nothing:1"), "{error}");

        let missing = host
            .create(&sandbox, container("b", &["/no/such/program"]))
            .await
            .unwrap();
        let error = host.start(&missing).await.unwrap_err();
        assert!(error.message.contains("/no/such/program"), "{error}");
        let status = host.status(&missing).await;
        assert_eq!(
            (status.state(), status.exit_code),
            (ContainerState::ContainerExited, 128)
        );
        assert_eq!(status.reason, "StartError");
        assert!(status.message.contains("/no/such/program"), "{}", status.message);

        host.stop(&sandbox).await.unwrap();
        let error = host.create(&sandbox, shell("c", "true")).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::FailedPrecondition);
        host.remove(&sandbox).await.unwrap();
    });
}

/// With a PID namespace for each container, a pause that dies is replaced; one that keeps dying at once is not.
#[test]
fn a_pause_that_keeps_dying_ends_the_sandbox() {
    on_a_native_host("to another shim, a sandbox is over with its pause", |host| async move {
        let mut pod = host.pod("pauses");
        pod.linux = Some(LinuxPodSandboxConfig {
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(NamespaceOption {
                    pid: NamespaceMode::Container.into(),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        });
        let sandbox = host.run(pod.clone()).await.unwrap();
        let mut notices = host.runtime.notices();
        let mut killed = 0;
        while host.sandbox_status(&sandbox).await.unwrap().status.unwrap().state() == PodSandboxState::SandboxReady {
            let pause = host.sandbox_pid(&sandbox, "pid").await;
            if ![0, killed].contains(&pause) {
                kill(pause);
                killed = pause;
            }
            tokio::task::yield_now().await;
        }
        told(&mut notices, "PauseGivenUp").await;
        let error = host.run(pod).await.unwrap_err();
        assert_eq!(error.kind, cri::ErrorKind::AlreadyExists, "{error}");
        host.remove(&sandbox).await.unwrap();
    });
}

#[test]
fn a_pod_whose_supervisor_cant_be_replaced_can_be_taken_down() {
    on_a_host(|mut host| async move {
        let sandbox = host.run(host.pod("orphan")).await.unwrap();
        let id = host.shell(&sandbox, "main", "exec sleep 1000").await;
        let (pause, shim) = (
            host.sandbox_pid(&sandbox, "pid").await,
            host.sandbox_pid(&sandbox, "shimPid").await,
        );
        // It can't be replaced.
        host.config.shim = "/no/such/supervisor".into();
        let host = host.restart().await;
        let mut notices = host.runtime.notices();
        kill(shim);
        told(&mut notices, "SupervisorMissing").await;
        assert!(lives(pause), "no supervisor's death is its pod's");
        assert_eq!(host.status(&id).await.state(), ContainerState::ContainerRunning);
        host.stop_container(&id, 5).await.unwrap();
        let status = host.status(&id).await;
        assert_eq!(
            (status.state(), status.exit_code),
            (ContainerState::ContainerExited, 255)
        );
        host.remove(&sandbox).await.unwrap();
        assert!(dies(pause).await);
    });
}
