//! Whose namespaces a container is in, and what a privileged one may do.

use std::fs;

use cri::v1::*;

use crate::host::{Host, on_a_host, shell};

fn with(config: &ContainerConfig, change: impl FnOnce(&mut LinuxContainerSecurityContext)) -> ContainerConfig {
    let mut config = config.clone();
    change(config.linux.as_mut().unwrap().security_context.as_mut().unwrap());
    config
}

fn options(network: NamespaceMode, pid: NamespaceMode, ipc: NamespaceMode) -> NamespaceOption {
    NamespaceOption {
        network: network.into(),
        pid: pid.into(),
        ipc: ipc.into(),
        ..Default::default()
    }
}

fn pod(host: &Host, name: &str, options: &NamespaceOption) -> PodSandboxConfig {
    let security = LinuxSandboxSecurityContext {
        namespace_options: Some(options.clone()),
        ..Default::default()
    };
    let linux = LinuxPodSandboxConfig {
        security_context: Some(security),
        ..Default::default()
    };
    PodSandboxConfig {
        linux: Some(linux),
        ..host.pod(name)
    }
}

async fn ask(host: &Host, id: &str, script: &str) -> String {
    let done = host.exec(id, &["/bin/sh", "-c", script]).await.unwrap();
    String::from_utf8(done.stdout).unwrap().trim().to_owned()
}

#[test]
fn the_hosts_namespaces() {
    on_a_host(|host| async move {
        let node = options(NamespaceMode::Node, NamespaceMode::Node, NamespaceMode::Node);
        let sandbox = host.run(pod(&host, "host", &node)).await.unwrap();
        let status = host.sandbox_status(&sandbox).await.unwrap().status.unwrap();
        assert_eq!(
            status.network.unwrap().ip,
            "",
            "the host's addresses are the host's to tell"
        );
        let config = with(&shell("main", "exec sleep 1000"), |s| s.namespace_options = Some(node));
        let id = host.create(&sandbox, config).await.unwrap();
        host.start(&id).await.unwrap();
        for kind in ["net", "pid", "ipc", "uts"] {
            let hosts = fs::read_link(format!("/proc/thread-self/ns/{kind}")).unwrap();
            let inside = ask(&host, &id, &format!("readlink /proc/self/ns/{kind}")).await;
            assert_eq!(inside, hosts.to_string_lossy(), "{kind}");
        }
        host.remove(&sandbox).await.unwrap();
    });
}

#[test]
fn own_and_shared_pids() {
    on_a_host(|host| async move {
        let own = options(NamespaceMode::Pod, NamespaceMode::Container, NamespaceMode::Pod);
        let sandbox = host.run(pod(&host, "pids", &own)).await.unwrap();
        let config = with(&shell("own", "echo pid $$; exec sleep 1000"), |s| {
            s.namespace_options = Some(own.clone())
        });
        let id = host.create(&sandbox, config).await.unwrap();
        host.start(&id).await.unwrap();
        assert_eq!(ask(&host, &id, "tr '\\0' ' ' < /proc/1/cmdline").await, "sleep 1000");

        let target = NamespaceOption {
            pid: NamespaceMode::Target.into(),
            target_id: id.clone(),
            ..own
        };
        let config = with(&shell("debug", "exec sleep 2000"), |s| {
            s.namespace_options = Some(target.clone())
        });
        let debug = host.create(&sandbox, config.clone()).await.unwrap();
        host.start(&debug).await.unwrap();
        assert_eq!(
            ask(&host, &debug, "tr '\\0' ' ' < /proc/1/cmdline").await,
            "sleep 1000",
            "it sees the other's"
        );

        host.stop_container(&id, 0).await.unwrap();
        let mut late = config;
        late.metadata.as_mut().unwrap().name = "late".into();
        let error = host.create(&sandbox, late).await.unwrap_err();
        assert_eq!(error.kind, cri::ErrorKind::FailedPrecondition, "{error}");
        host.remove(&sandbox).await.unwrap();
    });
}

#[test]
fn privileged_and_confined() {
    on_a_host(|host| async move {
        let sandbox = host.run(host.pod("power")).await.unwrap();
        let base = shell("all", "exec sleep 1000");
        let id = host
            .create(&sandbox, with(&base, |s| s.privileged = true))
            .await
            .unwrap();
        host.start(&id).await.unwrap();
        let tried = "mkdir /tmp/m && mount -t tmpfs none /tmp/m && echo mounted";
        assert_eq!(ask(&host, &id, tried).await, "mounted");

        let confined = with(&shell("few", "exec sleep 1000"), |s| {
            s.readonly_rootfs = true;
            s.no_new_privs = true;
            s.seccomp = Some(SecurityProfile::default());
            s.run_as_user = Some(Int64Value { value: 1000 });
        });
        let id = host.create(&sandbox, confined).await.unwrap();
        host.start(&id).await.unwrap();
        assert_eq!(
            ask(&host, &id, "touch /tmp/x 2>/dev/null || echo refused").await,
            "refused"
        );
        assert_eq!(
            ask(
                &host,
                &id,
                "grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status | tr -d '\\n\\t'"
            )
            .await,
            "NoNewPrivs:1Seccomp:2"
        );
        assert_eq!(ask(&host, &id, "id -u").await, "1000");
        host.remove(&sandbox).await.unwrap();
    });
}

/// What one side mounts, the other sees, if the host's mount allows it; if not, that is said before anything is made.
#[test]
fn mounts_pass_between_host_and_container() {
    on_a_host(|host| async move {
        use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
        let shared = host.dir.path().join("passing");
        fs::create_dir(&shared).unwrap();
        mount("passing", &shared, "tmpfs", MountFlags::empty(), None).unwrap();
        mount_change(&shared, MountPropagationFlags::PRIVATE).unwrap();
        for directory in ["in", "out"] {
            fs::create_dir(shared.join(directory)).unwrap();
        }
        let sandbox = host.run(host.pod("passing")).await.unwrap();
        let asking = |name: &str, propagation: MountPropagation| {
            let mut config = with(&shell(name, "exec sleep 1000"), |s| s.privileged = true);
            config.mounts = vec![Mount {
                container_path: "/mnt".into(),
                host_path: shared.to_string_lossy().into_owned(),
                propagation: propagation.into(),
                ..Default::default()
            }];
            config
        };
        let both = asking("both", MountPropagation::PropagationBidirectional);
        let inwards = asking("in", MountPropagation::PropagationHostToContainer);
        for config in [&both, &inwards] {
            let error = host.create(&sandbox, config.clone()).await.unwrap_err();
            assert_eq!(error.kind, cri::ErrorKind::FailedPrecondition, "{error}");
            assert!(error.message.starts_with("mounts[0].propagation: "), "{error}");
        }
        mount_change(&shared, MountPropagationFlags::SHARED).unwrap();
        let id = host.create(&sandbox, both).await.unwrap();
        host.start(&id).await.unwrap();
        let inside = host.create(&sandbox, inwards).await.unwrap();
        host.start(&inside).await.unwrap();

        mount("late", shared.join("in"), "tmpfs", MountFlags::empty(), None).unwrap();
        fs::write(shared.join("in/file"), "late").unwrap();
        for container in [&id, &inside] {
            assert_eq!(ask(&host, container, "cat /mnt/in/file").await, "late");
        }
        ask(&host, &id, "mount -t tmpfs made /mnt/out && echo made > /mnt/out/file").await;
        assert_eq!(fs::read_to_string(shared.join("out/file")).unwrap().trim(), "made");
        ask(&host, &inside, "umount /mnt/in").await;
        assert!(shared.join("in/file").exists(), "a slave's changes are its own");

        for directory in ["in", "out", ""] {
            unmount(shared.join(directory), UnmountFlags::DETACH).unwrap();
        }
        host.remove(&sandbox).await.unwrap();
    });
}
