//! Taking over a pod whose shim has died (invariant 4).
//!
//! The records say who ran ([`crate::records`]). A process is the recorded one if its number and its start time match; it is no
//! child of this shim's, so its end is seen by its pidfd, and its exit code is asked of the kernel, which keeps it (Linux 6.15)
//! for those who hold a pidfd from before: this shim, or the runtime, which hands over what it has.
//!
//! - What ran goes on: its output through its FIFOs and journals, its cgroup, its execs.
//! - What had ended, and was recorded, is known. What ended unseen ends now, in the usual order.
//! - What was being made (no record yet, or not started) is undone: its child, which waited for the dead shim's word, has ended
//!   or is killed.
//! - The namespaces are pinned anew: from pause if it lives, else from a container that is in them. A pause that has died
//!   with the shim is treated as one that dies now.
//! - A terminal's master has gone with the shim, and the session with it.
//! - What another vendor's shim runs is that one's children: it is found again, and asked ([`crate::foreign`]).
//! - A record that can't be used is set aside, and costs what it is about: an exec, a container, or with the sandbox's the pod, whose
//!   pause nobody can name any more.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use logs::Stream;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Pid;
use sys::pidfd::End;

use crate::container::{Container, open_fifo};
use crate::diary;
use crate::event::{Event, Exit, Key};
use crate::exec::Exec;
use crate::failure::{Failure, Result};
use crate::journal::Kind;
use crate::pod::Pod;
use crate::process::{Process, Streams};
use crate::pump::Source;
use crate::ready::registered;
use crate::records::{self, ProcessId};
use crate::sandbox::{self, Phase};
use crate::stdio::{self, Names, Output};

/// How often the kernel is asked how a process ended whose parent has not waited for it yet, after 1, 2, 4 … ms: a second in
/// all.
const END_ATTEMPTS: u32 = 10;

/// Processes of which the runtime held a pidfd while there was no shim: by the container's id.
pub type Held = BTreeMap<String, OwnedFd>;

/// What became of a recorded process.
enum Fate {
    /// It lives, or has ended so recently that its pidfd could still be opened.
    Found(OwnedFd),
    /// It has ended.
    Gone(End),
}

impl Pod {
    /// Takes over what the last shim has recorded in the sandbox's directory.
    pub fn adopt(&mut self, mut held: Held) -> Result<()> {
        let path = records::sandbox(&self.config.dir);
        let record = match record::load::<records::Sandbox>(&path) {
            Ok(record) => record,
            // It died before there was anything to be taken over.
            Err(record::Error::Missing { .. }) => return Ok(()),
            Err(e) => {
                self.notice(
                    "",
                    "NotTakenOver",
                    format!("the sandbox can't be taken over, and is killed with its containers: {e}"),
                );
                record::quarantine(&path)?;
                self.without_record()
            }
        };
        let mut fates = Vec::new();
        for bundle in &record.bundles {
            match self.adopt_container(bundle, &mut held) {
                Ok(found) => fates.extend(found),
                Err(e) => self.give_container_up(bundle, &e)?,
            }
        }
        self.adopt_sandbox(&record, &fates, &mut held)?;
        // After pause, whose end may be theirs.
        for (key, fate) in fates {
            let Ok(container) = self.container(key.container()) else {
                // Given up over another of its processes.
                continue;
            };
            let bundle = container.bundle.clone();
            if let Err(e) = self.follow(&key, fate) {
                self.give_container_up(&bundle, &e)?;
            }
        }
        if record.exit.is_some() {
            self.end_with_sandbox();
        }
        self.save_sandbox();
        diary::note(format_args!(
            "sandbox {}: taken over from shim {}, with {} containers",
            record.id,
            record.shim.pid,
            self.containers.len()
        ));
        sys::memory::trim();
        Ok(())
    }

    /// What is known of a sandbox without its record: that it has ended, since nobody can tell which process its pause is. Its
    /// containers have records of their own.
    fn without_record(&self) -> records::Sandbox {
        let containers = std::fs::read_dir(self.config.dir.join("containers"));
        records::Sandbox {
            id: self.config.id.clone(),
            shim: ProcessId {
                pid: 0,
                start_time_ticks: 0,
            },
            bundle: self.config.dir.clone(),
            namespaces: Vec::new(),
            pause: None,
            started_at_ns: 0,
            pause_restarts: 0,
            bundles: containers
                .into_iter()
                .flatten()
                .filter_map(|entry| Some(entry.ok()?.path()))
                .collect(),
            exit: Some(Exit {
                code: End::Unknown.shell_status(),
                at_ns: crate::process::now_ns(),
                oom_killed: false,
                unseen: true,
            }),
        }
    }

    /// The sandbox has ended: what may be left of it ends too, each container in the usual order.
    fn end_with_sandbox(&mut self) {
        for container in self.containers.values().filter(|c| c.process.state().is_alive()) {
            container.kill_all();
        }
        if let Some(group) = self.sandbox.cgroup.take()
            && let Err(e) = crate::remains::empty(&group)
        {
            diary::note(format_args!("{e}"));
            self.leftovers.push(group);
        }
    }

    /// Kills what can't be taken over: nobody would see it end, or could stop it.
    fn give_container_up(&mut self, bundle: &Path, why: &Failure) -> Result<()> {
        self.notice(
            "",
            "NotTakenOver",
            format!("{} can't be taken over, and is killed: {why}", bundle.display()),
        );
        self.containers.retain(|_, container| container.bundle != *bundle);
        let _ = record::quarantine(&records::process(bundle));
        self.undo_container(bundle)
    }

    /// A container as it is recorded, and what became of it and of its execs.
    fn adopt_container(&mut self, bundle: &Path, held: &mut Held) -> Result<Vec<(Key, Fate)>> {
        let undone = |pod: &mut Self| pod.undo_container(bundle).map(|()| Vec::new());
        let known = match record::load::<records::Process>(&records::process(bundle)) {
            Ok(known) => known,
            Err(record::Error::Missing { .. }) => return undone(self),
            Err(e) => return Err(e.into()),
        };
        let key = Key::Container(known.id.clone());
        if known.started_at_ns == 0 {
            // It waits for a word that will not come, or has become its program without anybody being told.
            return undone(self);
        }
        let exit = load_exit(bundle, "");
        let mut process = Process::recorded(&known);
        let fate = fate(&known.process, held.remove(&known.id))?;
        if let Some(exit) = &exit {
            process.announce(exit.clone());
        } else {
            process.streams = self.adopt_streams(&known, bundle)?;
        }
        let mut container = Container {
            bundle: bundle.to_path_buf(),
            stdio: known.stdio.clone(),
            process,
            cgroup: self.open_cgroup(known.cgroup.as_deref())?,
            shares_pid: known.shares_pid,
            oom_kills: 0,
            execs: BTreeMap::new(),
            task: self.foreign_task(&key).ok(),
        };
        let mut fates = adopt_execs(&known.id, &mut container)?;
        self.sandbox.pid_is_shared |= known.shares_pid;
        if exit.is_none() {
            self.watch_for_oom(&known.id, &container);
        }
        self.containers.insert(known.id.clone(), container);
        if exit.is_none() {
            fates.push((key, fate));
        }
        Ok(fates)
    }

    /// The start of this container was never announced. Nothing of it is left when this returns: it may be asked for again.
    fn undo_container(&mut self, bundle: &Path) -> Result<()> {
        let path = sandbox::cgroup_path_of(bundle);
        if let Some(group) = self.open_cgroup(path.as_deref())?
            && let Err(e) = crate::remains::empty(&group)
        {
            diary::note(format_args!("{e}"));
            self.leftovers.push(group);
        }
        diary::note(format_args!("{}: was being made; undone", bundle.display()));
        crate::container::remove_files(bundle);
        Ok(())
    }

    pub(crate) fn open_cgroup(&mut self, path: Option<&str>) -> Result<Option<cgroup::Cgroup>> {
        let Some(path) = path else { return Ok(None) };
        match cgroup::Cgroup::open(self.hierarchies()?, path) {
            Ok(group) => Ok(Some(group)),
            Err(cgroup::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// The streams of a container that nobody has seen end.
    fn adopt_streams(&self, known: &records::Process, bundle: &Path) -> Result<Streams> {
        let Names {
            stdin,
            stdout,
            stderr,
            terminal,
        } = &known.stdio;
        let mut streams = Streams::default();
        let outputs = [Output::parse(stdout)?, Output::parse(stderr)?];
        if *terminal && !self.is_keeper() {
            // Its session has ended; what it said before may not be in the log yet.
            if let Output::Log(log) = &outputs[0] {
                let pump = crate::pump::Pump::to_log(Vec::new(), bundle, log, &known.id, &self.events)?;
                streams.pump = Some(pump);
            }
            return Ok(streams);
        }
        if let Some(path) = stdio::parse_input(stdin)?.filter(|_| !known.input_is_closed) {
            streams.input = Some(sys::fifo::open_both_ends(path, true)?);
        }
        let source = |output: &Output, name: &str, stream| match output {
            Output::Nothing => Ok(None),
            _ => open_fifo(&bundle.join(name)).and_then(|fifo| Source::new(fifo, stream, Kind::Fifo).map(Some)),
        };
        let out = source(&outputs[0], "stdout", Stream::Stdout)?;
        let err = source(&outputs[1], "stderr", Stream::Stderr)?;
        streams.pump = match self.start_pump(&known.id, bundle, [(out, &outputs[0]), (err, &outputs[1])]) {
            Ok(pump) => pump,
            Err(e) => {
                // Broken journals are set aside for a person; what they held is lost, what comes is not.
                diary::note(format_args!("{}: {e}; its journals are set aside", bundle.display()));
                for path in crate::journal::files(bundle) {
                    let _ = record::quarantine(&path);
                }
                let (out, err) = (
                    source(&outputs[0], "stdout", Stream::Stdout)?,
                    source(&outputs[1], "stderr", Stream::Stderr)?,
                );
                self.start_pump(&known.id, bundle, [(out, &outputs[0]), (err, &outputs[1])])?
            }
        };
        Ok(streams)
    }

    fn adopt_sandbox(&mut self, record: &records::Sandbox, fates: &[(Key, Fate)], held: &mut Held) -> Result<()> {
        let cgroup = sandbox::cgroup_path_of(&record.bundle);
        let group = self.open_cgroup(cgroup.as_deref())?;
        let pause = match &record.pause {
            Some(id) => Some((id, fate(id, held.remove(""))?)),
            None => None,
        };
        let pins = self.pin_again(record, &pause, fates);
        self.sandbox.resume(record, pins, group);
        let Some((id, fate)) = pause.filter(|_| record.exit.is_none()) else {
            return Ok(());
        };
        self.sandbox.phase = Phase::Ready;
        self.sandbox.pause = Process::pause_recorded(id);
        self.follow(&Key::Pause, fate)
    }

    /// Finds the sandbox's namespaces again, by their numbers, in a process that lives.
    fn pin_again(
        &self,
        record: &records::Sandbox,
        pause: &Option<(&ProcessId, Fate)>,
        fates: &[(Key, Fate)],
    ) -> sandbox::Pins {
        let pause = match pause {
            Some((id, Fate::Found(pidfd))) => Some((id.pid, pidfd)),
            _ => None,
        };
        let containers = fates.iter().filter_map(|(key, fate)| match fate {
            Fate::Found(pidfd) => Some((self.process(key).ok()?.raw_pid(), pidfd)),
            Fate::Gone(_) => None,
        });
        let living: Vec<(u32, &OwnedFd)> = pause.into_iter().chain(containers).collect();
        let mut pins = sandbox::Pins::default();
        for (kind, inode) in &record.namespaces {
            let found = living.iter().find_map(|(pid, pidfd)| {
                let namespace = sandbox::open_namespace(*pid, kind).ok()?;
                let is_it = rustix::fs::fstat(&namespace).is_ok_and(|stat| stat.st_ino == *inode);
                // Lives it still, it was the process of that number all the while.
                (is_it && is_alive(pidfd)).then_some(namespace)
            });
            if let Some(namespace) = found {
                pins.add(&record.bundle, kind, namespace);
            }
        }
        pins
    }

    /// Lets a process that is no child of ours be seen to end; at once if it has ended.
    fn follow(&mut self, key: &Key, fate: Fate) -> Result<()> {
        if self.is_keeper() {
            if let Fate::Found(pidfd) = fate {
                self.process_mut(key)?.is_found(pidfd);
            }
            return self.wait_for_foreign(key);
        }
        match fate {
            Fate::Found(pidfd) => {
                let copy = crate::container::copy_of(&pidfd)?;
                self.process_mut(key)?.is_found(pidfd);
                let (ready, key, events) = (registered(copy)?, key.clone(), self.events.clone());
                tokio::task::spawn_local(async move {
                    if ready.readable().await.is_ok() {
                        // The state machine is gone only when the shim ends.
                        let _ = events.send(Event::Gone(key, 0));
                    }
                });
            }
            Fate::Gone(end) => self.ended(key, end, Timestamp::now()),
        }
        Ok(())
    }

    /// A process that is no child of ours has ended: how, the kernel knows once its parent has waited for it.
    pub(crate) fn gone(&mut self, key: &Key, attempt: u32) {
        let Ok(process) = self.process(key) else { return };
        let Some(pidfd) = process.pidfd() else { return };
        let zombie = process
            .pid()
            .and_then(|pid| sys::pidfd_info::end_of_zombie(pid, process.start_time_ticks()));
        let end = match sys::pidfd_info::end(pidfd) {
            Ok(None) | Err(_) if zombie.is_some() => zombie.unwrap_or(End::Unknown),
            Ok(None) if attempt < END_ATTEMPTS => {
                self.later(
                    Duration::from_millis(1 << attempt),
                    Event::Gone(key.clone(), attempt + 1),
                );
                return;
            }
            Ok(Some(end)) => end,
            Ok(None) | Err(_) => End::Unknown,
        };
        self.ended(key, end, Timestamp::now());
    }
}

/// The execs of a container: those that run or ended unseen are returned, those that were being made are undone.
fn adopt_execs(container_id: &str, container: &mut Container) -> Result<Vec<(Key, Fate)>> {
    let mut fates = Vec::new();
    let Ok(entries) = std::fs::read_dir(container.bundle.join("execs")) else {
        return Ok(fates);
    };
    for entry in entries.filter_map(std::result::Result::ok) {
        let Ok(id) = entry.file_name().into_string() else {
            continue;
        };
        let leaf = || match &container.cgroup {
            // Another shim's execs have none.
            Some(group) if container.task.is_none() => group.exec_leaf(&crate::exec::leaf_name(&id)).map(Some),
            _ => Ok(None),
        };
        let known = match record::load::<records::Process>(&records::exec_process(&container.bundle, &id)) {
            Ok(known) => known,
            Err(e) => {
                if !matches!(e, record::Error::Missing { .. }) {
                    set_aside(&records::exec_process(&container.bundle, &id), &e);
                }
                if let Some(leaf) = leaf()? {
                    leaf.kill()?;
                    // If it isn't empty yet, it goes with the container's.
                    let _ = leaf.remove();
                }
                continue;
            }
        };
        let mut process = Process::recorded(&known);
        match load_exit(&container.bundle, &id) {
            Some(exit) => process.announce(exit),
            None => {
                let key = Key::of(container_id, &id);
                fates.push((key, fate(&known.process, None)?));
            }
        }
        let leaf = leaf()?;
        container.execs.insert(id, Exec::recorded(known.stdio, process, leaf));
    }
    Ok(fates)
}

/// How a process ended, if that was recorded. Without the record it ends once more, as the kernel says it did.
fn load_exit(bundle: &Path, exec: &str) -> Option<Exit> {
    let path = records::exit(bundle, exec);
    match record::load::<Exit>(&path) {
        Ok(exit) => Some(exit),
        Err(record::Error::Missing { .. }) => None,
        Err(e) => {
            set_aside(&path, &e);
            None
        }
    }
}

/// Keeps a record that can't be used, for a person.
fn set_aside(path: &Path, why: &record::Error) {
    diary::note(format_args!("a record can't be used, and is set aside: {why}"));
    if let Err(e) = record::quarantine(path) {
        diary::note(format_args!("{e}"));
    }
}

/// Looks for a recorded process. The pidfd is opened before the start time is read, so that both are one process's.
fn fate(id: &ProcessId, held: Option<OwnedFd>) -> Result<Fate> {
    let gone = |held: Option<OwnedFd>| {
        let kept = held.and_then(|pidfd| sys::pidfd_info::end(pidfd).ok().flatten());
        Ok(Fate::Gone(kept.unwrap_or(End::Unknown)))
    };
    let Some(pid) = i32::try_from(id.pid).ok().and_then(Pid::from_raw) else {
        return Err(Failure::Invalid(format!("a record names process {}", id.pid)));
    };
    match sys::pidfd::open(pid) {
        Ok(pidfd) if sys::spawn::start_time_ticks(pid) == Some(id.start_time_ticks) => Ok(Fate::Found(pidfd)),
        // Another process's number by now, or nobody's.
        Ok(_) => gone(held),
        Err(e) if matches!(e.errno, rustix::io::Errno::SRCH | rustix::io::Errno::INVAL) => gone(held),
        Err(e) => Err(e.into()),
    }
}

/// Whether the process of this pidfd has not ended.
pub(crate) fn is_alive(pidfd: &OwnedFd) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&now)) == Ok(0)
}
