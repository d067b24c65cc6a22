//! After a start: every sandbox that has a record is taken up again, or taken down; what no record knows is released.
//! Nothing that is found keeps the runtime from starting.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tracing::{error, info, warn};

use crate::blocking::blocking;
use crate::checkpoint;
use crate::container::signal::SIGKILL;
use crate::container::{Container, owner_of_snapshot};
use crate::disk::{read_spec, remove_file, remove_tree, unmount_below};
use crate::error::{Error, Result};
use crate::id::{ContainerId, SandboxId};
use crate::node::Node;
use crate::records::{ContainerIntent, ContainerRecord, Intent, ProcessName, SandboxRecord};
use crate::sandbox::{Phase, Sandbox, Step, release_orphan, remove_sandbox_dir};
use crate::shim::{ShimClient, ShimProcess};

/// How long the supervisor of a sandbox whose record is broken may take to end, before it is killed.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(5);

/// What `record::quarantine` puts behind a name.
const QUARANTINED: &str = ".quarantined-";

/// Recovers all of them, side by side: one that takes its time delays no other.
pub(crate) async fn recover(node: &Arc<Node>) -> Result<()> {
    let ids = sandbox_ids(&node.layout.sandboxes())?;
    join_all(ids.iter().map(|id| recover_one(node, id))).await;
    release_orphans(node).await;
    Ok(())
}

fn sandbox_ids(dir: &Path) -> Result<Vec<SandboxId>> {
    fs::create_dir_all(dir).map_err(Error::file("make", dir))?;
    let mut ids = Vec::new();
    for entry in fs::read_dir(dir).map_err(Error::file("read", dir))? {
        let name = entry.map_err(Error::file("read", dir))?.file_name();
        match name.to_str() {
            Some(name) if !name.contains(QUARANTINED) => ids.push(SandboxId::from(name)),
            _ => {}
        }
    }
    Ok(ids)
}

async fn recover_one(node: &Arc<Node>, id: &SandboxId) {
    let dir = node.layout.sandbox(id);
    let recovered = match record::load::<SandboxRecord>(&dir.record()) {
        Ok(record) => {
            take_up(node, record).await;
            return;
        }
        // A supervisor that answers is of this boot, whatever the record says.
        Err(record::Error::Foreign { .. }) if ShimClient::connect(&dir.socket()).await.is_err() => {
            info!(sandbox = %id, "the machine was restarted since; its directory is removed");
            release_orphan(node, id).await.and_then(|()| remove_sandbox_dir(&dir))
        }
        // Nothing is acquired before the first record is there, and nothing is left once it is removed.
        Err(record::Error::Missing { .. }) if is_bare(dir.path()) => remove_tree(dir.path()),
        Err(error) => quarantine(node, id, &error.into()).await,
    };
    if let Err(error) = recovered {
        error!(sandbox = %id, %error, "can't be recovered");
    }
}

/// Goes on where the record says the sandbox was.
async fn take_up(node: &Arc<Node>, record: SandboxRecord) {
    let intent = record.intent;
    // Below this step it uses none, and no undo would say that it does not any more.
    if record.step >= Step::Supervised {
        for cgroup in [record.cgroup_parent.clone(), node.config.supervisors_cgroup(&record)] {
            node.cgroups.adopt(&cgroup, &record.id, &record.cgroups_made);
        }
    }
    let phase = if intent == Intent::Run {
        Phase::Ready
    } else {
        Phase::NotReady
    };
    let mut sandbox = Sandbox::new(node.clone(), record, phase);
    let unfinished = load_containers(&mut sandbox).await;
    let id = sandbox.state.record.id.clone();
    let done = match intent {
        Intent::Run if has_lost_its_network(&sandbox) => {
            error!(sandbox = %id, "the record of its address and ports is lost, so both may be given away; it is stopped");
            sandbox.stop().await
        }
        Intent::Run => sandbox.resume().await,
        Intent::Stop => sandbox.undo_to(Step::Reserved).await,
        Intent::Create | Intent::Remove => match sandbox.undo_all().await {
            Ok(()) => {
                info!(sandbox = %id, ?intent, "found half-way, taken down");
                return;
            }
            Err(e) => Err(e),
        },
    };
    if let Err(error) = done {
        error!(sandbox = %id, %error, "not recovered whole; it is not ready, and removing it tries again");
        sandbox.shim_gone();
    }
    for container in unfinished {
        if let Err(error) = sandbox.finish_removal(&container).await {
            error!(%container, %error, "a container that was being made or removed is not undone whole");
        }
    }
    enter(node, sandbox);
}

fn has_lost_its_network(sandbox: &Sandbox) -> bool {
    let record = &sandbox.state.record;
    record.netns.is_some() && sandbox.node().network.attachment(record.id.as_str()).is_none()
}

fn enter(node: &Node, sandbox: Sandbox) {
    let state = &sandbox.state;
    let name = state.record.config.metadata.clone().unwrap_or_default();
    node.registry
        .enter((&name).into(), sandbox.handle(), state.containers.keys().cloned());
    info!(sandbox = %state.record.id, containers = state.containers.len(), phase = ?state.phase, "recovered");
    sandbox.publish();
    sandbox.spawn();
}

/// Reads the containers' records; those that were being made or removed are returned.
async fn load_containers(sandbox: &mut Sandbox) -> Vec<ContainerId> {
    let mut unfinished = Vec::new();
    for id in container_ids(&sandbox.dir().containers()) {
        if let Err(error) = checkpoint::sweep(&sandbox.dir().container(&id)) {
            warn!(container = %id, %error, "what was begun of a checkpoint remains");
        }
        let path = sandbox.dir().container(&id).record();
        match record::load::<ContainerRecord>(&path) {
            Ok(record) => {
                if record.intent != ContainerIntent::Keep {
                    unfinished.push(id.clone());
                }
                sandbox.state.containers.insert(id, Arc::new(Container::new(record)));
            }
            Err(record::Error::Missing { .. }) => {
                if let Err(error) = remove_tree(sandbox.dir().container(&id).path()) {
                    warn!(container = %id, %error, "a container's empty directory remains");
                }
            }
            Err(error) => {
                error!(container = %id, %error, "the container's record can't be used; what runs of it is killed, its directory is set aside");
                if let Err(error) = quarantine_container(sandbox, &id).await {
                    error!(container = %id, %error, "a broken container can't be set aside");
                }
            }
        }
    }
    unfinished
}

fn container_ids(dir: &Path) -> Vec<ContainerId> {
    names(dir).iter().map(|name| ContainerId::from(name.as_str())).collect()
}

/// What lies in a directory and was not set aside.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter_map(|e| e.file_name().into_string().ok())
        .filter(|name| !name.contains(QUARANTINED))
        .collect()
}

/// A container that nobody can name must not run on: the next attempt would be its twin. Its snapshot is an orphan then.
async fn quarantine_container(sandbox: &Sandbox, id: &ContainerId) -> Result<()> {
    let dir = sandbox.dir().container(id);
    let (node, cgroup) = (sandbox.node().clone(), cgroup_of(&dir.spec()));
    let parent = sandbox.state.record.cgroup_parent.trim_end_matches('/');
    let cgroup = cgroup.unwrap_or_else(|| format!("{parent}/{id}"));
    if let Ok(shim) = ShimClient::connect(&sandbox.dir().socket()).await {
        // One that the shim knows nothing of needs no killing, and one that has ended none either.
        if shim.kill(id.as_str(), "", SIGKILL, true).await.is_ok() {
            let _ = shim.wait(id.as_str(), "").await;
        }
        let _ = shim.delete(id.as_str(), "").await;
    }
    blocking(move || kill_cgroup(&node, &cgroup)).await?;
    unmount_below(dir.path())?;
    record::quarantine(dir.path())?;
    Ok(())
}

/// Takes down what can be found of a sandbox whose record can't be read, and sets its directory aside for a person.
async fn quarantine(node: &Arc<Node>, id: &SandboxId, why: &Error) -> Result<()> {
    let dir = node.layout.sandbox(id);
    error!(sandbox = %id, error = %why, "the sandbox's record can't be used; what it holds is released, its directory is set aside");
    let mut supervisor = None;
    if let Ok(shim) = ShimClient::connect(&dir.socket()).await {
        if let Ok(state) = shim.state().await {
            supervisor = ProcessName::of(state.shim_pid)
                .map(ShimProcess::find)
                .transpose()?
                .flatten();
        }
        // Whether it obeys or not, its cgroups are killed, and so is it.
        let _ = shim.stop_sandbox(id.as_str()).await;
        let _ = shim.shutdown_sandbox(id.as_str()).await;
    }
    if let Some(process) = supervisor
        && !process.exited_within(SHUTDOWN_LIMIT).await
    {
        process.kill()?;
    }
    let containers = names(&dir.containers());
    let specs = containers.iter().map(|c| dir.container(&c.as_str().into()).spec());
    let cgroups = specs.chain([dir.spec()]).filter_map(|spec| cgroup_of(&spec));
    // Where a handler's shim would be.
    let own = node.config.own_supervisors_cgroup(id);
    let cgroups: Vec<String> = cgroups.chain([own]).collect();
    let owned = node.clone();
    blocking(move || {
        cgroups.iter().try_for_each(|cgroup| kill_cgroup(&owned, cgroup))?;
        cgroups
            .iter()
            .try_for_each(|cgroup| remove_empty_parent(&owned, cgroup))
    })
    .await?;
    release_orphan(node, id).await?;
    remove_file(&dir.socket())?;
    record::quarantine(dir.path())?;
    Ok(())
}

/// The cgroup that a spec of ours names.
fn cgroup_of(spec: &Path) -> Option<String> {
    let spec = read_spec(spec).ok()?;
    let path = spec.linux().as_ref()?.cgroups_path().as_ref()?;
    path.to_str().map(str::to_owned)
}

/// Kills what is in a cgroup and takes it away.
fn kill_cgroup(node: &Node, path: &str) -> Result<()> {
    match cgroup::Cgroup::open(node.cgroups.hierarchies(), path) {
        Ok(cgroup) => Ok(cgroup.kill().and_then(|()| cgroup.remove())?),
        Err(cgroup::Error::NotFound { .. }) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Takes the pod's cgroup away with the last one in it: which of those above were made for the sandbox, its record would say. What
/// is not below this node's own is somebody else's.
fn remove_empty_parent(node: &Node, path: &str) -> Result<()> {
    match path.rsplit_once('/') {
        Some((parent, _)) if Path::new(parent).starts_with(&node.config.cgroup_parent) => {
            Ok(cgroup::remove::remove_if_empty(node.cgroups.hierarchies(), parent)?)
        }
        _ => Ok(()),
    }
}

/// Whether a directory holds nothing but other such ones and records that were never finished.
fn is_bare(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|mut entries| {
        entries.all(|entry| {
            entry.is_ok_and(|e| {
                let is_dir = e.file_type().is_ok_and(|t| t.is_dir());
                if is_dir {
                    is_bare(&e.path())
                } else {
                    record::is_unfinished(&e.file_name())
                }
            })
        })
    })
}

/// Releases namespaces, addresses and snapshots that belong to nobody.
async fn release_orphans(node: &Arc<Node>) {
    let (sandboxes, containers) = ids_on_disk(node);
    let (network, images) = (node.network.clone(), node.images.clone());
    let (networks, snapshots) = blocking(move || (network.remaining(), images.snapshots())).await;
    for remainder in networks {
        let (network::Remainder::Namespace(id) | network::Remainder::Attachment(id)) = remainder;
        if !sandboxes.contains(&id) {
            warn!(sandbox = %id, "its network belongs to nobody; released");
            if let Err(error) = release_orphan(node, &SandboxId::from(id.as_str())).await {
                error!(sandbox = %id, %error, "its network can't be released");
            }
        }
    }
    let orphans = snapshots
        .into_iter()
        .map(|key| (owner_of_snapshot(&key).to_owned(), key))
        .filter(|(owner, _)| !containers.contains(owner) && !sandboxes.contains(owner))
        .map(|(_, key)| key);
    for key in orphans {
        warn!(snapshot = %key, "belongs to nobody; removed");
        let images = node.images.clone();
        let name = key.clone();
        if let Err(error) = blocking(move || images.remove_snapshot(&name)).await {
            error!(snapshot = %key, %error, "can't be removed");
        }
    }
}

/// The names of all sandboxes and containers that have a directory, those too whose records can't be read.
fn ids_on_disk(node: &Node) -> (BTreeSet<String>, BTreeSet<String>) {
    let ids = sandbox_ids(&node.layout.sandboxes()).unwrap_or_default();
    let containers = ids
        .iter()
        .flat_map(|id| container_ids(&node.layout.sandbox(id).containers()));
    let containers = containers.map(|c| c.to_string()).collect();
    (ids.iter().map(ToString::to_string).collect(), containers)
}
