//! CPU time: shares or weight, quota and period, burst, idle, real time.

use oci_spec::runtime::LinuxCpu;

use super::{OnFailure, Write, dialect};
use crate::error::{Error, Result};
use crate::hierarchy::{Controller, Hierarchies, Version};

/// The kernel's period when none is set, in microseconds.
const DEFAULT_PERIOD: u64 = 100_000;

pub(super) fn plan(hierarchies: &Hierarchies, cpu: &LinuxCpu) -> Result<Vec<Write>> {
    let nonzero = |v: Option<u64>| v.filter(|n| *n != 0);
    let shares = nonzero(cpu.shares());
    let period = nonzero(cpu.period());
    let quota = cpu.quota().filter(|n| *n != 0);
    let wanted = shares.is_some()
        || period.is_some()
        || quota.is_some()
        || cpu.burst().is_some()
        || cpu.idle().is_some()
        || cpu.realtime_runtime().is_some()
        || cpu.realtime_period().is_some();
    if !wanted {
        return Ok(Vec::new());
    }
    let version = dialect(hierarchies, Controller::Cpu, "linux.resources.cpu")?;
    let w = |file: &str, value: String, field: &str| {
        Write::new(Controller::Cpu, file, value, format!("linux.resources.cpu.{field}"))
    };
    let idle = cpu.idle() == Some(1);
    let mut plan = Vec::new();

    if version == Version::V1 {
        if let Some(n) = cpu.idle() {
            // The file is there since Linux 5.15; before, nothing is ever idle.
            let on_failure = if n == 0 {
                OnFailure::FineIfMissing
            } else {
                OnFailure::Fail
            };
            plan.push(w("cpu.idle", n.to_string(), "idle").or(on_failure));
        }
        // The kernel refuses shares for an idle group.
        if let (Some(n), false) = (shares, idle) {
            plan.push(w("cpu.shares", n.to_string(), "shares"));
        }
        // A parent's quota bounds the ratio of the two at every moment: whichever of the orders passes.
        if let Some(n) = period {
            let retry = if quota.is_some() {
                OnFailure::Retry
            } else {
                OnFailure::Fail
            };
            plan.push(w("cpu.cfs_period_us", n.to_string(), "period").or(retry));
        }
        if let Some(n) = quota {
            plan.push(w("cpu.cfs_quota_us", n.to_string(), "quota"));
        }
        if let Some(n) = cpu.burst() {
            let on_failure = if n == 0 {
                OnFailure::FineIfMissing
            } else {
                OnFailure::Fail
            };
            plan.push(w("cpu.cfs_burst_us", n.to_string(), "burst").or(on_failure));
        }
        if let Some(n) = cpu.realtime_period() {
            plan.push(w("cpu.rt_period_us", n.to_string(), "realtimePeriod").or(OnFailure::Retry));
        }
        if let Some(n) = cpu.realtime_runtime() {
            plan.push(w("cpu.rt_runtime_us", n.to_string(), "realtimeRuntime"));
        }
    } else {
        if cpu.realtime_runtime().is_some_and(|n| n != 0) || cpu.realtime_period().is_some_and(|n| n != 0) {
            return Err(Error::Unsupported {
                field: "linux.resources.cpu.realtimeRuntime".to_owned(),
                why: "cgroup v2 has no real-time bandwidth".to_owned(),
            });
        }
        if let Some(n) = cpu.idle() {
            let on_failure = if n == 0 {
                OnFailure::FineIfMissing
            } else {
                OnFailure::Fail
            };
            plan.push(w("cpu.idle", n.to_string(), "idle").or(on_failure));
        }
        if let (Some(n), false) = (shares, idle) {
            plan.push(w("cpu.weight", weight_from_shares(n).to_string(), "shares"));
        }
        if quota.is_some() || period.is_some() {
            let value = match quota {
                Some(n) if n > 0 => format!("{n} {}", period.unwrap_or(DEFAULT_PERIOD)),
                _ => format!("max {}", period.unwrap_or(DEFAULT_PERIOD)),
            };
            plan.push(w("cpu.max", value, "quota"));
        }
        if let Some(n) = cpu.burst() {
            let on_failure = if n == 0 {
                OnFailure::FineIfMissing
            } else {
                OnFailure::Fail
            };
            plan.push(w("cpu.max.burst", n.to_string(), "burst").or(on_failure));
        }
    }
    Ok(plan)
}

/// A v2 weight (1 to 10,000) for v1 shares (2 to 262,144), as runc and crun convert it since 2025: a curve through
/// (2, 1), (1024, 100) and (262144, 10000), so that the default of the one is the default of the other. (The straight
/// line that was used before gave 39 to a pod that asks for one CPU, less than the host's own services have.)
pub fn weight_from_shares(shares: u64) -> u64 {
    match shares {
        0 => 0,
        1 | 2 => 1,
        262_144.. => 10_000,
        _ => {
            let l = (shares as f64).log2();
            let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
            10f64.powf(exponent).ceil() as u64
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{lines, machines};
    use super::*;

    #[test]
    fn weights() {
        for (shares, weight) in [
            (0, 0),
            (1, 1),
            (2, 1),
            (1024, 100),
            (262_144, 10_000),
            (u64::MAX, 10_000),
        ] {
            assert_eq!(weight_from_shares(shares), weight, "{shares}");
        }
        let all: Vec<u64> = (2..262_144).step_by(7).map(weight_from_shares).collect();
        assert!(all.is_sorted() && all.iter().all(|w| (1..=10_000).contains(w)));
    }

    #[test]
    fn both_dialects() {
        let (v1, v2) = machines();
        let cases: [(LinuxCpu, &[&str], &[&str]); 5] = [
            (
                cpu(Some(1024), Some(50_000), Some(100_000)),
                &["cpu.shares=1024", "cpu.cfs_period_us=100000", "cpu.cfs_quota_us=50000"],
                &["cpu.weight=100", "cpu.max=50000 100000"],
            ),
            (
                cpu(None, Some(-1), None),
                &["cpu.cfs_quota_us=-1"],
                &["cpu.max=max 100000"],
            ),
            (
                cpu(None, None, Some(20_000)),
                &["cpu.cfs_period_us=20000"],
                &["cpu.max=max 20000"],
            ),
            (cpu(Some(0), Some(0), Some(0)), &[], &[]),
            (cpu(Some(512), None, None).idle(1), &["cpu.idle=1"], &["cpu.idle=1"]),
        ];
        for (cpu, on_v1, on_v2) in cases {
            assert_eq!(lines(&plan(&v1, &cpu).unwrap()), on_v1);
            assert_eq!(lines(&plan(&v2, &cpu).unwrap()), on_v2);
        }
    }

    trait Idle {
        fn idle(self, n: i64) -> Self;
    }

    impl Idle for LinuxCpu {
        fn idle(mut self, n: i64) -> Self {
            self.set_idle(Some(n));
            self
        }
    }

    fn cpu(shares: Option<u64>, quota: Option<i64>, period: Option<u64>) -> LinuxCpu {
        let mut cpu = LinuxCpu::default();
        cpu.set_shares(shares).set_quota(quota).set_period(period);
        cpu
    }
}
