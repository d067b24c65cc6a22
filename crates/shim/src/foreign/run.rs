//! Processes made and started by another shim: what is asked of it, and what its answers mean to the state machine.
//!
//! ```text
//!  Sandbox.Start ─► start ─► Connected ─► Create(pause) ─► Created ─► Start ─► Started ─► Wait …
//!  Task.Create ──────────────────────────► Create ───────► Created
//!  Task.Start ────────────────────────────────────────────────────► Start ─► Started ─► Wait …
//!  Task.Start of an exec ────────────────► Exec ─────────► Created ─► Start ─► Started ─► Wait … ─► Ended
//! ```

use std::path::PathBuf;

use logs::Stream;
use oci_spec::runtime::Spec;
use protobuf::well_known_types::any::Any;
use shim_api::shim::Kind;

use super::{Report, bundle};
use crate::container::{namespace_paths, open_output};
use crate::diary;
use crate::event::{Create, Key};
use crate::failure::{Failure, Result};
use crate::pod::Pod;
use crate::process::{Process, Streams};
use crate::records::Identity;
use crate::sandbox::{cgroup_path_of, load_root, load_spec};
use crate::state::State;
use crate::stdio::{self, Names, Output};

/// The type under which an OCI process travels in a protobuf `Any`; containerd's name for it.
const PROCESS_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";

impl Pod {
    /// The sandbox's first process is asked of the other shim, which is started for that.
    pub(crate) fn start_foreign_pause(&mut self) -> Result<()> {
        let dir = self.sandbox_bundle().to_path_buf();
        let mut spec = load_spec(&dir)?;
        let made = bundle::make(&dir)?;
        let root = load_root(&dir)?;
        if root.is_none() {
            bundle::fill_with_pause(&made, &mut spec, self.config.pause)?;
        }
        let opened = bundle::open_root(&made, root.as_slice())?;
        let (spec, identity) = starter::portable(&spec, std::os::fd::AsFd::as_fd(&opened))?;
        drop(opened);
        bundle::write_spec(&made, &spec)?;
        let Some(foreign) = &self.foreign else { return Ok(()) };
        let started = foreign.start(&made)?;
        self.report(&Key::Pause, async move { started.await.map(Report::Connected) });
        self.sandbox.pause = Process::asked(Streams::default(), identity.into());
        Ok(())
    }

    fn create_foreign_pause(&mut self) -> Result<()> {
        let root = load_root(self.sandbox_bundle())?;
        let bundle = bundle::of(self.sandbox_bundle()).to_string_lossy().into_owned();
        let (task, options) = (self.foreign_task(&Key::Pause)?, self.foreign_options());
        self.report(&Key::Pause, async move {
            let pid = task.create(bundle, root.as_slice(), Names::default(), options).await?;
            Ok(Report::Created(pid))
        });
        Ok(())
    }

    fn foreign_options(&self) -> Any {
        self.foreign
            .as_ref()
            .map(|foreign| foreign.options.clone())
            .unwrap_or_default()
    }

    /// Task.Create
    pub(crate) fn create_foreign(&mut self, spec: &Spec, create: &Create) -> Result<Process> {
        let key = Key::Container(create.id.clone());
        let task = self.foreign_task(&key)?;
        let (names, streams) = self.foreign_streams(create)?;
        let made = bundle::make(&create.bundle)?;
        let (mut portable, identity) = {
            let root = bundle::open_root(&made, &create.rootfs)?;
            starter::portable(spec, std::os::fd::AsFd::as_fd(&root))?
        };
        let mut pinned = Vec::new();
        for path in namespace_paths(spec, None) {
            if let Some(fd) = self.pinned(path)? {
                pinned.push((path.to_path_buf(), fd));
            }
        }
        bundle::name_namespaces(&mut portable, &pinned);
        bundle::write_spec(&made, &portable)?;
        let (made, rootfs, options) = (text(made), create.rootfs.clone(), self.foreign_options());
        self.report(&key, async move {
            let created = task.create(made, &rootfs, names, options).await;
            // Until now the other shim has found them by their numbers here.
            drop(pinned);
            created.map(Report::Created)
        });
        Ok(Process::asked(streams, identity.into()))
    }

    /// The names under which the other shim finds a container's streams, and what is held of them here: its output goes into
    /// FIFOs, which outlive both shims, and the pump takes it from there.
    fn foreign_streams(&self, create: &Create) -> Result<(Names, Streams)> {
        let names = &create.stdio;
        let mut streams = Streams::default();
        let outputs = [Output::parse(&names.stdout)?, Output::parse(&names.stderr)?];
        if let Some(path) = stdio::parse_input(&names.stdin)? {
            // Its other end: without it, who reads meets end of file before somebody has written.
            streams.input = Some(sys::fifo::open_both_ends(path, true)?);
        }
        let mut fifo = |name: &str, output: &Output, stream| -> Result<(String, _)> {
            let path = create.bundle.join(name);
            let (_, source) = open_output(&path, output, stream, &mut streams)?;
            let given = if source.is_some() { text(path) } else { String::new() };
            Ok((given, source))
        };
        let (stdout, out) = fifo("stdout", &outputs[0], Stream::Stdout)?;
        let (stderr, err) = match names.terminal {
            true => (String::new(), None),
            false => fifo("stderr", &outputs[1], Stream::Stderr)?,
        };
        streams.to_be_owned = Vec::new();
        streams.pump = self.start_pump(&create.id, &create.bundle, [(out, &outputs[0]), (err, &outputs[1])])?;
        let given = Names {
            stdin: names.stdin.clone(),
            stdout,
            stderr,
            terminal: names.terminal,
        };
        Ok((given, streams))
    }

    /// Task.Exec, when the exec is to be started.
    pub(crate) fn exec_foreign(&mut self, key: &Key, spec: &[u8], mut names: Names) -> Result<Process> {
        if !names.terminal {
            // containerd's shims take no streams at all, or both outputs.
            for output in [&mut names.stdout, &mut names.stderr] {
                if output.is_empty() {
                    *output = "/dev/null".into();
                }
            }
        }
        let task = self.foreign_task(key)?;
        let container = self.container(key.container())?;
        let first = load_spec(&container.bundle)?.process().clone();
        let identity = container.process.identity().clone();
        let process = crate::exec::parse(spec)?;
        let process = starter::portable_exec(&process, first.as_ref(), &identity.clone().into());
        let value = serde_json::to_vec(&process).map_err(|e| Failure::Invalid(format!("exec: {e}")))?;
        let process = Any {
            type_url: PROCESS_TYPE.into(),
            value,
            ..Default::default()
        };
        self.report(key, async move {
            task.exec(process, names).await?;
            Ok(Report::Created(0))
        });
        Ok(Process::asked(Streams::default(), identity))
    }

    /// Task.Start; and from then on, its end is waited for.
    pub(crate) fn start_foreign(&mut self, key: &Key) -> Result<()> {
        let task = self.foreign_task(key)?;
        self.process_mut(key)?.is_starting();
        self.report(key, async move { task.start().await.map(Report::Started) });
        Ok(())
    }

    /// The other shim has answered.
    pub(crate) fn foreign_reported(&mut self, key: &Key, report: Result<Report>) {
        let done = match report {
            Ok(Report::Connected(shim)) => self.foreign_connected(shim),
            Ok(Report::Created(pid)) => self.foreign_created(key, pid),
            Ok(Report::Started(pid)) => self.foreign_started(key, pid),
            Ok(Report::Ended(code, at)) => {
                self.ended(key, sys::pidfd::End::Code(code), at);
                Ok(())
            }
            Ok(Report::Deleted) => {
                self.drain(key);
                Ok(())
            }
            Ok(Report::Oom) => {
                self.foreign_oom(key);
                Ok(())
            }
            Ok(Report::Died) => {
                self.foreign_died();
                Ok(())
            }
            Ok(Report::Over) => {
                self.foreign_over();
                Ok(())
            }
            Err(e) => Err(e),
        };
        if let Err(e) = done {
            self.foreign_failed(key, e);
        }
    }

    fn foreign_connected(&mut self, shim: super::calls::Shim) -> Result<()> {
        diary::note(format_args!("the containers are those of {:?}", shim.address));
        if let Some(foreign) = &mut self.foreign {
            foreign.shim = Some(shim);
        }
        self.watch_foreign();
        if self.sandbox.pause.state() == State::Creating {
            self.create_foreign_pause()?;
        }
        Ok(())
    }

    fn foreign_created(&mut self, key: &Key, pid: u32) -> Result<()> {
        self.process_mut(key)?.is_created(pid);
        if let Key::Container(id) = key {
            let path = cgroup_path_of(&self.container(id)?.bundle);
            let group = self.open_cgroup(path.as_deref())?;
            self.container_mut(id)?.cgroup = group;
            self.watch_for_oom(id, self.container(id)?);
        }
        self.became_created(key, None);
        Ok(())
    }

    fn foreign_started(&mut self, key: &Key, pid: u32) -> Result<()> {
        let process = self.process_mut(key)?;
        if process.state() != State::Starting {
            // It was given up meanwhile.
            return Ok(());
        }
        process.is_running(pid);
        self.wait_for_foreign(key)?;
        self.became_running(key);
        Ok(())
    }

    /// What was asked for could not be done.
    fn foreign_failed(&mut self, key: &Key, why: Failure) {
        let Ok(process) = self.process(key) else { return };
        match process.state() {
            before @ (State::Creating | State::Created | State::Starting) => self.failed_to_start(key, before, why),
            _ => diary::note(format_args!("{key}: {why}")),
        }
    }

    /// Published by a shim whose containers' cgroups are not to be seen here.
    fn foreign_oom(&mut self, key: &Key) {
        let Ok(container) = self.container_mut(key.container()) else {
            return;
        };
        if container.cgroup.is_none() {
            container.oom_kills += 1;
            self.tell(Kind::KIND_OOM, key);
        }
    }
}

impl From<starter::Identity> for Identity {
    fn from(identity: starter::Identity) -> Self {
        let starter::Identity { uid, gid, groups, .. } = identity;
        Identity { uid, gid, groups }
    }
}

impl From<Identity> for starter::Identity {
    fn from(identity: Identity) -> Self {
        let Identity { uid, gid, groups } = identity;
        starter::Identity {
            uid,
            gid,
            groups,
            home: "/".into(),
        }
    }
}

fn text(path: PathBuf) -> String {
    path.to_string_lossy().into_owned()
}
