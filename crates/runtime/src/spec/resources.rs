//! `linux.resources`: the CRI's numbers in OCI's words. Zero means “not said” in the CRI.

use std::collections::HashMap;

use cri::v1::LinuxContainerResources;
use oci_spec::runtime::{LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxResources};

use super::{ContainerInputs, devices};

/// What this host can limit, of what not every host can.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limitable {
    /// Swap.
    pub swap: bool,
    /// Huge pages.
    pub huge_pages: bool,
}

/// A container's limits and device rules.
pub(super) fn container(inputs: &ContainerInputs<'_>, privileged: bool) -> LinuxResources {
    let configured = inputs
        .config
        .linux
        .as_ref()
        .and_then(|l| l.resources.clone())
        .unwrap_or_default();
    let mut resources = resources(&configured, inputs.facts.limitable);
    resources.set_devices(Some(devices::rules(inputs, privileged)));
    resources
}

/// The limits alone, as UpdateContainerResources takes them.
pub fn resources(configured: &LinuxContainerResources, limitable: Limitable) -> LinuxResources {
    let mut resources = LinuxResources::default();
    resources
        .set_cpu(cpu(configured))
        .set_memory(memory(configured, limitable.swap))
        .set_hugepage_limits(hugepages(configured, limitable.huge_pages))
        .set_unified(unified(configured));
    resources
}

fn cpu(configured: &LinuxContainerResources) -> Option<LinuxCpu> {
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(positive(configured.cpu_shares).map(i64::unsigned_abs))
        .set_period(positive(configured.cpu_period).map(i64::unsigned_abs))
        // A negative quota takes a limit away.
        .set_quota((configured.cpu_quota != 0).then_some(configured.cpu_quota))
        .set_cpus(said(&configured.cpuset_cpus))
        .set_mems(said(&configured.cpuset_mems));
    (cpu != LinuxCpu::default()).then_some(cpu)
}

/// A memory limit without a word about swap allows none: memory and swap together get the same limit.
fn memory(configured: &LinuxContainerResources, swap_accounting: bool) -> Option<LinuxMemory> {
    let limit = (configured.memory_limit_in_bytes != 0).then_some(configured.memory_limit_in_bytes);
    let swap = match configured.memory_swap_limit_in_bytes {
        0 => limit,
        swap => Some(swap),
    };
    let mut memory = LinuxMemory::default();
    memory.set_limit(limit).set_swap(swap.filter(|_| swap_accounting));
    (memory != LinuxMemory::default()).then_some(memory)
}

/// kubelet allows every container that asks for no huge pages none, of each size that the machine has: on a host that can't
/// limit them, this is no reason to run nothing. A limit that was meant stays, and is refused by who can't set it.
fn hugepages(configured: &LinuxContainerResources, can_be_limited: bool) -> Option<Vec<LinuxHugepageLimit>> {
    let limits: Vec<_> = configured
        .hugepage_limits
        .iter()
        .filter(|h| can_be_limited || h.limit > 0)
        .map(|h| {
            let mut limit = LinuxHugepageLimit::default();
            limit
                .set_page_size(h.page_size.clone())
                .set_limit(i64::try_from(h.limit).unwrap_or(i64::MAX));
            limit
        })
        .collect();
    (!limits.is_empty()).then_some(limits)
}

fn unified(configured: &LinuxContainerResources) -> Option<HashMap<String, String>> {
    (!configured.unified.is_empty()).then(|| configured.unified.clone().into_iter().collect())
}

fn positive(value: i64) -> Option<i64> {
    (value > 0).then_some(value)
}

fn said(value: &str) -> Option<String> {
    (!value.is_empty()).then(|| value.to_owned())
}
