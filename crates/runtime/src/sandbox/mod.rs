//! A sandbox: one task owns its state ([`owner`]); others send it messages and read the view that it publishes.
//!
//! ```text
//!   RunPodSandbox          the row of steps                                   pause ends, shim ends,
//!        │        ┌───────────────────────────────────────────────────┐       StopPodSandbox
//!        ▼        │ Reserved → Namespaced → Networked → Supervised → Ready ─────────► NotReady
//!     Creating ───┘        │            any of them fails                                 │ RemovePodSandbox
//!                          ▼                                                              ▼
//!                        Failed (undone, forgotten)                                    Removed
//! ```
//!
//! The steps acquire ([`create`]); one list of their opposites ([`undo`]) serves a failed creation, a stop, a removal and
//! the recovery after a crash.

mod create;
mod files;
mod handle;
mod image;
mod owner;
mod undo;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::container::Container;
use crate::id::ContainerId;
use crate::records::{ProcessName, SandboxRecord};
use crate::shim::ShimClient;

pub(crate) use create::cgroup_parent;
pub(crate) use handle::{Handle, Message};
pub(crate) use owner::Sandbox;
pub(crate) use undo::{release_orphan, remove_sandbox_dir};

/// How far a sandbox has come, lowest first. A step's resources are acquired after the step has been recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Step {
    /// Its name, its directory, its record.
    Reserved,
    /// The root of an image that is configured, the network namespace, the shared memory.
    Namespaced,
    /// Address, links, host ports; the files that tell of them.
    Networked,
    /// Its cgroup's parents, the shim.
    Supervised,
    /// Pause.
    Ready,
}

impl Step {
    /// The row.
    pub(crate) const ROW: [Step; 5] = [
        Step::Reserved,
        Step::Namespaced,
        Step::Networked,
        Step::Supervised,
        Step::Ready,
    ];
}

/// Where in its life a sandbox is.
#[derive(Debug, Clone)]
pub(crate) enum Phase {
    Creating,
    /// It could not be made; nothing of it is left, or will be soon.
    Failed(cri::Error),
    Ready,
    NotReady,
    Removed,
}

/// What everyone may know of a sandbox: its owner's state.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) record: SandboxRecord,
    pub(crate) phase: Phase,
    pub(crate) pause: Option<ProcessName>,
    pub(crate) shim: Option<ShimClient>,
    pub(crate) containers: BTreeMap<ContainerId, Arc<Container>>,
}

impl View {
    pub(crate) fn new(record: SandboxRecord, phase: Phase) -> Self {
        View {
            record,
            phase,
            pause: None,
            shim: None,
            containers: BTreeMap::new(),
        }
    }

    /// Whether an engine of this node made it.
    pub(crate) fn is_owned(&self) -> bool {
        self.record.config.labels.contains_key(cri::OWNER_LABEL)
    }
}
