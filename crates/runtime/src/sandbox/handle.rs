//! How others reach a sandbox's owner.

use std::sync::Arc;

use cri::v1::{ContainerConfig, LinuxContainerResources, UpdatePodSandboxResourcesRequest};
use shim_api::shim;
use tokio::sync::{mpsc, oneshot, watch};

use super::{Phase, View};
use crate::error::Error;
use crate::id::{ContainerId, SandboxId};

/// How many messages wait for an owner before their senders do.
pub(super) const MAILBOX: usize = 64;

/// Where the answer to a message goes.
pub(crate) type Reply<T> = oneshot::Sender<cri::Result<T>>;

/// What a sandbox's owner is asked or told.
pub(crate) enum Message {
    Stop(Reply<()>),
    Remove(Reply<()>),
    UpdateSandbox(Box<UpdatePodSandboxResourcesRequest>, Reply<()>),
    CreateContainer(Box<ContainerConfig>, Reply<ContainerId>),
    StartContainer(ContainerId, Reply<()>),
    /// A signal to a container's first process; `all`: to everything in its cgroup.
    SignalContainer {
        id: ContainerId,
        signal: i32,
        all: bool,
        reply: Reply<()>,
    },
    CloseStdin(ContainerId, Reply<()>),
    UpdateContainer(ContainerId, Box<LinuxContainerResources>, Reply<()>),
    RemoveContainer(ContainerId, Reply<()>),
    /// The shim says that something happened.
    Happened(Box<shim::Event>),
    /// The shim has ended.
    ShimGone,
    /// The connection with the shim has ended.
    ConnectionLost,
    /// It is time to have the next shim take the pod over.
    TakeOver,
}

/// A sandbox as others hold it.
#[derive(Clone)]
pub(crate) struct Handle {
    pub(crate) id: SandboxId,
    mailbox: mpsc::Sender<Message>,
    view: watch::Receiver<Arc<View>>,
}

impl Handle {
    pub(super) fn new(id: SandboxId, mailbox: mpsc::Sender<Message>, view: watch::Receiver<Arc<View>>) -> Self {
        Handle { id, mailbox, view }
    }

    /// The sandbox as it is now.
    pub(crate) fn view(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    /// The sandbox once `condition` holds.
    pub(crate) async fn when(&self, condition: impl Fn(&View) -> bool) -> cri::Result<Arc<View>> {
        let mut view = self.view.clone();
        match view.wait_for(|v| condition(v)).await {
            Ok(view) => Ok(view.clone()),
            Err(_) => Err(self.owner_gone()),
        }
    }

    /// Waits while it is being made; its fate then.
    pub(crate) async fn made(&self) -> cri::Result<()> {
        match &self.when(|v| !matches!(v.phase, Phase::Creating)).await?.phase {
            Phase::Ready => Ok(()),
            Phase::Failed(e) => Err(e.clone()),
            Phase::Creating | Phase::NotReady | Phase::Removed => Err(cri::Error::new(
                cri::ErrorKind::AlreadyExists,
                format!(
                    "the name belongs to sandbox {}, which has stopped: remove it, or use the next attempt",
                    self.id
                ),
            )),
        }
    }

    /// Sends a message and waits for its answer. A caller that stops waiting does not stop the work.
    pub(crate) async fn ask<T>(&self, message: impl FnOnce(Reply<T>) -> Message) -> cri::Result<T> {
        let (reply, answer) = oneshot::channel();
        if self.mailbox.send(message(reply)).await.is_err() {
            return Err(self.owner_gone());
        }
        answer.await.unwrap_or_else(|_| Err(self.owner_gone()))
    }

    /// An owner ends with its sandbox; until then it answers.
    fn owner_gone(&self) -> cri::Error {
        match self.view().phase {
            Phase::Removed | Phase::Failed(_) => cri::Error::not_found(format_args!("sandbox {}", self.id)),
            _ => Error::OwnerGone(format!("sandbox {}", self.id)).into(),
        }
    }
}
