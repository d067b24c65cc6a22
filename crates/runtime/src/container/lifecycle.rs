//! StartContainer, signals, UpdateContainerResources, RemoveContainer: what the owner does to a container that is there.

use std::path::Path;
use std::time::Duration;

use cri::ErrorKind;
use cri::v1::{ContainerEventType, LinuxContainerResources};
use tracing::{info, warn};

use super::facts;
use super::signal::SIGKILL;
use super::{Attendance, Container, DEFAULT_CPU_PERIOD_US, DEFAULT_CPU_SHARES, START_ERROR};
use crate::blocking::blocking;
use crate::clock::now_ns;
use crate::disk::{make_fifo, read_spec, write_json};
use crate::error::{Error, Result};
use crate::id::ContainerId;
use crate::records::{ContainerIntent, Exit, Life};
use crate::sandbox::Sandbox;
use crate::shim::{ShimClient, ShimError, TaskStreams};
use crate::{root, spec};

/// How long a container that failed to start may take to die.
const KILL_LIMIT: Duration = Duration::from_secs(5);

impl Sandbox {
    /// StartContainer. A container that can't be started has ended: code 128, StartError, and why.
    pub(crate) async fn start_container(&mut self, id: &ContainerId) -> Result<()> {
        let container = self.container(id)?.clone();
        if container.is_running() {
            // A client whose deadline has passed asks again.
            return Ok(());
        }
        if container.record.life != Life::Created {
            return Err(wrong_state(id, "start", "it was started before; a container runs once"));
        }
        self.must_be_ready("start a container in it")?;
        let shim = self.shim()?;
        // Recorded before the shim is asked: after a crash in between, the shim's word decides.
        self.with_container(id, |c| c.record.life = Life::Running { started_at_ns: 0 });
        let recorded = self.save_container(id);
        if let Err(error) = recorded.and_then(|()| Ok(sys::failpoint!("container.start.recorded")?)) {
            // Nobody was asked yet: it can be started when there is room for the record.
            self.change_container(id, |c| c.record.life = Life::Created);
            return Err(error);
        }
        let started = self.run_first_process(&shim, id).await;
        match started {
            Ok(()) => {
                info!(container = %id, "container is started");
                Ok(())
            }
            Err(error) => {
                self.failed_to_start(&shim, id, &error).await;
                Err(error)
            }
        }
    }

    async fn run_first_process(&mut self, shim: &ShimClient, id: &ContainerId) -> Result<()> {
        let (images, key) = (self.node().images.clone(), id.clone());
        let overlay = blocking(move || images.overlay(key.as_str())).await?;
        let dir = self.dir().container(id);
        let streams = self.streams(id)?;
        self.held.hold_streams(id, &dir, self.has_stdin(id))?;
        let root = root::mount(&overlay, spec::user_maps(&self.state.record.config)?.as_ref());
        shim.create_task(id.as_str(), dir.path(), &[root], streams).await?;
        sys::failpoint!("container.start.created")?;
        shim.start(id.as_str(), "").await?;
        sys::failpoint!("container.start.started")?;
        // The start is also told by the stream of events; but who has got the answer to StartContainer may ask for the
        // status at once, and must find the process there.
        let state = shim.state().await?;
        self.take_in(&state);
        Ok(())
    }

    fn streams(&self, id: &ContainerId) -> Result<TaskStreams> {
        let container = self.container(id)?;
        let config = &container.record.config;
        let log = container
            .record
            .log
            .as_deref()
            // Who attaches gets a copy of what goes into a log, so there is one always.
            .unwrap_or(Path::new("/dev/null"));
        let log = format!("cri://{}", log.display());
        let stdin = self.dir().container(id).stdin();
        if config.stdin {
            make_fifo(&stdin)?;
        }
        Ok(TaskStreams {
            terminal: config.tty,
            stdin: if config.stdin {
                stdin.to_string_lossy().into_owned()
            } else {
                String::new()
            },
            log,
        })
    }

    /// Whether its input can be written to.
    pub(crate) fn has_stdin(&self, id: &ContainerId) -> bool {
        let container = self.state.containers.get(id);
        container.is_some_and(|c| c.record.config.stdin && !c.record.stdin_closed)
    }

    /// Closes the input of a container for good: its first process meets end of file.
    pub(crate) async fn close_stdin(&mut self, id: &ContainerId) -> Result<()> {
        if !self.container(id)?.is_running() {
            return Ok(());
        }
        self.with_container(id, |c| c.record.stdin_closed = true);
        self.save_container(id)?;
        self.publish();
        self.held.release_stdin(id);
        Ok(self.shim()?.close_stdin(id.as_str(), "").await?)
    }

    async fn failed_to_start(&mut self, shim: &ShimClient, id: &ContainerId, error: &Error) {
        // It may have come up all the same: a container that is said to have ended must not run.
        if shim.kill(id.as_str(), "", SIGKILL, true).await.is_ok() {
            let _ = tokio::time::timeout(KILL_LIMIT, shim.wait(id.as_str(), "")).await;
        }
        match shim.delete(id.as_str(), "").await {
            Err(e) if !e.is_not_found() => warn!(container = %id, error = %e, "the failed task remains in the shim"),
            _ => {}
        }
        let message = error.to_string();
        self.change_container(id, |c| {
            c.end(Exit {
                // The CRI has no word for “never”; kubelet takes a container that ended for one that was started.
                started_at_ns: 0,
                finished_at_ns: now_ns(),
                exit_code: START_ERROR,
                reason: "StartError".into(),
                message,
            });
        });
        self.node()
            .events
            .tell(ContainerEventType::ContainerStoppedEvent, id.as_str(), &self.state);
    }

    /// A signal for a container that runs. One that has ended meanwhile needs none.
    pub(crate) async fn signal_container(&mut self, id: &ContainerId, signal: i32, all: bool) -> Result<()> {
        let container = self.container(id)?.clone();
        if !container.is_running() {
            return Ok(());
        }
        let shim = self.state.shim.clone();
        let Some(shim) = shim.filter(|_| container.attendance == Attendance::Attended) else {
            return self.kill_unattended(id).await;
        };
        match shim.kill(id.as_str(), "", signal, all).await {
            Err(e) if !e.is_not_found() => Err(e.into()),
            _ => Ok(()),
        }
    }

    /// Without a shim there is no one who could tell the container's first process from the rest, or see it end: all of
    /// it is killed.
    async fn kill_unattended(&mut self, id: &ContainerId) -> Result<()> {
        let path = self.state.record.cgroup_path(id.as_str());
        let node = self.node().clone();
        blocking(move || match cgroup::Cgroup::open(node.cgroups.hierarchies(), &path) {
            Ok(cgroup) => cgroup.kill(),
            Err(cgroup::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(e),
        })
        .await?;
        self.change_container(id, |c| {
            c.end_unseen(now_ns(), "killed while the pod's supervisor was gone")
        });
        self.node()
            .events
            .tell(ContainerEventType::ContainerStoppedEvent, id.as_str(), &self.state);
        Ok(())
    }

    /// UpdateContainerResources, all or nothing: the kernel's limits first, then the record, so that the status never claims
    /// what isn't; and where that can't be written, the limits as they were.
    pub(crate) async fn update_container(
        &mut self,
        id: &ContainerId,
        resources: LinuxContainerResources,
    ) -> Result<()> {
        let container = self.container(id)?.clone();
        if container.is_exited() {
            return Err(wrong_state(id, "update", "it has ended"));
        }
        let before = container.record.resources.clone();
        let after = merged(before.clone(), resources.clone());
        if let Err(error) = self.limit(&container, &resources, &after).await {
            // Hove's own shim has changed nothing then; another's may have gone half of the way (crun does).
            if self.state.record.foreign.is_some() {
                self.put_back(&container, before, &resources).await;
            }
            return Err(error);
        }
        self.with_container(id, |c| c.record.resources = Some(after));
        if let Err(error) = self.save_container(id) {
            self.with_container(id, |c| c.record.resources.clone_from(&before));
            self.put_back(&container, before, &resources).await;
            return Err(error);
        }
        self.publish();
        Ok(())
    }

    /// Sets the limits that were there before a change that came to nothing.
    async fn put_back(
        &self,
        container: &Container,
        before: Option<LinuxContainerResources>,
        change: &LinuxContainerResources,
    ) {
        let before = before.unwrap_or_default();
        if let Err(failure) = self.limit(container, &reverted(&before, change), &before).await {
            warn!(container = %container.record.id, %failure, "its limits can't be set back to what they were");
        }
    }

    /// Sets limits: what runs is told the change; of a container that was not started, all its limits stand in its spec.
    async fn limit(
        &self,
        container: &Container,
        change: &LinuxContainerResources,
        all: &LinuxContainerResources,
    ) -> Result<()> {
        let id = &container.record.id;
        let limitable = facts::limitable(self.node().cgroups.hierarchies());
        if container.is_running() {
            let limits = spec::resources(change, limitable);
            return Ok(self.shim()?.update(id.as_str(), &limits).await?);
        }
        let path = self.dir().container(id).spec();
        let mut spec = read_spec(&path)?;
        let mut limits = spec::resources(all, limitable);
        if let Some(linux) = spec.linux_mut() {
            limits.set_devices(linux.resources().as_ref().and_then(|r| r.devices().clone()));
            linux.set_resources(Some(limits));
        }
        write_json(&path, &spec)
    }

    /// RemoveContainer of one that does not run (the caller has stopped it).
    pub(crate) async fn remove_container(&mut self, id: &ContainerId) -> Result<()> {
        let Some(container) = self.state.containers.get(id).cloned() else {
            return Ok(());
        };
        if container.is_running() {
            return Err(wrong_state(id, "remove", "it runs"));
        }
        self.with_container(id, |c| c.record.intent = ContainerIntent::Remove);
        if let Err(error) = self.save_container(id) {
            // Its removal may be what makes room on a full disk; should the node die half-way, the caller asks again.
            warn!(container = %id, %error, "the container's removal can't be recorded");
        }
        sys::failpoint!("container.remove.recorded")?;
        self.finish_removal(id).await?;
        self.node()
            .events
            .tell(ContainerEventType::ContainerDeletedEvent, id.as_str(), &self.state);
        info!(container = %id, "container is removed");
        Ok(())
    }

    /// Gives back all of a container that does not run: its task, its cgroup, its files.
    pub(crate) async fn finish_removal(&mut self, id: &ContainerId) -> Result<()> {
        if let Some(shim) = self.state.shim.clone() {
            match shim.delete(id.as_str(), "").await {
                Err(e) if !e.is_not_found() && !e.is_gone() => return Err(e.into()),
                _ => {}
            }
        }
        sys::failpoint!("container.remove.forgotten")?;
        self.remove_own_cgroup(id).await?;
        sys::failpoint!("container.remove.cgroup")?;
        self.discard_container(id).await
    }

    /// The shim takes it away with the task; this is for what a shim that has died left.
    async fn remove_own_cgroup(&self, id: &ContainerId) -> Result<()> {
        let path = self.state.record.cgroup_path(id.as_str());
        let node = self.node().clone();
        let removed = blocking(move || match cgroup::Cgroup::open(node.cgroups.hierarchies(), &path) {
            Ok(cgroup) => cgroup.remove(),
            Err(cgroup::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(e),
        });
        Ok(removed.await?)
    }

    fn shim(&self) -> Result<ShimClient> {
        self.state
            .shim
            .clone()
            .ok_or_else(|| ShimError::no_shim("connect").into())
    }
}

/// An update says only what changes: what it leaves at zero stays.
fn merged(old: Option<LinuxContainerResources>, new: LinuxContainerResources) -> LinuxContainerResources {
    let Some(old) = old else { return new };
    let number = |old: i64, new: i64| if new == 0 { old } else { new };
    let text = |old: String, new: String| if new.is_empty() { old } else { new };
    LinuxContainerResources {
        cpu_period: number(old.cpu_period, new.cpu_period),
        cpu_quota: number(old.cpu_quota, new.cpu_quota),
        cpu_shares: number(old.cpu_shares, new.cpu_shares),
        memory_limit_in_bytes: number(old.memory_limit_in_bytes, new.memory_limit_in_bytes),
        oom_score_adj: number(old.oom_score_adj, new.oom_score_adj),
        cpuset_cpus: text(old.cpuset_cpus, new.cpuset_cpus),
        cpuset_mems: text(old.cpuset_mems, new.cpuset_mems),
        hugepage_limits: if new.hugepage_limits.is_empty() {
            old.hugepage_limits
        } else {
            new.hugepage_limits
        },
        unified: old.unified.into_iter().chain(new.unified).collect(),
        memory_swap_limit_in_bytes: number(old.memory_swap_limit_in_bytes, new.memory_swap_limit_in_bytes),
    }
}

/// What takes the changes of `new` back: what was said before of these limits, else that there is none.
fn reverted(old: &LinuxContainerResources, new: &LinuxContainerResources) -> LinuxContainerResources {
    let number = |old: i64, new: i64, none: i64| match (old, new) {
        (_, 0) => 0,
        (0, _) => none,
        (old, _) => old,
    };
    LinuxContainerResources {
        cpu_period: number(old.cpu_period, new.cpu_period, DEFAULT_CPU_PERIOD_US),
        cpu_quota: number(old.cpu_quota, new.cpu_quota, -1),
        cpu_shares: number(old.cpu_shares, new.cpu_shares, DEFAULT_CPU_SHARES),
        memory_limit_in_bytes: number(old.memory_limit_in_bytes, new.memory_limit_in_bytes, -1),
        memory_swap_limit_in_bytes: number(old.memory_swap_limit_in_bytes, new.memory_swap_limit_in_bytes, -1),
        ..old.clone()
    }
}

fn wrong_state(id: &ContainerId, verb: &str, why: &str) -> Error {
    cri::Error::new(
        ErrorKind::FailedPrecondition,
        format!("can't {verb} container {id}: {why}"),
    )
    .into()
}
