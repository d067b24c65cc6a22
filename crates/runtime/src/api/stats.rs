//! What containers and sandboxes use, as the kernel counts it now.

use std::sync::Arc;

use cgroup::{Cgroup, Stats};
use cri::v1::*;
use cri::{Error, Result};

use super::sandboxes::has_labels;
use crate::blocking::blocking;
use crate::clock::now_ns;
use crate::container::Container as Owned;
use crate::node::Node;
use crate::sandbox::{Phase, View};

pub(super) async fn container(node: &Arc<Node>, request: ContainerStatsRequest) -> Result<ContainerStatsResponse> {
    let (id, sandbox) = node.registry.container(&request.container_id)?;
    let node = node.clone();
    blocking(move || {
        let view = sandbox.view();
        let container = view
            .containers
            .get(&id)
            .ok_or_else(|| Error::not_found(format_args!("container {id}")))?;
        Ok(ContainerStatsResponse {
            stats: Some(of_container(&node, &view, container)),
        })
    })
    .await
}

pub(super) async fn containers(node: &Arc<Node>, filter: Option<ContainerStatsFilter>) -> Vec<ContainerStats> {
    let (node, filter) = (node.clone(), filter.unwrap_or_default());
    blocking(move || {
        let views = node.registry.sandboxes().into_iter().map(|s| s.view());
        views
            .filter(|v| v.record.id.as_str().starts_with(&filter.pod_sandbox_id))
            .flat_map(|v| {
                let chosen = v.containers.values().filter(|c| {
                    c.is_running()
                        && c.record.id.as_str().starts_with(&filter.id)
                        && has_labels(&c.record.config.labels, &filter.label_selector)
                });
                chosen.map(|c| of_container(&node, &v, c)).collect::<Vec<_>>()
            })
            .collect()
    })
    .await
}

pub(super) async fn sandbox(node: &Arc<Node>, request: PodSandboxStatsRequest) -> Result<PodSandboxStatsResponse> {
    let sandbox = node.registry.sandbox(&request.pod_sandbox_id)?;
    let node = node.clone();
    Ok(blocking(move || PodSandboxStatsResponse {
        stats: Some(of_sandbox(&node, &sandbox.view())),
    })
    .await)
}

pub(super) async fn sandboxes(node: &Arc<Node>, filter: Option<PodSandboxStatsFilter>) -> Vec<PodSandboxStats> {
    let (node, filter) = (node.clone(), filter.unwrap_or_default());
    blocking(move || {
        let views = node.registry.sandboxes().into_iter().map(|s| s.view());
        let chosen = views.filter(|v| {
            matches!(v.phase, Phase::Ready)
                && v.record.id.as_str().starts_with(&filter.id)
                && has_labels(&v.record.config.labels, &filter.label_selector)
        });
        chosen.map(|v| of_sandbox(&node, &v)).collect()
    })
    .await
}

fn of_container(node: &Node, view: &View, container: &Owned) -> ContainerStats {
    let record = &container.record;
    let stats = cgroup_stats(node, view, record.id.as_str());
    ContainerStats {
        attributes: Some(ContainerAttributes {
            id: record.id.to_string(),
            metadata: record.config.metadata.clone(),
            labels: record.config.labels.clone(),
            annotations: record.config.annotations.clone(),
        }),
        cpu: cpu(&stats),
        memory: memory(&stats),
        writable_layer: writable_layer(node, record.id.as_str()),
        swap: swap(&stats),
        io: None,
    }
}

/// A pod's use is the sum of pause's and its containers'.
fn of_sandbox(node: &Node, view: &View) -> PodSandboxStats {
    let record = &view.record;
    let ids = [record.id.as_str()].into_iter().chain(
        view.containers
            .values()
            .filter(|c| c.is_running())
            .map(|c| c.record.id.as_str()),
    );
    let all: Vec<Stats> = ids.map(|id| cgroup_stats(node, view, id)).collect();
    let containers = view
        .containers
        .values()
        .filter(|c| c.is_running())
        .map(|c| of_container(node, view, c))
        .collect();
    PodSandboxStats {
        attributes: Some(PodSandboxAttributes {
            id: record.id.to_string(),
            metadata: record.config.metadata.clone(),
            labels: record.config.labels.clone(),
            annotations: record.config.annotations.clone(),
        }),
        linux: Some(LinuxPodSandboxStats {
            cpu: all.iter().map(cpu).reduce(add_cpu).flatten(),
            memory: all.iter().map(memory).reduce(add_memory).flatten(),
            network: network(view),
            process: Some(ProcessUsage {
                timestamp: now_ns(),
                process_count: value(all.iter().filter_map(|s| s.pids.as_ref()).map(|p| p.current).sum()),
            }),
            containers,
            io: None,
        }),
        windows: None,
    }
}

/// A cgroup that has gone, or whose controllers are missing, counts nothing.
fn cgroup_stats(node: &Node, view: &View, id: &str) -> Stats {
    let path = format!("{}/{id}", view.record.cgroup_parent.trim_end_matches('/'));
    Cgroup::open(node.cgroups.hierarchies(), &path)
        .and_then(|c| c.stats())
        .unwrap_or_default()
}

fn cpu(stats: &Stats) -> Option<CpuUsage> {
    let cpu = stats.cpu.as_ref()?;
    Some(CpuUsage {
        timestamp: now_ns(),
        usage_core_nano_seconds: value(cpu.usage_ns),
        usage_nano_cores: None,
        psi: None,
    })
}

fn memory(stats: &Stats) -> Option<MemoryUsage> {
    let memory = stats.memory.as_ref()?;
    Some(MemoryUsage {
        timestamp: now_ns(),
        working_set_bytes: value(memory.working_set),
        available_bytes: memory
            .limit
            .and_then(|limit| value(limit.saturating_sub(memory.working_set))),
        usage_bytes: value(memory.usage),
        rss_bytes: value(memory.rss),
        page_faults: value(memory.page_faults),
        major_page_faults: value(memory.major_page_faults),
        psi: None,
    })
}

fn swap(stats: &Stats) -> Option<SwapUsage> {
    let memory = stats.memory.as_ref()?;
    Some(SwapUsage {
        timestamp: now_ns(),
        swap_available_bytes: None,
        swap_usage_bytes: value(memory.swap),
    })
}

fn writable_layer(node: &Node, key: &str) -> Option<FilesystemUsage> {
    let usage = node.images.usage(key).ok()?;
    let info = node.images.fs_info().ok()?;
    Some(FilesystemUsage {
        timestamp: now_ns(),
        fs_id: Some(FilesystemIdentifier {
            mountpoint: info.mountpoint.to_string_lossy().into_owned(),
        }),
        used_bytes: value(usage.bytes),
        inodes_used: value(usage.inodes),
    })
}

/// The links of the pod's network namespace, through pause's eyes; loopback left out.
fn network(view: &View) -> Option<NetworkUsage> {
    let pause = view.pause?;
    let table = std::fs::read_to_string(format!("/proc/{}/net/dev", pause.pid)).ok()?;
    let interfaces: Vec<_> = table.lines().filter_map(link).filter(|l| l.name != "lo").collect();
    Some(NetworkUsage {
        timestamp: now_ns(),
        default_interface: interfaces.first().cloned(),
        interfaces,
    })
}

/// A line of /proc/net/dev: `eth0: RXBYTES packets errs drop fifo frame compressed multicast TXBYTES packets errs …`.
fn link(line: &str) -> Option<NetworkInterfaceUsage> {
    let (name, numbers) = line.split_once(':')?;
    let numbers: Vec<u64> = numbers.split_ascii_whitespace().map_while(|n| n.parse().ok()).collect();
    let number = |at: usize| value(*numbers.get(at)?);
    Some(NetworkInterfaceUsage {
        name: name.trim().into(),
        rx_bytes: number(0),
        rx_errors: number(2),
        tx_bytes: number(8),
        tx_errors: number(10),
    })
}

fn value(value: u64) -> Option<UInt64Value> {
    Some(UInt64Value { value })
}

fn sum(a: Option<UInt64Value>, b: Option<UInt64Value>) -> Option<UInt64Value> {
    match (a, b) {
        (Some(a), Some(b)) => value(a.value + b.value),
        (a, b) => a.or(b),
    }
}

fn add_cpu(a: Option<CpuUsage>, b: Option<CpuUsage>) -> Option<CpuUsage> {
    let (Some(a), Some(b)) = (a, b) else { return a.or(b) };
    Some(CpuUsage {
        usage_core_nano_seconds: sum(a.usage_core_nano_seconds, b.usage_core_nano_seconds),
        ..a
    })
}

fn add_memory(a: Option<MemoryUsage>, b: Option<MemoryUsage>) -> Option<MemoryUsage> {
    let (Some(a), Some(b)) = (a, b) else { return a.or(b) };
    Some(MemoryUsage {
        working_set_bytes: sum(a.working_set_bytes, b.working_set_bytes),
        available_bytes: None,
        usage_bytes: sum(a.usage_bytes, b.usage_bytes),
        rss_bytes: sum(a.rss_bytes, b.rss_bytes),
        page_faults: sum(a.page_faults, b.page_faults),
        major_page_faults: sum(a.major_page_faults, b.major_page_faults),
        ..a
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_proc_net_dev() {
        let usage = link("  eth0: 1000 10 1 0 0 0 0 0 2000 20 2 0 0 0 0 0").unwrap();
        assert_eq!(usage.name, "eth0");
        assert_eq!((usage.rx_bytes, usage.rx_errors), (value(1000), value(1)));
        assert_eq!((usage.tx_bytes, usage.tx_errors), (value(2000), value(2)));
        assert!(link("Inter-|   Receive  |  Transmit").is_none());
    }
}
