//! A container: its first process, its cgroup, its output, and what is started in it later.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use logs::Stream;
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::process::Signal;
use shim_api::shim::Kind;
use starter::{Executable, Rootfs, Size, Stdio};

use crate::event::{Create, Event, Key, Reply};
use crate::exec::Exec;
use crate::failure::{self, Failure, Result};
use crate::foreign::{self, Task};
use crate::journal::Kind as SourceKind;
use crate::pod::Pod;
use crate::process::{Process, Streams};
use crate::pump::{Pump, Sink, Source};
use crate::sandbox::{Phase, cgroup_path, load_spec};
use crate::state::{State, Verb};
use crate::stdio::{self, Names, Output};
use crate::terminal::Terminal;
use crate::{devices, diary, records};

/// The longest id of a container or an exec, in bytes: containerd's limit.
const ID_MAX: usize = 76;

/// A container.
#[derive(Debug)]
pub struct Container {
    pub(crate) bundle: PathBuf,
    pub(crate) stdio: Names,
    pub(crate) process: Process,
    pub(crate) cgroup: Option<cgroup::Cgroup>,
    /// Whether its PID namespace is the sandbox's, so that it dies with pause.
    pub(crate) shares_pid: bool,
    /// OOM kills that were announced.
    pub(crate) oom_kills: u64,
    pub(crate) execs: BTreeMap<String, Exec>,
    /// Its name to the shim that runs it, if this one does not.
    pub(crate) task: Option<Task>,
}

impl Container {
    /// Asks it to end. A process that is not its program yet has its signals blocked, and is killed.
    pub(crate) fn terminate(&self) {
        let signal = match self.process.state() {
            State::Creating | State::Created => Signal::KILL,
            _ => Signal::TERM,
        };
        self.send(signal);
        // It shall hear the signal, and have its grace period.
        self.unpause();
    }

    /// Whether it was paused: the kernel knows.
    pub(crate) fn is_paused(&self) -> bool {
        let group = self.cgroup.as_ref();
        self.process.state().is_alive() && group.is_some_and(|group| group.is_frozen().unwrap_or(false))
    }

    /// Lets it go on, if it was paused.
    pub(crate) fn unpause(&self) {
        if let Some(group) = self.cgroup.as_ref().filter(|_| self.is_paused())
            && let Err(e) = group.thaw()
        {
            diary::note(format_args!("cgroup {}: {e}", group.path()));
        }
    }

    /// Kills everything in it.
    pub(crate) fn kill_all(&self) {
        self.send(Signal::KILL);
        if let Some(group) = &self.cgroup
            && let Err(e) = group.kill()
        {
            diary::note(format_args!("cgroup {}: {e}", group.path()));
        }
        // On cgroup v1 what is frozen does not even die.
        self.unpause();
    }

    fn send(&self, signal: Signal) {
        if let Some(task) = &self.task {
            if self.process.state().is_alive() {
                task.send(signal, signal == Signal::KILL);
            }
            return;
        }
        if let Some(Err(e)) = self.process.pidfd().map(|fd| sys::pidfd::send_signal(fd, signal))
            && e.errno != rustix::io::Errno::SRCH
        {
            diary::note(format_args!("{e}"));
        }
    }
}

/// Removes what lies in a bundle of the shim's making.
pub(crate) fn remove_files(bundle: &Path) {
    let files = [
        bundle.join("stdout"),
        bundle.join("stderr"),
        records::process(bundle),
        records::exit(bundle, ""),
        records::end(bundle, ""),
    ];
    for path in files.into_iter().chain(crate::journal::files(bundle)) {
        if let Err(e) = record::remove(&path) {
            diary::note(format_args!("{e}"));
        }
    }
}

impl Pod {
    /// Task.Create: `reply` is told when everything is ready but the exec.
    pub(crate) fn create(&mut self, create: Create, reply: Reply<u32>) {
        let key = Key::Container(create.id.clone());
        match self.clone_container(create) {
            Ok((id, mut container)) => {
                container.process.starter = Some(reply);
                self.containers.insert(id, container);
                self.listen(&key);
            }
            Err(e) => drop(reply.send(Err(e))),
        }
    }

    fn clone_container(&mut self, create: Create) -> Result<(String, Container)> {
        check_id(&create.id)?;
        if self.containers.contains_key(&create.id) {
            return Err(Failure::AlreadyExists(format!(
                "container {} is in this pod already",
                create.id
            )));
        }
        if matches!(self.sandbox.phase, Phase::Stopping | Phase::Stopped) {
            return Err(Failure::Precondition(format!("sandbox {} was stopped", self.config.id)));
        }
        self.remove_leftovers();
        let spec = load_spec(&create.bundle)?;
        // If this shim dies now, the next one undoes what it finds in the bundle.
        self.save_sandbox_with(Some(&create.bundle));
        // Another shim makes it itself, as it pleases.
        let group = if self.is_keeper() {
            None
        } else {
            self.make_cgroup(&spec)?
        };
        let made = sys::failpoint!("shim.container.cgroup")
            .map_err(Failure::from)
            .and_then(|()| self.clone_in(&spec, &create, group.as_ref()));
        match made {
            Ok(process) => {
                let _ = sys::failpoint!("shim.container.cloned");
                let shares_pid =
                    namespace_paths(&spec, Some(LinuxNamespaceType::Pid)).any(|path| self.is_shared_pid(path));
                self.sandbox.pid_is_shared |= shares_pid;
                let container = Container {
                    shares_pid,
                    bundle: create.bundle,
                    stdio: create.stdio,
                    process,
                    cgroup: group,
                    oom_kills: 0,
                    execs: BTreeMap::new(),
                    task: self.foreign_task(&Key::Container(create.id.clone())).ok(),
                };
                self.watch_for_oom(&create.id, &container);
                Ok((create.id, container))
            }
            Err(e) => {
                if let Some(group) = group {
                    self.remove_cgroup(group);
                }
                Err(e)
            }
        }
    }

    fn make_cgroup(&mut self, spec: &Spec) -> Result<Option<cgroup::Cgroup>> {
        let Some(path) = cgroup_path(spec) else { return Ok(None) };
        let group = cgroup::Cgroup::create(self.hierarchies()?, &path)?;
        if let Some(resources) = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref())
            && let Err(e) = group.apply(&devices::with_default(resources))
        {
            self.remove_cgroup(group);
            return Err(e.into());
        }
        Ok(Some(group))
    }

    fn clone_in(&mut self, spec: &Spec, create: &Create, group: Option<&cgroup::Cgroup>) -> Result<Process> {
        if self.is_keeper() {
            return self.create_foreign(spec, create);
        }
        let (stdio, streams) = self.open_streams(spec, create)?;
        let mut pinned = Vec::new();
        for path in namespace_paths(spec, None) {
            if let Some(fd) = self.pinned(path)? {
                pinned.push((path, fd));
            }
        }
        let placement = group.map(cgroup::Cgroup::placement).transpose()?;
        let rootfs = match create.rootfs.is_empty() {
            false => Rootfs::Mounts(&create.rootfs),
            true => Rootfs::Directory(root_directory(spec, &create.bundle)),
        };
        let creating = starter::create(starter::Request {
            spec,
            executable: Executable::Path,
            rootfs,
            bundle: &create.bundle,
            stdio,
            pinned: &|path| pinned.iter().find(|(name, _)| *name == path).map(|(_, fd)| fd.as_fd()),
            cgroup: placement.as_ref(),
        })?;
        Process::creating(creating, streams, None)
    }

    /// Opens a new container's streams: what it gets, and what the shim keeps.
    fn open_streams(&self, spec: &Spec, create: &Create) -> Result<(Stdio, Streams)> {
        let names = &create.stdio;
        let mut streams = Streams::default();
        // Bad names are refused now, not when the terminal is there.
        let outputs = [Output::parse(&names.stdout)?, Output::parse(&names.stderr)?];
        let input = stdio::parse_input(&names.stdin)?;
        if names.terminal {
            let size = spec.process().as_ref().and_then(|p| p.console_size());
            return Ok((
                Stdio::Terminal {
                    size: size.map_or_else(Size::default, |s| size_of(s.height(), s.width())),
                },
                streams,
            ));
        }
        let stdin = match input {
            Some(path) => open_input(path, &mut streams)?,
            None => stdio::null()?,
        };
        let (stdout, out) = open_output(&create.bundle.join("stdout"), &outputs[0], Stream::Stdout, &mut streams)?;
        let (stderr, err) = open_output(&create.bundle.join("stderr"), &outputs[1], Stream::Stderr, &mut streams)?;
        streams.pump = self.start_pump(&create.id, &create.bundle, [(out, &outputs[0]), (err, &outputs[1])])?;
        Ok((Stdio::Fds { stdin, stdout, stderr }, streams))
    }

    /// One pump for a log, which both streams share; else one that copies.
    pub(crate) fn start_pump(
        &self,
        id: &str,
        bundle: &Path,
        streams: [(Option<Source>, &Output); 2],
    ) -> Result<Option<Pump>> {
        let log = streams.iter().find_map(|(_, output)| match output {
            Output::Log(path) => Some(path.clone()),
            _ => None,
        });
        let (mut to_log, mut copies) = (Vec::new(), Vec::new());
        for (source, output) in streams {
            let Some(source) = source else { continue };
            match output {
                Output::Nothing => {}
                Output::Log(path) if log.as_ref() == Some(path) => to_log.push(source),
                Output::Log(path) => {
                    return Err(Failure::Invalid(format!(
                        "stdout and stderr share one log, not {}",
                        path.display()
                    )));
                }
                // Open at both ends, so that the container lives on while its reader is restarted.
                Output::Fifo(path) => copies.push((source, Sink::fifo(sys::fifo::open_both_ends(path, true)?)?)),
                Output::File(path) => copies.push((source, Sink::File(stdio::append_to(path)?))),
            }
        }
        match (log, to_log.is_empty(), copies.is_empty()) {
            (Some(log), false, true) => Ok(Some(Pump::to_log(to_log, bundle, &log, id, &self.events)?)),
            (_, true, false) => Ok(Some(Pump::copying(copies))),
            (_, true, true) => Ok(None),
            (_, false, _) => Err(Failure::Invalid(
                "stdout and stderr: both go to the log, or neither does".to_string(),
            )),
        }
    }

    /// A process is ready to be started.
    pub(crate) fn became_created(&mut self, key: &Key, terminal: Option<OwnedFd>) {
        if *key == Key::Pause {
            self.pause_became_created();
            return;
        }
        let connected = match terminal {
            Some(master) => self.connect_terminal(key, master),
            None => Ok(()),
        };
        if let Err(e) = connected {
            self.failed_to_start(key, State::Creating, e);
            return;
        }
        match key {
            Key::Container(_) => {
                let _ = sys::failpoint!("shim.container.created");
                if let Err(e) = self.save_process(key) {
                    self.failed_to_start(key, State::Creating, e);
                    return;
                }
                let _ = sys::failpoint!("shim.container.recorded");
                self.tell(Kind::KIND_CREATED, key);
                if let Ok(process) = self.process_mut(key) {
                    let pid = process.raw_pid();
                    if let Some(reply) = process.starter.take() {
                        let _ = reply.send(Ok(pid));
                    }
                }
                sys::memory::trim();
            }
            // An exec is created by its start.
            Key::Exec(..) => {
                self.tell(Kind::KIND_CREATED, key);
                self.go_ahead(key);
            }
            Key::Pause => {}
        }
    }

    fn connect_terminal(&mut self, key: &Key, master: OwnedFd) -> Result<()> {
        let names = self.names_of(key)?;
        let input = match stdio::parse_input(&names.stdin)? {
            Some(path) => Some(sys::fifo::open_both_ends(path, true)?),
            None => None,
        };
        let terminal = Terminal::new(master, input)?;
        let output = Output::parse(&names.stdout)?;
        // With nobody to show it to, what the process writes is read all the same, so that it does not hang.
        let source = Some(terminal.output()?);
        let pump = match (&output, key) {
            (Output::Nothing, _) => Some(Pump::copying(vec![(terminal.output()?, Sink::File(stdio::null()?))])),
            // An exec's reader that has gone does not come back: it must be seen, so the FIFO is open at one end.
            (Output::Fifo(path), Key::Exec(..)) => {
                let _keep = sys::fifo::open_both_ends(path, true)?;
                let fifo = sys::fifo::open_writer(path, true)?;
                Some(Pump::copying(vec![(terminal.output()?, Sink::fifo(fifo)?)]))
            }
            _ => {
                let bundle = &self.container(key.container())?.bundle;
                self.start_pump(key.container(), bundle, [(source, &output), (None, &Output::Nothing)])?
            }
        };
        let streams = &mut self.process_mut(key)?.streams;
        streams.pump = pump;
        streams.terminal = Some(terminal);
        Ok(())
    }

    fn names_of(&self, key: &Key) -> Result<Names> {
        let container = self.container(key.container())?;
        Ok(match container.execs.get(key.exec()) {
            Some(exec) => exec.stdio.clone(),
            None => container.stdio.clone(),
        })
    }

    /// Task.Start
    pub(crate) fn start(&mut self, key: Key, reply: Reply<u32>) {
        if let Err(e) = self.process(&key).and_then(|p| p.state().admit(Verb::Start, &key)) {
            let _ = reply.send(Err(e));
            return;
        }
        match &key {
            Key::Exec(..) => self.start_exec(&key, reply),
            Key::Container(_) | Key::Pause => {
                if let Ok(process) = self.process_mut(&key) {
                    process.starter = Some(reply);
                }
                self.go_ahead(&key);
            }
        }
    }

    /// Lets a created process become its program.
    pub(crate) fn go_ahead(&mut self, key: &Key) {
        if self.is_keeper() {
            if let Err(e) = self.start_foreign(key) {
                self.failed_to_start(key, State::Starting, e);
            }
            return;
        }
        let Ok(process) = self.process_mut(key) else { return };
        match process.start() {
            Ok(()) => self.listen(key),
            Err(e) => self.failed_to_start(key, State::Starting, e),
        }
    }

    /// Writes down what another shim would have to know of a process. A container without it is killed by that one, so it is none.
    pub(crate) fn save_process(&self, key: &Key) -> Result<()> {
        let (container, process) = (self.container(key.container())?, self.process(key)?);
        let exec = container.execs.get(key.exec());
        let stdio = exec.map_or(&container.stdio, |exec| &exec.stdio);
        let (created_at_ns, started_at_ns) = process.times_ns();
        let (id, path) = match key {
            Key::Exec(_, exec) => {
                make_exec_dir(&container.bundle, exec)?;
                (key.exec(), records::exec_process(&container.bundle, exec))
            }
            _ => (key.container(), records::process(&container.bundle)),
        };
        let record = records::Process {
            id: id.to_string(),
            process: records::ProcessId {
                pid: process.raw_pid(),
                start_time_ticks: process.start_time_ticks(),
            },
            stdio: stdio.clone(),
            identity: process.identity().clone(),
            input_is_closed: !stdio.stdin.is_empty() && process.streams.input.is_none(),
            cgroup: container.cgroup.as_ref().map(|group| group.path().to_string()),
            shares_pid: container.shares_pid,
            created_at_ns,
            started_at_ns,
        };
        Ok(record::save(&path, &record)?)
    }

    /// Takes away everything of a container's that the shim has made.
    pub(crate) fn forget_container(&mut self, container: Container) {
        for exec in container.execs.keys() {
            remove_exec_files(&container.bundle, exec);
        }
        let _ = std::fs::remove_dir(container.bundle.join("execs"));
        remove_files(&container.bundle);
        if self.is_keeper()
            && let Err(e) = foreign::remove_bundle(&container.bundle)
        {
            diary::note(format_args!("{e}"));
        }
        if let Some(group) = container.cgroup {
            self.remove_cgroup(group);
        }
    }

    /// Removes a cgroup now, or with a later one.
    pub(crate) fn remove_cgroup(&mut self, group: cgroup::Cgroup) {
        if let Err(e) = group.remove() {
            diary::note(format_args!("{e}"));
            self.leftovers.push(group);
        }
    }

    /// Tries again to remove what could not be removed before.
    pub(crate) fn remove_leftovers(&mut self) {
        self.leftovers.retain(|group| group.remove().is_err());
    }

    /// Has the kernel's OOM killer reported.
    pub(crate) fn watch_for_oom(&self, id: &str, container: &Container) {
        let Some(Ok(watch)) = container.cgroup.as_ref().map(cgroup::Cgroup::oom_events) else {
            return;
        };
        let Ok(fd) = watch.as_fd().try_clone_to_owned() else {
            return;
        };
        let Ok(ready) = crate::ready::registered(fd) else {
            return;
        };
        let (id, events) = (id.to_string(), self.events.clone());
        tokio::task::spawn_local(async move {
            while let Ok(mut guard) = ready.readable().await {
                guard.clear_ready();
                // The kernel announces the cgroup's removal too, which ends the watch: so does a container's deletion.
                if watch.drain().is_err() || events.send(Event::Oom(id.clone(), 0)).is_err() || watch.kills().is_err() {
                    return;
                }
            }
        });
    }
}

/// Where the records of one exec go.
pub(crate) fn make_exec_dir(bundle: &Path, exec: &str) -> Result<()> {
    let dir = records::exec_dir(bundle, exec);
    std::fs::create_dir_all(&dir).map_err(|e| failure::system(format_args!("mkdir({dir:?})"), &e))?;
    Ok(())
}

/// Removes what belongs to one exec, if it is the shim's.
pub(crate) fn remove_exec_files(bundle: &Path, exec: &str) {
    if let Err(e) = record::remove(&records::exit(bundle, exec)) {
        diary::note(format_args!("{e}"));
    }
    for path in [records::exec_process(bundle, exec), records::end(bundle, exec)] {
        if let Err(e) = record::remove(&path) {
            diary::note(format_args!("{e}"));
        }
    }
    // The caller's FIFOs may still be in it; then it is the caller's to remove.
    let _ = std::fs::remove_dir(records::exec_dir(bundle, exec));
}

/// Ids become file names and cgroup names.
pub(crate) fn check_id(id: &str) -> Result<()> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if id.is_empty() || id.len() > ID_MAX || !id.chars().all(fits) || id.starts_with('.') {
        return Err(Failure::Invalid(format!(
            "id {id:?}: 1 to {ID_MAX} of A-Z a-z 0-9 . _ -, and no . at the beginning"
        )));
    }
    Ok(())
}

pub(crate) fn size_of(rows: u64, columns: u64) -> Size {
    let clamp = |n: u64| u16::try_from(n).unwrap_or(u16::MAX);
    Size {
        rows: clamp(rows),
        columns: clamp(columns),
    }
}

/// The namespace paths of a spec, of one kind or of all.
pub(crate) fn namespace_paths(spec: &Spec, kind: Option<LinuxNamespaceType>) -> impl Iterator<Item = &Path> {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    namespaces
        .into_iter()
        .flatten()
        .filter(move |namespace| kind.is_none_or(|kind| namespace.typ() == kind))
        .filter_map(|namespace| namespace.path().as_deref())
}

fn root_directory(spec: &Spec, bundle: &Path) -> PathBuf {
    match spec.root() {
        Some(root) => bundle.join(root.path()),
        None => bundle.join("rootfs"),
    }
}

/// Opens the FIFO that a process reads its input from, and keeps its other end.
pub(crate) fn open_input(path: &Path, streams: &mut Streams) -> Result<OwnedFd> {
    let other_end = sys::fifo::open_both_ends(path, true)?;
    let stdin = sys::fifo::open_reader(path, false)?;
    streams.to_be_owned.push(copy_of(&other_end)?);
    streams.input = Some(other_end);
    Ok(stdin)
}

/// Opens a container's output: what it gets, and what the shim reads if somebody wants it. The FIFO is open at both
/// ends on the container's side (invariant 4): when the shim dies, the container meets neither SIGPIPE nor an error.
pub(crate) fn open_output(
    fifo: &Path,
    output: &Output,
    stream: Stream,
    streams: &mut Streams,
) -> Result<(OwnedFd, Option<Source>)> {
    if *output == Output::Nothing {
        return Ok((stdio::null()?, None));
    }
    sys::fifo::make(fifo)?;
    let containers = sys::fifo::open_both_ends(fifo, false)?;
    let shims = open_fifo(fifo)?;
    streams.to_be_owned.push(copy_of(&shims)?);
    Ok((containers, Some(Source::new(shims, stream, SourceKind::Fifo)?)))
}

/// The shim's own end of a container's output.
pub(crate) fn open_fifo(path: &Path) -> Result<OwnedFd> {
    Ok(sys::fifo::open_both_ends(path, true)?)
}

pub(crate) fn copy_of(fd: &OwnedFd) -> Result<OwnedFd> {
    Ok(fd
        .try_clone()
        .map_err(|e| failure::system("fcntl(F_DUPFD_CLOEXEC)", &e))?)
}
