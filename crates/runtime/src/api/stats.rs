//! What containers and sandboxes use, as the kernel counts it now.

use std::collections::HashMap;
use std::sync::Arc;

use cgroup::pressure::{Pressure, Stall, Stalls};
use cgroup::{Cgroup, Stats};
use cri::v1::*;
use cri::{Error, Result};

use super::links::{self, Link};
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
        stats: Some(of_sandbox(&node, &sandbox.view(), &Parents::of(&node))),
    })
    .await)
}

pub(super) async fn sandboxes(node: &Arc<Node>, filter: Option<PodSandboxStatsFilter>) -> Vec<PodSandboxStats> {
    let (node, filter) = (node.clone(), filter.unwrap_or_default());
    blocking(move || {
        let parents = Parents::of(&node);
        let views = node.registry.sandboxes().into_iter().map(|s| s.view());
        let chosen = views.filter(|v| {
            matches!(v.phase, Phase::Ready)
                && v.record.id.as_str().starts_with(&filter.id)
                && has_labels(&v.record.config.labels, &filter.label_selector)
        });
        chosen.map(|v| of_sandbox(&node, &v, &parents)).collect()
    })
    .await
}

fn of_container(node: &Node, view: &View, container: &Owned) -> ContainerStats {
    let record = &container.record;
    let cgroup = cgroup(node, view, record.id.as_str());
    let stats = counted(cgroup.as_ref(), Cgroup::stats);
    let pressure = counted(cgroup.as_ref(), Cgroup::pressure);
    ContainerStats {
        attributes: Some(ContainerAttributes {
            id: record.id.to_string(),
            metadata: record.config.metadata.clone(),
            labels: record.config.labels.clone(),
            annotations: record.config.annotations.clone(),
        }),
        cpu: cpu(&stats).map(|cpu| CpuUsage {
            psi: pressure.cpu.map(psi),
            ..cpu
        }),
        memory: memory(&stats).map(|memory| MemoryUsage {
            psi: pressure.memory.map(psi),
            ..memory
        }),
        writable_layer: writable_layer(node, record.id.as_str()),
        swap: swap(&stats),
        io: io(&pressure),
    }
}

/// How many sandboxes are below which cgroup.
struct Parents(HashMap<String, usize>);

impl Parents {
    fn of(node: &Node) -> Parents {
        let mut parents = HashMap::new();
        for sandbox in node.registry.sandboxes() {
            *parents.entry(sandbox.view().record.cgroup_parent.clone()).or_default() += 1;
        }
        Parents(parents)
    }

    /// The pressure on a pod is no sum: it is counted where the pod has a cgroup of its own.
    fn pressure(&self, node: &Node, view: &View) -> Pressure {
        let parent = &view.record.cgroup_parent;
        if *parent == node.config.cgroup_parent || self.0.get(parent) != Some(&1) {
            return Pressure::default();
        }
        let own = Cgroup::open(node.cgroups.hierarchies(), parent).ok();
        counted(own.as_ref(), Cgroup::pressure)
    }
}

/// A pod's use is the sum of pause's and its containers'.
fn of_sandbox(node: &Node, view: &View, parents: &Parents) -> PodSandboxStats {
    let record = &view.record;
    let pressure = parents.pressure(node, view);
    let ids = [record.id.as_str()].into_iter().chain(
        view.containers
            .values()
            .filter(|c| c.is_running())
            .map(|c| c.record.id.as_str()),
    );
    let all: Vec<Stats> = ids
        .map(|id| counted(cgroup(node, view, id).as_ref(), Cgroup::stats))
        .collect();
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
            cpu: all.iter().map(cpu).reduce(add_cpu).flatten().map(|cpu| CpuUsage {
                psi: pressure.cpu.map(psi),
                ..cpu
            }),
            memory: all
                .iter()
                .map(memory)
                .reduce(add_memory)
                .flatten()
                .map(|memory| MemoryUsage {
                    psi: pressure.memory.map(psi),
                    ..memory
                }),
            network: network(view),
            process: Some(ProcessUsage {
                timestamp: now_ns(),
                process_count: value(all.iter().filter_map(|s| s.pids.as_ref()).map(|p| p.current).sum()),
            }),
            containers,
            io: io(&pressure),
        }),
        windows: None,
    }
}

/// The cgroup of pause or of a container; `None` once it has gone.
pub(super) fn cgroup(node: &Node, view: &View, id: &str) -> Option<Cgroup> {
    Cgroup::open(node.cgroups.hierarchies(), &view.record.cgroup_path(id)).ok()
}

/// What `read` reads of a cgroup. One that has gone, or that can't be read, counts nothing.
pub(super) fn counted<T: Default>(cgroup: Option<&Cgroup>, read: impl FnOnce(&Cgroup) -> cgroup::Result<T>) -> T {
    cgroup.and_then(|c| read(c).ok()).unwrap_or_default()
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

fn io(pressure: &Pressure) -> Option<IoUsage> {
    pressure.io.map(|stalls| IoUsage {
        timestamp: now_ns(),
        psi: Some(psi(stalls)),
    })
}

fn psi(stalls: Stalls) -> PsiStats {
    let data = |stall: Stall| PsiData {
        total: stall.total_us,
        avg10: stall.avg10,
        avg60: stall.avg60,
        avg300: stall.avg300,
    };
    PsiStats {
        full: Some(data(stalls.full)),
        some: Some(data(stalls.some)),
    }
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

fn network(view: &View) -> Option<NetworkUsage> {
    let interfaces: Vec<_> = links::of_pod(view)?.iter().map(interface).collect();
    Some(NetworkUsage {
        timestamp: now_ns(),
        default_interface: interfaces.first().cloned(),
        interfaces,
    })
}

fn interface(link: &Link) -> NetworkInterfaceUsage {
    NetworkInterfaceUsage {
        name: link.name.clone(),
        rx_bytes: value(link.received.bytes),
        rx_errors: value(link.received.errors),
        tx_bytes: value(link.sent.bytes),
        tx_errors: value(link.sent.errors),
    }
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
