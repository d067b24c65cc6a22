//! Starting a process of our own that outlives us: the pod's supervisor.

use std::ffi::{CString, OsStr};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::io::Errno;
use rustix::process::Pid;

use crate::process::{self, Clone, StringArray};
use crate::{Error, Result};

/// What a detached process finds in its environment, of what its parent has there.
const ENVIRONMENT: [&str; 3] = ["PATH", "RUST_BACKTRACE", "RUST_LOG"];

/// What glibc's allocator is told by the environment, the only way (mallopt(3) has no word for it): keep no freed pieces per
/// thread. In a process with one thread they save a lock that nobody contends for, and each of them holds the page that
/// it lies in: 65 kB in a supervisor at rest (measured), which is what it costs a pod.
const ALLOCATOR: &str = "GLIBC_TUNABLES=glibc.malloc.tcache_count=0";

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
    /// A cgroup v2 directory in which it is born.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// `tasks` files (cgroup v1), open for writing, into each of which it writes “0” itself before it becomes the program:
    /// cheaper than being moved from outside, and it never runs anywhere else.
    pub cgroups: &'a [OwnedFd],
}

/// Steps between clone and exec that can fail, as the child names them to its parent.
const STEPS: [&str; 5] = ["write(tasks, \"0\")", "setsid()", "chdir(\"/\")", "dup2", "execve"];

impl Detached<'_> {
    /// Starts it. Returns once the program runs; a program that can't be executed is an error here. The caller is its
    /// parent and has to wait for it (through the pidfd).
    pub fn spawn(self) -> Result<(Pid, OwnedFd)> {
        let call = format!("execve({:?})", self.program);
        let c_string = |text: &OsStr| CString::new(text.as_bytes()).map_err(|_| Error::new(&call, Errno::INVAL));
        let program = c_string(self.program.as_os_str())?;
        let mut argv = vec![program.clone()];
        for arg in self.args {
            argv.push(c_string(arg)?);
        }
        let mut envp = vec![c_string(OsStr::new(ALLOCATOR))?];
        for name in ENVIRONMENT {
            if let Some(value) = std::env::var_os(name) {
                let mut entry = std::ffi::OsString::from(name);
                entry.push("=");
                entry.push(value);
                envp.push(c_string(&entry)?);
            }
        }
        if let Some(orders) = crate::failpoint::for_supervisor() {
            let mut entry = std::ffi::OsString::from(crate::failpoint::VARIABLE);
            entry.push("=");
            entry.push(orders);
            envp.push(c_string(&entry)?);
        }
        let (argv, envp) = (StringArray::new(argv, 1), StringArray::new(envp, 1));
        let null = std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
            .map_err(|e| Error::new("open(\"/dev/null\")", Errno::from_io_error(&e).unwrap_or(Errno::IO)))?;
        // Closed by exec: the reader meets its end then, or (step, errno) before.
        let (mut story, teller) = std::io::pipe()
            .map_err(|e| Error::new("pipe2(O_CLOEXEC)", Errno::from_io_error(&e).unwrap_or(Errno::IO)))?;
        let how = Clone {
            cgroup: self.cgroup,
            ..Clone::default()
        };
        let child = process::clone3(&how, || {
            let (step, errno) = match self.prepare(null.as_raw_fd()) {
                Ok(()) => (STEPS.len() - 1, process::execve(&program, &argv, &envp)),
                Err(failed) => failed,
            };
            let mut word = [0; 5];
            word[0] = step as u8;
            word[1..].copy_from_slice(&errno.raw_os_error().to_ne_bytes());
            // If nobody reads it, nobody waits for it.
            let _ = rustix::io::write(&teller, &word);
            127
        })?;
        drop(teller);
        let mut word = Vec::new();
        story
            .read_to_end(&mut word)
            .map_err(|e| Error::new(&call, Errno::from_io_error(&e).unwrap_or(Errno::IO)))?;
        let Some((&step, errno)) = word.split_first() else {
            return Ok((child.pid, child.pidfd));
        };
        let exited = rustix::process::WaitIdOptions::EXITED;
        rustix::process::waitid(rustix::process::WaitId::PidFd(child.pidfd.as_fd()), exited)
            .map_err(|e| Error::new("waitid(pidfd)", e))?;
        let errno = errno
            .try_into()
            .map_or(Errno::IO, |bytes| Errno::from_raw_os_error(i32::from_ne_bytes(bytes)));
        let named = STEPS.get(usize::from(step)).copied().unwrap_or("execve");
        match named {
            "execve" => Err(Error::new(&call, errno)),
            step => Err(Error::new(format_args!("{step} before {call}"), errno)),
        }
    }

    /// All that is done between clone and exec: system calls on what was prepared; nothing allocates or locks.
    fn prepare(&self, null: RawFd) -> std::result::Result<(), (usize, Errno)> {
        for tasks in self.cgroups {
            rustix::io::write(tasks, b"0").map_err(|errno| (0, errno))?;
        }
        rustix::process::setsid().map_err(|errno| (1, errno))?;
        rustix::process::chdir(c"/").map_err(|errno| (2, errno))?;
        for (from, to) in [(null, 0), (null, 1), (self.stderr.as_raw_fd(), 2)] {
            // SAFETY: the numbers 0 to 2 are the child's own copies, which none of its code owns or uses before exec.
            if unsafe { libc::dup2(from, to) } < 0 {
                return Err((
                    3,
                    Errno::from_raw_os_error(std::io::Error::last_os_error().raw_os_error().unwrap_or(0)),
                ));
            }
        }
        rustix::io::fcntl_setfd(self.inherited, rustix::io::FdFlags::empty()).map_err(|errno| (3, errno))?;
        process::reset_signals();
        Ok(())
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
            cgroup: None,
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
    fn a_process_is_born_in_a_cgroup() {
        let mounts = crate::mountinfo::mounts().unwrap();
        let Some(mount) = mounts.iter().find(|mount| mount.fs_type == "cgroup2") else {
            println!("SKIPPED: no cgroup v2 hierarchy on this node");
            return;
        };
        let name = format!("hove-spawn-test-{}", std::process::id());
        let directory = mount.mount_point.join(&name);
        std::fs::create_dir(&directory).unwrap();
        let opened = std::fs::File::open(&directory).unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        let script = format!("cat /proc/self/cgroup >/proc/self/fd/{}", writer.as_raw_fd());
        let (_, pidfd) = Detached {
            program: Path::new("/bin/sh"),
            args: &[OsStr::new("-c"), OsStr::new(&script)],
            inherited: writer.as_fd(),
            stderr: std::io::stderr().as_fd().try_clone_to_owned().unwrap(),
            cgroup: Some(opened.as_fd()),
            cgroups: &[],
        }
        .spawn()
        .unwrap();
        drop(writer);
        let mut said = String::new();
        reader.read_to_string(&mut said).unwrap();
        rustix::process::waitid(
            rustix::process::WaitId::PidFd(pidfd.as_fd()),
            rustix::process::WaitIdOptions::EXITED,
        )
        .unwrap();
        std::fs::remove_dir(&directory).unwrap();
        let line = said.lines().find(|line| line.starts_with("0::")).unwrap();
        assert!(line.ends_with(&name), "{said}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let (_reader, writer) = std::io::pipe().unwrap();
        let error = Detached {
            program: Path::new("/no/such/program"),
            args: &[],
            inherited: writer.as_fd(),
            stderr: std::io::stderr().as_fd().try_clone_to_owned().unwrap(),
            cgroup: None,
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
