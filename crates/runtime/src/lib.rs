//! The life of sandboxes and containers: the CRI, implemented in process.
//!
//! A call comes in through [`api`], a file per group of verbs. What changes a sandbox or its containers is a message to
//! the sandbox's owner ([`sandbox`]), a task that alone changes its state; what only looks reads the view that the owner
//! publishes. The owner acquires and releases through the crates below (network, image, cgroup) and through the pod's
//! supervisor ([`shim`]), which alone starts processes.
//!
//! ```text
//!  api ──message──► sandbox::owner ──► sandbox::create / undo ──► network, cgroups, shim::process
//!   │                    │       └───► container::…           ──► image, shim::client ⇢ hove-shim
//!   └──reads── View ◄────┘ publishes ──► events
//! ```
//!
//! Invariants:
//! - Intent is recorded before anything is acquired ([`records`]); so [`recovery`] finds in the records all that a
//!   killed daemon held, and either goes on with it or undoes it.
//! - A failed creation, a stop, a removal and recovery share one undo ([`sandbox`]), which attempts everything.
//! - Processes live on when the runtime ends, by whatever death. Its records are the truth about sandboxes, the shim's
//!   about processes.
//! - [`spec`] is pure: what a container will be is decided there, before anything of it exists.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod api;
mod apparmor;
mod attach;
mod blocking;
mod cgroups;
mod checkpoint;
mod clock;
mod config;
mod container;
mod disk;
mod error;
mod events;
mod exec;
mod handlers;
mod id;
mod layout;
mod node;
mod records;
mod recovery;
mod registry;
mod root;
mod sandbox;
mod shim;
pub mod spec;
mod status;
mod streaming;

use std::sync::{Arc, OnceLock};

use cri::streaming::StreamingUrls;
use image::registry::Registries;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use config::Config;
pub use error::{Error, Result};
pub use handlers::Handler;
pub use id::{ContainerId, SandboxId};
pub use shim::{Notice, ShimError};

use cgroups::Cgroups;
use events::Events;
use layout::Layout;
use node::Node;
use registry::Registry;
use shim::Notices;

/// A CRI runtime. Dropping it ends its tasks and leaves the pods running; opened again, it takes them up.
pub struct Runtime {
    node: Arc<Node>,
    /// Ends the node's tasks when the last that sees the node is gone.
    closing: Arc<DropGuard>,
}

impl Runtime {
    /// Opens the runtime whose state is in `config.state` and recovers what it finds there. One per state directory:
    /// the caller holds the lock. Must be called on a tokio runtime, whose tasks the owners of sandboxes are.
    pub async fn open(
        config: Config,
        images: Arc<image::Store>,
        network: Arc<network::Network>,
    ) -> Result<Arc<Runtime>> {
        config.check_handlers()?;
        let node = Arc::new(Node {
            layout: Layout::new(&config.state),
            cgroups: Arc::new(Cgroups::new(cgroup::Hierarchies::detect()?)),
            capabilities: container::own_capabilities()?,
            security_modules: container::security_modules(),
            registries: Registries::new(images.clone(), config.registries.clone()),
            config,
            images,
            network,
            registry: Registry::default(),
            events: Events::new(),
            notices: Notices::new(),
            checkpoints: Arc::default(),
            streaming: Arc::new(OnceLock::new()),
            closing: CancellationToken::new(),
        });
        let closing = Arc::new(node.closing.clone().drop_guard());
        if node.security_modules.apparmor {
            blocking::blocking(apparmor::load_default).await;
        }
        recovery::recover(&node).await?;
        Ok(Arc::new(Runtime { node, closing }))
    }

    /// Whether there is any sandbox: of those that are shown here.
    pub fn has_sandboxes(&self) -> bool {
        !self.node.registry.sandboxes().is_empty()
    }

    /// The same runtime as those see it who call over a socket: without the sandboxes that an engine of this node owns
    /// ([`cri::OWNER_LABEL`]), since a kubelet removes what it does not know.
    pub fn for_guests(&self) -> Arc<Runtime> {
        let node = Node {
            registry: self.node.registry.without_owned(),
            events: self.node.events.without_owned(),
            ..(*self.node).clone()
        };
        Arc::new(Runtime {
            node: Arc::new(node),
            closing: self.closing.clone(),
        })
    }

    /// What a person should know of the pods, from now on. A subscriber that is slow misses the oldest.
    pub fn notices(&self) -> tokio::sync::broadcast::Receiver<Notice> {
        self.node.notices.subscribe()
    }

    /// The way to other machines' images: its pulls are shared with those of PullImage.
    pub fn registries(&self) -> Arc<Registries> {
        self.node.registries.clone()
    }

    /// Where clients of Exec, Attach and PortForward are sent from now on. The first call counts.
    pub fn set_streaming_urls(&self, urls: Arc<dyn StreamingUrls>) {
        let _ = self.node.streaming.set(urls);
    }
}
