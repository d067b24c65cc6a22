//! The opposites of the steps in [`super::create`], from the top of the row down. Each of them may be called for what was
//! never acquired, or has been given back already; all are attempted, whatever the others say.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use cgroup::Cgroup;
use cri::v1::ContainerEventType;
use tracing::debug;

use super::Step;
use super::owner::Sandbox;
use crate::blocking::blocking;
use crate::disk::{remove_file, remove_tree, unmount, unmount_below};
use crate::error::{Error, Result};
use crate::id::{ContainerId, SandboxId};
use crate::layout::SandboxDir;
use crate::node::Node;
use crate::records::ProcessName;
use crate::shim::{ShimClient, ShimProcess};

/// How long a shim may take to end once it was asked to, before it is killed; and then to die.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(5);

/// What failed, in the order of the attempts.
#[derive(Default)]
struct Failures(Vec<String>);

impl Failures {
    /// Remembers a failure and goes on.
    fn note<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|e| self.0.push(e.to_string())).ok()
    }
}

impl Sandbox {
    /// Takes everything down, the sandbox's own directory too.
    ///
    /// Writes nothing: a full disk keeps no sandbox from going, which may be what makes room on it.
    pub(crate) async fn undo_all(&mut self) -> Result<()> {
        let mut failures = Failures::default();
        self.descend(Step::Reserved, &mut failures).await;
        if failures.0.is_empty() {
            self.undo_reserved(&mut failures).await;
        }
        self.finish(failures)
    }

    /// Takes down what is above `floor` in the row, and records that.
    pub(crate) async fn undo_to(&mut self, floor: Step) -> Result<()> {
        let mut failures = Failures::default();
        self.descend(floor, &mut failures).await;
        if failures.0.is_empty() {
            // Where that was done before and could not be recorded, the containers' records still say that they run.
            self.end_containers();
            failures.note(self.save());
        }
        self.finish(failures)
    }

    async fn descend(&mut self, floor: Step, failures: &mut Failures) {
        let reached = self.state.record.step;
        for step in Step::ROW.into_iter().rev().filter(|s| *s > floor && *s <= reached) {
            debug!(?step, "undo");
            match step {
                Step::Ready => self.undo_ready(failures).await,
                Step::Supervised => self.undo_supervised(failures).await,
                Step::Networked => self.undo_networked(failures).await,
                Step::Namespaced => self.undo_namespaced(failures).await,
                Step::Reserved => {}
            }
        }
        if failures.0.is_empty() && reached > floor {
            self.state.record.step = floor;
        }
        self.publish();
    }

    /// Ends what runs: through the shim, which sees how each container ends; without it, by the cgroups.
    async fn undo_ready(&mut self, failures: &mut Failures) {
        let killed = match self.shim_for_undo().await {
            Some(shim) => match shim.stop_sandbox(self.state.record.id.as_str()).await {
                Ok(()) => shim.state().await.map(|state| self.take_in(&state)),
                Err(e) => Err(e),
            },
            None => Ok(()),
        };
        if let Err(e) = killed {
            debug!(error = %e, "the shim does not stop the pod; its cgroups are killed");
        }
        self.kill_cgroups(failures).await;
        failures.note(sys::failpoint!("sandbox.undo.killed").map_err(Error::from));
        self.end_containers();
        self.state.pause = None;
        self.publish();
    }

    /// Ends the shim, and takes the cgroups away.
    async fn undo_supervised(&mut self, failures: &mut Failures) {
        if let Some(shim) = self.shim_for_undo().await {
            // An answer is not needed: its end is what counts, and it may end before it answers.
            let _ = shim.shutdown_sandbox(self.state.record.id.as_str()).await;
        }
        failures.note(sys::failpoint!("sandbox.undo.shutdown").map_err(Error::from));
        failures.note(self.end_shim().await);
        self.state.shim = None;
        self.process = None;
        self.remove_cgroups(failures).await;
        failures.note(remove_file(&self.dir.socket()));
        failures.note(sys::failpoint!("sandbox.undo.supervised").map_err(Error::from));
    }

    /// Gives back addresses, ports and links; the namespace with them.
    async fn undo_networked(&mut self, failures: &mut Failures) {
        let (network, id) = (self.node.network.clone(), self.state.record.id.clone());
        failures.note(
            blocking(move || network.release(id.as_str()))
                .await
                .map_err(Error::from),
        );
        failures.note(sys::failpoint!("sandbox.undo.networked").map_err(Error::from));
    }

    async fn undo_namespaced(&mut self, failures: &mut Failures) {
        self.undo_networked(failures).await;
        failures.note(unmount(&self.dir.shm()));
        failures.note(sys::failpoint!("sandbox.undo.namespaced").map_err(Error::from));
    }

    /// Containers, files, the directory with the record last.
    async fn undo_reserved(&mut self, failures: &mut Failures) {
        let ids: Vec<ContainerId> = self.state.containers.keys().cloned().collect();
        for id in ids {
            if failures.note(self.discard_container(&id).await).is_some() {
                self.node
                    .events
                    .tell(ContainerEventType::ContainerDeletedEvent, id.as_str(), &self.state);
            }
        }
        // As the containers' own layers, it outlives a stop, which must succeed where the root can't be written to.
        failures.note(self.release_image().await);
        failures.note(sys::failpoint!("sandbox.remove.containers").map_err(Error::from));
        if failures.0.is_empty() {
            failures.note(remove_sandbox_dir(&self.dir));
        }
    }

    /// The connection with the shim; a new one where there is none yet (after a crash), and its process with it. That one
    /// may have been started and not recorded: whoever has the listening socket answers, even if it is not the shim yet
    /// but the child that is to become it; when nobody has, the connection is refused.
    async fn shim_for_undo(&mut self) -> Option<ShimClient> {
        if self.state.shim.is_none() {
            self.state.shim = ShimClient::connect(&self.dir.socket()).await.ok();
        }
        if self.process.is_none()
            && self.state.record.shim.is_none()
            && let Some(shim) = &self.state.shim
            && let Ok(state) = shim.state().await
        {
            self.state.record.shim = ProcessName::of(state.shim_pid);
        }
        self.state.shim.clone()
    }

    /// Waits until the shim has ended, kills it if it does not.
    async fn end_shim(&mut self) -> Result<()> {
        let process = match self.process.take() {
            Some(process) => Some(process),
            None => self.state.record.shim.map(ShimProcess::find).transpose()?.flatten(),
        };
        let Some(process) = process else { return Ok(()) };
        if process.exited_within(SHUTDOWN_LIMIT).await {
            return Ok(());
        }
        process.kill()?;
        if process.exited_within(SHUTDOWN_LIMIT).await {
            return Ok(());
        }
        let pid = process.name().pid;
        self.process = Some(process);
        Err(cri::Error::internal(format!(
            "the pod's supervisor (pid {pid}) can't be killed: see /proc/{pid}/stack"
        ))
        .into())
    }

    /// The cgroups of the sandbox and its containers.
    fn cgroup_paths(&self) -> Vec<String> {
        let parent = self.state.record.cgroup_parent.trim_end_matches('/');
        let containers = self.state.containers.keys().map(ContainerId::as_str);
        [self.state.record.id.as_str()]
            .into_iter()
            .chain(containers)
            .map(|id| format!("{parent}/{id}"))
            .collect()
    }

    async fn kill_cgroups(&self, failures: &mut Failures) {
        let (node, paths) = (self.node.clone(), self.cgroup_paths());
        for result in blocking(move || for_each_cgroup(&node, &paths, Cgroup::kill)).await {
            failures.note(result);
        }
    }

    async fn remove_cgroups(&self, failures: &mut Failures) {
        let (node, mut paths, id) = (self.node.clone(), self.cgroup_paths(), self.state.record.id.clone());
        if self.state.record.foreign.is_some() {
            // Whatever the handler's shim has left on the host.
            paths.push(self.supervisors_cgroup());
        }
        let results = blocking(move || {
            let mut results = for_each_cgroup(&node, &paths, Cgroup::kill);
            results.push(sys::failpoint!("sandbox.undo.cgroups").map_err(Error::from));
            if results.iter().all(Result::is_ok) {
                results.extend(for_each_cgroup(&node, &paths, Cgroup::remove));
            }
            // As long as one of its own is there, those above it have a user: the next try takes them away.
            if results.iter().all(Result::is_ok) {
                results.push(node.cgroups.release(&id));
            }
            results
        })
        .await;
        for result in results {
            failures.note(result);
        }
    }

    /// Nothing runs any more: containers whose end nobody saw have ended all the same.
    fn end_containers(&mut self) {
        let running: Vec<ContainerId> = self
            .state
            .containers
            .values()
            .filter(|c| c.is_running())
            .map(|c| c.record.id.clone())
            .collect();
        for id in running {
            self.change_container(&id, |c| {
                c.end_unseen(
                    crate::clock::now_ns(),
                    "killed with its pod, while its supervisor was gone",
                );
            });
            self.node
                .events
                .tell(ContainerEventType::ContainerStoppedEvent, id.as_str(), &self.state);
        }
    }

    fn finish(&self, failures: Failures) -> Result<()> {
        if failures.0.is_empty() {
            return Ok(());
        }
        Err(Error::Undo {
            what: format!("sandbox {}", self.state.record.id),
            failures: failures.0,
        })
    }
}

/// Gives back what is held under a sandbox's id of which there is no record (any more): network, shared memory, image volumes.
pub(crate) async fn release_orphan(node: &Arc<Node>, id: &SandboxId) -> Result<()> {
    let (network, owned) = (node.network.clone(), id.clone());
    blocking(move || network.release(owned.as_str())).await?;
    unmount_below(node.layout.sandbox(id).path())
}

fn for_each_cgroup(node: &Node, paths: &[String], act: impl Fn(&Cgroup) -> cgroup::Result<()>) -> Vec<Result<()>> {
    let act = |path: &String| match Cgroup::open(node.cgroups.hierarchies(), path) {
        Ok(cgroup) => act(&cgroup),
        Err(cgroup::Error::NotFound { .. }) => Ok(()),
        Err(e) => Err(e),
    };
    paths.iter().map(|path| act(path).map_err(Error::from)).collect()
}

/// Removes a sandbox's directory, the record last: a crash in between leaves a sandbox that recovery knows how to remove.
pub(crate) fn remove_sandbox_dir(dir: &SandboxDir) -> Result<()> {
    let record = dir.record();
    let entries = match fs::read_dir(dir.path()) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::file("read", dir.path())(e)),
    };
    for entry in entries {
        let path = entry.map_err(Error::file("read", dir.path()))?.path();
        if path != record {
            remove_tree(&path)?;
        }
    }
    sys::failpoint!("sandbox.remove.files")?;
    remove_file(&record)?;
    sys::failpoint!("sandbox.remove.record")?;
    fs::remove_dir(dir.path()).map_err(Error::file("remove", dir.path()))
}
