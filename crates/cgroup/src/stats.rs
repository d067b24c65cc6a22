//! What a cgroup's processes have used.

use std::path::Path;

use crate::error::Result;
use crate::file::{keyed, number, read_optional};
use crate::group::Cgroup;
use crate::hierarchy::{Controller, Version};

/// A reading of a cgroup's counters. A part is `None` when its controller is missing or the cgroup is gone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// CPU time.
    pub cpu: Option<Cpu>,
    /// Memory.
    pub memory: Option<Memory>,
    /// Processes and threads.
    pub pids: Option<Pids>,
}

/// CPU time used by the cgroup and all below it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cpu {
    /// In user and kernel mode together, in nanoseconds.
    pub usage_ns: u64,
    /// In user mode.
    pub user_ns: u64,
    /// In kernel mode.
    pub system_ns: u64,
    /// Periods of the quota that have passed.
    pub periods: u64,
    /// Periods in which the quota was used up.
    pub throttled_periods: u64,
    /// Time spent waiting for a new period.
    pub throttled_ns: u64,
}

/// Memory used by the cgroup and all below it, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// All that is charged to it: anonymous memory, page cache, kernel memory.
    pub usage: u64,
    /// Usage without the file pages that the kernel would drop first: what kubelet's eviction goes by.
    pub working_set: u64,
    /// Anonymous memory.
    pub rss: u64,
    /// Page cache.
    pub cache: u64,
    /// Page cache that is mapped into processes.
    pub mapped_file: u64,
    /// What the kernel keeps on its behalf: page tables, stacks, sockets' buffers.
    pub kernel: u64,
    /// Swap used.
    pub swap: u64,
    /// The highest usage so far; `None` where the kernel does not keep it (v2 before Linux 5.19).
    pub peak: Option<u64>,
    /// How often the limit was met.
    pub limit_hits: u64,
    /// The limit; `None` for no limit.
    pub limit: Option<u64>,
    /// Page faults.
    pub page_faults: u64,
    /// Page faults that read from a disk.
    pub major_page_faults: u64,
}

/// Processes and threads in the cgroup and below it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pids {
    /// How many there are.
    pub current: u64,
    /// The limit; `None` for no limit.
    pub limit: Option<u64>,
}

impl Cgroup {
    /// Reads the counters. Costs about ten small reads.
    pub fn stats(&self) -> Result<Stats> {
        Ok(Stats {
            cpu: self.cpu()?,
            memory: self.memory()?,
            pids: self.pids_stats()?,
        })
    }

    fn cpu(&self) -> Result<Option<Cpu>> {
        if let Some((Version::V1, dir)) = self.dir(Controller::Cpuacct) {
            let one =
                |name: &str| -> Result<Option<u64>> { Ok(read_optional(&dir.join(name))?.and_then(|t| number(&t))) };
            let Some(usage_ns) = one("cpuacct.usage")? else {
                return Ok(None);
            };
            let mut cpu = Cpu {
                usage_ns,
                user_ns: one("cpuacct.usage_user")?.unwrap_or(0),
                system_ns: one("cpuacct.usage_sys")?.unwrap_or(0),
                ..Cpu::default()
            };
            if let Some((Version::V1, dir)) = self.dir(Controller::Cpu)
                && let Some(text) = read_optional(&dir.join("cpu.stat"))?
            {
                cpu.periods = keyed(&text, "nr_periods").unwrap_or(0);
                cpu.throttled_periods = keyed(&text, "nr_throttled").unwrap_or(0);
                cpu.throttled_ns = keyed(&text, "throttled_time").unwrap_or(0);
            }
            return Ok(Some(cpu));
        }
        // v2 keeps the times in every cgroup, whether or not its cpu controller is enabled.
        let Some(dir) = self.v2_dir() else { return Ok(None) };
        Ok(read_optional(&dir.join("cpu.stat"))?.map(|text| cpu_v2(&text)))
    }

    fn memory(&self) -> Result<Option<Memory>> {
        let Some((version, dir)) = self.dir(Controller::Memory) else {
            return Ok(None);
        };
        let read = |name: &str| read_optional(&dir.join(name));
        let Some(stat) = read("memory.stat")? else {
            return Ok(None);
        };
        let value = |name: &str| -> Result<Option<u64>> { Ok(read(name)?.and_then(|t| number(&t))) };
        Ok(Some(match version {
            Version::V1 => Memory {
                kernel: value("memory.kmem.usage_in_bytes")?.unwrap_or(0),
                peak: value("memory.max_usage_in_bytes")?,
                limit_hits: value("memory.failcnt")?.unwrap_or(0),
                ..memory_v1(&stat, value("memory.usage_in_bytes")?.unwrap_or(0))
            },
            Version::V2 => Memory {
                limit: value("memory.max")?.filter(|n| *n != u64::MAX),
                swap: value("memory.swap.current")?.unwrap_or(0),
                peak: value("memory.peak")?,
                limit_hits: read("memory.events")?.and_then(|t| keyed(&t, "max")).unwrap_or(0),
                ..memory_v2(&stat, value("memory.current")?.unwrap_or(0))
            },
        }))
    }

    fn pids_stats(&self) -> Result<Option<Pids>> {
        let Some((_, dir)) = self.dir(Controller::Pids) else {
            return Ok(None);
        };
        let value = |path: &Path| -> Result<Option<u64>> { Ok(read_optional(path)?.and_then(|t| number(&t))) };
        let Some(current) = value(&dir.join("pids.current"))? else {
            return Ok(None);
        };
        Ok(Some(Pids {
            current,
            limit: value(&dir.join("pids.max"))?.filter(|n| *n != u64::MAX),
        }))
    }
}

fn cpu_v2(stat: &str) -> Cpu {
    let ns = |key| keyed(stat, key).unwrap_or(0).saturating_mul(1000);
    Cpu {
        usage_ns: ns("usage_usec"),
        user_ns: ns("user_usec"),
        system_ns: ns("system_usec"),
        periods: keyed(stat, "nr_periods").unwrap_or(0),
        throttled_periods: keyed(stat, "nr_throttled").unwrap_or(0),
        throttled_ns: ns("throttled_usec"),
    }
}

/// v1 has its own pages and, with the prefix `total_`, those of all below it.
fn memory_v1(stat: &str, usage: u64) -> Memory {
    let value = |key| keyed(stat, key).unwrap_or(0);
    // The largest page counter the kernel has stands for "no limit": the bytes of i64::MAX rounded down to pages.
    let limit = keyed(stat, "hierarchical_memory_limit").filter(|n| *n < 1 << 62);
    Memory {
        usage,
        working_set: usage.saturating_sub(value("total_inactive_file")),
        rss: value("total_rss"),
        cache: value("total_cache"),
        mapped_file: value("total_mapped_file"),
        swap: value("total_swap"),
        limit,
        page_faults: value("total_pgfault"),
        major_page_faults: value("total_pgmajfault"),
        ..Memory::default()
    }
}

fn memory_v2(stat: &str, usage: u64) -> Memory {
    let value = |key| keyed(stat, key).unwrap_or(0);
    Memory {
        usage,
        working_set: usage.saturating_sub(value("inactive_file")),
        rss: value("anon"),
        cache: value("file"),
        mapped_file: value("file_mapped"),
        // Linux 5.18 added the sum; before it, the parts that are large.
        kernel: keyed(stat, "kernel").unwrap_or_else(|| {
            let parts = ["kernel_stack", "pagetables", "percpu", "sock", "slab"];
            parts.into_iter().map(value).sum()
        }),
        page_faults: value("pgfault"),
        major_page_faults: value("pgmajfault"),
        ..Memory::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v2_texts() {
        let cpu =
            cpu_v2("usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 9\nnr_throttled 4\nthrottled_usec 7\n");
        assert_eq!(
            cpu,
            Cpu {
                usage_ns: 30_000,
                user_ns: 20_000,
                system_ns: 10_000,
                periods: 9,
                throttled_periods: 4,
                throttled_ns: 7_000
            }
        );
        let memory = memory_v2(
            "anon 4096\nfile 8192\ninactive_file 1000\npgfault 5\npgmajfault 1\n",
            20_000,
        );
        assert_eq!(
            (memory.usage, memory.working_set, memory.rss, memory.page_faults),
            (20_000, 19_000, 4096, 5)
        );
    }

    #[test]
    fn v1_texts() {
        let stat = "cache 1\nrss 2\nhierarchical_memory_limit 9223372036854771712\ntotal_cache 10\ntotal_rss 20\n\
                    total_inactive_file 500\ntotal_pgfault 3\ntotal_pgmajfault 2\n";
        let memory = memory_v1(stat, 400);
        assert_eq!(
            (memory.working_set, memory.rss, memory.cache, memory.limit),
            (0, 20, 10, None)
        );
        assert_eq!(memory_v1("hierarchical_memory_limit 4096\n", 0).limit, Some(4096));
    }
}
