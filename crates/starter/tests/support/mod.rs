//! Real containers for tests: a busybox root in a temporary directory, and a config to change at will.

#![allow(dead_code, missing_docs, clippy::unwrap_used)]

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use oci_spec::runtime::Spec;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use serde_json::{Value, json};
use starter::{Created, Error, ExecRequest, Executable, Identity, Request, Rootfs, RootfsMount, Size, Stdio};

pub const ALL_CAPABILITIES: [&str; 10] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_SYS_ADMIN",
    "CAP_SYS_CHROOT",
    "CAP_MKNOD",
];

/// How long a process may take to end before those that it waits for are looked for.
const REAP_INTERVAL: Duration = Duration::from_secs(1);

pub enum Root {
    Directory,
    Overlay,
    Custom(Vec<RootfsMount>),
    Empty,
}

/// A container to be.
pub struct Bench {
    dir: tempfile::TempDir,
    pub spec: Value,
    pub root: Root,
    pub pinned: Vec<(PathBuf, OwnedFd)>,
    pub cgroup: Option<cgroup::Placement>,
}

/// What a process said and how it ended.
#[derive(Debug)]
pub struct Output {
    pub stdout: String,
    pub stderr: String,
    /// Exit status, or 128 + signal.
    pub status: i32,
    pub notices: Vec<String>,
    pub identity: Identity,
}

/// A process that runs.
pub struct Running {
    pub child: sys::process::Child,
    pub notices: Vec<String>,
    pub identity: Identity,
    pub terminal: Option<OwnedFd>,
    stdout: File,
    stderr: File,
    ended: bool,
}

impl Bench {
    /// A config as a container engine would write it for `command`, run by sh.
    pub fn sh(command: &str) -> Bench {
        Bench::new(&["sh", "-c", command])
    }

    pub fn new(args: &[&str]) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["rootfs", "image", "upper", "work"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        busybox(&dir.path().join("image"));
        let capabilities = &ALL_CAPABILITIES;
        let spec = json!({
            "ociVersion": "1.2.0",
            "root": {"path": "rootfs"},
            "process": {
                "user": {"uid": 0, "gid": 0}, "args": args, "cwd": "/", "noNewPrivileges": true,
                "env": ["PATH=/usr/bin:/bin", "HOME=/"],
                "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
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
                    {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "network"},
                ],
                "maskedPaths": [],
                "readonlyPaths": [],
            },
        });
        Bench {
            dir,
            spec,
            root: Root::Overlay,
            pinned: Vec::new(),
            cgroup: None,
        }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn image(&self, path: &str) -> PathBuf {
        self.dir.path().join("image").join(path)
    }

    pub fn process(&mut self) -> &mut Value {
        &mut self.spec["process"]
    }

    pub fn linux(&mut self) -> &mut Value {
        &mut self.spec["linux"]
    }

    pub fn mount(&mut self, mount: Value) {
        self.spec["mounts"].as_array_mut().unwrap().push(mount);
    }

    pub fn namespace(&mut self, kind: &str, path: Option<&str>) {
        let list = self.spec["linux"]["namespaces"].as_array_mut().unwrap();
        list.retain(|n| n["type"] != kind);
        list.push(match path {
            Some(path) => json!({"type": kind, "path": path}),
            None => json!({"type": kind}),
        });
    }

    pub fn without_namespace(&mut self, kind: &str) {
        self.spec["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .retain(|n| n["type"] != kind);
    }

    pub fn oci(&self) -> Spec {
        serde_json::from_value(self.spec.clone()).unwrap()
    }

    pub fn create_with(&self, executable: Executable, stdio: Stdio) -> Result<Created, Error> {
        let spec = self.oci();
        let at = |name: &str| self.dir.path().join(name).display().to_string();
        let overlay = [RootfsMount {
            kind: "overlay".into(),
            source: "overlay".into(),
            target: String::new(),
            options: vec![
                format!("lowerdir={}", at("image")),
                format!("upperdir={}", at("upper")),
                format!("workdir={}", at("work")),
            ],
        }];
        let rootfs = match &self.root {
            Root::Directory => Rootfs::Directory(self.dir.path().join("image")),
            Root::Overlay => Rootfs::Mounts(&overlay),
            Root::Custom(mounts) => Rootfs::Mounts(mounts),
            Root::Empty => Rootfs::Empty,
        };
        let pinned = |path: &Path| self.pinned.iter().find(|(p, _)| p == path).map(|(_, fd)| fd.as_fd());
        let request = Request {
            spec: &spec,
            executable,
            rootfs,
            bundle: self.dir.path(),
            stdio,
            pinned: &pinned,
            cgroup: self.cgroup.as_ref(),
        };
        starter::create(request)?.wait()
    }

    pub fn start(&self) -> Result<Running, Error> {
        let (stdio, stdout, stderr) = pipes();
        Running::start(self.create_with(Executable::Path, stdio)?, stdout, stderr)
    }

    pub fn start_in_terminal(&self, size: Size) -> Result<Running, Error> {
        let (_, stdout, stderr) = pipes();
        Running::start(
            self.create_with(Executable::Path, Stdio::Terminal { size })?,
            stdout,
            stderr,
        )
    }

    /// Runs it to its end.
    pub fn run(&self) -> Result<Output, Error> {
        self.start().map(Running::output)
    }

    /// Runs it to its end, which must be a good one.
    pub fn stdout(&self) -> String {
        let output = self.run().unwrap();
        assert_eq!(output.status, 0, "{output:?}");
        output.stdout
    }

    /// Runs one more process in a running container.
    pub fn exec(&self, init: BorrowedFd<'_>, change: impl FnOnce(&mut Value)) -> Result<Output, Error> {
        let mut process = self.spec["process"].clone();
        change(&mut process);
        let (stdio, stdout, stderr) = pipes();
        let request = ExecRequest {
            process: &serde_json::from_value(process).unwrap(),
            spec: &self.oci(),
            init,
            executable: Executable::Path,
            stdio,
            cgroup: self.cgroup.as_ref(),
        };
        Running::start(starter::exec(request)?.wait()?, stdout, stderr).map(Running::output)
    }
}

impl Running {
    fn start(created: Created, stdout: File, stderr: File) -> Result<Running, Error> {
        let mut created = created;
        let (notices, identity, terminal) = (
            std::mem::take(&mut created.notices),
            created.identity.clone(),
            created.terminal.take(),
        );
        let child = created.start()?.wait()?;
        Ok(Running {
            child,
            notices,
            identity,
            terminal,
            stdout,
            stderr,
            ended: false,
        })
    }

    /// The first line that it writes: from then on it is known to be up.
    pub fn first_line(&mut self) -> String {
        let mut line = Vec::new();
        let mut byte = [0];
        while self.stdout.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
            line.push(byte[0]);
        }
        String::from_utf8(line).unwrap()
    }

    pub fn output(mut self) -> Output {
        let (mut stdout, mut stderr) = (String::new(), String::new());
        self.stdout.read_to_string(&mut stdout).unwrap();
        self.stderr.read_to_string(&mut stderr).unwrap();
        let status = self.wait();
        Output {
            stdout,
            stderr,
            status,
            notices: std::mem::take(&mut self.notices),
            identity: self.identity.clone(),
        }
    }

    pub fn wait(&mut self) -> i32 {
        self.ended = true;
        while !self.ends_within(REAP_INTERVAL) {
            reap_strays(self.child.pid);
        }
        let status = waitid(WaitId::PidFd(self.child.pidfd.as_fd()), WaitIdOptions::EXITED)
            .unwrap()
            .unwrap();
        status
            .exit_status()
            .unwrap_or_else(|| 128 + status.terminating_signal().unwrap())
    }
}

impl Running {
    fn ends_within(&self, limit: Duration) -> bool {
        let limit = Timespec::try_from(limit).unwrap();
        poll(&mut [PollFd::new(&self.child.pidfd, PollFlags::IN)], Some(&limit)).unwrap() > 0
    }
}

/// Reaps what the starter has killed and left to its caller's reaper, as it does on a slow machine: the first process of a PID
/// namespace, `init`, does not end before all that have joined the namespace are reaped.
fn reap_strays(init: Pid) {
    let namespace = |pid: Pid| fs::read_link(format!("/proc/{}/ns/pid", pid.as_raw_nonzero())).ok();
    let Some(theirs) = namespace(init) else { return };
    let children = fs::read_dir("/proc/self/task").unwrap().flatten();
    let children = children.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    for child in children.flat_map(|line| line.split(' ').filter_map(|n| n.parse().ok()).collect::<Vec<_>>()) {
        let Some(child) = Pid::from_raw(child).filter(|child| *child != init) else {
            continue;
        };
        if namespace(child).as_ref() == Some(&theirs) {
            let _ = waitid(WaitId::Pid(child), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            let _ = pidfd_send_signal(&self.child.pidfd, Signal::KILL);
            self.wait();
        }
    }
}

/// /dev/null for stdin; the reading ends of what goes to stdout and stderr.
pub fn pipes() -> (Stdio, File, File) {
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let (stdout_reader, stdout) = pipe();
    let (stderr_reader, stderr) = pipe();
    let stdin = File::open("/dev/null").unwrap().into();
    (
        Stdio::Fds { stdin, stdout, stderr },
        stdout_reader.into(),
        stderr_reader.into(),
    )
}

/// busybox, what it links to, links for all applets, and a small /etc.
fn busybox(root: &Path) {
    for dir in ["bin", "etc", "tmp", "home"] {
        fs::create_dir(root.join(dir)).unwrap();
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("the tests need busybox: apt-get install busybox");
    // Which libraries it maps, if it is not static.
    let run = std::process::Command::new("/bin/busybox")
        .args(["cat", "/proc/self/maps"])
        .output()
        .unwrap();
    for line in String::from_utf8(run.stdout).unwrap().lines() {
        let Some(at) = line.find(" /") else { continue };
        let library = line[at + 1..].trim();
        let to = root.join(&library[1..]);
        if library.contains(".so") && !to.exists() {
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(library, to).unwrap();
        }
    }
    // The loader's name in the binary is another than the one in the map.
    if Path::new("/lib64/ld-linux-x86-64.so.2").exists() {
        fs::create_dir_all(root.join("lib64")).unwrap();
        fs::copy("/lib64/ld-linux-x86-64.so.2", root.join("lib64/ld-linux-x86-64.so.2")).unwrap();
        for (from, to) in [("usr/lib", "lib")] {
            if root.join(from).exists() && !root.join(to).exists() {
                std::os::unix::fs::symlink(from, root.join(to)).unwrap();
            }
        }
    }
    for applet in [
        "sh", "cat", "ls", "id", "ps", "mount", "umount", "hostname", "stat", "grep", "readlink", "true", "sleep",
        "env", "pwd", "touch", "mkdir", "tty", "stty", "dd", "wc", "sort", "kill", "ip", "test", "ln", "chmod", "ipcs",
    ] {
        fs::hard_link(root.join("bin/busybox"), root.join("bin").join(applet)).unwrap();
    }
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:Web:/srv/www:/bin/sh\n",
    )
    .unwrap();
    fs::write(
        root.join("etc/group"),
        "root:x:0:\nweb:x:34:\nlog:x:4:web\nstaff:x:50:\n",
    )
    .unwrap();
}

/// Runs `f` in a thread with a mount namespace of its own: what it mounts is gone with the thread.
pub fn in_mount_namespace<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::spawn(|| {
        sys::process::unshare(0x0002_0000).expect("these tests need root");
        let root = rustix::fs::open("/", rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
        let private = sys::mount::Attributes {
            propagation: 1 << 18,
            ..Default::default()
        };
        sys::mount::mount_setattr(root.as_fd(), true, &private).unwrap();
        f()
    });
    thread.join().unwrap()
}

/// Mounts a tmpfs in the calling thread's mount namespace.
pub fn mount_tmpfs(path: &Path) {
    rustix::mount::mount("tmpfs", path, "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
}

pub fn make_shared(path: &Path) {
    rustix::mount::mount_change(path, rustix::mount::MountPropagationFlags::SHARED).unwrap();
}
