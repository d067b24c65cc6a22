//! Pods in user namespaces (`hostUsers: false`).

use std::fs;
use std::os::unix::fs::MetadataExt;

use cri::v1::*;

use crate::host::{Host, on_a_host, on_a_native_host, shell};

pub const HOST_ID: u32 = 700_000;

fn ranges() -> Vec<IdMapping> {
    vec![IdMapping {
        container_id: 0,
        host_id: HOST_ID,
        length: 65536,
    }]
}

fn options(pid: NamespaceMode) -> NamespaceOption {
    NamespaceOption {
        pid: pid.into(),
        userns_options: Some(UserNamespace {
            mode: NamespaceMode::Pod.into(),
            uids: ranges(),
            gids: ranges(),
        }),
        ..Default::default()
    }
}

pub fn pod(host: &Host, name: &str, pid: NamespaceMode) -> PodSandboxConfig {
    let security = LinuxSandboxSecurityContext {
        namespace_options: Some(options(pid)),
        ..Default::default()
    };
    PodSandboxConfig {
        linux: Some(LinuxPodSandboxConfig {
            security_context: Some(security),
            ..Default::default()
        }),
        ..host.pod(name)
    }
}

fn container(name: &str, script: &str, pid: NamespaceMode) -> ContainerConfig {
    let security = LinuxContainerSecurityContext {
        namespace_options: Some(options(pid)),
        ..Default::default()
    };
    ContainerConfig {
        linux: Some(LinuxContainerConfig {
            security_context: Some(security),
            ..Default::default()
        }),
        ..shell(name, script)
    }
}

#[test]
fn root_inside_nobody_outside() {
    on_a_native_host("its pods have no user namespaces", async |host| {
        for mode in [NamespaceMode::Pod, NamespaceMode::Container] {
            let name = format!("users{}", mode as i32);
            let sandbox = host.run(pod(&host, &name, mode)).await.unwrap();
            let pause = host.sandbox_pid(&sandbox, "pid").await;
            let user = fs::read_link(format!("/proc/{pause}/ns/user")).unwrap();
            assert_ne!(user, fs::read_link("/proc/self/ns/user").unwrap());

            let volume = host.dir.path().join("volume");
            fs::create_dir_all(&volume).unwrap();
            fs::write(volume.join("file"), "").unwrap();
            let script = "id -u; id -g; readlink /proc/self/ns/user; stat -c %u:%g /bin/sh /v/file /dev/shm /etc/hosts; \
                          echo x > /dev/shm/x && echo x >> /etc/hosts && echo x > /made && echo x > /v/made && echo wrote; \
                          echo again > /dev/stdout; sleep 1000";
            let mut config = container("c", script, mode);
            config.mounts.push(Mount {
                container_path: "/v".into(),
                host_path: volume.to_string_lossy().into_owned(),
                uid_mappings: ranges(),
                gid_mappings: ranges(),
                ..Default::default()
            });
            let id = host.create(&sandbox, config).await.unwrap();
            host.start(&id).await.unwrap();
            let output = host
                .exec(
                    &id,
                    &[
                        "sh",
                        "-c",
                        "id -u; readlink /proc/self/ns/user; cat /proc/sys/net/ipv4/ping_group_range; until test -e /v/made; do :; done",
                    ],
                )
                .await
                .unwrap();
            let stdout = String::from_utf8(output.stdout).unwrap();
            let words: Vec<_> = stdout.split_whitespace().collect();
            let user = user.to_string_lossy().into_owned();
            assert_eq!(
                words,
                ["0", &user, "0", "65535"],
                "{:?}",
                String::from_utf8(output.stderr)
            );
            assert_eq!(fs::metadata(volume.join("made")).unwrap().uid(), 0, "mapped back");
            fs::remove_file(volume.join("made")).unwrap();

            // Its network works: the pod's own address, by its own configuration.
            let address = host.exec(&id, &["ip", "addr", "show", "eth0"]).await;
            if let Ok(address) = address {
                assert!(
                    String::from_utf8_lossy(&address.stdout).contains("inet "),
                    "{address:?}"
                );
            }
            host.stop_container(&id, 0).await.unwrap();
            let lines = host.log(&id).await;
            let zeros = "0:0\n".repeat(4);
            assert_eq!(lines, format!("0\n0\n{user}\n{zeros}wrote\nagain\n"));
            host.stop(&sandbox).await.unwrap();
            host.remove(&sandbox).await.unwrap();
        }
    });
}

#[test]
fn what_can_not_be_had_is_refused_before_anything_is_made() {
    on_a_host(async |host| {
        let mut network = pod(&host, "web", NamespaceMode::Pod);
        let security = network.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        security.namespace_options.as_mut().unwrap().network = NamespaceMode::Node.into();
        let error = host.run(network).await.unwrap_err();
        assert!(
            error.message.contains("on the host's network can't be had"),
            "{error:?}"
        );
        let sandbox = host.run(host.pod("plain")).await.unwrap();
        let error = host
            .create(&sandbox, container("c", "true", NamespaceMode::Pod))
            .await
            .unwrap_err();
        assert!(error.message.contains("differs from the sandbox's"), "{error:?}");
        host.remove(&sandbox).await.unwrap();
    });
}
