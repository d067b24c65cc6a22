//! Runs a command in a root directory, in namespaces of its own: `cargo run -p starter --example run -- ROOTFS CMD …`.
//!
//! Needs root. Nothing of the container shows in the host's mount table. With HOVE_SHARE=PID it joins the network, ipc
//! and uts namespaces of that process, as a container of a pod does. With HOVE_RUNS=N it is done N times, and the times
//! of create, start and exit are printed.

use std::error::Error;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use rustix::process::{WaitId, WaitIdOptions, waitid};
use starter::{Executable, Request, Rootfs, Stdio};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let root = args.next().ok_or("usage: run ROOTFS COMMAND [ARGUMENT …]")?;
    let command: Vec<String> = args.collect();
    let shared = std::env::var("HOVE_SHARE").ok();
    let namespace = |kind: &str, link: &str| match &shared {
        Some(pid) => serde_json::json!({"type": kind, "path": format!("/proc/{pid}/ns/{link}")}),
        None => serde_json::json!({"type": kind}),
    };
    let spec: oci_spec::runtime::Spec = serde_json::from_value(serde_json::json!({
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs"},
        "hostname": "example",
        "process": {
            "user": {"uid": 0, "gid": 0}, "args": command, "cwd": "/", "noNewPrivileges": true,
            "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm", "HOME=/"],
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "nodev", "mode=1777"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
        ],
        "linux": {
            "namespaces": [
                {"type": "pid"}, {"type": "mount"},
                namespace("ipc", "ipc"), namespace("uts", "uts"), namespace("network", "net"),
            ],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/scsi", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    }))?;

    let runs = std::env::var("HOVE_RUNS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(1);
    let mut times = Vec::new();
    let mut status = 0;
    for _ in 0..runs {
        let started = Instant::now();
        let request = Request {
            spec: &spec,
            executable: Executable::Path,
            rootfs: Rootfs::Directory(root.clone().into()),
            bundle: root.as_ref(),
            stdio: Stdio::Fds {
                stdin: own(std::io::stdin())?,
                stdout: own(std::io::stdout())?,
                stderr: own(std::io::stderr())?,
            },
            pinned: &|_| None,
            cgroup: None,
        };
        let created = starter::create(request)?.wait()?;
        let ready = started.elapsed();
        for notice in &created.notices {
            eprintln!("notice: {notice}");
        }
        let child = created.start()?.wait()?;
        let running = started.elapsed();
        let ended = waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED)?;
        times.push([ready, running - ready, started.elapsed() - running, started.elapsed()]);
        status = ended.and_then(|s| s.exit_status()).unwrap_or(128);
    }
    if runs > 1 {
        for (i, phase) in ["create", "start", "exit", "all three"].iter().enumerate() {
            let mut column: Vec<_> = times.iter().map(|t| t[i]).collect();
            column.sort();
            let (median, fastest, p95) = (column[runs / 2], column[0], column[runs * 95 / 100]);
            eprintln!("{phase:>9}: median {median:>9.1?}  fastest {fastest:>9.1?}  p95 {p95:>9.1?}");
        }
    }
    std::process::exit(status)
}

fn own(fd: impl AsFd) -> std::io::Result<OwnedFd> {
    Ok(File::from(fd.as_fd().try_clone_to_owned()?).into())
}
