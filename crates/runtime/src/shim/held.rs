//! What the daemon holds open of a pod, so that nothing is lost while its supervisor is dead (invariant 4).
//!
//! - A container's output FIFOs: what it wrote stays in them when it ends.
//! - The FIFO of its input: without a writer, it would meet end of file.
//! - Pidfds: how a process ended, the kernel keeps for those who had one when it was reaped (Linux 6.15).
//!
//! Nothing is read or waited for here; the next supervisor gets the pidfds, and opens the FIFOs itself.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use sys::spawn::start_time_ticks;

use crate::error::{Error, Result};
use crate::id::ContainerId;
use crate::layout::ContainerDir;
use crate::records::ProcessName;

/// So many pidfds are handed over at most: they wait in a socket's queue until the supervisor takes them.
const HANDED_OVER_MAX: usize = 128;

/// Of one pod.
#[derive(Debug, Default)]
pub(crate) struct Held {
    pause: Option<Process>,
    containers: BTreeMap<ContainerId, Container>,
}

#[derive(Debug, Default)]
struct Container {
    /// Only held.
    _outputs: Vec<OwnedFd>,
    _stdin: Option<OwnedFd>,
    process: Option<Process>,
}

#[derive(Debug)]
struct Process {
    name: ProcessName,
    pidfd: OwnedFd,
}

impl Held {
    /// Makes and opens the FIFOs that a container will write to; before it is made. With `stdin`, opens the one that it will read.
    pub(crate) fn hold_streams(&mut self, id: &ContainerId, dir: &ContainerDir, stdin: bool) -> Result<()> {
        if self.containers.get(id).is_some_and(|held| !held._outputs.is_empty()) {
            return Ok(());
        }
        let mut outputs = Vec::new();
        for name in ["stdout", "stderr"] {
            let path = dir.path().join(name);
            sys::fifo::make(&path)?;
            outputs.push(sys::fifo::open_both_ends(&path, true)?);
        }
        let held = self.containers.entry(id.clone()).or_default();
        held._outputs = outputs;
        if stdin {
            held._stdin = Some(sys::fifo::open_both_ends(&dir.stdin(), true)?);
        }
        Ok(())
    }

    /// Its input is to end.
    pub(crate) fn release_stdin(&mut self, id: &ContainerId) {
        if let Some(held) = self.containers.get_mut(id) {
            held._stdin = None;
        }
    }

    /// Holds a container's first process. One that has ended is not held.
    pub(crate) fn hold_process(&mut self, id: &ContainerId, name: ProcessName) {
        let container = self.containers.entry(id.clone()).or_default();
        if container.process.as_ref().is_none_or(|held| held.name != name) {
            container.process = find(name);
        }
    }

    pub(crate) fn hold_pause(&mut self, name: ProcessName) {
        if self.pause.as_ref().is_none_or(|held| held.name != name) {
            self.pause = find(name);
        }
    }

    /// Its end is recorded.
    pub(crate) fn release(&mut self, id: &ContainerId) {
        self.containers.remove(id);
    }

    /// Copies of the pidfds, each with its container's id (pause has none), to be handed over.
    pub(crate) fn copies(&self) -> Result<Vec<(String, OwnedFd)>> {
        let pause = self.pause.iter().map(|process| (String::new(), process));
        let containers = self.containers.iter();
        let containers = containers.filter_map(|(id, held)| Some((id.to_string(), held.process.as_ref()?)));
        pause
            .chain(containers)
            .take(HANDED_OVER_MAX)
            .map(|(id, process)| {
                let copy = process.pidfd.try_clone();
                Ok((
                    id,
                    copy.map_err(Error::file("copy the pidfd of", Path::new("a process")))?,
                ))
            })
            .collect()
    }
}

/// The pidfd is opened before the start time is read, so that both are one process's.
fn find(name: ProcessName) -> Option<Process> {
    let pid = Pid::from_raw(name.pid)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    (start_time_ticks(pid) == Some(name.start_time_ticks)).then_some(Process { name, pidfd })
}
