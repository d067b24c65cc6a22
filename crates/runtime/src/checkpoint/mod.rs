//! CheckpointContainer: a container that runs, written into an archive while it runs on.
//!
//! The archive is an uncompressed tar, as the field's tools read it:
//!
//! ```text
//!  checkpoint/             the processes: criu's images
//!  rootfs-diff.tar         what they have changed in the image's files: the container's own layer, as overlayfs keeps it
//!  config.dump spec.dump   which container it was; its OCI configuration
//!  container.log           its log so far
//!  dump.log stats-dump     what criu said
//! ```
//!
//! It grows in a directory beside the archive's place, since it may be as large as the container's memory and where a checkpoint is
//! wanted is room for it. That directory is noted in the container's, so that the next start takes away what a killed node leaves.

mod criu;

use std::fs;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cgroup::Cgroup;
use serde_json::json;
use tracing::{info, warn};

use crate::container::Container;
use crate::disk::{read_spec, remove_file, remove_tree, write_json};
use crate::error::{Error, Result};
use crate::layout::ContainerDir;
use crate::node::Node;
use crate::records::{ProcessName, SandboxRecord};

/// Asks for a checkpoint of a container.
pub(crate) struct Order {
    pub(crate) sandbox: SandboxRecord,
    pub(crate) container: Arc<Container>,
    pub(crate) process: ProcessName,
    pub(crate) dir: ContainerDir,
    /// The archive's path.
    pub(crate) location: PathBuf,
}

/// Makes the archive. Blocks for as long as it takes to write the container's memory.
pub(crate) fn make(node: &Node, order: &Order) -> Result<()> {
    criu::check()?;
    let parent = order.location.parent().unwrap_or(Path::new("/"));
    let work = parent.join(format!(".checkpoint-{}", order.container.record.id));
    note(&order.dir, &work)?;
    let made = fill(node, order, &work).and_then(|()| pack(&work, &order.location));
    let swept = sweep(&order.dir);
    made.and(swept)?;
    info!(container = %order.container.record.id, location = %order.location.display(), "a checkpoint is made");
    Ok(())
}

/// Takes away what a node that was killed has left of a checkpoint.
pub(crate) fn sweep(dir: &ContainerDir) -> Result<()> {
    let note = dir.checkpoint();
    match fs::read_link(&note) {
        Ok(work) => {
            remove_tree(&work)?;
            remove_file(&archive(&work))?;
            remove_file(&note)
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::file("read", &note)(e)),
    }
}

/// The work's place is noted before there is any. A link says it, whatever bytes the path has.
fn note(dir: &ContainerDir, work: &Path) -> Result<()> {
    sweep(dir)?;
    let note = dir.checkpoint();
    std::os::unix::fs::symlink(work, &note).map_err(Error::file("make", &note))
}

/// The archive until it is whole.
fn archive(work: &Path) -> PathBuf {
    work.with_extension("tar")
}

fn fill(node: &Node, order: &Order, work: &Path) -> Result<()> {
    let record = &order.container.record;
    let images = work.join("checkpoint");
    for dir in [work, &images] {
        let made = fs::DirBuilder::new().mode(0o700).create(dir);
        made.map_err(Error::file("make", dir))?;
    }
    let cgroup = Cgroup::open(
        node.cgroups.hierarchies(),
        &order.sandbox.cgroup_path(record.id.as_str()),
    )?;
    criu::dump(order.process.pid, &cgroup.pids()?, &images, work)?;
    if sys_start_time(order.process) != Some(order.process.start_time_ticks) {
        return Err(cri::Error::new(cri::ErrorKind::FailedPrecondition, "the container has ended meanwhile").into());
    }
    let stats = images.join("stats-dump");
    if stats.exists() {
        fs::rename(&stats, work.join("stats-dump")).map_err(Error::file("move", &stats))?;
    }
    let upper = node.images.overlay(record.id.as_str())?.upper;
    image::layer::pack::pack(&upper, create(&work.join("rootfs-diff.tar"))?)?;
    write_json(&work.join("spec.dump"), &read_spec(&order.dir.spec())?)?;
    write_json(&work.join("config.dump"), &description(order))?;
    if let Some(log) = &record.log
        && let Err(error) = fs::copy(log, work.join("container.log"))
    {
        warn!(log = %log.display(), %error, "the checkpoint is without the container's log");
    }
    Ok(())
}

fn sys_start_time(process: ProcessName) -> Option<u64> {
    sys::spawn::start_time_ticks(rustix::process::Pid::from_raw(process.pid)?)
}

/// Which container it was, under the names that checkpointctl and others look for.
fn description(order: &Order) -> serde_json::Value {
    let record = &order.container.record;
    let image = record.config.image.clone().unwrap_or_default();
    let name = match image.user_specified_image.as_str() {
        "" => image.image,
        name => name.to_owned(),
    };
    let time = |ns: i64| {
        jiff::Timestamp::from_nanosecond(ns.into())
            .map(|t| t.to_string())
            .unwrap_or_default()
    };
    json!({
        "id": record.id.as_str(),
        "name": record.config.metadata.clone().unwrap_or_default().name,
        "rootfsImage": name,
        "rootfsImageName": name,
        "rootfsImageRef": record.image_id,
        "runtime": "hove",
        "createdTime": time(record.created_at_ns),
        "checkpointedTime": time(crate::clock::now_ns()),
    })
}

/// For root alone: a container's memory is in it, with whatever secrets. It shows under its name when it is whole.
fn pack(work: &Path, location: &Path) -> Result<()> {
    let unfinished = archive(work);
    let file = create(&unfinished)?;
    image::layer::pack::pack(work, &file)?;
    file.sync_all().map_err(Error::file("write", &unfinished))?;
    fs::rename(&unfinished, location).map_err(Error::file("make", location))
}

fn create(path: &Path) -> Result<fs::File> {
    let file = fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path);
    file.map_err(Error::file("make", path))
}
