//! Requests that another shim carries out: admitted here by the same table as all, then passed on.

use rustix::process::{Pid, Signal};

use protobuf::well_known_types::any::Any;

use super::{Task, stats};
use crate::diary;
use crate::event::{Key, Reply, Request};
use crate::failure::Result;
use crate::pod::Pod;
use crate::state::Verb;

/// The type under which OCI resources travel in a protobuf `Any`; containerd's name for it.
const RESOURCES_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

const SIGKILL: u32 = 9;

impl Pod {
    /// Passes a request on, if it is one for the other shim; else gives it back.
    pub(crate) fn forward(&mut self, request: Request) -> Option<Request> {
        if !self.is_keeper() {
            return Some(request);
        }
        match request {
            Request::Kill {
                key,
                signal,
                all,
                reply,
            } => self.kill_foreign(&key, signal, all, reply),
            Request::CloseInput { key, reply } => {
                let closed = self.close_input(&key).and_then(|()| self.foreign_task(&key));
                answer(closed, reply, |task| async move { task.close_input().await });
            }
            Request::Resize {
                key,
                rows,
                columns,
                reply,
            } => answer(self.admitted(&key, Verb::Resize), reply, move |task| async move {
                task.resize(rows, columns).await
            }),
            Request::Stats { id, reply } => {
                let task = self.foreign_task(&Key::Container(id));
                answer(task, reply, |task| async move { stats::read(&task.stats().await?) });
            }
            Request::Update { id, resources, reply } => {
                let resources = Any {
                    type_url: RESOURCES_TYPE.into(),
                    value: resources,
                    ..Default::default()
                };
                let task = self.admitted(&Key::Container(id), Verb::Control);
                answer(task, reply, |task| async move { task.update(resources).await });
            }
            Request::Pause { id, reply } => {
                let task = self.admitted(&Key::Container(id), Verb::Pause);
                answer(task, reply, |task| async move { task.pause().await });
            }
            Request::Resume { id, reply } => {
                let task = self.admitted(&Key::Container(id), Verb::Pause);
                answer(task, reply, |task| async move { task.resume().await });
            }
            Request::Pids { id, reply } => {
                let task = self.foreign_task(&Key::Container(id));
                answer(task, reply, |task| async move { task.pids().await });
            }
            other => return Some(other),
        }
        None
    }

    fn admitted(&self, key: &Key, verb: Verb) -> Result<Task> {
        self.process(key)?.state().admit(verb, key)?;
        self.foreign_task(key)
    }

    fn kill_foreign(&mut self, key: &Key, signal: u32, all: bool, reply: Reply<()>) {
        let admitted = self.admitted(key, Verb::Kill);
        if all && signal == SIGKILL {
            match key {
                Key::Exec(..) => self.kill_session(key),
                _ => self.kill_cgroup(key.container()),
            }
        }
        let exec = !key.exec().is_empty();
        answer(admitted, reply, move |task| async move {
            task.kill(signal, all && !exec).await
        });
    }

    fn kill_cgroup(&self, id: &str) {
        if let Ok(container) = self.container(id)
            && let Some(Err(e)) = container.cgroup.as_ref().map(cgroup::Cgroup::kill)
        {
            diary::note(format_args!("container {id}: {e}"));
        }
    }

    /// Kills what an exec has started. OCI runtimes give it no cgroup of its own, but a session, which what it starts stays in
    /// unless it takes trouble not to.
    fn kill_session(&self, key: &Key) {
        let (Ok(container), Ok(exec)) = (self.container(key.container()), self.process(key)) else {
            return;
        };
        let leader = exec.raw_pid();
        let pids = container.cgroup.as_ref().and_then(|group| group.pids().ok());
        for pid in pids.into_iter().flatten().filter_map(Pid::from_raw) {
            // Opened before its session is read, so that both are one process's.
            if let Ok(pidfd) = sys::pidfd::open(pid)
                && leader != 0
                && session(pid) == Some(leader)
            {
                // One that has ended meanwhile needs no killing.
                let _ = sys::pidfd::send_signal(&pidfd, Signal::KILL);
            }
        }
    }
}

/// The session of a process (field 6 of /proc/PID/stat).
fn session(pid: Pid) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    let after_command = &stat[stat.rfind(')')? + 1..];
    after_command.split_ascii_whitespace().nth(3)?.parse().ok()
}

/// Asks the other shim, if it may be asked, and answers as it does; the state machine does not wait.
fn answer<T: 'static, F>(task: Result<Task>, reply: Reply<T>, ask: impl FnOnce(Task) -> F + 'static)
where
    F: Future<Output = Result<T>>,
{
    match task {
        Ok(task) => drop(tokio::task::spawn_local(async move {
            // A connection that has hung up does not mind.
            let _ = reply.send(ask(task).await);
        })),
        Err(e) => drop(reply.send(Err(e))),
    }
}
