//! The usual way of a pod.

use std::os::unix::fs::PermissionsExt;

use cri::RuntimeService;
use cri::v1::*;
use futures_util::StreamExt;

use crate::host::{IMAGE, container, dies, lives, on_a_host, shell};

/// What the node writes down of a pod has its passwords in it; what is bound into containers is for whoever they run as.
#[test]
fn what_a_container_is_told_is_for_root_alone() {
    fn files(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
        let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
        let below = entries.map(|entry| match entry.file_type().unwrap() {
            kind if kind.is_dir() => files(&entry.path()),
            kind if kind.is_file() => vec![entry.path()],
            _ => Vec::new(),
        });
        below.flatten().collect()
    }
    on_a_host(|host| async move {
        let sandbox = host.run(host.pod("secretive")).await.unwrap();
        host.shell(&sandbox, "main", "exec sleep 1000").await;
        let files = files(&host.sandbox_dir(&sandbox));
        assert!(files.len() > 8, "{files:?}");
        for file in files {
            let mode = std::fs::metadata(&file).unwrap().permissions().mode();
            let is_bound = ["hostname", "hosts", "resolv.conf"]
                .iter()
                .any(|name| file.ends_with(name));
            // What another vendor's shim keeps there is its own; the configuration that it gets has the passwords.
            let is_in = |dir: &str| file.components().any(|part| part.as_os_str() == dir);
            let is_theirs = (is_in("bundle") || is_in("oci")) && !file.ends_with("config.json");
            assert!(is_bound || is_theirs || mode & 0o077 == 0, "{file:?} has mode {mode:o}");
        }
        host.remove(&sandbox).await.unwrap();
    });
}

#[test]
fn a_pod_runs_logs_ends_and_is_removed() {
    on_a_host(|host| async move {
        let sandbox = host.run(host.pod("web")).await.unwrap();
        let status = host.sandbox_status(&sandbox).await.unwrap().status.unwrap();
        assert_eq!(status.state(), PodSandboxState::SandboxReady);
        let ip = status.network.unwrap().ip;
        assert!(ip.starts_with("10.85."), "{ip}");

        let script = "echo out; echo err >&2; echo $FROM_IMAGE $OWN; hostname; cat /etc/hostname; exit 3";
        let mut config = shell("main", script);
        config.envs = vec![KeyValue {
            key: "OWN".into(),
            value: b"mine".to_vec(),
        }];
        let id = host.create(&sandbox, config).await.unwrap();
        let created = host.status(&id).await;
        assert_eq!(created.state(), ContainerState::ContainerCreated);
        assert_eq!(created.image_id, host.image_id().await);
        assert_eq!(created.image.unwrap().image, IMAGE);

        host.start(&id).await.unwrap();
        let ended = host.ended(&id).await;
        assert_eq!((ended.exit_code, ended.reason.as_str()), (3, "Error"));
        assert!(
            ended.started_at > 0 && ended.finished_at >= ended.started_at,
            "{ended:?}"
        );
        let log = host.log(&id).await;
        assert_eq!(log.matches("web\n").count(), 2, "{log}");
        for line in ["out\n", "err\n", "yes mine\n"] {
            assert!(log.contains(line), "{line:?} is not in the log:\n{log}");
        }
        let again = host.start(&id).await.unwrap_err();
        assert_eq!(again.kind, cri::ErrorKind::FailedPrecondition);

        host.remove_container(&id).await.unwrap();
        host.remove_container(&id).await.unwrap();
        host.stop(&sandbox).await.unwrap();
        host.stop(&sandbox).await.unwrap();
        host.remove(&sandbox).await.unwrap();
        host.remove(&sandbox).await.unwrap();
        assert_eq!(
            host.sandbox_status(&sandbox).await.unwrap_err().kind,
            cri::ErrorKind::NotFound
        );
    });
}

#[test]
fn containers_share_what_belongs_to_the_pod() {
    on_a_host(|host| async move {
        let sandbox = host.run(host.pod("shared")).await.unwrap();
        let one = host
            .shell(&sandbox, "one", "echo here > /dev/shm/file; exec sleep 1000")
            .await;
        let two = host.shell(&sandbox, "two", "exec sleep 1000").await;
        let ask = async |id: &str, script: &str| {
            let answer = host.exec(id, &["/bin/sh", "-c", script]).await.unwrap();
            String::from_utf8(answer.stdout).unwrap() + &String::from_utf8(answer.stderr).unwrap()
        };
        assert_eq!(ask(&two, "cat /dev/shm/file").await, "here\n");
        for kind in ["net", "ipc", "uts", "pid"] {
            let look = format!("readlink /proc/self/ns/{kind}");
            assert_eq!(ask(&one, &look).await, ask(&two, &look).await, "{kind}");
        }
        assert_ne!(
            ask(&one, "readlink /proc/self/ns/mnt").await,
            ask(&two, "readlink /proc/self/ns/mnt").await
        );
        assert!(ask(&one, "cat /proc/1/cmdline").await.starts_with("/pause"));
        let status = host.sandbox_status(&sandbox).await.unwrap();
        let ip = status.status.unwrap().network.unwrap().ip;
        assert!(ask(&two, "cat /etc/hosts").await.contains(&format!("{ip}\tshared")));
        assert_eq!(status.containers_statuses.len(), 2);

        host.remove(&sandbox).await.unwrap();
    });
}

#[test]
fn a_container_is_stopped_by_its_signal_or_killed_after_the_grace() {
    on_a_host(|host| async move {
        let sandbox = host.run(host.pod("stopping")).await.unwrap();
        let polite = host
            .shell(
                &sandbox,
                "polite",
                "trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.1; done",
            )
            .await;
        let deaf = host.shell(&sandbox, "deaf", "trap '' TERM; echo up; sleep 1000").await;
        let pid = host.status(&deaf).await.started_at;
        assert!(pid > 0);
        // Each has set its trap once it has written.
        for id in [&polite, &deaf] {
            while !host.log(id).await.contains("up") {
                tokio::task::yield_now().await;
            }
        }
        host.stop_container(&polite, 20).await.unwrap();
        let status = host.status(&polite).await;
        assert_eq!((status.state(), status.exit_code), (ContainerState::ContainerExited, 7));
        assert!(host.log(&polite).await.contains("bye"));

        host.stop_container(&deaf, 1).await.unwrap();
        assert_eq!(host.status(&deaf).await.exit_code, 137);
        host.stop_container(&deaf, 1).await.unwrap();
        host.stop_container("0000", 1).await.unwrap();
        host.remove(&sandbox).await.unwrap();
    });
}

#[test]
fn concurrent_callers_share_one_creation() {
    on_a_host(|host| async move {
        let runs = (0..8).map(|_| host.run(host.pod("same")));
        let ids: Vec<_> = futures_util::future::join_all(runs)
            .await
            .into_iter()
            .map(Result::unwrap)
            .collect();
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        assert_eq!(
            host.run(host.pod("same")).await.unwrap(),
            ids[0],
            "ready, and asked for again"
        );

        // A caller that goes away does not stop the creation.
        {
            let run = host.run(host.pod("abandoned"));
            let ended = tokio::time::timeout(std::time::Duration::from_micros(50), run).await;
            assert!(ended.is_err(), "a sandbox takes longer than its caller's deadline");
        }
        let abandoned = host.run(host.pod("abandoned")).await.unwrap();
        let all = host
            .runtime
            .list_pod_sandbox(ListPodSandboxRequest { filter: None })
            .await;
        let mut all: Vec<_> = all.unwrap().items.into_iter().map(|s| s.id).collect();
        let mut expected = [ids[0].clone(), abandoned.clone()];
        all.sort();
        expected.sort();
        assert_eq!(all, expected, "one sandbox for each name");

        let config = shell("main", "true");
        let first = host.create(&abandoned, config.clone()).await.unwrap();
        assert_eq!(
            host.create(&abandoned, config).await.unwrap(),
            first,
            "the same, not started: asked for again"
        );
        let other = host.create(&abandoned, shell("main", "false")).await.unwrap_err();
        assert_eq!(other.kind, cri::ErrorKind::AlreadyExists);

        host.stop(&ids[0]).await.unwrap();
        let stopped = host.run(host.pod("same")).await.unwrap_err();
        assert_eq!(stopped.kind, cri::ErrorKind::AlreadyExists, "{stopped}");
        host.remove(&ids[0]).await.unwrap();
        host.remove(&abandoned).await.unwrap();
    });
}

#[test]
fn lists_and_filters() {
    on_a_host(|host| async move {
        let one = host.run(host.pod("one")).await.unwrap();
        let two = host.run(host.pod("two")).await.unwrap();
        let id = host.shell(&one, "runs", "exec sleep 1000").await;
        let idle = host.create(&two, shell("idle", "true")).await.unwrap();

        let sandboxes = async |filter: PodSandboxFilter| {
            let request = ListPodSandboxRequest { filter: Some(filter) };
            let items = host.runtime.list_pod_sandbox(request).await.unwrap().items;
            items.into_iter().map(|s| s.id).collect::<Vec<_>>()
        };
        let labels = [("app".to_owned(), "two".to_owned())];
        assert_eq!(sandboxes(PodSandboxFilter::default()).await.len(), 2);
        assert_eq!(
            sandboxes(PodSandboxFilter {
                id: one[..12].into(),
                ..Default::default()
            })
            .await,
            [one.as_str()]
        );
        assert_eq!(
            sandboxes(PodSandboxFilter {
                label_selector: labels.into(),
                ..Default::default()
            })
            .await,
            [two.as_str()]
        );
        host.stop(&two).await.unwrap();
        let state = Some(PodSandboxStateValue {
            state: PodSandboxState::SandboxNotready.into(),
        });
        assert_eq!(
            sandboxes(PodSandboxFilter {
                state,
                ..Default::default()
            })
            .await,
            [two.as_str()]
        );

        let containers = async |filter: ContainerFilter| {
            let request = ListContainersRequest { filter: Some(filter) };
            let items = host.runtime.list_containers(request).await.unwrap().containers;
            items.into_iter().map(|c| c.id).collect::<Vec<_>>()
        };
        let state = Some(ContainerStateValue {
            state: ContainerState::ContainerRunning.into(),
        });
        assert_eq!(
            containers(ContainerFilter {
                state,
                ..Default::default()
            })
            .await,
            [id]
        );
        assert_eq!(
            containers(ContainerFilter {
                pod_sandbox_id: two.clone(),
                ..Default::default()
            })
            .await,
            [idle]
        );

        host.remove(&one).await.unwrap();
        host.remove(&two).await.unwrap();
    });
}

#[test]
fn events_reach_every_subscriber() {
    on_a_host(|host| async move {
        let subscribe = async || host.runtime.get_container_events(GetEventsRequest {}).await.unwrap();
        let (first, second) = (subscribe().await, subscribe().await);
        let sandbox = host.run(host.pod("told")).await.unwrap();
        let id = host.shell(&sandbox, "short", "exit 0").await;
        host.ended(&id).await;
        host.remove(&sandbox).await.unwrap();
        for events in [first, second] {
            use ContainerEventType::{
                ContainerCreatedEvent as Created, ContainerDeletedEvent as Deleted, ContainerStartedEvent as Started,
                ContainerStoppedEvent as Stopped,
            };
            let mut told = Vec::new();
            let mut events = events;
            loop {
                let event = events.next().await.unwrap().unwrap();
                let kind = event.container_event_type();
                let of_container = event.container_id == id;
                told.push((of_container, kind));
                if (of_container, kind) == (false, Deleted) {
                    break;
                }
            }
            let of = |container: bool| {
                told.iter()
                    .filter(|t| t.0 == container)
                    .map(|t| t.1)
                    .collect::<Vec<_>>()
            };
            assert_eq!(of(true), [Created, Started, Stopped, Deleted]);
            assert_eq!(of(false), [Created, Started, Deleted]);
        }
    });
}

#[test]
fn users_and_limits() {
    on_a_host(|host| async move {
        let sandbox = host.run(host.pod("limits")).await.unwrap();
        let mut config = shell("main", "id -u; id -G; exec sleep 1000");
        let linux = config.linux.as_mut().unwrap();
        linux.security_context.as_mut().unwrap().run_as_username = "worker".into();
        linux.resources.as_mut().unwrap().memory_limit_in_bytes = 64 << 20;
        let id = host.create(&sandbox, config).await.unwrap();
        host.start(&id).await.unwrap();

        let user = host.status(&id).await.user.unwrap().linux.unwrap();
        assert_eq!((user.uid, user.gid), (1000, 50));
        assert!(user.supplemental_groups.contains(&60), "{user:?}");
        let said = host.exec(&id, &["id", "-u"]).await.unwrap();
        assert_eq!(said.stdout, b"1000\n", "an exec is who the container is");

        let request = ContainerStatsRequest {
            container_id: id.clone(),
        };
        let stats = host.runtime.container_stats(request).await.unwrap().stats.unwrap();
        assert!(stats.memory.unwrap().usage_bytes.unwrap().value > 0);
        let request = PodSandboxStatsRequest {
            pod_sandbox_id: sandbox.clone(),
        };
        let stats = host
            .runtime
            .pod_sandbox_stats(request)
            .await
            .unwrap()
            .stats
            .unwrap()
            .linux
            .unwrap();
        assert!(stats.process.unwrap().process_count.unwrap().value >= 2);
        assert_eq!(stats.network.unwrap().default_interface.unwrap().name, "eth0");

        let update = UpdateContainerResourcesRequest {
            container_id: id.clone(),
            linux: Some(LinuxContainerResources {
                memory_limit_in_bytes: 96 << 20,
                ..Default::default()
            }),
            ..Default::default()
        };
        host.runtime.update_container_resources(update).await.unwrap();
        let limits = host.status(&id).await.resources.unwrap().linux.unwrap();
        assert_eq!(limits.memory_limit_in_bytes, 96 << 20);

        host.remove(&sandbox).await.unwrap();
    });
}

#[test]
fn removal_kills_what_runs() {
    on_a_host(|host| async move {
        let sandbox = host.run(host.pod("killed")).await.unwrap();
        let id = host
            .create(&sandbox, container("main", &["/bin/sleep", "1000"]))
            .await
            .unwrap();
        host.start(&id).await.unwrap();
        let (pause, shim) = (
            host.sandbox_pid(&sandbox, "pid").await,
            host.sandbox_pid(&sandbox, "shimPid").await,
        );
        assert!(lives(pause) && lives(shim));
        host.remove(&sandbox).await.unwrap();
        assert!(dies(pause).await && dies(shim).await);
    });
}
