//! UpdateContainerResources and UpdatePodSandboxResources.

use cgroup::Cgroup;
use cri::v1::*;
use cri::{ErrorKind, RuntimeService};

use crate::host::{Host, on_a_host, shell};

const MEGABYTE: i64 = 1 << 20;

async fn update(host: &Host, container: &str, limits: LinuxContainerResources) -> cri::Result<()> {
    let request = UpdateContainerResourcesRequest {
        container_id: container.into(),
        linux: Some(limits),
        ..Default::default()
    };
    host.runtime.update_container_resources(request).await.map(drop)
}

async fn told(host: &Host, container: &str) -> LinuxContainerResources {
    host.status(container).await.resources.unwrap().linux.unwrap()
}

/// The memory limit that the kernel has.
fn enforced(host: &Host, container: &str) -> Option<u64> {
    let path = format!("{}/{container}", host.config.cgroup_parent);
    let hierarchies = cgroup::Hierarchies::detect().unwrap();
    let stats = Cgroup::open(&hierarchies, &path).unwrap().stats().unwrap();
    stats.memory.unwrap().limit
}

fn limited(name: &str, megabytes: i64) -> ContainerConfig {
    let mut config = shell(name, "exec sleep 1000");
    config.linux.as_mut().unwrap().resources = Some(LinuxContainerResources {
        memory_limit_in_bytes: megabytes * MEGABYTE,
        cpu_shares: 512,
        ..Default::default()
    });
    config
}

#[test]
fn an_update_is_all_or_nothing() {
    on_a_host(|host| async move {
        let sandbox = host.run(host.pod("updated")).await.unwrap();
        let id = host.create(&sandbox, limited("main", 64)).await.unwrap();
        host.start(&id).await.unwrap();
        let before = told(&host, &id).await;
        let impossible = LinuxContainerResources {
            memory_limit_in_bytes: 96 * MEGABYTE,
            cpuset_cpus: "4000".into(),
            ..Default::default()
        };
        let refused = update(&host, &id, impossible).await.unwrap_err();
        assert!(refused.message.contains("4000"), "{refused}");
        assert_eq!(told(&host, &id).await, before);
        assert_eq!(enforced(&host, &id), Some(64 << 20));

        let possible = LinuxContainerResources {
            memory_limit_in_bytes: 96 * MEGABYTE,
            ..Default::default()
        };
        update(&host, &id, possible.clone()).await.unwrap();
        assert_eq!(enforced(&host, &id), Some(96 << 20));
        let after = told(&host, &id).await;
        assert_eq!((after.memory_limit_in_bytes, after.cpu_shares), (96 * MEGABYTE, 512));

        host.stop_container(&id, 0).await.unwrap();
        let late = update(&host, &id, possible).await.unwrap_err();
        assert_eq!(late.kind, ErrorKind::FailedPrecondition, "{late}");
        host.remove(&sandbox).await.unwrap();
    });
}

/// Where the record can't be written, nothing has changed either.
#[test]
fn an_update_that_can_not_be_recorded_is_none() {
    on_a_host(|host| async move {
        let sandbox = host.run(host.pod("unrecorded")).await.unwrap();
        let id = host.create(&sandbox, limited("main", 64)).await.unwrap();
        host.start(&id).await.unwrap();
        // A directory in its place: the new record can't take it.
        let record = host
            .sandbox_dir(&sandbox)
            .join("containers")
            .join(&id)
            .join("container.json");
        let kept = record.with_extension("kept");
        std::fs::rename(&record, &kept).unwrap();
        std::fs::create_dir(&record).unwrap();
        let change = LinuxContainerResources {
            memory_limit_in_bytes: 96 * MEGABYTE,
            cpu_quota: 50_000,
            ..Default::default()
        };
        update(&host, &id, change).await.unwrap_err();
        assert_eq!(enforced(&host, &id), Some(64 << 20));
        assert_eq!(told(&host, &id).await.memory_limit_in_bytes, 64 * MEGABYTE);
        std::fs::remove_dir(&record).unwrap();
        std::fs::rename(&kept, &record).unwrap();
        host.remove(&sandbox).await.unwrap();
    });
}

/// What an update of a container that was not started yet does not name stays as it was made.
#[test]
fn a_container_is_updated_before_its_start() {
    on_a_host(|host| async move {
        let sandbox = host.run(host.pod("early")).await.unwrap();
        let id = host.create(&sandbox, limited("main", 64)).await.unwrap();
        let change = LinuxContainerResources {
            cpu_shares: 256,
            ..Default::default()
        };
        update(&host, &id, change).await.unwrap();
        host.start(&id).await.unwrap();
        assert_eq!(enforced(&host, &id), Some(64 << 20));
        assert_eq!(told(&host, &id).await.cpu_shares, 256);
        host.remove(&sandbox).await.unwrap();
    });
}

#[test]
fn a_pods_resources_are_remembered() {
    on_a_host(|host| async move {
        let sandbox = host.run(host.pod("pod-level")).await.unwrap();
        let request = |id: &str| UpdatePodSandboxResourcesRequest {
            pod_sandbox_id: id.into(),
            resources: Some(LinuxContainerResources {
                memory_limit_in_bytes: 128 * MEGABYTE,
                ..Default::default()
            }),
            overhead: None,
        };
        host.runtime
            .update_pod_sandbox_resources(request(&sandbox))
            .await
            .unwrap();
        let host = host.restart().await;
        let info = host
            .sandbox_status(&sandbox)
            .await
            .unwrap()
            .info
            .remove("info")
            .unwrap();
        let info: serde_json::Value = serde_json::from_str(&info).unwrap();
        let told = &info["config"]["linux"]["resources"]["memory_limit_in_bytes"];
        assert_eq!(told.as_i64(), Some(128 * MEGABYTE), "{info:#}");

        let unknown = host
            .runtime
            .update_pod_sandbox_resources(request("0123"))
            .await
            .unwrap_err();
        assert_eq!(unknown.kind, ErrorKind::NotFound);
        host.stop(&sandbox).await.unwrap();
        let late = host
            .runtime
            .update_pod_sandbox_resources(request(&sandbox))
            .await
            .unwrap_err();
        assert_eq!(late.kind, ErrorKind::FailedPrecondition, "{late}");
        host.remove(&sandbox).await.unwrap();
    });
}
