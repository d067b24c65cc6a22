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
        // (crun names the file alone.)
        let named = ["4000", "cpuset.cpus"]
            .iter()
            .any(|word| refused.message.contains(word));
        assert!(named, "{refused}");
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

/// What the kernel has of the limit on memory and swap: together (version 1), or on swap alone.
async fn swap_limit(host: &Host, container: &str) -> Option<(bool, String)> {
    for (together, file) in [(true, "memory/memory.memsw.limit_in_bytes"), (false, "memory.swap.max")] {
        let said = host
            .exec(container, &["cat", &format!("/sys/fs/cgroup/{file}")])
            .await
            .unwrap();
        if said.exit_code == 0 {
            return Some((together, String::from_utf8(said.stdout).unwrap().trim().to_owned()));
        }
    }
    None
}

#[test]
fn swap_is_what_is_left_beyond_memory() {
    on_a_host(|host| async move {
        let sandbox = host.run(host.pod("swap")).await.unwrap();
        // (what is asked for memory and swap together, what there is then of swap)
        for (number, (asked, swap)) in [(0, Some(0)), (96, Some(32)), (-1, None)].into_iter().enumerate() {
            let mut config = limited(&format!("c{number}"), 64);
            let resources = config.linux.as_mut().unwrap().resources.as_mut().unwrap();
            resources.memory_swap_limit_in_bytes = if asked > 0 { asked * MEGABYTE } else { asked };
            let id = host.create(&sandbox, config).await.unwrap();
            host.start(&id).await.unwrap();
            let Some((together, limit)) = swap_limit(&host, &id).await else {
                println!("SKIPPED: this kernel does not count swap");
                break;
            };
            match (swap, limit.parse::<u64>()) {
                (Some(swap), Ok(limit)) => {
                    let memory = if together { 64 << 20 } else { 0 };
                    assert_eq!(limit, memory + (swap << 20), "{asked}");
                }
                // Version 1's word for no limit is the largest number of whole pages.
                (None, Ok(limit)) => assert!(together && limit > 1 << 60, "{limit}"),
                (None, Err(_)) => assert_eq!(limit, "max"),
                (Some(_), Err(e)) => panic!("{limit}: {e}"),
            }
        }
        host.remove(&sandbox).await.unwrap();
    });
}

/// What the kernel has counted of a cgroup's stalls of one kind, in microseconds; none where it counts no pressure.
fn stalled(path: &str, kind: &str) -> Option<u64> {
    let table = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let unified = table.lines().find(|line| line.contains(" - cgroup2 "))?;
    let root = unified.split(' ').nth(4)?;
    let text = std::fs::read_to_string(format!("{root}{path}/{kind}.pressure")).ok()?;
    let total = text.lines().next()?.rsplit_once("total=")?.1;
    total.parse().ok()
}

#[test]
fn stalls_of_a_container_and_of_a_pod_are_told() {
    on_a_host(|host| async move {
        let mut pod = host.pod("stalled");
        let parent = format!("{}/pod-of-stalled", host.config.cgroup_parent);
        pod.linux.get_or_insert_default().cgroup_parent.clone_from(&parent);
        let sandbox = host.run(pod).await.unwrap();
        // More than there are processors for; and files that memory has no room for.
        let script = "for i in $(seq $(($(nproc) * 2 + 1))); do while :; do :; done & done; \
                      while :; do dd if=/dev/zero of=/f bs=1M count=64 2>/dev/null; echo written; done";
        let mut config = shell("main", script);
        config.linux.as_mut().unwrap().resources = Some(LinuxContainerResources {
            memory_limit_in_bytes: 24 * MEGABYTE,
            ..Default::default()
        });
        let id = host.create(&sandbox, config).await.unwrap();
        host.start(&id).await.unwrap();
        while !host.log(&id).await.contains("written") {
            tokio::task::yield_now().await;
        }
        let own = format!("{parent}/{id}");
        if stalled(&own, "cpu").is_none() {
            println!("SKIPPED: this kernel counts no pressure (PSI)");
            host.remove(&sandbox).await.unwrap();
            return;
        }
        let kinds = ["cpu", "memory", "io"];
        let counted = |path: &str| kinds.map(|kind| stalled(path, kind).unwrap());
        let before = (counted(&own), counted(&parent));
        let request = PodSandboxStatsRequest {
            pod_sandbox_id: sandbox.clone(),
        };
        let stats = host.runtime.pod_sandbox_stats(request).await.unwrap().stats.unwrap();
        let after = (counted(&own), counted(&parent));

        let pod = stats.linux.unwrap();
        let container = pod.containers[0].clone();
        let total = |psi: Option<PsiStats>| psi.unwrap().some.unwrap().total;
        let of_container = [
            total(container.cpu.unwrap().psi),
            total(container.memory.unwrap().psi),
            total(container.io.unwrap().psi),
        ];
        let of_pod = [
            total(pod.cpu.unwrap().psi),
            total(pod.memory.unwrap().psi),
            total(pod.io.unwrap().psi),
        ];
        for (told, before, after) in [(of_container, before.0, after.0), (of_pod, before.1, after.1)] {
            for (kind, told) in kinds.into_iter().zip(told) {
                let number = kinds.iter().position(|k| *k == kind).unwrap();
                let range = before[number]..=after[number];
                assert!(range.contains(&told), "{kind}: {told} is not in {range:?}");
            }
            assert!(told[0] > 0 && told[1] > 0, "{told:?}");
        }
        host.remove(&sandbox).await.unwrap();
    });
}
