//! The sandbox: pause, and the namespaces that it holds.
//!
//! ```text
//!   New ── CreateSandbox ──► Created ── StartSandbox ──► Starting ──► Ready ── StopSandbox ──► Stopping ──► Stopped
//!                               ▲                           │          │ ▲
//!                               └─────── it failed ─────────┘          └─┘ pause died, and its PID namespace was its own
//!                                                                      │
//!                                                                      └── pause died, and took the pod with it ──► Stopped
//! ```

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::process::Signal;
use shim_api::RootMount;
use shim_api::shim::Kind;
use starter::{Executable, Rootfs, RootfsMount, Stdio};
use sys::pidfd::End;

use crate::event::{Event, Exit, Key, Reply, SandboxView};
use crate::failure::{self, Failure, Result};
use crate::process::{self, Process, Streams};
use crate::state::State;
use crate::{diary, records, stdio};

/// After SIGKILL, how long a process may stay (in a system call that can't be interrupted) before StopSandbox gives
/// up waiting for it.
pub const KILL_LIMIT: Duration = Duration::from_secs(10);

/// A pause that lived shorter than this counts as dying at once.
const PAUSE_MIN_LIFE_NS: i64 = 1_000_000_000;

/// So many pauses may die at once, one after the other, before the sandbox is given up.
const PAUSE_QUICK_DEATHS_MAX: u32 = 5;

/// Where the sandbox is in its life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Phase {
    /// Nothing was asked for yet. Containers may run all the same: containerd's Task API knows no sandbox.
    #[default]
    New,
    /// CreateSandbox was done.
    Created,
    /// pause is being started.
    Starting,
    /// pause holds the namespaces.
    Ready,
    /// Everything is being killed.
    Stopping,
    /// Nothing lives.
    Stopped,
}

/// The sandbox.
#[derive(Debug, Default)]
pub struct Sandbox {
    pub(crate) phase: Phase,
    bundle: PathBuf,
    pub(crate) pause: Process,
    /// What pause was started with: kind and inode.
    namespaces: Vec<(String, u64)>,
    /// Whether a container was put into pause's PID namespace: then the pod is one with it.
    pub(crate) pid_is_shared: bool,
    /// Processes that ended because pause does: announced after it.
    pub(crate) dying_with_pause: Vec<Key>,
    pins: Pins,
    pub(crate) cgroup: Option<cgroup::Cgroup>,
    starter: Option<Reply<SandboxView>>,
    waiters: Vec<Reply<Exit>>,
    exit: Option<Exit>,
    started_at_ns: i64,
    restarts: u32,
    quick_deaths: u32,
}

/// A StopSandbox that is under way.
#[derive(Debug, Default)]
pub struct Stopping {
    replies: Vec<Reply<()>>,
    /// Who asked for the shim's end.
    shutdowns: Vec<Reply<()>>,
}

/// Namespaces held by descriptors, under the names that specs give them.
#[derive(Debug, Default)]
pub struct Pins(Vec<(PathBuf, OwnedFd)>);

impl Pins {
    /// Pins the namespaces of process `pid`, which must be a child that is not reaped, as DIR/ns/KIND.
    fn of(pid: u32, dir: &Path) -> Result<Pins> {
        let mut pins = Vec::new();
        for kind in ["ipc", "uts", "pid", "user"] {
            pins.push((dir.join("ns").join(kind), open_namespace(pid, kind)?));
        }
        Ok(Pins(pins))
    }

    /// Adds a namespace as DIR/ns/KIND.
    pub(crate) fn add(&mut self, dir: &Path, kind: &str, namespace: OwnedFd) {
        self.0.push((dir.join("ns").join(kind), namespace));
    }

    /// Kinds and inodes.
    fn inodes(&self) -> Vec<(String, u64)> {
        let inode = |(path, fd): &(PathBuf, OwnedFd)| {
            let kind = path.file_name()?.to_str()?;
            Some((kind.to_string(), rustix::fs::fstat(fd).ok()?.st_ino))
        };
        self.0.iter().filter_map(inode).collect()
    }

    fn get(&self, path: &Path) -> Option<&OwnedFd> {
        self.0.iter().find(|(name, _)| name == path).map(|(_, fd)| fd)
    }
}

/// Opens a namespace of process `pid`, which must be a child that is not reaped, or be seen to live afterwards.
pub(crate) fn open_namespace(pid: u32, kind: &str) -> Result<OwnedFd> {
    let path = format!("/proc/{pid}/ns/{kind}");
    let file = fs::File::open(&path).map_err(|e| failure::system(format_args!("open({path:?})"), &e))?;
    Ok(file.into())
}

/// Reads a bundle's config.json.
pub(crate) fn load_spec(bundle: &Path) -> Result<Spec> {
    let path = bundle.join("config.json");
    let text = fs::read(&path).map_err(|e| failure::system(format_args!("open({path:?})"), &e))?;
    serde_json::from_slice(&text)
        .map_err(|e| Failure::Invalid(format!("{} is no OCI runtime configuration: {e}", path.display())))
}

/// What the sandbox's first process stands on, where that is an image's program.
pub(crate) fn load_root(bundle: &Path) -> Result<Option<RootfsMount>> {
    let path = RootMount::of_sandbox(bundle);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failure::system(format_args!("open({path:?})"), &e).into()),
    };
    let root: RootMount =
        serde_json::from_slice(&text).map_err(|e| Failure::Invalid(format!("{}: {e}", path.display())))?;
    Ok(Some(RootfsMount {
        kind: root.kind,
        source: root.source,
        target: String::new(),
        options: root.options,
    }))
}

/// The cgroup that the config.json in a bundle asks for.
pub(crate) fn cgroup_path_of(bundle: &Path) -> Option<String> {
    cgroup_path(&load_spec(bundle).ok()?)
}

/// The cgroup that a spec asks for.
pub(crate) fn cgroup_path(spec: &Spec) -> Option<String> {
    spec.linux()
        .as_ref()?
        .cgroups_path()
        .as_ref()?
        .to_str()
        .map(str::to_string)
}

impl Sandbox {
    /// Becomes what another shim has recorded; pause apart.
    pub(crate) fn resume(&mut self, record: &records::Sandbox, pins: Pins, cgroup: Option<cgroup::Cgroup>) {
        self.phase = match record.exit {
            Some(_) => Phase::Stopped,
            None => Phase::Created,
        };
        self.bundle = record.bundle.clone();
        self.namespaces = record.namespaces.clone();
        self.pins = pins;
        self.cgroup = cgroup;
        self.exit = record.exit.clone();
        if let Some(exit) = &record.exit {
            self.pause.announce(exit.clone());
        }
        self.started_at_ns = record.started_at_ns;
        self.restarts = record.pause_restarts;
    }
}

impl crate::pod::Pod {
    /// Sandbox.CreateSandbox
    pub(crate) fn create_sandbox(&mut self, bundle: PathBuf) -> Result<()> {
        match self.sandbox.phase {
            Phase::New => {}
            // A caller that did not hear the answer asks again.
            Phase::Created if bundle == self.sandbox.bundle => return Ok(()),
            _ => {
                return Err(Failure::AlreadyExists(format!(
                    "sandbox {} was created already",
                    self.config.id
                )));
            }
        }
        load_spec(&bundle)?;
        self.sandbox.bundle = bundle;
        self.sandbox.phase = Phase::Created;
        Ok(sys::failpoint!("shim.sandbox.created")?)
    }

    /// Sandbox.StartSandbox
    pub(crate) fn start_sandbox(&mut self, reply: Reply<SandboxView>) {
        let id = &self.config.id;
        let started = match self.sandbox.phase {
            Phase::Created if self.is_keeper() => self.start_foreign_pause(),
            Phase::Created => self.start_pause(),
            Phase::New => Err(Failure::Precondition(format!("sandbox {id} was not created yet"))),
            Phase::Ready => {
                let _ = reply.send(Ok(self.sandbox_view()));
                return;
            }
            Phase::Starting => Err(Failure::Precondition(format!("sandbox {id} is being started"))),
            Phase::Stopping | Phase::Stopped => Err(Failure::Precondition(format!("sandbox {id} was stopped"))),
        };
        match started {
            Ok(()) => {
                self.sandbox.phase = Phase::Starting;
                self.sandbox.starter = Some(reply);
                self.listen(&Key::Pause);
            }
            Err(e) => drop(reply.send(Err(e))),
        }
    }

    /// Clones pause, in the namespaces that the sandbox has, or in new ones.
    fn start_pause(&mut self) -> Result<()> {
        let mut spec = load_spec(&self.sandbox.bundle)?;
        keep_namespaces(&mut spec, &self.sandbox);
        if self.sandbox.cgroup.is_none()
            && let Some(path) = cgroup_path(&spec)
        {
            self.sandbox.cgroup = Some(cgroup::Cgroup::create(self.hierarchies()?, &path)?);
            sys::failpoint!("shim.pause.cgroup")?;
        }
        if let (Some(group), Some(resources)) = (
            &self.sandbox.cgroup,
            spec.linux().as_ref().and_then(|l| l.resources().as_ref()),
        ) {
            group.apply(resources)?;
        }
        let placement = self
            .sandbox
            .cgroup
            .as_ref()
            .map(cgroup::Cgroup::placement)
            .transpose()?;
        let pins = &self.sandbox.pins;
        let root = load_root(&self.sandbox.bundle)?;
        let (executable, rootfs) = match &root {
            Some(root) => (Executable::Path, Rootfs::Mounts(std::slice::from_ref(root))),
            None => (
                Executable::Fd(sys::memfd::sealed("pause", self.config.pause)?),
                Rootfs::Empty,
            ),
        };
        let creating = starter::create(starter::Request {
            spec: &spec,
            executable,
            rootfs,
            bundle: &self.sandbox.bundle,
            stdio: Stdio::Fds {
                stdin: stdio::null()?,
                stdout: stdio::null()?,
                stderr: pause_stderr()?,
            },
            pinned: &|path| pins.get(path).map(AsFd::as_fd),
            cgroup: placement.as_ref(),
        })?;
        sys::failpoint!("shim.pause.cloned")?;
        self.sandbox.pause = Process::creating(creating, Streams::default(), None)?;
        Ok(())
    }

    /// pause waits to be started: its namespaces are there.
    pub(crate) fn pause_became_created(&mut self) {
        let pause = &mut self.sandbox.pause;
        let pid = pause.raw_pid();
        let started = Pins::of(pid, &self.sandbox.bundle).and_then(|pins| {
            self.sandbox.namespaces = pins.inodes();
            self.sandbox.pins = pins;
            sys::failpoint!("shim.pause.pinned")?;
            pause.start()
        });
        match started {
            Ok(()) if self.is_keeper() => self.go_ahead(&Key::Pause),
            Ok(()) => self.listen(&Key::Pause),
            Err(e) => self.pause_failed(e),
        }
    }

    /// pause runs.
    pub(crate) fn sandbox_became_ready(&mut self) {
        // A stop that came in between goes its way.
        if self.sandbox.phase == Phase::Starting {
            self.sandbox.phase = Phase::Ready;
        }
        if self.sandbox.started_at_ns == 0 {
            self.sandbox.started_at_ns = process::now_ns();
        }
        // (Where nobody is there to hear of an error, a failpoint's is not heard of either; a kill works everywhere.)
        let _ = sys::failpoint!("shim.pause.runs");
        self.save_sandbox();
        let _ = sys::failpoint!("shim.pause.recorded");
        self.tell(Kind::KIND_STARTED, &Key::Pause);
        if let Some(reply) = self.sandbox.starter.take() {
            let _ = reply.send(Ok(self.sandbox_view()));
        }
        sys::memory::trim();
    }

    /// pause could not be started. The first time that is StartSandbox's failure, and it may be tried again; later it is
    /// the pod's end, as far as new containers are concerned.
    pub(crate) fn pause_failed(&mut self, why: Failure) {
        self.sandbox.pause = Process::default();
        match self.sandbox.starter.take() {
            Some(reply) => {
                if self.sandbox.phase == Phase::Starting {
                    self.sandbox.phase = Phase::Created;
                }
                self.sandbox.pins = Pins::default();
                let _ = reply.send(Err(why));
                self.go_on_stopping();
            }
            None => {
                self.notice(
                    "",
                    "PauseNotRestarted",
                    format!("a new pause could not be started: {why}"),
                );
                self.sandbox_ended(End::Code(255), Timestamp::now());
            }
        }
    }

    /// pause has ended: of itself, killed by somebody, or because we want it to.
    pub(crate) fn pause_ended(&mut self, end: End, at: Timestamp) {
        let dead_pid = self.sandbox.pause.raw_pid();
        let (created_at_ns, _) = self.sandbox.pause.times_ns();
        self.sandbox.pause.set_ended(end, at);
        if self.sandbox.phase != Phase::Ready {
            self.sandbox_ended(end, at);
            return;
        }
        if self.sandbox.pid_is_shared {
            // The kernel kills a PID namespace with its first process (pid_namespaces(7)).
            self.notice(
                "",
                "PauseEnded",
                format!(
                    "pause (pid {dead_pid}) ended ({}): the pod shared its PID namespace and is dead",
                    said(end)
                ),
            );
            self.sandbox_ended(end, at);
            return;
        }
        if self.is_keeper() {
            self.notice(
                "",
                "PauseEnded",
                format!(
                    "pause (pid {dead_pid}) ended ({}): to the handler's shim, the sandbox is over",
                    said(end)
                ),
            );
            self.sandbox_ended(end, at);
            return;
        }
        let quick = process::ns(at) - created_at_ns < PAUSE_MIN_LIFE_NS;
        self.sandbox.quick_deaths = if quick { self.sandbox.quick_deaths + 1 } else { 0 };
        if self.sandbox.quick_deaths >= PAUSE_QUICK_DEATHS_MAX {
            self.notice(
                "",
                "PauseGivenUp",
                format!("pause ended at once {PAUSE_QUICK_DEATHS_MAX} times in a row: given up"),
            );
            self.sandbox_ended(end, at);
            return;
        }
        self.restart_pause(dead_pid, end);
    }

    /// A new pause: a new PID namespace, the same net, ipc and uts.
    fn restart_pause(&mut self, dead_pid: u32, end: End) {
        self.sandbox.restarts += 1;
        self.sandbox.phase = Phase::Starting;
        // One that a shim had started when it died would be a second. Not Cgroup::kill: what is cloned into a cgroup after
        // that is killed as well, since Linux 6.14 compares its count of kills with that of the cloning process's cgroup.
        if let Some(group) = &self.sandbox.cgroup
            && let Err(e) = group.signal(Signal::KILL)
        {
            diary::note(format_args!("cgroup {}: {e}", group.path()));
        }
        match self.start_pause() {
            Ok(()) => {
                let new_pid = self.sandbox.pause.raw_pid();
                self.notice(
                    "",
                    "PauseRestarted",
                    format!(
                        "pause (pid {dead_pid}) ended ({}); a new one holds the namespaces (pid {new_pid})",
                        said(end)
                    ),
                );
                self.listen(&Key::Pause);
            }
            Err(e) => self.pause_failed(e),
        }
    }

    /// The sandbox is no more.
    fn sandbox_ended(&mut self, end: End, at: Timestamp) {
        let exit = Exit {
            code: end.shell_status(),
            at_ns: process::ns(at),
            oom_killed: false,
            unseen: end == End::Unknown,
        };
        self.sandbox.pause.set_ended(end, at);
        self.sandbox.pause.announce(exit.clone());
        self.sandbox.pins = Pins::default();
        self.sandbox.exit = Some(exit.clone());
        self.sandbox.phase = Phase::Stopped;
        self.save_sandbox();
        self.tell(Kind::KIND_EXITED, &Key::Pause);
        for key in std::mem::take(&mut self.sandbox.dying_with_pause) {
            self.announce(&key);
        }
        if let Some(group) = self.sandbox.cgroup.take() {
            self.remove_cgroup(group);
        }
        for waiter in std::mem::take(&mut self.sandbox.waiters) {
            let _ = waiter.send(Ok(exit.clone()));
        }
        if let Some(reply) = self.sandbox.starter.take() {
            let _ = reply.send(Err(Failure::Precondition(format!(
                "sandbox {} was stopped",
                self.config.id
            ))));
        }
        self.go_on_stopping();
    }

    /// Sandbox.WaitSandbox
    pub(crate) fn wait_sandbox(&mut self, reply: Reply<Exit>) {
        match &self.sandbox.exit {
            Some(exit) => drop(reply.send(Ok(exit.clone()))),
            None => {
                self.sandbox.waiters.retain(|waiter| !waiter.is_closed());
                self.sandbox.waiters.push(reply);
            }
        }
    }

    /// Sandbox.StopSandbox: every container gets SIGTERM, after `grace` SIGKILL; pause is last.
    pub(crate) fn stop_sandbox(&mut self, grace: Duration, reply: Reply<()>) {
        let first = self.stopping.is_none();
        self.stopping.get_or_insert_default().replies.push(reply);
        if first {
            self.begin_stopping(grace);
        } else if grace.is_zero() {
            self.kill_everything();
        }
    }

    fn begin_stopping(&mut self, grace: Duration) {
        if self.sandbox.phase != Phase::Stopped {
            self.sandbox.phase = Phase::Stopping;
        }
        self.later(grace + KILL_LIMIT, Event::StopOver);
        if grace.is_zero() {
            self.kill_everything();
            return;
        }
        self.later(grace, Event::GraceOver);
        for container in self.containers.values().filter(|c| c.process.state().is_alive()) {
            container.terminate();
        }
        self.go_on_stopping();
    }

    /// SIGKILL for every container; pause follows when they are gone.
    pub(crate) fn kill_everything(&mut self) {
        if self.stopping.is_none() {
            return;
        }
        for container in self.containers.values().filter(|c| c.process.state().is_alive()) {
            container.kill_all();
        }
        self.go_on_stopping();
    }

    /// While the pod is being stopped: what is next, now that something has ended?
    pub(crate) fn go_on_stopping(&mut self) {
        if self.stopping.is_none()
            || self
                .containers
                .values()
                .any(|c| c.process.state() != State::Exited && c.process.state() != State::Registered)
        {
            return;
        }
        let pause = &self.sandbox.pause;
        if let Ok(task) = self.foreign_task(&Key::Pause)
            && pause.state().is_alive()
        {
            task.send(Signal::KILL, false);
            return;
        }
        if pause.state().is_alive() {
            // pause would end at SIGTERM too, but it may be stopped, or another program.
            if let Some(Err(e)) = pause.pidfd().map(|fd| sys::pidfd::send_signal(fd, Signal::KILL)) {
                diary::note(format_args!("pause: {e}"));
            }
            return;
        }
        let Some(stopping) = self.stopping.take() else { return };
        let _ = sys::failpoint!("shim.stop.killed");
        self.sandbox.phase = Phase::Stopped;
        self.save_sandbox();
        for reply in stopping.replies {
            let _ = reply.send(Ok(()));
        }
        for reply in stopping.shutdowns {
            self.end(reply);
        }
    }

    /// A process outlives SIGKILL: it hangs in the kernel. Nobody waits for it any longer.
    pub(crate) fn give_up_stopping(&mut self) {
        let alive: Vec<u32> = self
            .processes()
            .filter(|(_, process)| process.state().is_alive())
            .map(|(_, process)| process.raw_pid())
            .collect();
        let Some(stopping) = self.stopping.take() else { return };
        let why = || {
            Failure::TimedOut(format!(
                "processes {alive:?} did not end within {KILL_LIMIT:?} of SIGKILL: they hang in the kernel"
            ))
        };
        for reply in stopping.replies.into_iter().chain(stopping.shutdowns) {
            let _ = reply.send(Err(why()));
        }
    }

    /// Sandbox.ShutdownSandbox: stops what still runs, and ends the shim.
    pub(crate) fn shut_down(&mut self, reply: Reply<()>) {
        if self
            .processes()
            .any(|(_, process)| matches!(process.state(), State::Ending) || process.state().is_alive())
        {
            let first = self.stopping.is_none();
            self.stopping.get_or_insert_default().shutdowns.push(reply);
            if first {
                self.begin_stopping(Duration::ZERO);
            } else {
                self.kill_everything();
            }
        } else {
            self.end(reply);
        }
    }

    /// Task.Shutdown: the shim ends if it has nothing to look after.
    pub(crate) fn shut_down_if_unused(&mut self, reply: Reply<()>) {
        if self.containers.is_empty() && matches!(self.sandbox.phase, Phase::New | Phase::Stopped) {
            self.end(reply);
        } else {
            let _ = reply.send(Ok(()));
        }
    }

    pub(crate) fn end(&mut self, reply: Reply<()>) {
        self.sandbox.phase = Phase::Stopped;
        let Some(reply) = self.end_foreign(reply) else { return };
        for container in std::mem::take(&mut self.containers).into_values() {
            self.forget_container(container);
        }
        self.remove_leftovers();
        let _ = sys::failpoint!("shim.stop.ended");
        self.over = true;
        let _ = reply.send(Ok(()));
    }

    /// Where pause's config.json is.
    pub(crate) fn sandbox_bundle(&self) -> &Path {
        &self.sandbox.bundle
    }

    /// The sandbox as it is.
    pub(crate) fn sandbox_view(&self) -> SandboxView {
        let mut pause = self.sandbox.pause.shown(&Key::Pause);
        pause.started_at_ns = self.sandbox.started_at_ns;
        SandboxView {
            id: self.config.id.clone(),
            pause,
            ready: self.sandbox.phase == Phase::Ready,
        }
    }

    /// The descriptor that a namespace path of a container's spec stands for, if it is one of ours: a copy, since the
    /// starter needs it only now.
    pub(crate) fn pinned(&self, path: &Path) -> Result<Option<OwnedFd>> {
        if let Some(fd) = self.sandbox.pins.get(path) {
            return crate::container::copy_of(fd).map(Some);
        }
        for container in self.containers.values().filter(|c| c.process.state().is_alive()) {
            if let Ok(kind) = path.strip_prefix(container.bundle.join("ns"))
                && let Some(kind) = kind.to_str()
            {
                let namespace = open_namespace(container.process.raw_pid(), kind)?;
                // One that is no child of ours may have ended, and its number have been given away.
                let lives = container.process.pidfd().is_some_and(crate::adopt::is_alive);
                return Ok(lives.then_some(namespace));
            }
        }
        Ok(None)
    }

    /// Whether this namespace path is the sandbox's PID namespace.
    pub(crate) fn is_shared_pid(&self, path: &Path) -> bool {
        path == self.sandbox.bundle.join("ns/pid")
    }

    /// Writes the sandbox's record.
    pub(crate) fn save_sandbox(&self) {
        self.save_sandbox_with(None);
    }

    /// Writes the sandbox's record, with the bundle of a container that is about to be made.
    pub(crate) fn save_sandbox_with(&self, unborn: Option<&Path>) {
        let me = rustix::process::getpid();
        let pause = &self.sandbox.pause;
        let record = records::Sandbox {
            id: self.config.id.clone(),
            shim: records::ProcessId {
                pid: me.as_raw_nonzero().get().unsigned_abs(),
                start_time_ticks: sys::spawn::start_time_ticks(me).unwrap_or(0),
            },
            pause: pause.state().is_alive().then(|| records::ProcessId {
                pid: pause.raw_pid(),
                start_time_ticks: pause.start_time_ticks(),
            }),
            started_at_ns: self.sandbox.started_at_ns,
            pause_restarts: self.sandbox.restarts,
            bundle: self.sandbox.bundle.clone(),
            namespaces: self.sandbox.namespaces.clone(),
            bundles: self
                .containers
                .values()
                .map(|c| c.bundle.as_path())
                .chain(unborn)
                .map(Path::to_path_buf)
                .collect(),
            exit: self.sandbox.exit.clone(),
        };
        if let Err(e) = record::save(&records::sandbox(&self.config.dir), &record) {
            diary::note(format_args!("{e}"));
        }
    }
}

/// A later pause joins what an earlier one made, save its PID namespace, which died with it.
fn keep_namespaces(spec: &mut Spec, sandbox: &Sandbox) {
    let Some(namespaces) = spec
        .linux_mut()
        .as_mut()
        .and_then(|linux| linux.namespaces_mut().as_mut())
    else {
        return;
    };
    for namespace in namespaces.iter_mut().filter(|namespace| namespace.path().is_none()) {
        let kind = match namespace.typ() {
            LinuxNamespaceType::Ipc => "ipc",
            LinuxNamespaceType::Uts => "uts",
            LinuxNamespaceType::User => "user",
            _ => continue,
        };
        let name = sandbox.bundle.join("ns").join(kind);
        if sandbox.pins.get(&name).is_some() {
            namespace.set_path(Some(name));
        }
    }
}

/// pause says on stderr why it ends; that belongs into the shim's log.
fn pause_stderr() -> Result<OwnedFd> {
    Ok(std::io::stderr()
        .as_fd()
        .try_clone_to_owned()
        .map_err(|e| failure::system("dup(stderr)", &e))?)
}

fn said(end: End) -> String {
    match end {
        End::Code(code) => format!("exit code {code}"),
        End::Signal(signal) => format!("signal {signal}"),
        End::Unknown => "nobody saw how".to_string(),
    }
}
