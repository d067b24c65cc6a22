//! What may be asked of a process while it lives, and what is known of it.

use std::path::Path;

use logs::Stream;
use oci_spec::runtime::LinuxResources;

use crate::attached::Listener;
use crate::event::{Key, Reply, View};
use crate::failure::{Failure, Result};
use crate::pod::Pod;
use crate::pump::Pump;
use crate::state::Verb;

impl Pod {
    /// Task.State
    pub(crate) fn view(&self, key: &Key) -> Result<View> {
        let process = self.process(key)?.shown(key);
        let container = self.container(key.container())?;
        let exec = container.execs.get(key.exec());
        Ok(View {
            process,
            stdio: exec.map_or(&container.stdio, |exec| &exec.stdio).clone(),
            bundle: container.bundle.clone(),
            paused: container.is_paused(),
        })
    }

    /// Task.Pids: every process in the container's cgroup.
    pub(crate) fn pids(&self, id: &str) -> Result<Vec<u32>> {
        let container = self.container(id)?;
        match &container.cgroup {
            Some(group) => Ok(group.pids()?.into_iter().map(i32::unsigned_abs).collect()),
            None => Ok(vec![container.process.raw_pid()]),
        }
    }

    /// Task.CloseIO: whoever else writes to the FIFO may go on; when nobody does, the process meets end of file.
    pub(crate) fn close_input(&mut self, key: &Key) -> Result<()> {
        let streams = &mut self.process_mut(key)?.streams;
        streams.input = None;
        if let Some(terminal) = &mut streams.terminal {
            terminal.close_input();
        }
        if matches!(key, Key::Container(_)) {
            // A shim that takes over must not open it again.
            self.save_process(key)?;
        }
        Ok(())
    }

    /// Task.ResizePty
    pub(crate) fn resize(&self, key: &Key, rows: u16, columns: u16) -> Result<()> {
        let process = self.process(key)?;
        process.state().admit(Verb::Resize, key)?;
        match &process.streams.terminal {
            Some(terminal) => terminal.resize(rows, columns),
            None => Err(Failure::Precondition(format!("{key} has no terminal"))),
        }
    }

    /// Task.Stats
    pub(crate) fn stats(&mut self, id: &str) -> Result<(cgroup::Stats, cgroup::Mode)> {
        let mode = self.hierarchies()?.mode();
        Ok((self.cgroup_of(id)?.stats()?, mode))
    }

    /// Task.Update: `resources` is OCI LinuxResources as JSON.
    pub(crate) fn update(&self, id: &str, resources: &[u8]) -> Result<()> {
        let key = Key::Container(id.to_string());
        self.process(&key)?.state().admit(Verb::Control, &key)?;
        let resources: LinuxResources = serde_json::from_slice(resources)
            .map_err(|e| Failure::Invalid(format!("update of {key}: no OCI LinuxResources: {e}")))?;
        Ok(self.cgroup_of(id)?.update(&resources)?)
    }

    /// Task.Pause: no process of the container runs until it is resumed. (The kernel stops each as it leaves the kernel;
    /// one that hangs there is stopped when it comes back, and nobody waits for that.)
    pub(crate) fn pause(&mut self, id: &str) -> Result<()> {
        let key = Key::Container(id.to_string());
        self.process(&key)?.state().admit(Verb::Pause, &key)?;
        if self.container(id)?.is_paused() {
            return Err(Failure::Precondition(format!("{key} is paused already")));
        }
        if !self.cgroup_of(id)?.freeze()? {
            self.notice(
                id,
                "NotPausedWhole",
                "paused, but for processes that hang in the kernel: they stop when they come back".to_string(),
            );
        }
        Ok(())
    }

    /// Task.Resume
    pub(crate) fn resume(&mut self, id: &str) -> Result<()> {
        let key = Key::Container(id.to_string());
        self.process(&key)?.state().admit(Verb::Pause, &key)?;
        if !self.container(id)?.is_paused() {
            return Err(Failure::Precondition(format!("{key} is not paused")));
        }
        Ok(self.cgroup_of(id)?.thaw()?)
    }

    /// Pod.ReopenLog
    pub(crate) fn reopen_log(&self, id: &str, reply: Reply<()>) {
        answer_later(self.pump_of(id, Verb::ReopenLog).map(Pump::reopen), reply);
    }

    /// Pod.Attach: `paths` are the FIFOs for standard output and for errors; an empty one is not wanted.
    pub(crate) fn attach(&self, id: &str, paths: [&str; 2], reply: Reply<()>) {
        let attached = self.pump_of(id, Verb::Attach).and_then(|pump| {
            let wanted = [Stream::Stdout, Stream::Stderr].into_iter().zip(paths);
            let wanted = wanted.filter(|(_, path)| !path.is_empty());
            let listeners = wanted.map(|(stream, path)| Listener::open(Path::new(path), stream));
            Ok(pump.attach(listeners.collect::<Result<_>>()?))
        });
        answer_later(attached, reply);
    }

    /// What carries a container's output into its log.
    fn pump_of(&self, id: &str, verb: Verb) -> Result<&Pump> {
        let key = Key::Container(id.to_string());
        let process = self.process(&key)?;
        process.state().admit(verb, &key)?;
        let pump = process.streams.pump.as_ref();
        pump.ok_or_else(|| Failure::Precondition(format!("{key} has no log")))
    }

    fn cgroup_of(&self, id: &str) -> Result<&cgroup::Cgroup> {
        let none = || Failure::Precondition(format!("container {id} has no cgroup"));
        self.container(id)?.cgroup.as_ref().ok_or_else(none)
    }
}

/// Answers what a pump was asked once it has done it; the state machine does not wait.
fn answer_later(asked: Result<impl Future<Output = Result<()>> + 'static>, reply: Reply<()>) {
    match asked {
        Ok(done) => drop(tokio::task::spawn_local(async move {
            let _ = reply.send(done.await);
        })),
        Err(e) => drop(reply.send(Err(e))),
    }
}
