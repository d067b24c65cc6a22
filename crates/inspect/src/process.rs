//! Processes.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::read_of;
use crate::{Error, Result};

/// A process, as one look found it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// Its number here.
    pub pid: u32,
    /// Its parent's.
    pub ppid: u32,
    /// When it started, in ticks since boot: with `pid`, what makes it this process and no other.
    pub start_time_ticks: u64,
    /// `R`, `S`, `D`, `Z`, …
    pub state: char,
    /// Its command line, blanks between the arguments; `[name]` for a kernel thread or a zombie.
    pub command: String,
    /// Its numbers in the PID namespaces it is in, from this one to the innermost.
    pub namespaced_pids: Vec<u32>,
}

impl Process {
    /// Its number as it sees itself.
    pub fn own_pid(&self) -> u32 {
        self.namespaced_pids.last().copied().unwrap_or(self.pid)
    }
}

/// Looks at one process.
pub fn process(pid: u32) -> Result<Process> {
    let layout = || Error::Layout {
        path: Path::new("/proc").join(pid.to_string()),
    };
    let stat = parse_stat(&String::from_utf8_lossy(&read_of(pid, "stat")?)).ok_or_else(layout)?;
    let status = String::from_utf8_lossy(&read_of(pid, "status")?).into_owned();
    let arguments = read_of(pid, "cmdline")?;
    Ok(Process {
        pid,
        ppid: stat.ppid,
        start_time_ticks: stat.start_time_ticks,
        state: stat.state,
        command: command(&arguments, &stat.name),
        namespaced_pids: namespaced_pids(&status).unwrap_or_else(|| vec![pid]),
    })
}

/// Looks at all processes; those that end meanwhile are left out.
pub fn processes() -> Result<Vec<Process>> {
    let mut found = Vec::new();
    for pid in pids()? {
        match process(pid) {
            Ok(process) => found.push(process),
            Err(Error::NoProcess { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// The numbers of all processes, ascending.
pub fn pids() -> Result<Vec<u32>> {
    let failed = |source| Error::Read {
        path: "/proc".into(),
        source,
    };
    let mut pids = Vec::new();
    for entry in std::fs::read_dir("/proc").map_err(failed)? {
        pids.extend(
            entry
                .map_err(failed)?
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<u32>().ok()),
        );
    }
    pids.sort_unstable();
    Ok(pids)
}

/// The cgroup paths of a process, one per hierarchy.
pub fn cgroups(pid: u32) -> Result<Vec<String>> {
    let text = String::from_utf8_lossy(&read_of(pid, "cgroup")?).into_owned();
    Ok(text
        .lines()
        .filter_map(|line| line.splitn(3, ':').nth(2).map(str::to_owned))
        .collect())
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    name: String,
    state: char,
    ppid: u32,
    start_time_ticks: u64,
}

/// `proc_pid_stat(5)`. The name is in parentheses and may contain some itself: it ends at the last one.
fn parse_stat(text: &str) -> Option<Stat> {
    let (head, tail) = text.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_owned();
    let mut fields = tail.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let ppid = fields.next()?.parse().ok()?;
    let start_time_ticks = fields.nth(17)?.parse().ok()?;
    Some(Stat {
        name,
        state,
        ppid,
        start_time_ticks,
    })
}

/// NSpid of `proc_pid_status(5)`, since Linux 4.1.
fn namespaced_pids(status: &str) -> Option<Vec<u32>> {
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_ascii_whitespace()
        .map(|number| number.parse().ok())
        .collect()
}

fn command(arguments: &[u8], name: &str) -> String {
    let trimmed = arguments.strip_suffix(&[0]).unwrap_or(arguments);
    if trimmed.is_empty() {
        return format!("[{name}]");
    }
    let text = String::from_utf8_lossy(trimmed);
    // What a process writes into its own command line must not steer a terminal, nor break a line of a list.
    let plain = |c: char| match c {
        c if c == '\0' || c.is_whitespace() => ' ',
        c if c.is_control() => '?',
        c => c,
    };
    text.chars().map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_with_parentheses_in_the_name() {
        let text = "42 (a) b (c)) S 7 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 123456 1000 20 18446744073709551615";
        let expected = Stat {
            name: "a) b (c)".into(),
            state: 'S',
            ppid: 7,
            start_time_ticks: 123_456,
        };
        assert_eq!(parse_stat(text), Some(expected));
        assert_eq!(parse_stat("nonsense"), None);
    }

    #[test]
    fn commands() {
        assert_eq!(command(b"nginx\0-g\0daemon off;\0", "nginx"), "nginx -g daemon off;");
        assert_eq!(command(b"", "kthreadd"), "[kthreadd]");
        assert_eq!(command(b"evil\x1b[2J\0", "evil"), "evil?[2J");
        assert_eq!(command(b"sh\0-c\0a\nb\0", "sh"), "sh -c a b");
    }

    #[test]
    fn this_process() {
        let own = process(std::process::id()).unwrap();
        assert_eq!(own.own_pid(), *own.namespaced_pids.last().unwrap());
        assert!(own.start_time_ticks > 0 && own.command.contains("inspect"), "{own:?}");
        assert!(
            processes()
                .unwrap()
                .iter()
                .any(|p| p.pid == own.pid && p.start_time_ticks == own.start_time_ticks)
        );
        assert!(matches!(process(u32::MAX), Err(Error::NoProcess { .. })));
        assert!(!cgroups(own.pid).unwrap().is_empty());
    }
}
