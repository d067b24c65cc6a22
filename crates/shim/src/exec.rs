//! What is started in a container that runs.
//!
//! Without a terminal, an exec gets the caller's FIFOs themselves: no byte passes through the shim, and the caller meets
//! end of file when the last process that has them is gone. With a terminal, pumps carry between its master and the
//! FIFOs. Each exec has a leaf below its container's cgroup, so that it can be killed whole; what an exec leaves behind
//! when it ends goes on, as containerd's users expect of `nohup … &`, until the container ends.

use std::os::fd::{AsFd, OwnedFd};

use oci_spec::runtime::Process as ProcessSpec;
use starter::{Executable, Size, Stdio};

use crate::container::{check_id, copy_of, open_input, size_of};
use crate::event::{self, Key, Reply};
use crate::failure::{Failure, Result};
use crate::pod::Pod;
use crate::process::{Process, Streams};
use crate::sandbox::load_spec;
use crate::state::Verb;
use crate::stdio::{self, Names, Output};

/// An exec.
#[derive(Debug)]
pub struct Exec {
    /// The OCI process as JSON, until it is started.
    spec: Vec<u8>,
    pub(crate) stdio: Names,
    pub(crate) process: Process,
    pub(crate) leaf: Option<cgroup::Cgroup>,
}

impl Exec {
    /// One that was started by another shim.
    pub(crate) fn recorded(stdio: Names, process: Process, leaf: Option<cgroup::Cgroup>) -> Exec {
        Exec {
            spec: Vec::new(),
            stdio,
            process,
            leaf,
        }
    }
}

/// The name of an exec's cgroup below its container's.
pub(crate) fn leaf_name(exec: &str) -> String {
    format!("exec-{exec}")
}

impl Pod {
    /// Task.Exec: remembers what shall be started.
    pub(crate) fn register_exec(&mut self, exec: event::Exec) -> Result<()> {
        check_id(&exec.id)?;
        let key = Key::Container(exec.container.clone());
        let container = self.container_mut(&exec.container)?;
        container.process.state().admit(Verb::Exec, &key)?;
        if container.execs.contains_key(&exec.id) {
            return Err(Failure::AlreadyExists(format!("{key} has an exec {} already", exec.id)));
        }
        parse(&exec.process)?;
        Output::parse(&exec.stdio.stdout)?;
        Output::parse(&exec.stdio.stderr)?;
        stdio::parse_input(&exec.stdio.stdin)?;
        let registered = Exec {
            spec: exec.process,
            stdio: exec.stdio,
            process: Process::default(),
            leaf: None,
        };
        container.execs.insert(exec.id, registered);
        Ok(())
    }

    /// Task.Start of an exec: `reply` is told when it runs.
    pub(crate) fn start_exec(&mut self, key: &Key, reply: Reply<u32>) {
        match self.clone_exec(key) {
            Ok(()) => {
                if let Ok(process) = self.process_mut(key) {
                    process.starter = Some(reply);
                }
                self.listen(key);
            }
            Err(e) => drop(reply.send(Err(e))),
        }
    }

    fn clone_exec(&mut self, key: &Key) -> Result<()> {
        let container = self.container_mut(key.container())?;
        container
            .process
            .state()
            .admit(Verb::Exec, Key::Container(key.container().to_string()))?;
        if container.is_paused() {
            // Born in the container's cgroup, it would be frozen before it could say a word.
            return Err(Failure::Precondition(format!(
                "container {} is paused: resume it before something is started in it",
                key.container()
            )));
        }
        if self.is_keeper() {
            return self.clone_foreign_exec(key);
        }
        let container = self.container_mut(key.container())?;
        let spec = load_spec(&container.bundle)?;
        let missing = || Failure::NotFound(format!("no {key}"));
        let exec = container.execs.get_mut(key.exec()).ok_or_else(missing)?;
        let process = parse(&exec.spec)?;
        if exec.leaf.is_none() {
            let group = container.cgroup.as_ref();
            exec.leaf = group.map(|group| group.exec_leaf(&leaf_name(key.exec()))).transpose()?;
        }
        let placement = exec.leaf.as_ref().map(cgroup::Cgroup::placement).transpose()?;
        let init = container.process.pidfd().ok_or_else(missing)?;
        let (stdio, streams) = open_streams(&exec.stdio, &process)?;
        let creating = starter::exec(starter::ExecRequest {
            process: &process,
            spec: &spec,
            init: init.as_fd(),
            executable: Executable::Path,
            stdio,
            cgroup: placement.as_ref(),
        })?;
        sys::failpoint!("shim.exec.cloned")?;
        exec.process.becomes(Process::creating(creating, streams, None)?);
        // Another start can't come.
        exec.spec = Vec::new();
        Ok(())
    }

    /// The same by another shim.
    fn clone_foreign_exec(&mut self, key: &Key) -> Result<()> {
        let exec = self.exec_mut(key)?;
        let (spec, names) = (std::mem::take(&mut exec.spec), exec.stdio.clone());
        let process = self.exec_foreign(key, &spec, names)?;
        self.exec_mut(key)?.process.becomes(process);
        Ok(())
    }

    fn exec_mut(&mut self, key: &Key) -> Result<&mut Exec> {
        let exec = self.container_mut(key.container())?.execs.get_mut(key.exec());
        exec.ok_or_else(|| Failure::NotFound(format!("no {key}")))
    }
}

pub(crate) fn parse(process: &[u8]) -> Result<ProcessSpec> {
    serde_json::from_slice(process)
        .map_err(|e| Failure::Invalid(format!("exec: the specification is no OCI process: {e}")))
}

fn open_streams(names: &Names, process: &ProcessSpec) -> Result<(Stdio, Streams)> {
    let mut streams = Streams::default();
    if names.terminal {
        let size = process
            .console_size()
            .map_or_else(Size::default, |s| size_of(s.height(), s.width()));
        return Ok((Stdio::Terminal { size }, streams));
    }
    let stdin = match stdio::parse_input(&names.stdin)? {
        Some(path) => open_input(path, &mut streams)?,
        None => stdio::null()?,
    };
    let stdout = open_output(&names.stdout, &mut streams)?;
    let stderr = open_output(&names.stderr, &mut streams)?;
    Ok((Stdio::Fds { stdin, stdout, stderr }, streams))
}

/// Opens what an exec writes to.
fn open_output(name: &str, streams: &mut Streams) -> Result<OwnedFd> {
    match Output::parse(name)? {
        Output::Nothing => stdio::null(),
        Output::File(path) => stdio::append_to(&path),
        Output::Fifo(path) => {
            let both_ends = sys::fifo::open_both_ends(&path, true)?;
            let output = sys::fifo::open_writer(&path, false)?;
            streams.to_be_owned.push(copy_of(&both_ends)?);
            // Until the exec runs: else a reader that is quick meets end of file before anything was written.
            streams.until_running.push(both_ends);
            Ok(output)
        }
        Output::Log(path) => Err(Failure::Invalid(format!(
            "exec: its output can't go to the log {}: name a FIFO",
            path.display()
        ))),
    }
}
