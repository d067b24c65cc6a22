//! How a process ends: in this order, each step waiting for the one before.
//!
//! ```text
//!  reaped ─► the rest of its cgroup killed ─► nobody left in it ─► output drained ─► record durable ─► announced
//!            └──── containers only: an exec's helpers may go on ──┘
//! ```
//!
//! In a pod that shares its PID namespace the kernel kills everybody when pause dies, and pause itself is the last to be dead. The
//! pod's end is announced first all the same, then those of its containers: who hears of a container that died in a pod that
//! seems to live would start it again in there.

use std::time::Duration;

use jiff::Timestamp;
use shim_api::shim::Kind;
use sys::pidfd::End;

use crate::container::{make_exec_dir, remove_exec_files};
use crate::event::{Event, Exit, Key};
use crate::failure::{Failure, Result};
use crate::pod::Pod;
use crate::process;
use crate::records;
use crate::state::{State, Verb};

/// How often a killed cgroup is looked at until it is empty, after 1, 2, 4 … ms: two seconds in all. What is left then
/// hangs in the kernel, and writes nothing more.
const SETTLE_ATTEMPTS: u32 = 11;

/// How often the counter of OOM kills is looked at after the kernel has announced one, after 1, 2, 4 … ms: a quarter of a
/// second in all.
const OOM_ATTEMPTS: u32 = 8;

/// How long the rest of an ended process's output may take to be carried away: longer only when nobody reads it.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// The code of a process of which only its end is known: not started, or nobody was told.
const UNKNOWN: End = End::Code(255);

impl Pod {
    /// A process was reaped.
    pub(crate) fn ended(&mut self, key: &Key, end: End, at: Timestamp) {
        // It may have said something before: that it runs, or why it can't.
        let under_way = |pod: &Pod| {
            pod.process(key)
                .is_ok_and(|p| matches!(p.state(), State::Creating | State::Starting))
        };
        if under_way(self) {
            self.shake_hands(key);
        }
        if self.process(key).is_ok_and(|p| p.state() == State::Creating) {
            let why = Failure::Precondition(format!("{key} was killed while it was created"));
            self.failed_to_start(key, State::Creating, why);
        }
        match key {
            Key::Pause if self.sandbox.pause.state().is_alive() => self.pause_ended(end, at),
            Key::Pause => {}
            Key::Container(_) | Key::Exec(..) => self.begin_ending(key, end, at),
        }
    }

    fn begin_ending(&mut self, key: &Key, end: End, at: Timestamp) {
        let Ok(process) = self.process_mut(key) else { return };
        if !process.set_ended(end, at) {
            return;
        }
        if let Some(reply) = process.starter.take() {
            let _ = reply.send(Err(Failure::Precondition(format!(
                "{key} was killed while it was started"
            ))));
        }
        if let Key::Container(id) = key
            && let Ok(container) = self.container(id)
        {
            container.kill_all();
        }
        let _ = sys::failpoint!("shim.ending.reaped");
        self.settle(key, 0);
    }

    /// Once nobody is left in a container's cgroup, nobody writes any more.
    pub(crate) fn settle(&mut self, key: &Key, attempt: u32) {
        let busy = match key {
            Key::Container(id) => self.container(id).is_ok_and(|c| {
                c.cgroup
                    .as_ref()
                    .is_some_and(|group| group.pids().is_ok_and(|pids| !pids.is_empty()))
            }),
            _ => false,
        };
        if busy && attempt < SETTLE_ATTEMPTS {
            self.later(
                Duration::from_millis(1 << attempt),
                Event::Settle(key.clone(), attempt + 1),
            );
            return;
        }
        match self.is_keeper() {
            true => self.forget_foreign(key),
            false => self.drain(key),
        }
    }

    /// The rest of its output is read.
    pub(crate) fn drain(&mut self, key: &Key) {
        let Ok(process) = self.process(key) else { return };
        match process.streams.pump.as_ref().map(crate::pump::Pump::drain) {
            Some(drained) => {
                let (events, key) = (self.events.clone(), key.clone());
                tokio::task::spawn_local(async move {
                    let _ = tokio::time::timeout(DRAIN_LIMIT, drained).await;
                    // The state machine is gone only when the shim ends.
                    let _ = events.send(Event::Drained(key));
                });
            }
            None => self.announce(key),
        }
    }

    /// Records how a process ended, then tells everyone.
    pub(crate) fn announce(&mut self, key: &Key) {
        if self.dies_with_pause(key) {
            self.sandbox.dying_with_pause.push(key.clone());
            return;
        }
        // What it died of is told before its end.
        self.look_for_oom(key.container(), OOM_ATTEMPTS);
        let oom_kills = self.oom_kills(key.container());
        let Ok(process) = self.process_mut(key) else { return };
        let Some((end, at)) = process.ended.take() else { return };
        let _ = sys::failpoint!("shim.ending.drained");
        let exit = Exit {
            code: end.shell_status(),
            at_ns: process::ns(at),
            oom_killed: end != End::Code(0) && oom_kills > 0,
            unseen: end == End::Unknown,
        };
        if let Err(e) = self.save_exit(key, &exit) {
            // The state directory is full or gone. To keep silent about the end would not make it durable.
            self.notice(
                key.container(),
                "EndNotRecorded",
                format!("its end is announced but could not be recorded: {e}"),
            );
        }
        let _ = sys::failpoint!("shim.ending.recorded");
        if let Ok(process) = self.process_mut(key) {
            process.announce(exit);
        }
        self.tell(Kind::KIND_EXITED, key);
        let _ = sys::failpoint!("shim.ending.announced");
        sys::memory::trim();
        self.go_on_stopping();
    }

    /// Whether a process has ended because pause is about to, and took its PID namespace with it.
    fn dies_with_pause(&self, key: &Key) -> bool {
        let pause = &self.sandbox.pause;
        pause.state().is_alive()
            && self
                .container(key.container())
                .is_ok_and(|container| container.shares_pid)
            && pause
                .pid()
                .is_some_and(|pid| sys::pidfd_info::is_ending(pid, pause.start_time_ticks()))
    }

    fn save_exit(&self, key: &Key, exit: &Exit) -> Result<()> {
        let bundle = &self.container(key.container())?.bundle;
        if let Key::Exec(_, exec) = key {
            make_exec_dir(bundle, exec)?;
        }
        Ok(record::save(&records::exit(bundle, key.exec()), exit)?)
    }

    /// A process could not be created, or could not be started (`before` says which): it is dead.
    pub(crate) fn failed_to_start(&mut self, key: &Key, before: State, why: Failure) {
        if *key == Key::Pause {
            self.pause_failed(why);
            return;
        }
        let Ok(process) = self.process_mut(key) else { return };
        let reply = process.starter.take();
        match (key, before) {
            // As if it had never been.
            (Key::Container(id), State::Creating) => {
                if let Some(container) = self.containers.remove(id) {
                    drop(self.kill_remains(&container.cgroup));
                    self.forget_container(container);
                    self.save_sandbox();
                }
            }
            // Its end is a process's end; that of an exec too, which may be waited for.
            _ => {
                // The handshake's drop has killed and maybe reaped it, so its end may never be heard of.
                self.begin_ending(key, UNKNOWN, Timestamp::now());
            }
        }
        if let Some(reply) = reply {
            let _ = reply.send(Err(why));
        }
        self.go_on_stopping();
    }

    fn kill_remains(&self, group: &Option<cgroup::Cgroup>) -> Result<()> {
        match group {
            Some(group) => Ok(group.kill()?),
            None => Ok(()),
        }
    }

    /// Task.Kill
    pub(crate) fn kill(&mut self, key: &Key, signal: u32, all: bool) -> Result<()> {
        const SIGKILL: u32 = 9;
        let process = self.process(key)?;
        let state = process.state();
        let group = match key {
            Key::Exec(id, exec) => self.container(id)?.execs.get(exec).and_then(|exec| exec.leaf.as_ref()),
            _ => self.container(key.container())?.cgroup.as_ref(),
        };
        if all && let Some(group) = group.filter(|_| state != State::Registered) {
            // An exec's helpers may outlive it; they are its own all the same.
            if state.is_alive() || group.pids().is_ok_and(|pids| !pids.is_empty()) {
                match signal {
                    SIGKILL => group.kill()?,
                    signal => group.signal(process::signal_of(signal)?)?,
                }
                if let (Key::Container(id), SIGKILL) = (key, signal) {
                    self.container(id)?.unpause();
                }
                return Ok(());
            }
        }
        state.admit(Verb::Kill, key)?;
        // The child blocks every signal until it is its program: what would end it must do so now.
        let signal = if matches!(state, State::Creating | State::Created) && ends_a_process(signal) {
            SIGKILL
        } else {
            signal
        };
        process.signal(signal, key)?;
        if let (Key::Container(id), SIGKILL) = (key, signal) {
            // On cgroup v1 what is frozen does not even die.
            self.container(id)?.unpause();
        }
        Ok(())
    }

    /// Task.Delete
    pub(crate) fn delete(&mut self, key: &Key) -> Result<(u32, Exit)> {
        let process = self.process(key)?;
        process.state().admit(Verb::Delete, key)?;
        let pid = process.raw_pid();
        let unknown = || Exit {
            code: 0,
            at_ns: process::now_ns(),
            oom_killed: false,
            unseen: false,
        };
        let exit = process.exit.clone().unwrap_or_else(unknown);
        match key {
            Key::Pause => {}
            Key::Container(id) => {
                if let Some(container) = self.containers.remove(id) {
                    self.forget_container(container);
                    let _ = sys::failpoint!("shim.delete.forgotten");
                    self.save_sandbox();
                }
            }
            Key::Exec(id, exec) => {
                let container = self.container_mut(id)?;
                let leaf = container.execs.remove(exec).and_then(|exec| exec.leaf);
                remove_exec_files(&container.bundle, exec);
                // What the exec left behind keeps its cgroup; both go with the container.
                if let Some(leaf) = leaf.filter(|leaf| leaf.pids().is_ok_and(|pids| pids.is_empty())) {
                    self.remove_cgroup(leaf);
                }
            }
        }
        sys::memory::trim();
        Ok((pid, exit))
    }

    /// OOM kills in a container so far.
    fn oom_kills(&self, container: &str) -> u64 {
        let group = self.container(container).ok().and_then(|c| c.cgroup.as_ref());
        group.and_then(|group| group.oom_kills().ok()).unwrap_or(0)
    }

    /// The kernel may have killed a process for lack of memory: the counter knows. On cgroup v1 it is told before the
    /// kill, so a counter that stands still is looked at again.
    pub(crate) fn look_for_oom(&mut self, id: &str, attempt: u32) {
        let kills = self.oom_kills(id);
        let Ok(container) = self.container_mut(id) else { return };
        if kills > container.oom_kills {
            container.oom_kills = kills;
            self.tell(Kind::KIND_OOM, &Key::Container(id.to_string()));
        } else if attempt < OOM_ATTEMPTS {
            self.later(
                Duration::from_millis(1 << attempt),
                Event::Oom(id.to_string(), attempt + 1),
            );
        }
    }
}

/// Whether a program that does nothing about this signal ends by it: HUP, INT, QUIT, KILL, TERM are what people send.
fn ends_a_process(signal: u32) -> bool {
    matches!(signal, 1 | 2 | 3 | 9 | 15)
}
