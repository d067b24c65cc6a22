//! What a command costs, with the daemon that works for it.

use std::fmt;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

/// How often memory is looked at: often enough to see what lasts, seldom enough to cost nobody much (a look takes up to a
/// millisecond).
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Clock ticks of /proc/PID/stat in a second (proc(5); USER_HZ on Linux).
const TICKS: f64 = 100.0;

/// What was used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    wall: Duration,
    cpu: Duration,
    peak_kb: u64,
}

impl Cost {
    /// The faster one, with the smaller of both peaks: a peak is a matter of luck, too.
    pub fn min(self, other: Cost) -> Cost {
        let faster = if other.wall < self.wall { other } else { self };
        Cost {
            peak_kb: self.peak_kb.min(other.peak_kb),
            ..faster
        }
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (wall, cpu) = (self.wall.as_secs_f64(), self.cpu.as_secs_f64());
        write!(
            f,
            "{wall:>7.2} s   {cpu:>6.2} s CPU   {:>7.1} MB",
            self.peak_kb as f64 / 1024.0
        )
    }
}

/// Runs `command` to its end, beside `daemon`.
pub fn measure(command: &mut Command, daemon: Option<&Child>) -> Result<Cost> {
    let daemon = daemon.map(Child::id);
    let before = daemon.map(cpu).transpose()?.unwrap_or_default();
    let begin = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
    let pid = Pid::from_child(&child);
    let mut peak_kb = 0;
    // Its accounts can be read until it is waited for.
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    let wall = loop {
        let ended = waitid(WaitId::Pid(pid), look)?.is_some();
        let wall = begin.elapsed();
        let all = daemon.into_iter().chain([child.id()]);
        peak_kb = peak_kb.max(all.map(memory_of_tree).sum());
        if ended {
            break wall;
        }
        std::thread::sleep(LOOK_EVERY);
    };
    let own = cpu(child.id())?;
    let status = child.wait()?;
    ensure!(status.success(), "{command:?}: {status}");
    let after = daemon.map(cpu).transpose()?.unwrap_or_default();
    Ok(Cost {
        wall,
        cpu: own + (after - before),
        peak_kb,
    })
}

/// Of a process and the children that it waited for.
fn cpu(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid}"))?;
    // After the name, which may hold anything: state is field 3, utime to cstime are 14 to 17.
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(4)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Ok(Duration::from_secs_f64(ticks as f64 / TICKS))
}

/// What a process and all that it started hold now, in kB: a page that several of them share counts once (proc(5), Pss).
fn memory_of_tree(pid: u32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let share = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    let own: u64 = share
        .and_then(|text| text.trim().trim_end_matches(" kB").parse().ok())
        .unwrap_or_default();
    own + children(pid).into_iter().map(memory_of_tree).sum::<u64>()
}

/// Any thread may have started one.
fn children(pid: u32) -> Vec<u32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let lists = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok());
    lists
        .flat_map(|list| {
            list.split_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .collect::<Vec<_>>()
        })
        .collect()
}
