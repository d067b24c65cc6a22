//! CheckpointContainer.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cri::v1::*;
use cri::{Error, ErrorKind, Result};

use crate::blocking::blocking;
use crate::checkpoint::{Order, make};
use crate::node::Node;

/// Once it has begun it goes on to its end, whoever waits: criu is stopped nowhere on its way through somebody's memory. Who has
/// given a time finds no archive when that was not enough.
pub(super) async fn checkpoint(
    node: &Arc<Node>,
    request: CheckpointContainerRequest,
) -> Result<CheckpointContainerResponse> {
    let order = order(node, &request)?;
    let (id, location) = (order.container.record.id.clone(), order.location.clone());
    // Set by who is first: the archive's maker, or who does not wait for it any more.
    let is_settled = Arc::new(AtomicBool::new(false));
    let (owned, settled) = (node.clone(), is_settled.clone());
    let mut work = tokio::spawn(async move {
        // One at a time: each writes as fast as the disk takes it.
        let turn = owned.checkpoints.clone().lock_owned().await;
        blocking(move || {
            let made = make(&owned, &order);
            drop(turn);
            if made.is_ok() && settled.swap(true, Ordering::SeqCst) {
                return crate::disk::remove_file(&order.location);
            }
            made
        })
        .await
    });
    let limit = u64::try_from(request.timeout).ok().filter(|s| *s > 0);
    let in_time = match limit.map(Duration::from_secs) {
        None => Some((&mut work).await),
        Some(limit) => tokio::time::timeout(limit, &mut work).await.ok(),
    };
    let done = match in_time {
        Some(done) => done,
        None if is_settled.swap(true, Ordering::SeqCst) => work.await,
        None => {
            return Err(Error::new(
                ErrorKind::DeadlineExceeded,
                format!(
                    "the checkpoint of container {id} took longer than {} s; {} is not made",
                    request.timeout,
                    location.display()
                ),
            ));
        }
    };
    let made = done.map_err(|e| Error::internal(format!("the checkpoint was given up: {e}")))?;
    made.map_err(Error::from)?;
    Ok(CheckpointContainerResponse {})
}

fn order(node: &Node, request: &CheckpointContainerRequest) -> Result<Order> {
    let (id, sandbox) = node.registry.container(&request.container_id)?;
    let location = PathBuf::from(&request.location);
    if !location.is_absolute() || location.file_name().is_none() {
        return Err(Error::invalid(format!(
            "location: {:?} is not the absolute path of the archive that is to be made",
            request.location
        )));
    }
    let view = sandbox.view();
    let container = view.containers.get(&id);
    let container = container.ok_or_else(|| Error::not_found(format_args!("container {id}")))?;
    let process = container.process.filter(|_| container.is_running()).ok_or_else(|| {
        Error::new(
            ErrorKind::FailedPrecondition,
            format!("container {id} does not run: there is nothing to write down"),
        )
    })?;
    if container.record.config.tty {
        return Err(Error::new(
            ErrorKind::Unimplemented,
            format!(
                "CheckpointContainer: container {id} has a terminal, whose other end is its supervisor's, and so can't be \
                 written down; only containers without one can (tty: false)"
            ),
        ));
    }
    if view.record.foreign.is_some() {
        return Err(Error::new(
            ErrorKind::Unimplemented,
            format!(
                "CheckpointContainer: container {id} is run by another vendor's shim; only Hove's own handler makes checkpoints"
            ),
        ));
    }
    Ok(Order {
        sandbox: view.record.clone(),
        container: container.clone(),
        process,
        dir: node.layout.sandbox(&sandbox.id).container(&id),
        location,
    })
}
