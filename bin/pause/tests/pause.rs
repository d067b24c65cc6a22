//! Runs the real file: every exit code, every signal, as PID 1 and not.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::MemfdFlags;
use rustix::process::{Pid, Signal, kill_process};

const WARNING: &str = "Warning: pause should be the first process of its PID namespace\n";
const PATIENCE: Duration = Duration::from_secs(30);

/// The ELF in a memfd, and a command that executes it as `/pause`.
fn pause() -> (OwnedFd, Command) {
    let fd = rustix::fs::memfd_create("pause", MemfdFlags::CLOEXEC).unwrap();
    fs::File::from(fd.try_clone().unwrap()).write_all(pause::ELF).unwrap();
    // Executing by a path of /proc works with a close-on-exec descriptor: it is opened before it is closed. Reopened
    // for reading, since a file that is open for writing can't be executed.
    let read_only = fs::File::open(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
    drop(fd);
    let mut command = Command::new(format!("/proc/self/fd/{}", read_only.as_raw_fd()));
    command
        .arg0("/pause")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    (read_only.into(), command)
}

/// Lets children of this thread be born in a new PID namespace; the first of them is its PID 1.
fn new_pid_namespace() {
    // SAFETY: a namespace for children changes nothing of this process.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWPID) }
        .expect("root may make PID namespaces");
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "waited in vain until {what}");
        std::thread::yield_now();
    }
}

/// Waits until the three signals have handlers (SigCgt in proc_pid_status(5)) and the process sleeps in pause(2).
fn until_ready(child: &Child) {
    let wanted: u64 = [2, 15, 17].iter().map(|signal| 1 << (signal - 1)).sum();
    until("pause sleeps", || {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let caught = status.lines().find_map(|l| l.strip_prefix("SigCgt:")).unwrap().trim();
        u64::from_str_radix(caught, 16).unwrap() == wanted && status.contains("State:\tS")
    });
}

fn text(output: &Output) -> (Option<i32>, String, String) {
    let utf8 = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), utf8(&output.stdout), utf8(&output.stderr))
}

#[test]
fn size() {
    println!("pause: {} bytes", pause::ELF.len());
    assert!(pause::ELF.len() <= 1024);
}

#[test]
fn version() {
    let line = format!("pause (Hove) {}\n", env!("CARGO_PKG_VERSION"));
    for arguments in [&["-v"][..], &["-V"], &["x", "-v"], &["-x", "", "-V", "y"]] {
        let (_fd, mut command) = pause();
        let output = command.args(arguments).output().unwrap();
        assert_eq!(text(&output), (Some(0), line.clone(), String::new()), "{arguments:?}");
    }
}

#[test]
fn other_arguments_are_ignored() {
    let (_fd, mut command) = pause();
    let child = command.args(["v", "-", "-vv", "--v", "-x", ""]).spawn().unwrap();
    until_ready(&child);
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0));
}

#[test]
fn is_listed_as_pause() {
    let (_fd, mut command) = pause();
    let child = command.spawn().unwrap();
    until_ready(&child);
    let name = fs::read_to_string(format!("/proc/{}/comm", child.id())).unwrap();
    assert_eq!(name, "pause\n");
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0));
}

#[test]
fn shuts_down_when_told_to() {
    for (signal, name) in [(Signal::INT, "Interrupt"), (Signal::TERM, "Terminated")] {
        let (_fd, mut command) = pause();
        let child = command.spawn().unwrap();
        until_ready(&child);
        kill_process(Pid::from_child(&child), signal).unwrap();
        let line = format!("{WARNING}Shutting down, got signal: {name}\n");
        assert_eq!(text(&child.wait_with_output().unwrap()), (Some(0), String::new(), line));
    }
}

#[test]
fn shuts_down_as_pid_1_without_a_warning() {
    new_pid_namespace();
    let (_fd, mut command) = pause();
    let child = command.spawn().unwrap();
    until_ready(&child);
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let line = "Shutting down, got signal: Terminated\n".to_owned();
    assert_eq!(text(&child.wait_with_output().unwrap()), (Some(0), String::new(), line));
}

#[test]
fn shuts_down_although_nobody_reads() {
    let (_fd, mut command) = pause();
    let child = command
        .stderr(fs::File::options().write(true).open("/dev/full").unwrap())
        .spawn()
        .unwrap();
    until_ready(&child);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0));
}

#[test]
fn other_signals_do_what_they_always_do() {
    let (_fd, mut command) = pause();
    let child = command.spawn().unwrap();
    until_ready(&child);
    // One that nobody who runs tests has set aside, as nohup does with SIGHUP.
    kill_process(Pid::from_child(&child), Signal::USR1).unwrap();
    assert_eq!(child.wait_with_output().unwrap().status.signal(), Some(libc::SIGUSR1));
}

#[test]
fn exits_1_2_3_when_a_signal_can_not_be_handled() {
    for (signal, code) in [(libc::SIGINT, 1), (libc::SIGTERM, 2), (libc::SIGCHLD, 3)] {
        let (_fd, mut command) = pause();
        refuse(&mut command, libc::SYS_rt_sigaction, Some(signal));
        assert_eq!(
            text(&command.output().unwrap()),
            (Some(code), String::new(), WARNING.to_owned())
        );
    }
}

#[test]
fn exits_42_when_the_loop_ends() {
    let (_fd, mut command) = pause();
    refuse(&mut command, libc::SYS_pause, None);
    let stderr = format!("{WARNING}Error: the endless loop has ended\n");
    assert_eq!(text(&command.output().unwrap()), (Some(42), String::new(), stderr));
}

/// Makes the system call fail with EPERM in the command's process: always, or if its first argument is `argument`.
fn refuse(command: &mut Command, call: libc::c_long, argument: Option<libc::c_int>) {
    use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter};
    let instruction = |code, k, jt, jf| sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    // seccomp_data begins with nr (4 bytes), arch (4), instruction pointer (8), then the arguments.
    let load = |offset| instruction(BPF_LD | BPF_W | BPF_ABS, offset, 0, 0);
    let equal = |k, or_skip| instruction(BPF_JMP | BPF_JEQ | BPF_K, k, 0, or_skip);
    let answer = |k| instruction(BPF_RET | BPF_K, k, 0, 0);
    let refused = answer(libc::SECCOMP_RET_ERRNO | libc::EPERM as u32);
    let allowed = answer(libc::SECCOMP_RET_ALLOW);
    let filter = match argument {
        Some(argument) => {
            vec![
                load(0),
                equal(call as u32, 3),
                load(16),
                equal(argument as u32, 1),
                refused,
                allowed,
            ]
        }
        None => vec![load(0), equal(call as u32, 1), refused, allowed],
    };
    // SAFETY: the closure only makes two system calls.
    unsafe {
        command.pre_exec(move || {
            let program = libc::sock_fprog {
                len: filter.len() as u16,
                filter: filter.as_ptr().cast_mut(),
            };
            if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0
                || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) < 0
            {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
}

/// Batches of processes whose parent ends before them. All of a batch end at the same moment, when the pipe that they
/// read from is closed, so that one SIGCHLD stands for many.
#[test]
fn reaps_ten_thousand_orphans_as_pid_1() {
    const BATCHES: usize = 25;
    const BATCH: usize = 400;
    new_pid_namespace();
    let (_fd, mut command) = pause();
    let mut pid_1 = command.spawn().unwrap();
    until_ready(&pid_1);
    let children = format!("/proc/{0}/task/{0}/children", pid_1.id());

    for _ in 0..BATCHES {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let read_fd = read.as_raw_fd();
        let mut parent = Command::new("/bin/true");
        // SAFETY: only fork, dup2, close_range, read and _exit are called, none of which needs a lock of this process.
        unsafe {
            parent.pre_exec(move || {
                for _ in 0..BATCH {
                    match libc::fork() {
                        -1 => return Err(io::Error::last_os_error()),
                        0 => {
                            // Only the pipe's end stays open: Command itself waits for the end of a pipe that it
                            // would otherwise keep open.
                            libc::dup2(read_fd, 0);
                            libc::close_range(1, libc::c_uint::MAX, 0);
                            let mut byte = 0u8;
                            libc::read(0, (&raw mut byte).cast(), 1);
                            libc::_exit(0);
                        }
                        _ => {}
                    }
                }
                Ok(())
            });
        }
        assert!(parent.status().unwrap().success());
        drop(read);
        let orphans = fs::read_to_string(&children).unwrap().split_whitespace().count();
        assert_eq!(orphans, BATCH, "all were adopted");
        drop(write);
        until("no orphan is left", || {
            fs::read_to_string(&children).unwrap().is_empty()
        });
    }

    let resident = resident_kb(&pid_1);
    println!(
        "pause as PID 1, after {} orphans: {resident} kB resident",
        BATCHES * BATCH
    );
    assert!(resident <= 16, "{resident} kB resident");
    kill_process(Pid::from_child(&pid_1), Signal::TERM).unwrap();
    assert_eq!(pid_1.wait().unwrap().code(), Some(0));
    let mut stderr = String::new();
    pid_1.stderr.unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!(stderr, "Shutting down, got signal: Terminated\n");
}

/// Rss of smaps_rollup (proc_pid_smaps(5)), which counts exactly; `VmRSS` and statm lag behind.
fn resident_kb(child: &Child) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", child.id())).unwrap();
    let line = rollup.lines().find_map(|l| l.strip_prefix("Rss:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
