//! Another vendor's shim below this one, for a pod whose handler names a `containerd-shim-*-v2`.
//!
//! ```text
//!  runtime ⇢ hove-shim, the keeper ──────► pod::Pod ──► calls ⇢ containerd-shim-runc-v2 ──► runc, crun: pause, containers
//!                 ▲   pump ◄── FIFOs ◄───────────────────────── copies ◄──┘
//!                 └── events (TTRPC_ADDRESS) ◄────────────────────────────┘
//! ```
//!
//! Such a shim starts processes and waits for them. It knows nothing of logs in the CRI's format, of durable ends, of attaching, or
//! of a node that dies and asks again. So the pod has its keeper all the same: the one state machine of this crate, which asks
//! the other shim (containerd's Task API, version 2 or 3) where it would have asked `starter`, and for the rest goes its
//! usual way. The node sees no difference.
//!
//! - [`bootstrap`]: how such a shim is started, and found again by the keeper's successor;
//! - [`bundle`]: what it is given, an OCI bundle that says nothing which only Hove understands;
//! - [`calls`]: the Task API's client;
//! - [`run`]: processes made and started by it; [`end`]: how they end, and how it does;
//! - [`forward`]: requests that are passed on; [`stats`]: what it counts, in this crate's terms;
//! - [`events`]: what it publishes.
//!
//! Invariants:
//! - No signal goes to a number that such a shim has told: what runs may be a machine's process, not the container's.
//! - What it has said about an end is on disk before it is told to forget the process.
//! - It lives in the keeper's cgroup, which is the sandbox's own: with that, all it has started on the host can be killed.

mod bootstrap;
mod bundle;
mod calls;
mod end;
pub(crate) mod events;
mod forward;
mod run;
mod stats;

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use protobuf::well_known_types::any::Any;
use shim_api::Handler;

use crate::event::{Event, Key};
use crate::failure::{Failure, Result};

pub(crate) use bundle::remove as remove_bundle;
pub(crate) use calls::Task;

/// The namespace in which such shims are told to be: containerd's word for whose containers they are.
const NAMESPACE: &str = "hove";

/// Another shim, as its keeper has it.
#[derive(Debug)]
pub struct Foreign {
    handler: Handler,
    options: Any,
    /// The sandbox's directory.
    dir: PathBuf,
    /// The sandbox's id.
    id: String,
    /// Once it runs; none any more when it has died.
    shim: Option<calls::Shim>,
    /// Its end has been seen.
    died: bool,
}

/// What the other shim has done.
#[derive(Debug)]
pub enum Report {
    /// It runs.
    Connected(calls::Shim),
    /// The process is there, with this number, or 0 if that is not known yet.
    Created(u32),
    /// The program runs.
    Started(u32),
    /// The process has ended, with this code as a shell says it.
    Ended(i32, Timestamp),
    /// It has forgotten the process: no output of its is on the way any more.
    Deleted,
    /// The kernel has killed a process of the container for lack of memory.
    Oom,
    /// The shim itself has ended.
    Died,
    /// Nothing is left of it: now the keeper may end.
    Over,
}

impl Foreign {
    /// The other shim of the sandbox in `dir`, if its containers are not this crate's own.
    pub fn of_sandbox(id: &str, dir: &Path) -> Result<Option<Foreign>> {
        let path = Handler::file(dir);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(crate::failure::system(format_args!("open({path:?})"), &e).into()),
        };
        let invalid = |e: &dyn std::fmt::Display| Failure::Invalid(format!("{}: {e}", path.display()));
        let handler: Handler = serde_json::from_slice(&text).map_err(|e| invalid(&e))?;
        let options = handler.options(&dir.join("oci")).map_err(|e| invalid(&e))?;
        Ok(Some(Foreign {
            handler,
            options,
            dir: dir.into(),
            id: id.into(),
            shim: None,
            died: false,
        }))
    }

    /// What runs a container, to be asked directly.
    fn shim(&self) -> Result<calls::Shim> {
        self.shim
            .clone()
            .ok_or_else(|| Failure::Precondition(format!("the shim {} does not run", self.handler.shim.display())))
    }

    /// The name of a process to the other shim: pause is a container of the sandbox's id.
    fn task(&self, key: &Key) -> Result<Task> {
        Ok(Task {
            shim: self.shim()?,
            id: match key {
                Key::Pause => self.id.clone(),
                Key::Container(id) | Key::Exec(id, _) => id.clone(),
            },
            exec: key.exec().to_string(),
        })
    }
}

impl crate::pod::Pod {
    /// Whether another shim runs the containers.
    pub(crate) fn is_keeper(&self) -> bool {
        self.foreign.is_some()
    }

    /// The other shim's name for a process.
    pub(crate) fn foreign_task(&self, key: &Key) -> Result<Task> {
        match &self.foreign {
            Some(foreign) => foreign.task(key),
            None => Err(Failure::Precondition("this shim runs its containers itself".into())),
        }
    }

    /// Does what takes time beside the state machine, and tells it how it came out.
    fn report(&self, key: &Key, work: impl Future<Output = Result<Report>> + 'static) {
        let (key, events) = (key.clone(), self.events.clone());
        tokio::task::spawn_local(async move {
            let report = work.await;
            // The state machine is gone only when the shim ends.
            let _ = events.send(Event::Foreign(key, report));
        });
    }
}
