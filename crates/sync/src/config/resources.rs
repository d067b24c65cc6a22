//! Requests and limits as cgroup values, and the pod's quality of service
//! (<https://kubernetes.io/docs/concepts/workloads/pods/pod-qos/>).

use std::collections::BTreeMap;

use cri::v1::LinuxContainerResources;
use k8s_openapi::{
    api::core::v1::{Container, PodSpec, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity as Text,
};
use pod::quantity::Quantity;

use super::{Node, all_containers};

/// One CPU's weight in `cpu.shares`, and the smallest that the kernel takes.
const SHARES_PER_CPU: i64 = 1024;
const SHARES_MIN: i64 = 2;
/// The period over which a CPU limit is enforced, and the smallest quota that the kernel takes, in microseconds.
const PERIOD_US: i64 = 100_000;
const QUOTA_MIN_US: i64 = 1000;

/// A pod's class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QosClass {
    /// Every container has limits for cpu and memory, and its requests are equal to them.
    Guaranteed,
    /// Some container asks for something.
    Burstable,
    /// Nobody asks for anything.
    BestEffort,
}

impl QosClass {
    /// As `status.qosClass` names it.
    pub fn name(self) -> &'static str {
        match self {
            QosClass::Guaranteed => "Guaranteed",
            QosClass::Burstable => "Burstable",
            QosClass::BestEffort => "BestEffort",
        }
    }
}

/// The class of a pod.
pub fn qos_class(spec: &PodSpec) -> QosClass {
    let mut asks = false;
    let mut guaranteed = true;
    for container in all_containers(spec) {
        for name in ["cpu", "memory"] {
            let request = amount(container, Kind::Request, name).filter(|amount| *amount > Quantity::ZERO);
            let limit = amount(container, Kind::Limit, name).filter(|amount| *amount > Quantity::ZERO);
            asks |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && request.or(limit) == limit;
        }
    }
    match (asks, guaranteed) {
        (false, _) => QosClass::BestEffort,
        (true, true) => QosClass::Guaranteed,
        (true, false) => QosClass::Burstable,
    }
}

/// A container's cgroup values.
pub fn container(spec: &PodSpec, container: &Container, node: &Node) -> LinuxContainerResources {
    let cpu_request = amount(container, Kind::Request, "cpu").or_else(|| amount(container, Kind::Limit, "cpu"));
    let cpu_limit = amount(container, Kind::Limit, "cpu");
    LinuxContainerResources {
        cpu_shares: shares(cpu_request.unwrap_or_default()),
        cpu_period: if cpu_limit.is_some() { PERIOD_US } else { 0 },
        cpu_quota: cpu_limit.map_or(0, quota),
        memory_limit_in_bytes: amount(container, Kind::Limit, "memory").map_or(0, Quantity::value),
        oom_score_adj: oom_score_adj(spec, container, node.memory_bytes),
        // Without memory, all of a container dies, not the one process that the kernel finds: as kubelet's singleProcessOOMKill
        // is, by default, on a node that can do it.
        unified: BTreeMap::from_iter(node.cgroup_v2.then(|| ("memory.oom.group".to_owned(), "1".to_owned()))),
        ..LinuxContainerResources::default()
    }
}

/// The sums over all containers, for the pod's own cgroup. A limit only if every container has one.
pub fn pod(spec: &PodSpec) -> LinuxContainerResources {
    let sum = |kind: Kind, name: &str| {
        spec.containers
            .iter()
            .map(|container| amount(container, kind, name))
            .try_fold(Quantity::ZERO, |sum, amount| Some(sum + amount?))
    };
    let cpu_limit = sum(Kind::Limit, "cpu");
    let requests = spec
        .containers
        .iter()
        .filter_map(|container| amount(container, Kind::Request, "cpu"));
    LinuxContainerResources {
        cpu_shares: shares(requests.fold(Quantity::ZERO, |sum, amount| sum + amount)),
        cpu_period: if cpu_limit.is_some() { PERIOD_US } else { 0 },
        cpu_quota: cpu_limit.map_or(0, quota),
        memory_limit_in_bytes: sum(Kind::Limit, "memory").map_or(0, Quantity::value),
        ..LinuxContainerResources::default()
    }
}

/// Who is killed first when the node is out of memory: the larger the number, the earlier. A burstable container's falls with its
/// share of the node's memory that it asked for (<https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/>).
fn oom_score_adj(spec: &PodSpec, container: &Container, node_memory_bytes: u64) -> i64 {
    match qos_class(spec) {
        QosClass::Guaranteed => -997,
        QosClass::BestEffort => 1000,
        QosClass::Burstable => {
            let request = amount(container, Kind::Request, "memory").unwrap_or_default().value();
            let total = i64::try_from(node_memory_bytes).unwrap_or(i64::MAX).max(1);
            let share = i128::from(request) * 1000 / i128::from(total);
            (1000 - i64::try_from(share).unwrap_or(1000)).clamp(3, 999)
        }
    }
}

fn shares(cpu: Quantity) -> i64 {
    (cpu.milli_value().saturating_mul(SHARES_PER_CPU) / 1000).max(SHARES_MIN)
}

fn quota(cpu: Quantity) -> i64 {
    (cpu.milli_value().saturating_mul(PERIOD_US) / 1000).max(QUOTA_MIN_US)
}

#[derive(Clone, Copy)]
enum Kind {
    Request,
    Limit,
}

fn amount(container: &Container, kind: Kind, name: &str) -> Option<Quantity> {
    let resources: &ResourceRequirements = container.resources.as_ref()?;
    let map: &BTreeMap<String, Text> = match kind {
        Kind::Request => resources.requests.as_ref()?,
        Kind::Limit => resources.limits.as_ref()?,
    };
    // Validation refuses what does not parse.
    map.get(name)?.0.parse().ok()
}
