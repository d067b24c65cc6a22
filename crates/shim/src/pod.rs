//! The state machine: one task that owns everything, told by messages what to do.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Pid;
use shim_api::shim::Kind;
use tokio::sync::mpsc;

use crate::container::Container;
use crate::diary;
use crate::event::{Event, Key, PodView, Reply, Request};
use crate::failure::{Failure, Result};
use crate::foreign::Foreign;
use crate::process::{Advanced, Process};
use crate::sandbox::{Sandbox, Stopping};
use crate::state::State;
use crate::watch::Watchers;

/// What the shim is told at its start.
#[derive(Debug, Clone)]
pub struct Config {
    /// The sandbox's id.
    pub id: String,
    /// Where its records are.
    pub dir: PathBuf,
    /// The program that becomes pause: a static ELF.
    pub pause: &'static [u8],
}

/// A pod: its sandbox, its containers, and who wants to know of them.
pub struct Pod {
    pub(crate) config: Config,
    pub(crate) events: mpsc::UnboundedSender<Event>,
    pub(crate) sandbox: Sandbox,
    pub(crate) containers: BTreeMap<String, Container>,
    pub(crate) watchers: Watchers,
    pub(crate) stopping: Option<Stopping>,
    /// The cgroup file systems, once somebody needed them.
    pub(crate) hierarchies: Option<cgroup::Hierarchies>,
    /// Cgroups that could not be removed when their container was: tried again with the next one.
    pub(crate) leftovers: Vec<cgroup::Cgroup>,
    /// The shim that runs the containers, if this one does not.
    pub(crate) foreign: Option<Foreign>,
    /// Who asked for the end, while that shim ends first.
    pub(crate) farewells: Vec<Reply<()>>,
    /// Set by the last request.
    pub(crate) over: bool,
}

impl Pod {
    /// A pod with nothing in it, whose containers are `foreign`'s if there is such a shim. Its own tasks report to `events`, which [`run`](Pod::run) reads.
    pub fn new(config: Config, foreign: Option<Foreign>, events: mpsc::UnboundedSender<Event>) -> Pod {
        Pod {
            foreign,
            farewells: Vec::new(),
            config,
            events,
            sandbox: Sandbox::default(),
            containers: BTreeMap::new(),
            watchers: Watchers::default(),
            stopping: None,
            hierarchies: None,
            leftovers: Vec::new(),
            over: false,
        }
    }

    /// Runs until it is told to shut down.
    pub async fn run(mut self, mut events: mpsc::UnboundedReceiver<Event>, mut requests: mpsc::Receiver<Request>) {
        while !self.over {
            tokio::select! {
                // What has happened comes before what is wanted.
                biased;
                Some(event) = events.recv() => self.react(event),
                request = requests.recv() => match request {
                    Some(request) => self.obey(request),
                    // Nobody can ask for anything any more; the processes go on.
                    None => return,
                },
            }
        }
    }

    fn react(&mut self, event: Event) {
        match event {
            Event::Ended { pid, end, at } => {
                // Anything else is an orphan: reaping it was all.
                if let Some(key) = self.alive_with(pid) {
                    self.ended(&key, end, at);
                }
            }
            Event::Gone(key, attempt) => self.gone(&key, attempt),
            Event::Handshake(key) => self.shake_hands(&key),
            Event::Settle(key, attempt) => self.settle(&key, attempt),
            Event::Drained(key) => self.announce(&key),
            Event::Oom(container, attempt) => self.look_for_oom(&container, attempt),
            Event::Notice(container, text, reason) => self.notice(&container, reason, text),
            Event::Foreign(key, report) => self.foreign_reported(&key, report),
            Event::GraceOver => self.kill_everything(),
            Event::StopOver => self.give_up_stopping(),
        }
    }

    fn obey(&mut self, request: Request) {
        let Some(request) = self.forward(request) else { return };
        // A connection that has hung up does not mind that its answer goes nowhere.
        match request {
            Request::CreateSandbox { bundle, reply } => drop(reply.send(self.create_sandbox(bundle))),
            Request::StartSandbox { reply } => self.start_sandbox(reply),
            Request::StopSandbox { grace_s, reply } => self.stop_sandbox(Duration::from_secs(grace_s.into()), reply),
            Request::WaitSandbox { reply } => self.wait_sandbox(reply),
            Request::SandboxStatus { reply } => drop(reply.send(Ok(self.sandbox_view()))),
            Request::ShutdownSandbox { reply } => self.shut_down(reply),

            Request::Create { create, reply } => self.create(create, reply),
            Request::Start { key, reply } => self.start(key, reply),
            Request::Exec { exec, reply } => drop(reply.send(self.register_exec(exec))),
            Request::Kill {
                key,
                signal,
                all,
                reply,
            } => drop(reply.send(self.kill(&key, signal, all))),
            Request::Wait { key, reply } => match self.process_mut(&key) {
                Ok(process) => process.wait(reply),
                Err(e) => drop(reply.send(Err(e))),
            },
            Request::Delete { key, reply } => drop(reply.send(self.delete(&key))),
            Request::View { key, reply } => drop(reply.send(self.view(&key))),
            Request::Pids { id, reply } => drop(reply.send(self.pids(&id))),
            Request::CloseInput { key, reply } => drop(reply.send(self.close_input(&key))),
            Request::Resize {
                key,
                rows,
                columns,
                reply,
            } => drop(reply.send(self.resize(&key, rows, columns))),
            Request::Stats { id, reply } => drop(reply.send(self.stats(&id))),
            Request::Update { id, resources, reply } => drop(reply.send(self.update(&id, &resources))),
            Request::Pause { id, reply } => drop(reply.send(self.pause(&id))),
            Request::Resume { id, reply } => drop(reply.send(self.resume(&id))),
            Request::ShutdownTask { reply } => self.shut_down_if_unused(reply),

            Request::Pod { reply } => drop(reply.send(Ok(self.pod_view()))),
            Request::Watch { changes, reply } => {
                let view = self.pod_view();
                let pause = Some(view.sandbox.pause).filter(|pause| pause.pid != 0);
                self.watchers.add(
                    changes,
                    pause.into_iter().chain(view.containers).chain(view.execs).collect(),
                );
                let _ = reply.send(Ok(()));
            }
            Request::ReopenLog { id, reply } => self.reopen_log(&id, reply),
            Request::Attach {
                id,
                stdout,
                stderr,
                reply,
            } => self.attach(&id, [&stdout, &stderr], reply),
        }
    }

    /// A process that is being started has said something, or has ended before it could.
    pub(crate) fn shake_hands(&mut self, key: &Key) {
        let Ok(process) = self.process_mut(key) else { return };
        let before = process.state();
        match process.advance() {
            Ok(Advanced::Pending) => self.listen(key),
            Ok(Advanced::Created { terminal }) => self.became_created(key, terminal),
            Ok(Advanced::Running) => self.became_running(key),
            Err(e) => self.failed_to_start(key, before, e),
        }
    }

    /// Calls for the next word of a process that is being started.
    pub(crate) fn listen(&mut self, key: &Key) {
        let events = self.events.clone();
        let Ok(process) = self.process_mut(key) else { return };
        let before = process.state();
        if let Err(e) = process.listen(key, &events) {
            self.failed_to_start(key, before, e);
        }
    }

    pub(crate) fn became_running(&mut self, key: &Key) {
        if *key == Key::Pause {
            self.sandbox_became_ready();
            return;
        }
        let _ = match key {
            Key::Exec(..) => sys::failpoint!("shim.exec.runs"),
            _ => sys::failpoint!("shim.container.runs"),
        };
        // Another shim must find what this one has announced.
        match (key, self.save_process(key)) {
            (Key::Container(_), Err(e)) => {
                self.failed_to_start(key, State::Starting, e);
                return;
            }
            (_, Err(e)) => diary::note(format_args!("{key}: if this shim dies, it can't be taken over: {e}")),
            (_, Ok(())) => {}
        }
        self.tell(Kind::KIND_STARTED, key);
        if let Ok(process) = self.process_mut(key) {
            let pid = process.raw_pid();
            if let Some(reply) = process.starter.take() {
                let _ = reply.send(Ok(pid));
            }
        }
        // What it took to start a process is not needed while it runs.
        sys::memory::trim();
    }

    /// The process of this name.
    pub(crate) fn process_mut(&mut self, key: &Key) -> Result<&mut Process> {
        if *key == Key::Pause {
            return Ok(&mut self.sandbox.pause);
        }
        let container = self.container_mut(key.container())?;
        match key {
            Key::Exec(id, exec) => match container.execs.get_mut(exec) {
                Some(exec) => Ok(&mut exec.process),
                None => Err(Failure::NotFound(format!("container {id} has no exec {exec}"))),
            },
            _ => Ok(&mut container.process),
        }
    }

    /// The process of this name.
    pub(crate) fn process(&self, key: &Key) -> Result<&Process> {
        if *key == Key::Pause {
            return Ok(&self.sandbox.pause);
        }
        let container = self.container(key.container())?;
        match key {
            Key::Exec(id, exec) => match container.execs.get(exec) {
                Some(exec) => Ok(&exec.process),
                None => Err(Failure::NotFound(format!("container {id} has no exec {exec}"))),
            },
            _ => Ok(&container.process),
        }
    }

    pub(crate) fn container(&self, id: &str) -> Result<&Container> {
        self.containers.get(id).ok_or_else(|| no_container(id))
    }

    pub(crate) fn container_mut(&mut self, id: &str) -> Result<&mut Container> {
        self.containers.get_mut(id).ok_or_else(|| no_container(id))
    }

    /// Every process that the pod knows by name.
    pub(crate) fn processes(&self) -> impl Iterator<Item = (Key, &Process)> {
        let pause = std::iter::once((Key::Pause, &self.sandbox.pause));
        pause.chain(self.containers.iter().flat_map(|(id, container)| {
            let first = std::iter::once((Key::Container(id.clone()), &container.process));
            let execs = container.execs.iter();
            first.chain(execs.map(|(exec, e)| (Key::Exec(id.clone(), exec.clone()), &e.process)))
        }))
    }

    /// The process with this number that has not been seen to end. A number alone may be an ended process's that was
    /// given away again.
    fn alive_with(&self, pid: Pid) -> Option<Key> {
        let mut processes = self.processes();
        processes
            .find(|(_, process)| process.pid() == Some(pid) && process.state().is_alive())
            .map(|(key, _)| key)
    }

    /// Tells the watchers of a change.
    pub(crate) fn tell(&mut self, kind: Kind, key: &Key) {
        if let Ok(process) = self.process(key) {
            let shown = process.shown(key);
            self.watchers.tell(kind, &shown);
        }
    }

    /// Tells a person, by the log and the watchers; `reason` in one word, as events have it.
    pub(crate) fn notice(&mut self, container: &str, reason: &str, text: String) {
        let key = if container.is_empty() {
            Key::Pause
        } else {
            Key::Container(container.to_string())
        };
        diary::note(format_args!("{key}: {text}"));
        let mut shown = match self.process(&key) {
            Ok(process) => process.shown(&key),
            Err(_) => shim_api::shim::Process {
                container_id: container.to_string(),
                ..Default::default()
            },
        };
        shown.message = text;
        self.watchers.notice(reason, shown);
    }

    /// Sends `event` to the state machine after a while.
    pub(crate) fn later(&self, after: Duration, event: Event) {
        let events = self.events.clone();
        tokio::task::spawn_local(async move {
            tokio::time::sleep(after).await;
            // The state machine is gone only when the shim ends.
            let _ = events.send(event);
        });
    }

    /// Everything that is known.
    fn pod_view(&self) -> PodView {
        let (mut containers, mut execs) = (Vec::new(), Vec::new());
        for (key, process) in self.processes() {
            match key {
                Key::Pause => {}
                Key::Container(_) => containers.push(process.shown(&key)),
                Key::Exec(..) => execs.push(process.shown(&key)),
            }
        }
        PodView {
            sandbox: self.sandbox_view(),
            containers,
            execs,
        }
    }

    /// The cgroup file systems of this machine.
    pub(crate) fn hierarchies(&mut self) -> Result<&cgroup::Hierarchies> {
        match &mut self.hierarchies {
            Some(known) => Ok(known),
            unknown => Ok(unknown.insert(cgroup::Hierarchies::detect()?)),
        }
    }
}

fn no_container(id: &str) -> Failure {
    Failure::NotFound(format!("no container {id} in this pod"))
}
