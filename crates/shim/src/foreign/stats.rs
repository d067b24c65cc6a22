//! What another shim counts: containerd's cgroup metrics, of version 1 or 2, in this crate's terms.

use cgroup::stats::{Cpu, Memory, Pids};
use cgroup::{Mode, Stats};
use containerd_shim_protos::cgroups::metrics as v1;
use containerd_shim_protos::cgroups_v2::metrics as v2;
use protobuf::Message;
use protobuf::well_known_types::any::Any;

use crate::failure::{Failure, Result};

/// Understands the answer to Task.Stats.
pub(super) fn read(any: &Any) -> Result<(Stats, Mode)> {
    let broken = |e: protobuf::Error| Failure::Invalid(format!("Stats of another shim: {e}"));
    let name = any.type_url.rsplit('/').next().unwrap_or_default();
    match name {
        "io.containerd.cgroups.v1.Metrics" => {
            let metrics = v1::Metrics::parse_from_bytes(&any.value).map_err(broken)?;
            Ok((of_v1(&metrics), Mode::V1))
        }
        "io.containerd.cgroups.v2.Metrics" => {
            let metrics = v2::Metrics::parse_from_bytes(&any.value).map_err(broken)?;
            Ok((of_v2(&metrics), Mode::V2))
        }
        other => Err(Failure::Unsupported(format!(
            "Stats of another shim: {other:?} is not understood"
        ))),
    }
}

/// The kernel's word for no limit in version 1: what a number of pages can be at most, which differs between its releases.
const NO_LIMIT: u64 = i64::MAX as u64 & !0xf_ffff;

fn limit(of: u64) -> Option<u64> {
    (of != 0 && of < NO_LIMIT).then_some(of)
}

fn of_v1(metrics: &v1::Metrics) -> Stats {
    let cpu = metrics.cpu.as_ref().map(|cpu| Cpu {
        usage_ns: cpu.usage.total,
        user_ns: cpu.usage.user,
        system_ns: cpu.usage.kernel,
        periods: cpu.throttling.periods,
        throttled_periods: cpu.throttling.throttled_periods,
        throttled_ns: cpu.throttling.throttled_time,
    });
    let memory = metrics.memory.as_ref().map(|memory| Memory {
        usage: memory.usage.usage,
        working_set: memory.usage.usage.saturating_sub(memory.total_inactive_file),
        rss: memory.rss,
        cache: memory.cache,
        mapped_file: memory.total_mapped_file,
        kernel: memory.kernel.usage,
        // Version 1 counts memory and swap together.
        swap: memory.swap.usage.saturating_sub(memory.usage.usage),
        peak: Some(memory.usage.max),
        limit_hits: memory.usage.failcnt,
        limit: limit(memory.usage.limit),
        page_faults: memory.pg_fault,
        major_page_faults: memory.pg_maj_fault,
    });
    let pids = metrics.pids.as_ref().map(|pids| Pids {
        current: pids.current,
        limit: limit(pids.limit),
    });
    Stats { cpu, memory, pids }
}

fn of_v2(metrics: &v2::Metrics) -> Stats {
    let cpu = metrics.cpu.as_ref().map(|cpu| Cpu {
        usage_ns: cpu.usage_usec * 1000,
        user_ns: cpu.user_usec * 1000,
        system_ns: cpu.system_usec * 1000,
        periods: cpu.nr_periods,
        throttled_periods: cpu.nr_throttled,
        throttled_ns: cpu.throttled_usec * 1000,
    });
    let memory = metrics.memory.as_ref().map(|memory| Memory {
        usage: memory.usage,
        working_set: memory.usage.saturating_sub(memory.inactive_file),
        rss: memory.anon,
        cache: memory.file,
        mapped_file: memory.file_mapped,
        kernel: memory.kernel_stack + memory.slab + memory.sock,
        swap: memory.swap_usage,
        peak: None,
        limit_hits: metrics.memory_events.max,
        limit: limit(memory.usage_limit),
        page_faults: memory.pgfault,
        major_page_faults: memory.pgmajfault,
    });
    let pids = metrics.pids.as_ref().map(|pids| Pids {
        current: pids.current,
        limit: limit(pids.limit),
    });
    Stats { cpu, memory, pids }
}
