//! Making a process and turning it into another program: clone3, execve, signals, descriptors.
//!
//! [`clone3`] runs a function in the new process, as fork would. Everything else here, if its documentation says
//! "between clone and exec", neither allocates nor takes a lock: the child of a process that had other threads must
//! do neither, for a lock that another thread held at the moment of the clone is held for ever in the child.

use std::ffi::{CStr, CString, c_char};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::process::Pid;

use crate::{Error, Result};

/// How to clone.
#[derive(Debug, Default)]
pub struct Clone<'a> {
    /// `CLONE_NEW…` flags.
    pub namespaces: u64,
    /// A cgroup v2 directory in which the child is born (`CLONE_INTO_CGROUP`, Linux 5.7). Moving it later would wait
    /// for an RCU grace period.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// The new process is not the caller's child but its sibling (`CLONE_PARENT`): the caller's parent waits for it.
    pub sibling: bool,
}

/// A child: its number in the caller's PID namespace, and the pidfd that cannot be mistaken for another's.
#[derive(Debug)]
pub struct Child {
    /// The number.
    pub pid: Pid,
    /// The pidfd, close-on-exec.
    pub pidfd: OwnedFd,
}

/// The kernel's `struct clone_args` (first version of 88 bytes, which knows `cgroup`).
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// `clone3(2)`: runs `child` in a new process, which ends with the status that `child` returns, unless it became
/// another program before.
///
/// The memory is a copy (no `CLONE_VM`). Signals are blocked in the child until it calls [`reset_signals`], and its
/// handlers are gone (`CLONE_CLEAR_SIGHAND`, Linux 5.5): a handler of the parent's, run in the child, would write to
/// descriptors that both share. `child` must neither allocate nor lock nor panic; if it does panic, it ends with 125.
pub fn clone3(how: &Clone<'_>, child: impl FnOnce() -> i32) -> Result<Child> {
    bear(how, child).map_err(|errno| Error::new(format_args!("clone3({:#x})", how.namespaces), errno))
}

/// [`clone3`] with a bare errno: may itself be called between clone and exec.
pub fn bear(how: &Clone<'_>, child: impl FnOnce() -> i32) -> rustix::io::Result<Child> {
    const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

    let mut pidfd: RawFd = -1;
    let mut flags = libc::CLONE_PIDFD as u64 | CLONE_CLEAR_SIGHAND | how.namespaces;
    if how.cgroup.is_some() {
        flags |= CLONE_INTO_CGROUP;
    }
    if how.sibling {
        flags |= libc::CLONE_PARENT as u64;
    }
    let args = CloneArgs {
        flags,
        pidfd: &raw mut pidfd as u64,
        // A sibling's is the caller's own, and naming one is refused.
        exit_signal: if how.sibling { 0 } else { libc::SIGCHLD as u64 },
        cgroup: how.cgroup.map_or(0, |fd| fd.as_raw_fd() as u64),
        ..CloneArgs::default()
    };

    let before = block_signals();
    // SAFETY: args is a valid clone_args of the size given and lives across the call. Without CLONE_VM the child runs
    // on a copy of this stack, so returning twice from the call is as sound as it is for fork(2).
    let returned = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    if returned == 0 {
        let guard = ExitOnUnwind;
        let status = child();
        std::mem::forget(guard);
        // SAFETY: _exit runs no handler of the parent's copy.
        unsafe { libc::_exit(status) }
    }
    let failed = (returned < 0).then(last_errno);
    restore_signals(&before);
    if let Some(errno) = failed {
        return Err(errno);
    }
    // SAFETY: the kernel wrote a new descriptor there (CLONE_PIDFD), which nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    let pid = Pid::from_raw(returned as i32).ok_or(Errno::CHILD)?;
    Ok(Child { pid, pidfd })
}

/// Ends the child when its function unwinds: unwinding further would run the parent's destructors a second time.
struct ExitOnUnwind;

impl Drop for ExitOnUnwind {
    fn drop(&mut self) {
        // SAFETY: as in clone3.
        unsafe { libc::_exit(125) }
    }
}

fn block_signals() -> libc::sigset_t {
    // SAFETY: both sets are initialised by the calls before they are read; all-zero is a valid sigset_t.
    unsafe {
        let mut all = std::mem::zeroed();
        let mut before = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        before
    }
}

fn restore_signals(mask: &libc::sigset_t) {
    // SAFETY: mask is an initialised set.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, mask, std::ptr::null_mut()) };
}

/// Every disposition to its default, no signal blocked: what a program expects to be born with. An ignored signal (as
/// Rust ignores SIGPIPE) and the mask both survive exec. May be called between clone and exec.
pub fn reset_signals() {
    // The kernel's own struct sigaction, all zero: SIG_DFL, no flags, an empty mask. Not libc's call, which refuses the
    // two signals that its threads use; an ignored one of these is inherited as well.
    let default = [0u64; 4];
    for signal in 1..=64 {
        // SAFETY: default is as long as any architecture's struct; SIGKILL and SIGSTOP answer EINVAL.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<u64>(),
                8,
            )
        };
    }
    let none = 0u64;
    // SAFETY: a set of 8 bytes, as the last argument says.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const none,
            std::ptr::null_mut::<u64>(),
            8,
        )
    };
}

/// An argument or environment vector as execve wants it, prepared before the clone, with room for one more string that
/// is only known after it.
#[derive(Debug)]
pub struct StringArray {
    /// What `pointers` points to. Never changed after construction, except for `spare`'s content.
    strings: Vec<CString>,
    /// One pointer for each string, one for the spare (null while it is unused), and the terminating null.
    pointers: Vec<*const c_char>,
    spare: Vec<u8>,
}

// SAFETY: the pointers lead to memory that the same value owns and never moves.
unsafe impl Send for StringArray {}

impl StringArray {
    /// The strings, and `spare_bytes` of room for [`set_spare`](Self::set_spare).
    pub fn new(strings: Vec<CString>, spare_bytes: usize) -> Self {
        let mut pointers: Vec<_> = strings.iter().map(|s| s.as_ptr()).collect();
        pointers.extend([std::ptr::null(), std::ptr::null()]);
        StringArray {
            strings,
            pointers,
            spare: vec![0; spare_bytes],
        }
    }

    /// The strings, without the spare.
    pub fn strings(&self) -> &[CString] {
        &self.strings
    }

    /// Appends `prefix` and `rest`, joined. May be called between clone and exec.
    pub fn set_spare(&mut self, prefix: &[u8], rest: &[u8]) -> rustix::io::Result<()> {
        let end = prefix.len() + rest.len();
        if end >= self.spare.len() || rest.contains(&0) {
            return Err(Errno::NAMETOOLONG);
        }
        self.spare[..prefix.len()].copy_from_slice(prefix);
        self.spare[prefix.len()..end].copy_from_slice(rest);
        self.spare[end] = 0;
        let at = self.strings.len();
        self.pointers[at] = self.spare.as_ptr().cast();
        Ok(())
    }
}

/// `execve(2)`; returns only when it failed. May be called between clone and exec.
pub fn execve(path: &CStr, argv: &StringArray, envp: &StringArray) -> Errno {
    // SAFETY: path and both arrays are NUL- and null-terminated and live across the call (StringArray's invariant).
    unsafe { libc::execve(path.as_ptr(), argv.pointers.as_ptr(), envp.pointers.as_ptr()) };
    last_errno()
}

/// `execveat(fd, "", argv, envp, AT_EMPTY_PATH)`: becomes the program that the descriptor refers to; returns only when
/// it failed. May be called between clone and exec.
pub fn execveat(fd: BorrowedFd<'_>, argv: &StringArray, envp: &StringArray) -> Errno {
    // SAFETY: as for execve.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            fd.as_raw_fd(),
            c"".as_ptr(),
            argv.pointers.as_ptr(),
            envp.pointers.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    last_errno()
}

/// Closes every descriptor from `first` on but those in `keep`, whoever opened it, and marks these so that exec closes
/// them too (`close_range(2)`, Linux 5.9 and 5.11). For a process that is about to become another program and runs none of
/// its own code any more: the owners of the closed descriptors never look at them again.
///
/// Only between clone and exec.
pub fn close_from_but(first: RawFd, keep: [Option<BorrowedFd<'_>>; 2]) -> rustix::io::Result<()> {
    let mut keep = keep.map(|fd| fd.map_or(first - 1, |fd| fd.as_raw_fd()));
    keep.sort_unstable();
    let mut from = first;
    for fd in keep.into_iter().filter(|fd| *fd >= first) {
        if fd > from {
            close_range(from, (fd - 1) as u32, 0)?;
        }
        from = from.max(fd + 1);
    }
    close_range(from, u32::MAX, 0)?;
    close_range(first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC)
}

fn close_range(first: RawFd, last: u32, flags: libc::c_uint) -> rustix::io::Result<()> {
    // SAFETY: what is closed here belonged to code that this process no longer runs (see `close_from_but`).
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) })
}

/// Makes the calling process one that others may not trace, nor open its /proc/PID/{exe,fd,mem,…}, unless they have
/// CAP_SYS_PTRACE in the user namespace in which its program was started (prctl(2), PR_SET_DUMPABLE). exec undoes it. May be
/// called between clone and exec.
pub fn forbid_tracing() -> rustix::io::Result<()> {
    // SAFETY: an attribute of the calling process; no memory is involved.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) }.into())
}

/// Whether the working directory is below the process's root. Where it is not, getcwd(2) answers with a path that begins
/// with "(unreachable)" (Linux 2.6.36). May be called between clone and exec.
pub fn working_directory_is_inside() -> rustix::io::Result<bool> {
    let mut path = [0u8; 4096];
    // SAFETY: the kernel writes at most as many bytes as it is told there are.
    let length = unsafe { libc::syscall(libc::SYS_getcwd, path.as_mut_ptr(), path.len()) };
    match length {
        0.. => Ok(path[0] == b'/'),
        // Deeper than a path can be long is inside all the same: the kernel looks for the root before it looks at the length.
        _ if last_errno() == Errno::NAMETOOLONG || last_errno() == Errno::RANGE => Ok(true),
        _ => Err(last_errno()),
    }
}

/// `unshare(2)`. May be called between clone and exec. Namespaces only: sharing of descriptors is not touched.
pub fn unshare(namespaces: u64) -> rustix::io::Result<()> {
    if namespaces & (libc::CLONE_FILES | libc::CLONE_FS) as u64 != 0 {
        return Err(Errno::INVAL);
    }
    // SAFETY: without CLONE_FILES no descriptor changes its meaning.
    check(unsafe { libc::unshare(namespaces as i32) }.into())
}

/// `setns(2)` with a namespace's descriptor or a pidfd; `namespaces` are `CLONE_NEW…` flags (0: whatever the
/// descriptor is). May be called between clone and exec.
pub fn setns(fd: BorrowedFd<'_>, namespaces: u64) -> rustix::io::Result<()> {
    // SAFETY: changes the namespaces of the calling thread; no memory is involved.
    check(unsafe { libc::setns(fd.as_raw_fd(), namespaces as i32) }.into())
}

/// Whether a descriptor of that number is open. May be called between clone and exec.
pub fn is_open(fd: RawFd) -> bool {
    // SAFETY: F_GETFD only reads a flag; a number that is not open answers EBADF.
    unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
}

/// `personality(2)`. May be called between clone and exec.
pub fn personality(persona: u64) -> rustix::io::Result<()> {
    // SAFETY: an attribute of the calling process.
    check(unsafe { libc::personality(persona) }.into())
}

fn check(returned: libc::c_long) -> rustix::io::Result<()> {
    if returned < 0 { Err(last_errno()) } else { Ok(()) }
}

/// errno, read from thread-local storage: no allocation.
fn last_errno() -> Errno {
    // SAFETY: the location is this thread's own.
    Errno::from_raw_os_error(unsafe { *libc::__errno_location() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    use std::os::fd::AsFd;

    fn status(child: &Child) -> Option<i32> {
        let status = waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED).expect("a child of ours");
        status.and_then(|s| s.exit_status())
    }

    #[test]
    fn the_child_runs_the_function_and_ends_with_its_status() {
        let child = clone3(&Clone::default(), || 7).expect("clone3");
        assert_eq!(status(&child), Some(7));
    }

    #[test]
    fn exec_gets_the_spare_string_too() {
        let argv = StringArray::new(vec![c"sh".into(), c"-c".into(), c"exit $((A + B))".into()], 0);
        let mut envp = StringArray::new(vec![c"A=20".into()], 16);
        let child = clone3(&Clone::default(), || {
            if envp.set_spare(b"B=", b"3").is_err() {
                return 1;
            }
            reset_signals();
            execve(c"/bin/sh", &argv, &envp);
            127
        })
        .expect("clone3");
        assert_eq!(status(&child), Some(23));
        let mut small = StringArray::new(Vec::new(), 4);
        assert_eq!(small.set_spare(b"HOME=", b"/root"), Err(Errno::NAMETOOLONG));
    }

    #[test]
    fn only_what_is_kept_stays_open() {
        let open = || std::fs::File::open("/dev/null").expect("open");
        let files = [open(), open(), open(), open(), open()];
        let numbers = files.each_ref().map(|f| f.as_raw_fd());
        for kept in [
            [Some(1), Some(3)],
            [Some(3), Some(1)],
            [Some(0), Some(1)],
            [None, Some(4)],
            [None, None],
        ] {
            let keep = kept.map(|i: Option<usize>| i.map(|i| files[i].as_fd()));
            let child = clone3(&Clone::default(), || {
                if close_from_but(numbers[0], keep).is_err() {
                    return 100;
                }
                let open = |i: &usize| is_open(numbers[*i]);
                (0..5).filter(open).fold(0, |bits, i| bits | 1 << i)
            })
            .expect("clone3");
            let expected = kept.into_iter().flatten().fold(0, |bits, i| bits | 1 << i);
            assert_eq!(status(&child), Some(expected), "{kept:?}");
        }
    }

    #[test]
    fn a_directory_outside_of_the_root_is_known_as_such() {
        let dir = tempfile::tempdir().expect("a directory");
        let outside = std::fs::File::open("/").expect("open");
        let child = clone3(&Clone::default(), || {
            let inside = working_directory_is_inside() == Ok(true);
            let moved = rustix::process::chroot(dir.path()).is_ok() && rustix::process::fchdir(&outside).is_ok();
            i32::from(inside && moved && working_directory_is_inside() == Ok(false))
        })
        .expect("clone3");
        assert_eq!(status(&child), Some(1));
    }

    #[test]
    fn a_sibling_is_the_parents_child() {
        let (mut reader, writer) = std::io::pipe().expect("pipe");
        let child = clone3(&Clone::default(), || {
            let how = Clone {
                sibling: true,
                ..Clone::default()
            };
            match bear(&how, || 7) {
                Ok(born) => {
                    let number = born.pid.as_raw_nonzero().get().to_ne_bytes();
                    i32::from(rustix::io::write(&writer, &number).is_err())
                }
                Err(_) => 1,
            }
        })
        .expect("clone3");
        assert_eq!(status(&child), Some(0));
        let mut number = [0; 4];
        std::io::Read::read_exact(&mut reader, &mut number).expect("its number");
        let pid = Pid::from_raw(i32::from_ne_bytes(number)).expect("a number");
        let status = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED).expect("a child of ours");
        assert_eq!(status.and_then(|s| s.exit_status()), Some(7));
    }

    #[test]
    fn a_missing_program_answers_enoent() {
        let none = StringArray::new(Vec::new(), 0);
        assert_eq!(execve(c"/nonexistent", &none, &none), Errno::NOENT);
    }
}
