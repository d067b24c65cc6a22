//! Real pods for tests: a shim of their own, a busybox root, private network namespaces.

#![allow(dead_code, missing_docs, clippy::unwrap_used)]

pub mod image;

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use containerd_shim_protos::cgroups::metrics as v1;
use containerd_shim_protos::cgroups_v2::metrics as v2;
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use serde_json::{Value, json};
use shim_api::shim::{Event, Kind};
use shim_api::{Client, Failure, deadline, forever, sandbox, shim, task};
use ttrpc::r#async::ClientStreamReceiver;

/// Nothing that a test waits for takes longer, in an emulated machine either; nothing waits for it in full when all is well.
pub const LIMIT: Duration = Duration::from_secs(120);

/// A pod with a shim of its own. Dropping it kills the shim's children and the shim, if it was not shut down.
pub struct Pod {
    dir: tempfile::TempDir,
    pub id: String,
    pub client: Client,
    pub shim: Child,
    pub shared_pid: bool,
    /// Whether the shim has ended by itself and left nothing.
    over: bool,
}

/// What an exec said and how it ended.
#[derive(Debug)]
pub struct Said {
    pub stdout: String,
    pub stderr: String,
    pub code: u32,
}

/// A container to be made: its command, and what to change in its config.
pub struct Spec {
    pub args: Vec<String>,
    pub change: Box<dyn Fn(&mut Value)>,
    pub terminal: bool,
    pub stdin: bool,
    /// Where its output goes; `None`: to the log in its bundle.
    pub outputs: Option<[String; 2]>,
}

pub fn sh(command: &str) -> Spec {
    Spec {
        args: ["sh", "-c", command].map(str::to_string).to_vec(),
        change: Box::new(|_| {}),
        terminal: false,
        stdin: false,
        outputs: None,
    }
}

impl Spec {
    pub fn with(self, change: impl Fn(&mut Value) + 'static) -> Spec {
        Spec {
            change: Box::new(change),
            ..self
        }
    }

    pub fn on_a_terminal(self) -> Spec {
        Spec { terminal: true, ..self }
    }

    /// As the Task service names outputs.
    pub fn writing_to(self, stdout: &str, stderr: &str) -> Spec {
        Spec {
            outputs: Some([stdout, stderr].map(str::to_string)),
            ..self
        }
    }

    pub fn with_memory_limit(self, bytes: i64) -> Spec {
        self.with(move |config| config["linux"]["resources"] = json!({"memory": {"limit": bytes}}))
    }

    pub fn with_stdin(self) -> Spec {
        Spec { stdin: true, ..self }
    }
}

impl Pod {
    /// A pod whose sandbox is ready.
    pub async fn start(shared_pid: bool) -> Pod {
        let pod = Pod::spawn(shared_pid).await;
        pod.start_sandbox().await.unwrap();
        pod
    }

    /// A shim that was asked for nothing yet.
    pub async fn spawn(shared_pid: bool) -> Pod {
        Pod::spawn_after(":", shared_pid).await
    }

    /// A shim in a mount namespace of its own, where `prepare` (of a shell, in the pod's directory) was done before.
    pub async fn spawn_after(prepare: &str, shared_pid: bool) -> Pod {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let id = format!("test{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = tempfile::Builder::new().prefix("shim").tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let socket = dir.path().join("shim.sock");
        let listener = OwnedFd::from(UnixListener::bind(&socket).unwrap());
        let shim = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "/bin/sh", "-c"])
            .arg(format!("{prepare}; cd / && exec \"$0\" \"$@\" 3<&0 </dev/null"))
            .arg(env!("CARGO_BIN_EXE_hove-shim"))
            .current_dir(dir.path())
            .args(["--id", &id, "--socket-fd", "3", "--dir"])
            .arg(dir.path())
            .stdin(Stdio::from(listener))
            .stderr(fs::File::create(dir.path().join("shim.log")).unwrap())
            .spawn()
            .unwrap();
        let client = Client::connect(&socket).await.unwrap();
        Pod {
            dir,
            id,
            client,
            shim,
            shared_pid,
            over: false,
        }
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir().join("shim.log")).unwrap()
    }

    pub fn bundle(&self, container: &str) -> PathBuf {
        self.dir().join("containers").join(container)
    }

    pub fn cgroup(&self, name: &str) -> String {
        format!("/hove-test-shim/{}/{name}", self.id)
    }

    pub async fn start_sandbox(&self) -> Result<u32, Failure> {
        let config = json!({
            "ociVersion": "1.2.0",
            "hostname": "the-pod",
            "process": {"user": {"uid": 65535, "gid": 65535}, "args": ["/pause"], "cwd": "/", "noNewPrivileges": true},
            "linux": {
                "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "network"}],
                "cgroupsPath": self.cgroup("sandbox"),
            },
        });
        fs::write(self.dir().join("config.json"), config.to_string()).unwrap();
        let mut request = sandbox::CreateSandboxRequest::new();
        request.sandbox_id = self.id.clone();
        request.bundle_path = self.dir().display().to_string();
        self.client.sandbox.create_sandbox(deadline(LIMIT), &request).await?;
        let mut request = sandbox::StartSandboxRequest::new();
        request.sandbox_id = self.id.clone();
        Ok(self.client.sandbox.start_sandbox(deadline(LIMIT), &request).await?.pid)
    }

    /// The config of a container in this pod.
    fn config(&self, container: &str, spec: &Spec) -> Value {
        let ns = |kind: &str| self.dir().join("ns").join(kind);
        let pid = if self.shared_pid {
            json!({"type": "pid", "path": ns("pid")})
        } else {
            json!({"type": "pid"})
        };
        let capabilities = [
            "CAP_CHOWN",
            "CAP_DAC_OVERRIDE",
            "CAP_KILL",
            "CAP_SETGID",
            "CAP_SETUID",
            "CAP_SYS_CHROOT",
        ];
        let mut config = json!({
            "ociVersion": "1.2.0",
            "root": {"path": image::busybox()},
            "process": {
                "terminal": spec.terminal,
                "user": {"uid": 0, "gid": 0}, "args": spec.args, "cwd": "/", "noNewPrivileges": true,
                "env": ["PATH=/bin", "HOME=/"],
                "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            },
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                 "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
                {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=1777", "size=1m"]},
            ],
            "linux": {
                "namespaces": [pid, {"type": "mount"},
                    {"type": "ipc", "path": ns("ipc")}, {"type": "uts", "path": ns("uts")}, {"type": "network"}],
                "cgroupsPath": self.cgroup(container),
            },
        });
        (spec.change)(&mut config);
        config
    }

    /// Task.Create with a log, or with FIFOs for a terminal's sake.
    pub async fn create(&self, container: &str, spec: Spec) -> Result<u32, Failure> {
        let request = self.create_request(container, spec);
        Ok(self.client.task.create(deadline(LIMIT), &request).await?.pid)
    }

    /// Makes the bundle; what Task.Create is asked for then.
    pub fn create_request(&self, container: &str, spec: Spec) -> task::CreateTaskRequest {
        let bundle = self.bundle(container);
        fs::create_dir_all(&bundle).unwrap();
        fs::write(bundle.join("config.json"), self.config(container, &spec).to_string()).unwrap();
        let mut request = task::CreateTaskRequest::new();
        request.id = container.to_string();
        request.bundle = bundle.display().to_string();
        request.terminal = spec.terminal;
        let log = format!("cri://{}", bundle.join("0.log").display());
        [request.stdout, request.stderr] = spec.outputs.unwrap_or([log.clone(), log]);
        if spec.stdin {
            sys::fifo::make(&bundle.join("stdin")).unwrap();
            request.stdin = bundle.join("stdin").display().to_string();
        }
        request
    }

    pub async fn start_process(&self, container: &str, exec: &str) -> Result<u32, Failure> {
        let mut request = task::StartRequest::new();
        request.id = container.to_string();
        request.exec_id = exec.to_string();
        Ok(self.client.task.start(deadline(LIMIT), &request).await?.pid)
    }

    /// Create and Start.
    pub async fn run(&self, container: &str, spec: Spec) -> u32 {
        self.create(container, spec).await.unwrap();
        self.start_process(container, "").await.unwrap()
    }

    pub async fn wait(&self, container: &str, exec: &str) -> u32 {
        let mut request = task::WaitRequest::new();
        request.id = container.to_string();
        request.exec_id = exec.to_string();
        tokio::time::timeout(LIMIT, self.client.task.wait(forever(), &request))
            .await
            .unwrap()
            .unwrap()
            .exit_status
    }

    pub async fn kill(&self, container: &str, exec: &str, signal: u32, all: bool) -> Result<(), Failure> {
        let mut request = task::KillRequest::new();
        request.id = container.to_string();
        request.exec_id = exec.to_string();
        request.signal = signal;
        request.all = all;
        self.client.task.kill(deadline(LIMIT), &request).await?;
        Ok(())
    }

    pub async fn delete(&self, container: &str, exec: &str) -> Result<task::DeleteResponse, Failure> {
        let mut request = task::DeleteRequest::new();
        request.id = container.to_string();
        request.exec_id = exec.to_string();
        Ok(self.client.task.delete(deadline(LIMIT), &request).await?)
    }

    pub async fn close_stdin(&self, container: &str, exec: &str) {
        let mut request = task::CloseIORequest::new();
        request.id = container.to_string();
        request.exec_id = exec.to_string();
        request.stdin = true;
        self.client.task.close_io(deadline(LIMIT), &request).await.unwrap();
    }

    pub async fn state(&self) -> shim::StateResponse {
        self.client
            .pod
            .state(deadline(LIMIT), &shim::StateRequest::new())
            .await
            .unwrap()
    }

    /// Task.State
    pub async fn status(&self, container: &str, exec: &str) -> task::Status {
        let mut request = task::StateRequest::new();
        request.id = container.to_string();
        request.exec_id = exec.to_string();
        let state = self.client.task.state(deadline(LIMIT), &request).await.unwrap();
        state.status.enum_value().unwrap()
    }

    /// Task.Stats, decoded.
    pub async fn stats(&self, container: &str) -> Stats {
        let mut request = task::StatsRequest::new();
        request.id = container.to_string();
        let stats = self.client.task.stats(deadline(LIMIT), &request).await.unwrap().stats;
        if stats.type_url == "io.containerd.cgroups.v2.Metrics" {
            let metrics = v2::Metrics::parse_from_bytes(&stats.value).unwrap();
            Stats {
                cpu_ns: metrics.cpu.usage_usec * 1000,
                memory: metrics.memory.usage,
                memory_limit: metrics.memory.usage_limit,
                pids: metrics.pids.current,
            }
        } else {
            assert_eq!(stats.type_url, "io.containerd.cgroups.v1.Metrics");
            let metrics = v1::Metrics::parse_from_bytes(&stats.value).unwrap();
            Stats {
                cpu_ns: metrics.cpu.usage.total,
                memory: metrics.memory.usage.usage,
                memory_limit: metrics.memory.usage.limit,
                pids: metrics.pids.current,
            }
        }
    }

    /// A watch, after what is there already was sent.
    pub async fn watch(&self) -> Watch {
        let stream = self
            .client
            .pod
            .watch(forever(), &shim::WatchRequest::new())
            .await
            .unwrap();
        let mut watch = Watch(stream);
        watch.until(|event| event.kind == Kind::KIND_SYNCED.into()).await;
        watch
    }

    /// Task.Exec and Start with FIFOs; what it writes is collected until its end.
    pub async fn exec(&self, container: &str, id: &str, command: &str, input: &str) -> Said {
        let exec = self.begin_exec(container, id, command, false).await.unwrap();
        let input = input.to_string();
        let writer = exec.stdin.try_clone().unwrap();
        let write = tokio::task::spawn_blocking(move || {
            rustix::io::write(&writer, input.as_bytes()).unwrap();
        });
        write.await.unwrap();
        let (out, err) = (exec.stdout, exec.stderr);
        drop(exec.stdin);
        self.close_stdin(container, id).await;
        let read =
            |fd: OwnedFd| tokio::task::spawn_blocking(move || std::io::read_to_string(fs::File::from(fd)).unwrap());
        let (out, err) = (read(out), read(err));
        let code = self.wait(container, id).await;
        let said = Said {
            stdout: out.await.unwrap(),
            stderr: err.await.unwrap(),
            code,
        };
        self.delete(container, id).await.unwrap();
        said
    }

    /// Makes the FIFOs, opens them as a caller does, and starts the exec.
    pub async fn begin_exec(&self, container: &str, id: &str, command: &str, terminal: bool) -> Result<Exec, Failure> {
        let dir = self.bundle(container).join("execs").join(id);
        fs::create_dir_all(&dir).unwrap();
        let fifo = |name: &str| {
            let path = dir.join(name);
            sys::fifo::make(&path).unwrap();
            path
        };
        let paths = ["stdin", "stdout", "stderr"].map(fifo);
        let mut process = self.config(container, &sh(command))["process"].take();
        process["terminal"] = terminal.into();
        let mut spec = Any::new();
        spec.value = process.to_string().into_bytes();
        let mut request = task::ExecProcessRequest::new();
        request.id = container.to_string();
        request.exec_id = id.to_string();
        request.terminal = terminal;
        [request.stdin, request.stdout, request.stderr] = paths.each_ref().map(|path| path.display().to_string());
        request.spec = Some(spec).into();
        self.client.task.exec(deadline(LIMIT), &request).await?;
        // A caller reads before anybody writes; O_NONBLOCK only so that the open does not wait.
        let reader = |path: &Path| {
            let fd = sys::fifo::open_reader(path, true).unwrap();
            sys::fifo::set_nonblocking(&fd, false).unwrap();
            fd
        };
        let (stdout, stderr) = (reader(&paths[1]), reader(&paths[2]));
        let both = sys::fifo::open_both_ends(&paths[0], true).unwrap();
        let stdin = sys::fifo::open_writer(&paths[0], false).unwrap();
        drop(both);
        let pid = self.start_process(container, id).await?;
        Ok(Exec {
            pid,
            stdin,
            stdout,
            stderr,
        })
    }

    pub async fn stop(&self, grace_s: u32) -> Result<(), Failure> {
        let mut request = sandbox::StopSandboxRequest::new();
        request.timeout_secs = grace_s;
        self.client.sandbox.stop_sandbox(deadline(LIMIT), &request).await?;
        Ok(())
    }

    /// SIGKILL to the shim.
    pub fn kill_shim(&mut self) {
        self.shim.kill().unwrap();
        self.shim.wait().unwrap();
    }

    /// Has another shim take the pod over, as the runtime does it: with a socket, and the pidfds that were held meanwhile.
    pub async fn adopt(&mut self, held: &[(&str, OwnedFd)]) {
        let socket = self.dir().join("shim.sock");
        fs::remove_file(&socket).unwrap();
        let listener = UnixListener::bind(&socket).unwrap();
        let (ours, theirs) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::SEQPACKET,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        sys::scm::send(ours.as_fd(), b"socket", Some(listener.as_fd())).unwrap();
        for (container, pidfd) in held {
            let name = format!("process {container}");
            sys::scm::send(ours.as_fd(), name.as_bytes(), Some(pidfd.as_fd())).unwrap();
        }
        drop(ours);
        self.shim = Command::new("/bin/sh")
            .args(["-c", "exec \"$0\" \"$@\" 3<&0 </dev/null"])
            .arg(env!("CARGO_BIN_EXE_hove-shim"))
            .args(["--id", &self.id, "--adopt", "--handover-fd", "3", "--dir"])
            .arg(self.dir.path())
            .stdin(Stdio::from(theirs))
            .stderr(
                fs::File::options()
                    .append(true)
                    .open(self.dir().join("shim.log"))
                    .unwrap(),
            )
            .spawn()
            .unwrap();
        self.client = Client::connect(&socket).await.unwrap();
    }

    /// SIGKILL to the shim, and another one in its place.
    pub async fn replace_shim(&mut self) {
        self.kill_shim();
        self.adopt(&[]).await;
        self.state().await;
    }

    /// pause's number, if the sandbox is ready.
    pub async fn client_sandbox_ready(&self) -> Option<u32> {
        let request = Default::default();
        let status = self.client.sandbox.sandbox_status(deadline(LIMIT), &request);
        let status = status.await.unwrap();
        (status.state == "SANDBOX_READY").then_some(status.pid)
    }

    /// Pod.ReopenLog
    pub async fn reopen_log(&self, container: &str) -> Result<(), Failure> {
        let mut request = shim::ReopenLogRequest::new();
        request.container_id = container.to_string();
        self.client.pod.reopen_log(deadline(LIMIT), &request).await?;
        Ok(())
    }

    /// ShutdownSandbox; the shim's exit code.
    pub async fn shut_down(mut self) -> i32 {
        self.client
            .sandbox
            .shutdown_sandbox(deadline(LIMIT), &Default::default())
            .await
            .unwrap();
        let code = self.shim.wait().unwrap().code().unwrap();
        self.over = true;
        assert_eq!(cgroups_named(&self.id), Vec::<PathBuf>::new());
        remove_parents(&self.id);
        code
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        // A test failed, or has killed the shim. What runs in the pod is in its cgroups.
        eprintln!("--- shim.log\n{}---", self.log());
        if let Ok(hierarchies) = cgroup_mounts() {
            for dir in hierarchies
                .iter()
                .map(|mount| mount.join(format!("hove-test-shim/{}", self.id)))
            {
                kill_below(&dir);
            }
        }
        let _ = self.shim.kill();
        let _ = self.shim.wait();
        let started = std::time::Instant::now();
        // Whoever was killed leaves its cgroup in its own time.
        while !cgroups_named(&self.id).is_empty() && started.elapsed() < Duration::from_secs(2) {
            for dir in cgroups_named(&self.id) {
                remove_below(&dir);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        remove_parents(&self.id);
    }
}

/// What Task.Stats says, in whichever of containerd's dialects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    pub cpu_ns: u64,
    pub memory: u64,
    pub memory_limit: u64,
    pub pids: u64,
}

/// An exec that runs, and the caller's ends of its FIFOs.
pub struct Exec {
    pub pid: u32,
    pub stdin: OwnedFd,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
}

/// Pod.Watch
pub struct Watch(ClientStreamReceiver<Event>);

impl Watch {
    /// The next event that is meant.
    pub async fn until(&mut self, meant: impl Fn(&Event) -> bool) -> Event {
        let next = async {
            loop {
                let event = self.0.recv().await.unwrap().expect("the watch goes on");
                if meant(&event) {
                    return event;
                }
            }
        };
        tokio::time::timeout(LIMIT, next).await.expect("the event did not come")
    }
}

/// Looks again and again until it is so: for what the kernel does in its own time and nobody reports.
pub async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + LIMIT;
    while !is_so() {
        assert!(tokio::time::Instant::now() < deadline, "{what}: not within {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A container's log as its readers see it.
pub fn read_log(path: &Path, query: &logs::Query) -> String {
    let mut reader = logs::Reader::open(path, query).unwrap();
    let mut out = Vec::new();
    while reader.read(&mut out).unwrap() == logs::Progress::More {}
    String::from_utf8(out).unwrap()
}

fn cgroup_mounts() -> std::io::Result<Vec<PathBuf>> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    let is_cgroup = |line: &&str| line.split_once(" - ").is_some_and(|(_, fs)| fs.starts_with("cgroup"));
    let mounts = text.lines().filter(is_cgroup).filter_map(|line| line.split(' ').nth(4));
    Ok(mounts.map(PathBuf::from).collect())
}

/// The cgroups of this pod that are there, in whichever hierarchy.
pub fn cgroups_named(id: &str) -> Vec<PathBuf> {
    let mounts = cgroup_mounts().unwrap();
    let dirs = mounts.iter().map(|mount| mount.join("hove-test-shim").join(id));
    let children = dirs.filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten();
    children
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect()
}

/// The parents that the tests' cgroups were made in; the last test takes the common one away.
pub fn remove_parents(id: &str) {
    for mount in cgroup_mounts().unwrap() {
        let common = mount.join("hove-test-shim");
        let _ = fs::remove_dir(common.join(id));
        let _ = fs::remove_dir(common);
    }
}

fn kill_below(dir: &Path) {
    for entry in fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|e| e.path().is_dir())
    {
        kill_below(&entry.path());
    }
    for pid in fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default().lines() {
        if let Some(pid) = pid.parse().ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

fn remove_below(dir: &Path) {
    for entry in fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|e| e.path().is_dir())
    {
        remove_below(&entry.path());
    }
    let _ = fs::remove_dir(dir);
}
