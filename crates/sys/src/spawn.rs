//! Starting a process of our own that outlives us: the pod's supervisor.

use std::ffi::OsStr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};

use crate::{Error, Result};

/// What glibc's allocator is told by the environment, the only way (mallopt(3) has no word for it): keep no freed pieces per
/// thread. In a process with one thread they save a lock that nobody contends for, and each of them holds the page that
/// it lies in: 65 kB in a supervisor at rest (measured), which is what it costs a pod.
const ALLOCATOR: &str = "glibc.malloc.tcache_count=0";

/// A process to be started in a session of its own, with nothing of the caller's but what is listed here.
pub struct Detached<'a> {
    /// The program's path.
    pub program: &'a Path,
    /// Its arguments, without its own name.
    pub args: &'a [&'a OsStr],
    /// A file descriptor that it inherits under the same number.
    pub inherited: BorrowedFd<'a>,
    /// Its standard error. Standard input and output are /dev/null.
    pub stderr: OwnedFd,
    /// `tasks` files (cgroup v1) or `cgroup.procs` files (v2), open for writing, into each of which it writes “0” itself
    /// before it becomes the program: cheaper than being moved from outside, and it never runs anywhere else.
    pub cgroups: &'a [OwnedFd],
}

impl Detached<'_> {
    /// Starts it. Returns once the program runs; a program that can't be executed is an error here. The caller is its
    /// parent and has to wait for it (through the pidfd).
    pub fn spawn(self) -> Result<(Pid, OwnedFd)> {
        let call = format!("execve({:?})", self.program);
        let inherited = self.inherited.as_raw_fd();
        let cgroups: Vec<i32> = self.cgroups.iter().map(AsRawFd::as_raw_fd).collect();
        let mut command = Command::new(self.program);
        command
            .args(self.args)
            .env_clear()
            .envs(
                ["PATH", "RUST_BACKTRACE", "RUST_LOG"]
                    .into_iter()
                    .chain(cfg!(debug_assertions).then_some(crate::failpoint::VARIABLE))
                    .filter_map(|name| Some((name, std::env::var_os(name)?))),
            )
            .env("GLIBC_TUNABLES", ALLOCATOR)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::from(self.stderr));
        // SAFETY: between fork and exec the closure only makes system calls (write, setsid, fcntl) on numbers that were
        // prepared before; it neither allocates nor locks. The descriptors stay open in the caller until `spawn` returns,
        // so the child's copies are the files that they name.
        unsafe {
            command.pre_exec(move || {
                for &fd in &cgroups {
                    if libc::write(fd, c"0".as_ptr().cast(), 1) < 0 {
                        return Err(std::io::Error::last_os_error());
                    }
                }
                if libc::setsid() < 0 || libc::fcntl(inherited, libc::F_SETFD, 0) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command.spawn().map_err(|e| {
            let errno = e.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error);
            Error::new(&call, errno)
        })?;
        let pid = Pid::from_child(&child);
        // Nobody else waits for this child, so its number is its own until the pidfd exists.
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())
            .map_err(|e| Error::new(format_args!("pidfd_open({})", pid.as_raw_nonzero()), e))?;
        Ok((pid, pidfd))
    }
}

/// When process `pid` was started, in clock ticks since boot (field 22 of /proc/PID/stat): with the number it names one
/// process for ever. `None` when there is no such process.
pub fn start_time_ticks(pid: Pid) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    // The second field is the command in parentheses and may contain anything, parentheses too.
    let after_command = &stat[stat.rfind(')')? + 1..];
    after_command.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Read;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_detached_process_gets_the_descriptor_and_a_session() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        // Not >&N: dash takes one digit only.
        let script = format!(
            "echo $$ $(cut -d' ' -f6 /proc/$$/stat) >/proc/self/fd/{}",
            writer.as_raw_fd()
        );
        let (pid, pidfd) = Detached {
            program: Path::new("/bin/sh"),
            args: &[OsStr::new("-c"), OsStr::new(&script)],
            inherited: writer.as_fd(),
            stderr: std::io::stderr().as_fd().try_clone_to_owned().unwrap(),
            cgroups: &[],
        }
        .spawn()
        .unwrap();
        drop(writer);
        let mut said = String::new();
        reader.read_to_string(&mut said).unwrap();
        let pid = pid.as_raw_nonzero().to_string();
        assert_eq!(
            said.split_whitespace().collect::<Vec<_>>(),
            [pid.as_str(), pid.as_str()]
        );
        rustix::process::waitid(
            rustix::process::WaitId::PidFd(pidfd.as_fd()),
            rustix::process::WaitIdOptions::EXITED,
        )
        .unwrap();
    }

    #[test]
    fn a_missing_program_is_named() {
        let (_reader, writer) = std::io::pipe().unwrap();
        let error = Detached {
            program: Path::new("/no/such/program"),
            args: &[],
            inherited: writer.as_fd(),
            stderr: std::io::stderr().as_fd().try_clone_to_owned().unwrap(),
            cgroups: &[],
        }
        .spawn()
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "execve(\"/no/such/program\"): No such file or directory (os error 2)"
        );
    }

    #[test]
    fn start_time_names_this_process() {
        assert!(start_time_ticks(rustix::process::getpid()).is_some());
    }
}
