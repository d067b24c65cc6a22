//! What all owners of sandboxes share: the configuration, the stores below, and the table of who is there.

use std::sync::{Arc, OnceLock};

use cri::streaming::StreamingUrls;
use image::registry::Registries;
use oci_spec::runtime::Capabilities;
use tokio_util::sync::CancellationToken;

use crate::cgroups::Cgroups;
use crate::config::Config;
use crate::events::Events;
use crate::layout::Layout;
use crate::registry::Registry;
use crate::shim::Notices;
use crate::spec::SecurityModules;

/// A node's parts, as its sandboxes' owners and its services see them. A clone is the same node, seen by others.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) config: Config,
    pub(crate) layout: Layout,
    pub(crate) images: Arc<image::Store>,
    pub(crate) registries: Arc<Registries>,
    pub(crate) network: Arc<network::Network>,
    pub(crate) cgroups: Arc<Cgroups>,
    pub(crate) registry: Registry,
    pub(crate) events: Events,
    /// For people.
    pub(crate) notices: Notices,
    /// Held by who makes a checkpoint.
    pub(crate) checkpoints: Arc<tokio::sync::Mutex<()>>,
    /// Set once the streaming server listens.
    pub(crate) streaming: Arc<OnceLock<Arc<dyn StreamingUrls>>>,
    /// What this process itself may do: a container can't be given more.
    pub(crate) capabilities: Capabilities,
    pub(crate) security_modules: SecurityModules,
    /// Cancelled when the runtime is dropped: owners end, pods go on.
    pub(crate) closing: CancellationToken,
}
