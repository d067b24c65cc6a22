//! How a process ended that was somebody else's child: the kernel keeps it for whoever holds a pidfd (Linux 6.15).

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;
use rustix::process::Pid;

use crate::pidfd::End;
use crate::{Error, Result};

/// The kernel's `struct pidfd_info`, its first version of 64 bytes.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    /// pid, tgid, ppid and the eight user and group ids.
    ids: [u32; 11],
    exit_code: i32,
}

/// `_IOWR(0xFF, 11, struct pidfd_info)`: the size that it names is that of the version above.
const PIDFD_GET_INFO: libc::c_ulong = 0xC040_FF0B;

/// Whether `exit_code` says something, which it does once the process has been reaped.
const PIDFD_INFO_EXIT: u64 = 1 << 3;

/// How the process ended. `None`: it has not, or its parent has not waited for it yet, or the kernel does not say (before
/// Linux 6.15). A pidfd that was opened before the process was reaped knows for as long as it is open.
pub fn end(pidfd: impl AsFd) -> Result<Option<End>> {
    let pidfd = pidfd.as_fd();
    let mut info = PidfdInfo {
        mask: PIDFD_INFO_EXIT,
        ..PidfdInfo::default()
    };
    // SAFETY: the kernel writes at most the 64 bytes that the request's number says, which info has.
    let done = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO as _, &raw mut info) };
    if done < 0 {
        let error = Error::last(format_args!("ioctl({pidfd:?}, PIDFD_GET_INFO)"));
        return match error.errno {
            // Older kernels: no such request, no such question, nothing kept of what is reaped.
            Errno::NOTTY | Errno::INVAL | Errno::SRCH => Ok(None),
            _ => Err(error),
        };
    }
    Ok((info.mask & PIDFD_INFO_EXIT != 0).then(|| end_of(info.exit_code)))
}

/// How the process ended whose number is `pid` and that was started at `start_time_ticks`, if it is dead and its parent has
/// not waited for it yet: /proc/PID/stat says it to those who may trace it (proc_pid_stat(5), exit_code).
pub fn end_of_zombie(pid: Pid, start_time_ticks: u64) -> Option<End> {
    let stat = stat_of(pid, start_time_ticks)?;
    (stat.state == 'Z').then(|| end_of(stat.exit_code))
}

/// Whether the process whose number is `pid` and that was started at `start_time_ticks` has begun to end, or has ended: its program
/// runs no more, even if it is not dead yet. The first process of a PID namespace stays so until all others in it are dead; nothing
/// can be started there any more.
pub fn is_ending(pid: Pid, start_time_ticks: u64) -> bool {
    /// linux/sched.h
    const PF_EXITING: u32 = 0x4;
    stat_of(pid, start_time_ticks).is_none_or(|stat| matches!(stat.state, 'Z' | 'X') || stat.flags & PF_EXITING != 0)
}

/// What /proc/PID/stat says.
struct Stat {
    state: char,
    flags: u32,
    exit_code: i32,
}

/// None: there is no such process.
fn stat_of(pid: Pid, start_time_ticks: u64) -> Option<Stat> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    // The second field is the command in parentheses and may contain anything, parentheses too.
    let fields: Vec<&str> = stat[stat.rfind(')')? + 1..].split_ascii_whitespace().collect();
    // Their numbers are those of proc_pid_stat(5).
    let field = |number: usize| fields.get(number - 3).copied();
    let started: u64 = field(22)?.parse().ok()?;
    (started == start_time_ticks).then_some(Stat {
        state: field(3)?.chars().next()?,
        flags: field(9)?.parse().ok()?,
        exit_code: field(52)?.parse().ok()?,
    })
}

/// What a wait status says.
fn end_of(status: i32) -> End {
    if libc::WIFSIGNALED(status) {
        End::Signal(libc::WTERMSIG(status))
    } else {
        End::Code(libc::WEXITSTATUS(status))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use std::process::{Command, Stdio};

    use rustix::process::{PidfdFlags, pidfd_open};

    #[test]
    fn an_end_is_known_after_it_was_reaped() {
        for (script, expected) in [("read x; exit 7", End::Code(7)), ("read x; kill -9 $$", End::Signal(9))] {
            let mut child = Command::new("/bin/sh")
                .args(["-c", script])
                .stdin(Stdio::piped())
                .spawn()
                .unwrap();
            let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
            assert_eq!(end(&pidfd).unwrap(), None);
            let pid = Pid::from_child(&child);
            let started = crate::spawn::start_time_ticks(pid).unwrap();
            assert_eq!(end_of_zombie(pid, started), None);
            assert!(!is_ending(pid, started));
            assert!(is_ending(pid, started + 1), "another process");
            drop(child.stdin.take());
            rustix::event::poll(
                &mut [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)],
                None,
            )
            .unwrap();
            assert_eq!(end_of_zombie(pid, started), Some(expected));
            assert!(is_ending(pid, started));
            child.wait().unwrap();
            match end(&pidfd).unwrap() {
                Some(found) => assert_eq!(found, expected),
                None => println!("SKIPPED: this kernel keeps no ends (Linux 6.15 does)"),
            }
        }
    }
}
