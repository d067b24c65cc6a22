//! One connection to one shim.

use std::path::Path;
use std::time::Duration;

use containerd_shim_protos::sandbox_async::SandboxClient;
use containerd_shim_protos::shim_async::TaskClient;
use ttrpc::context::{self, Context};

use crate::shim_ttrpc::PodClient;

/// A connection to a shim; each service's client is on it. Calls may overlap. When the shim ends, every call fails with
/// [`Kind::Gone`](crate::Kind::Gone).
#[derive(Clone)]
pub struct Client {
    /// containerd.runtime.sandbox.v1.Sandbox
    pub sandbox: SandboxClient,
    /// containerd.task.v3.Task
    pub task: TaskClient,
    /// hove.shim.v1.Pod; a foreign shim has none
    pub pod: PodClient,
}

impl Client {
    /// Connects to the shim that listens on the unix socket at `path`.
    pub async fn connect(path: &Path) -> ttrpc::Result<Client> {
        let connection = ttrpc::r#async::Client::connect(&format!("unix://{}", path.display())).await?;
        Ok(Client {
            sandbox: SandboxClient::new(connection.clone()),
            task: TaskClient::new(connection.clone()),
            pod: PodClient::new(connection),
        })
    }
}

/// The context of a call that must be answered within this time.
pub fn deadline(limit: Duration) -> Context {
    context::with_duration(limit)
}

/// The context of a call that waits for as long as it takes: Wait, Watch.
pub fn forever() -> Context {
    Context::default()
}
