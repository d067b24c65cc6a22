//! Pressure stall information: how long a cgroup's processes waited for processor, memory or disk.
//!
//! The kernel keeps it in the v2 hierarchy, in every cgroup and without any controller; so a hybrid machine has it too.

use crate::error::Result;
use crate::file;
use crate::group::Cgroup;

/// Pressure by what was waited for. A part is `None` where the kernel does not keep it: no v2 hierarchy, or psi=0.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    /// For a processor.
    pub cpu: Option<Stalls>,
    /// For memory.
    pub memory: Option<Stalls>,
    /// For a disk.
    pub io: Option<Stalls>,
}

/// Time lost by waiting.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stalls {
    /// At least one process waited.
    pub some: Stall,
    /// All of them did at once. Before Linux 5.13 the kernel does not say this of the processor: zero.
    pub full: Stall,
}

/// Time lost, in all and as a share of what has just passed.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stall {
    /// In microseconds.
    pub total_us: u64,
    /// Percent of the last ten seconds.
    pub avg10: f64,
    /// Percent of the last minute.
    pub avg60: f64,
    /// Percent of the last five minutes.
    pub avg300: f64,
}

impl Cgroup {
    /// Reads the pressure on the cgroup and all below it.
    pub fn pressure(&self) -> Result<Pressure> {
        let Some(dir) = self.v2_dir() else {
            return Ok(Pressure::default());
        };
        let stalls = |name: &str| -> Result<Option<Stalls>> {
            // Where it is switched off, the file is there and can't be read.
            Ok(match file::read_optional(&dir.join(name)) {
                Err(e) if e.errno == rustix::io::Errno::OPNOTSUPP => None,
                text => text?.map(|t| parse(&t)),
            })
        };
        Ok(Pressure {
            cpu: stalls("cpu.pressure")?,
            memory: stalls("memory.pressure")?,
            io: stalls("io.pressure")?,
        })
    }
}

/// Two lines: `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and one for `full`.
fn parse(text: &str) -> Stalls {
    let line = |name: &str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or_default();
        let field = |key: &str| {
            line.split(' ')
                .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
        };
        let share = |key: &str| field(key).and_then(|n| n.parse().ok()).unwrap_or(0.0);
        Stall {
            total_us: field("total").and_then(|n| n.parse().ok()).unwrap_or(0),
            avg10: share("avg10"),
            avg60: share("avg60"),
            avg300: share("avg300"),
        }
    };
    Stalls {
        some: line("some "),
        full: line("full "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_lines() {
        let stalls = parse(
            "some avg10=1.50 avg60=0.25 avg300=0.00 total=980629\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n",
        );
        assert_eq!((stalls.some.total_us, stalls.full.total_us), (980_629, 7));
        assert_eq!((stalls.some.avg10, stalls.some.avg60), (1.5, 0.25));
        assert_eq!(parse("some avg10=0.00 total=3\n").full, Stall::default());
    }
}
