//! Memory: limit, swap, reservation; and in which order, since the kernel checks them against each other.

use oci_spec::runtime::LinuxMemory;

use super::{OnFailure, Write, bad, dialect};
use crate::error::{Error, Result};
use crate::file;
use crate::group::Cgroup;
use crate::hierarchy::{Controller, Hierarchies, Version};

/// What is in force before the change.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Present {
    /// Bytes in use.
    usage: u64,
    /// v1's limit on memory and swap together; `None` without swap accounting, and on v2.
    memsw_limit: Option<u64>,
}

impl Present {
    pub(super) fn read(cgroup: &Cgroup) -> Result<Present> {
        let Some((version, dir)) = cgroup.dir(Controller::Memory) else {
            return Ok(Present::default());
        };
        let number = |name: &str| -> Result<Option<u64>> {
            Ok(file::read_optional(&dir.join(name))?.and_then(|t| file::number(&t)))
        };
        Ok(match version {
            Version::V1 => Present {
                usage: number("memory.usage_in_bytes")?.unwrap_or(0),
                memsw_limit: number("memory.memsw.limit_in_bytes")?,
            },
            Version::V2 => Present {
                usage: number("memory.current")?.unwrap_or(0),
                memsw_limit: None,
            },
        })
    }
}

pub(super) fn plan(hierarchies: &Hierarchies, memory: &LinuxMemory, present: &Present) -> Result<Vec<Write>> {
    // 0 is how a configuration without the number decodes; -1 is no limit.
    let nonzero = |v: Option<i64>| v.filter(|n| *n != 0);
    let (limit, swap, reservation) = (
        nonzero(memory.limit()),
        nonzero(memory.swap()),
        nonzero(memory.reservation()),
    );
    let kernel_tcp = nonzero(memory.kernel_tcp());
    let wanted = limit.is_some()
        || swap.is_some()
        || reservation.is_some()
        || kernel_tcp.is_some()
        || memory.swappiness().is_some()
        || memory.disable_oom_killer() == Some(true);
    if !wanted {
        return Ok(Vec::new());
    }
    if let (Some(limit), Some(swap)) = (limit, swap)
        && swap > 0
        && (limit < 0 || swap < limit)
    {
        let rule = "is the limit of memory and swap together, so it can't be below linux.resources.memory.limit";
        return Err(bad("linux.resources.memory.swap", swap, rule));
    }
    if let Some(limit) = limit
        && memory.check_before_update() == Some(true)
        && limit > 0
        && present.usage > limit as u64
    {
        let rule = format!(
            "{} bytes are in use, and checkBeforeUpdate asks not to kill for a new limit",
            present.usage
        );
        return Err(bad("linux.resources.memory.limit", limit, rule));
    }
    match dialect(hierarchies, Controller::Memory, "linux.resources.memory")? {
        Version::V1 => plan_v1(memory, limit, swap, reservation, kernel_tcp, present),
        Version::V2 => plan_v2(memory, limit, swap, reservation, kernel_tcp),
    }
}

fn w(file: &str, value: impl ToString, field: &str) -> Write {
    Write::new(
        Controller::Memory,
        file,
        value,
        format!("linux.resources.memory.{field}"),
    )
}

fn plan_v1(
    memory: &LinuxMemory,
    limit: Option<i64>,
    swap: Option<i64>,
    reservation: Option<i64>,
    kernel_tcp: Option<i64>,
    present: &Present,
) -> Result<Vec<Write>> {
    let mut plan = Vec::new();
    // No limit on memory means none on memory and swap together, if nothing is said about that: the kernel would
    // refuse to lift the one above the other.
    let swap = swap.or((limit == Some(-1)).then_some(-1));
    let set_limit = limit.map(|n| w("memory.limit_in_bytes", n, "limit"));
    let set_swap = swap.map(|n| {
        let missing = if n < 0 {
            OnFailure::FineIfMissing
        } else {
            OnFailure::Fail
        };
        w("memory.memsw.limit_in_bytes", n, "swap").or(missing)
    });
    // At every moment limit <= memsw limit: whichever grows goes first.
    let grows = swap.is_some_and(|n| n < 0 || present.memsw_limit.is_some_and(|now| n as u64 > now));
    if grows {
        plan.extend(set_swap.into_iter().chain(set_limit));
    } else {
        plan.extend(set_limit.into_iter().chain(set_swap));
    }
    if let Some(n) = reservation {
        plan.push(w("memory.soft_limit_in_bytes", n, "reservation"));
    }
    if let Some(n) = kernel_tcp {
        plan.push(w("memory.kmem.tcp.limit_in_bytes", n, "kernelTCP"));
    }
    if let Some(n) = memory.swappiness() {
        if n > 100 {
            return Err(bad("linux.resources.memory.swappiness", n, "must be between 0 and 100"));
        }
        plan.push(w("memory.swappiness", n, "swappiness"));
    }
    if memory.disable_oom_killer() == Some(true) {
        plan.push(w("memory.oom_control", 1, "disableOOMKiller"));
    }
    Ok(plan)
}

/// v2 counts swap by itself, so the limit of both together becomes a difference. The soft limit becomes protection
/// (`memory.low`), the nearest v2 has.
fn plan_v2(
    memory: &LinuxMemory,
    limit: Option<i64>,
    swap: Option<i64>,
    reservation: Option<i64>,
    kernel_tcp: Option<i64>,
) -> Result<Vec<Write>> {
    let unsupported = |field: &str, why: &str| {
        Err(Error::Unsupported {
            field: format!("linux.resources.memory.{field}"),
            why: why.to_owned(),
        })
    };
    if kernel_tcp.is_some_and(|n| n > 0) {
        return unsupported("kernelTCP", "cgroup v2 counts socket memory in the memory limit");
    }
    if memory.disable_oom_killer() == Some(true) {
        return unsupported(
            "disableOOMKiller",
            "cgroup v2 has no such switch; use memory.high to slow down instead",
        );
    }
    let max = |n: i64| if n < 0 { "max".to_owned() } else { n.to_string() };
    let mut plan = Vec::new();
    if let Some(n) = swap {
        let (value, missing) = match limit {
            _ if n < 0 => ("max".to_owned(), OnFailure::FineIfMissing),
            Some(limit) => (
                (n - limit).to_string(),
                if n == limit {
                    OnFailure::FineIfMissing
                } else {
                    OnFailure::Fail
                },
            ),
            None => {
                let rule = "needs linux.resources.memory.limit beside it, since cgroup v2 limits swap by itself";
                return Err(bad("linux.resources.memory.swap", n, rule));
            }
        };
        // Before the memory limit: what that pushes out is then counted already.
        plan.push(w("memory.swap.max", value, "swap").or(missing));
    } else if limit == Some(-1) {
        plan.push(w("memory.swap.max", "max", "swap").or(OnFailure::FineIfMissing));
    }
    if let Some(n) = limit {
        plan.push(w("memory.max", max(n), "limit"));
    }
    if let Some(n) = reservation {
        plan.push(w("memory.low", max(n), "reservation"));
    }
    // Swappiness has no v2 file; it is a hint, and the field ignores it there.
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{lines, machines};
    use super::*;

    fn memory(limit: i64, swap: i64, reservation: i64) -> LinuxMemory {
        let mut memory = LinuxMemory::default();
        memory
            .set_limit(Some(limit))
            .set_swap(Some(swap))
            .set_reservation(Some(reservation));
        memory
    }

    #[test]
    fn v1_writes_first_what_grows() {
        let (v1, _) = machines();
        let unlimited = Present {
            usage: 0,
            memsw_limit: Some(u64::MAX),
        };
        let limited = Present {
            usage: 0,
            memsw_limit: Some(500),
        };
        let limit = "memory.limit_in_bytes";
        let memsw = "memory.memsw.limit_in_bytes";
        let cases = [
            (
                memory(1000, 2000, 0),
                unlimited,
                vec![format!("{limit}=1000"), format!("{memsw}=2000")],
            ),
            (
                memory(1000, 2000, 0),
                limited,
                vec![format!("{memsw}=2000"), format!("{limit}=1000")],
            ),
            (
                memory(100, 100, 0),
                limited,
                vec![format!("{limit}=100"), format!("{memsw}=100")],
            ),
            (
                memory(1000, -1, 0),
                limited,
                vec![format!("{memsw}=-1"), format!("{limit}=1000")],
            ),
            (
                memory(-1, 0, 0),
                limited,
                vec![format!("{memsw}=-1"), format!("{limit}=-1")],
            ),
            (
                memory(0, 0, 700),
                limited,
                vec!["memory.soft_limit_in_bytes=700".to_owned()],
            ),
            (memory(0, 0, 0), limited, vec![]),
        ];
        for (memory, present, expected) in cases {
            assert_eq!(lines(&plan(&v1, &memory, &present).unwrap()), expected);
        }
    }

    #[test]
    fn v2_swap_is_a_difference() {
        let (_, v2) = machines();
        let none = Present::default();
        let cases: [(LinuxMemory, &[&str]); 5] = [
            (memory(1000, 3000, 0), &["memory.swap.max=2000", "memory.max=1000"]),
            (memory(1000, 1000, 0), &["memory.swap.max=0", "memory.max=1000"]),
            (memory(1000, -1, 0), &["memory.swap.max=max", "memory.max=1000"]),
            (memory(-1, 0, 0), &["memory.swap.max=max", "memory.max=max"]),
            (memory(1000, 0, 500), &["memory.max=1000", "memory.low=500"]),
        ];
        for (memory, expected) in cases {
            assert_eq!(lines(&plan(&v2, &memory, &none).unwrap()), expected);
        }
    }

    #[test]
    fn refused() {
        let (v1, v2) = machines();
        let present = Present {
            usage: 2000,
            memsw_limit: None,
        };
        assert!(matches!(
            plan(&v1, &memory(1000, 500, 0), &present),
            Err(Error::BadValue { .. })
        ));
        assert!(matches!(
            plan(&v2, &memory(0, 500, 0), &present),
            Err(Error::BadValue { .. })
        ));
        let mut checked = memory(1000, 0, 0);
        checked.set_check_before_update(Some(true));
        let message = plan(&v2, &checked, &present).unwrap_err().to_string();
        assert!(message.contains("2000 bytes are in use"), "{message}");
        let mut no_killer = memory(1000, 0, 0);
        no_killer.set_disable_oom_killer(Some(true));
        assert!(plan(&v1, &no_killer, &present).is_ok());
        assert!(matches!(
            plan(&v2, &no_killer, &present),
            Err(Error::Unsupported { .. })
        ));
    }
}
