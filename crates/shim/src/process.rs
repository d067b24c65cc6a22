//! One process of the pod, from its clone to its announced end.

use std::mem;
use std::os::fd::OwnedFd;

use jiff::Timestamp;
use rustix::process::{Pid, Signal};
use shim_api::shim::ProcessState;
use starter::{Created, Creating, Starting};
use sys::pidfd::End;
use tokio::sync::mpsc;

use crate::event::{Event, Exit, Key, Reply};
use crate::failure::{self, Failure, Result};
use crate::records::{self, Identity};
use crate::state::State;
use crate::terminal::Terminal;

/// The way to a process that does not run its program yet.
#[derive(Debug, Default)]
enum Handshake {
    #[default]
    None,
    Creating(Creating),
    Created(Created),
    /// Let go at this time.
    Starting(Starting, i64),
}

/// What [`Process::advance`] found.
#[derive(Debug)]
pub enum Advanced {
    /// Nothing new.
    Pending,
    /// It is ready to be started.
    Created {
        /// The master of its terminal, if it has one.
        terminal: Option<OwnedFd>,
    },
    /// It runs its program.
    Running,
}

/// One process.
#[derive(Debug, Default)]
pub struct Process {
    state: Option<State>,
    handshake: Handshake,
    pid: Option<Pid>,
    pidfd: Option<OwnedFd>,
    start_time_ticks: u64,
    created_at_ns: i64,
    started_at_ns: i64,
    identity: Identity,
    /// How it ended, while that is not announced yet.
    pub ended: Option<(End, Timestamp)>,
    /// How it ended, once that is announced.
    pub exit: Option<Exit>,
    /// Who waits for its creation or start.
    pub starter: Option<Reply<u32>>,
    /// Who waits for its end.
    waiters: Vec<Reply<Exit>>,
    /// What keeps its streams going.
    pub streams: Streams,
}

/// What the shim holds of a process's streams.
#[derive(Debug, Default)]
pub struct Streams {
    /// FIFOs that are kept open until the process has them itself, so that opening them waits for nobody.
    pub until_running: Vec<OwnedFd>,
    /// The other end of its input: without it, the process would meet end of file before somebody has written.
    pub input: Option<OwnedFd>,
    /// Its output, if the shim carries that.
    pub pump: Option<crate::pump::Pump>,
    /// Its terminal.
    pub terminal: Option<Terminal>,
    /// FIFOs that will belong to the process's user, once that is known.
    pub to_be_owned: Vec<OwnedFd>,
}

impl Process {
    /// A process that has just been cloned; `reply` gets its pid once it is created.
    pub fn creating(creating: Creating, streams: Streams, reply: Option<Reply<u32>>) -> Result<Process> {
        let pid = creating.pid();
        let pidfd = creating
            .pidfd()
            .try_clone_to_owned()
            .map_err(|e| failure::system("dup(pidfd)", &e))?;
        Ok(Process {
            state: Some(State::Creating),
            pid: Some(pid),
            pidfd: Some(pidfd),
            start_time_ticks: sys::spawn::start_time_ticks(pid).unwrap_or(0),
            created_at_ns: now_ns(),
            handshake: Handshake::Creating(creating),
            starter: reply,
            streams,
            ..Process::default()
        })
    }

    /// A process that was asked of another vendor's shim, to be run as this.
    pub fn asked(streams: Streams, identity: Identity) -> Process {
        Process {
            state: Some(State::Creating),
            created_at_ns: now_ns(),
            identity,
            streams,
            ..Process::default()
        }
    }

    /// That shim says that it is there, or runs, under this number; 0: not yet.
    fn is_known(&mut self, pid: u32) {
        let Some(number) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
            return;
        };
        self.pid = Some(number);
        self.pidfd = sys::pidfd::open(number).ok();
        self.start_time_ticks = sys::spawn::start_time_ticks(number).unwrap_or(0);
    }

    /// The other shim has created it.
    pub fn is_created(&mut self, pid: u32) {
        self.is_known(pid);
        self.state = Some(State::Created);
    }

    /// The other shim is asked to let it become its program.
    pub fn is_starting(&mut self) {
        self.state = Some(State::Starting);
        // As in `start`.
        self.started_at_ns = now_ns();
    }

    /// The other shim says that it runs its program.
    pub fn is_running(&mut self, pid: u32) {
        if self.raw_pid() != pid {
            self.is_known(pid);
        }
        self.state = Some(State::Running);
        self.streams.until_running = Vec::new();
    }

    /// A process that another shim has started, and that was not seen to end yet.
    pub fn recorded(known: &records::Process) -> Process {
        Process {
            state: Some(State::Running),
            pid: pid_of(&known.process),
            start_time_ticks: known.process.start_time_ticks,
            created_at_ns: known.created_at_ns,
            started_at_ns: known.started_at_ns,
            identity: known.identity.clone(),
            ..Process::default()
        }
    }

    /// pause, as another shim has started it.
    pub fn pause_recorded(known: &records::ProcessId) -> Process {
        Process {
            state: Some(State::Running),
            pid: pid_of(known),
            start_time_ticks: known.start_time_ticks,
            ..Process::default()
        }
    }

    /// What was known by name only is this process now. containerd waits for an exec before it starts it: who waits goes on.
    pub fn becomes(&mut self, process: Process) {
        let waiters = mem::take(&mut self.waiters);
        *self = Process { waiters, ..process };
    }

    /// It is this one.
    pub fn is_found(&mut self, pidfd: OwnedFd) {
        self.pidfd = Some(pidfd);
    }

    /// Where it is in its life.
    pub fn state(&self) -> State {
        self.state.unwrap_or(State::Registered)
    }

    /// Its number in the shim's PID namespace.
    pub fn pid(&self) -> Option<Pid> {
        self.pid
    }

    /// Its number, 0 if it was never cloned.
    pub fn raw_pid(&self) -> u32 {
        self.pid.map_or(0, |pid| pid.as_raw_nonzero().get().unsigned_abs())
    }

    /// Its pidfd, if it was cloned.
    pub fn pidfd(&self) -> Option<&OwnedFd> {
        self.pidfd.as_ref()
    }

    /// With the number, names it for ever.
    pub fn start_time_ticks(&self) -> u64 {
        self.start_time_ticks
    }

    /// When it was cloned and when it was let go to run its program, in nanoseconds since 1970; 0: it was not, or does not run it
    /// yet.
    pub fn times_ns(&self) -> (i64, i64) {
        (self.created_at_ns, self.started_at_ns)
    }

    /// As whom it runs.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Calls for an [`Event::Handshake`] when the process has said something.
    pub fn listen(&self, key: &Key, events: &mpsc::UnboundedSender<Event>) -> Result<()> {
        let socket = match &self.handshake {
            Handshake::Creating(creating) => creating.as_fd(),
            Handshake::Starting(starting, _) => starting.as_fd(),
            Handshake::None | Handshake::Created(_) => return Ok(()),
        };
        let socket = socket
            .try_clone_to_owned()
            .map_err(|e| failure::system("dup(handshake)", &e))?;
        let socket = crate::ready::registered(socket)?;
        let (key, events) = (key.clone(), events.clone());
        tokio::task::spawn_local(async move {
            let ready = socket.readable().await.is_ok();
            if ready {
                // The state machine is gone only when the shim ends.
                let _ = events.send(Event::Handshake(key));
            }
        });
        Ok(())
    }

    /// Takes what the process has said. An error means that it could not be created, or that its program could not
    /// be started: either way it is dead.
    pub fn advance(&mut self) -> Result<Advanced> {
        match mem::take(&mut self.handshake) {
            Handshake::Creating(mut creating) => match creating.advance()? {
                starter::Progress::Pending => {
                    self.handshake = Handshake::Creating(creating);
                    Ok(Advanced::Pending)
                }
                starter::Progress::Created(mut created) => {
                    let starter::Identity { uid, gid, groups, .. } = created.identity.clone();
                    self.identity = Identity { uid, gid, groups };
                    self.give_fifos_away(created.host_ids());
                    for notice in &created.notices {
                        crate::diary::note(format_args!("process {}: {notice}", self.raw_pid()));
                    }
                    let terminal = created.terminal.take();
                    self.handshake = Handshake::Created(created);
                    self.state = Some(State::Created);
                    Ok(Advanced::Created { terminal })
                }
            },
            Handshake::Starting(mut starting, let_go_ns) => match starting.advance()? {
                starter::Started::Pending => {
                    self.handshake = Handshake::Starting(starting, let_go_ns);
                    Ok(Advanced::Pending)
                }
                starter::Started::Running => {
                    self.state = Some(State::Running);
                    self.started_at_ns = let_go_ns;
                    self.streams.until_running = Vec::new();
                    Ok(Advanced::Running)
                }
            },
            other => {
                self.handshake = other;
                Ok(Advanced::Pending)
            }
        }
    }

    /// Lets a created process become its program.
    pub fn start(&mut self) -> Result<()> {
        if let Handshake::Created(created) = mem::take(&mut self.handshake) {
            self.state = Some(State::Starting);
            // A program that ends at once may have ended before its word that it runs is read: its start is the moment before.
            let let_go_ns = now_ns();
            self.handshake = Handshake::Starting(created.start()?, let_go_ns);
        }
        Ok(())
    }

    /// The FIFOs become the process's user's, who may open them again (`/dev/stdout` of a program that does not run as
    /// root).
    fn give_fifos_away(&mut self, (uid, gid): (u32, u32)) {
        use rustix::fs::{Gid, Uid};
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        for fifo in mem::take(&mut self.streams.to_be_owned) {
            if let Err(e) = rustix::fs::fchown(&fifo, Some(uid), Some(gid)) {
                // The process has the descriptors all the same; it can only not open the paths.
                crate::diary::note(format_args!("fchown({fifo:?}, {}): {e}", self.identity.uid));
            }
        }
    }

    /// Its end has been seen. `false`: it had been seen before.
    pub fn set_ended(&mut self, end: End, at: Timestamp) -> bool {
        if !self.state().is_alive() {
            return false;
        }
        self.state = Some(State::Ending);
        // Dropping a handshake kills and reaps whom it belongs to: it is dead already.
        self.handshake = Handshake::None;
        self.ended = Some((end, at));
        true
    }

    /// Its end is durable: everyone who waits is told.
    pub fn announce(&mut self, exit: Exit) {
        self.state = Some(State::Exited);
        for waiter in mem::take(&mut self.waiters) {
            let _ = waiter.send(Ok(exit.clone()));
        }
        self.exit = Some(exit);
        self.streams = Streams::default();
        self.pidfd = None;
    }

    /// `reply` is told when it has ended; at once if it has.
    pub fn wait(&mut self, reply: Reply<Exit>) {
        match &self.exit {
            Some(exit) => {
                let _ = reply.send(Ok(exit.clone()));
            }
            None => {
                // Those who have hung up must not pile up over a container's long life.
                self.waiters.retain(|waiter| !waiter.is_closed());
                self.waiters.push(reply);
            }
        }
    }

    /// Sends a signal to this process alone.
    pub fn signal(&self, number: u32, key: &Key) -> Result<()> {
        let signal = signal_of(number)?;
        let finished = || Failure::NotFound(format!("{key}: process already finished"));
        let pidfd = self.pidfd.as_ref().ok_or_else(finished)?;
        match sys::pidfd::send_signal(pidfd, signal) {
            Err(e) if e.errno == rustix::io::Errno::SRCH => Err(finished()),
            done => Ok(done?),
        }
    }

    /// As the Pod service shows it.
    pub fn shown(&self, key: &Key) -> shim_api::shim::Process {
        let mut shown = shim_api::shim::Process::new();
        shown.container_id = key.container().to_string();
        shown.exec_id = key.exec().to_string();
        shown.state = match self.state() {
            State::Registered | State::Creating | State::Created => ProcessState::PROCESS_STATE_CREATED,
            // Until its end is announced, it runs.
            State::Starting | State::Running | State::Ending => ProcessState::PROCESS_STATE_RUNNING,
            State::Exited => ProcessState::PROCESS_STATE_EXITED,
        }
        .into();
        shown.pid = self.raw_pid();
        shown.start_time_ticks = self.start_time_ticks;
        shown.created_at_ns = self.created_at_ns;
        shown.started_at_ns = self.started_at_ns;
        if let Some(exit) = &self.exit {
            shown.finished_at_ns = exit.at_ns;
            shown.exit_code = exit.code;
            shown.oom_killed = exit.oom_killed;
            shown.end_unseen = exit.unseen;
        }
        shown.uid = self.identity.uid;
        shown.gid = self.identity.gid;
        shown.groups = self.identity.groups.clone();
        shown
    }
}

fn pid_of(known: &records::ProcessId) -> Option<Pid> {
    Pid::from_raw(i32::try_from(known.pid).ok()?)
}

/// The signal of this number.
pub fn signal_of(number: u32) -> Result<Signal> {
    let invalid = || Failure::Invalid(format!("signal {number}: a signal is 1 to 64"));
    let number = i32::try_from(number).map_err(|_| invalid())?;
    match Signal::from_named_raw(number) {
        Some(signal) => Ok(signal),
        None => Err(invalid()),
    }
}

/// The time, in nanoseconds since 1970. (64 bits hold it until 2262.)
pub fn now_ns() -> i64 {
    ns(Timestamp::now())
}

/// A time in nanoseconds since 1970.
pub fn ns(at: Timestamp) -> i64 {
    i64::try_from(at.as_nanosecond()).unwrap_or(i64::MAX)
}
