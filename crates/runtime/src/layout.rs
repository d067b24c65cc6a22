//! Where the runtime keeps what dies with the boot.
//!
//! ```text
//! STATE/sandboxes/SANDBOX/
//!     sandbox.json               the runtime's record
//!     config.json                pause's OCI spec
//!     root.json rootfs/          where pause is an image's program: its root, where that is mounted (in its mount namespace only)
//!     shim.sock shim.log         the shim's socket, its standard error
//!     hostname hosts resolv.conf bound into each container
//!     shm/                       the pod's /dev/shm, a tmpfs
//!     containers/CONTAINER/
//!         container.json         the runtime's record
//!         config.json            the container's OCI spec
//!         rootfs/                where the root is mounted, inside the container's mount namespace only
//!         images/N/              an image volume, mounted: the container's mount with this number
//!         checkpoint             a link to where its checkpoint is being made
//!         execs/EXEC/            FIFOs of one exec
//! ```
//!
//! What else lies there is the shim's.

use std::path::{Path, PathBuf};

use crate::id::{ContainerId, SandboxId};

/// The state directory.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    state: PathBuf,
}

impl Layout {
    pub(crate) fn new(state: &Path) -> Self {
        Layout { state: state.into() }
    }

    /// Where the sandboxes are.
    pub(crate) fn sandboxes(&self) -> PathBuf {
        self.state.join("sandboxes")
    }

    pub(crate) fn sandbox(&self, id: &SandboxId) -> SandboxDir {
        SandboxDir(self.sandboxes().join(id.as_str()))
    }
}

/// A sandbox's directory.
#[derive(Debug, Clone)]
pub(crate) struct SandboxDir(pub(crate) PathBuf);

impl SandboxDir {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn record(&self) -> PathBuf {
        self.0.join("sandbox.json")
    }

    pub(crate) fn spec(&self) -> PathBuf {
        self.0.join("config.json")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.0.join("shim.sock")
    }

    pub(crate) fn shim_log(&self) -> PathBuf {
        self.0.join("shim.log")
    }

    pub(crate) fn shm(&self) -> PathBuf {
        self.0.join("shm")
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.0.join("rootfs")
    }

    pub(crate) fn containers(&self) -> PathBuf {
        self.0.join("containers")
    }

    pub(crate) fn container(&self, id: &ContainerId) -> ContainerDir {
        ContainerDir(self.containers().join(id.as_str()))
    }
}

/// A container's directory: the bundle that the shim is given.
#[derive(Debug, Clone)]
pub(crate) struct ContainerDir(pub(crate) PathBuf);

impl ContainerDir {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn record(&self) -> PathBuf {
        self.0.join("container.json")
    }

    pub(crate) fn spec(&self) -> PathBuf {
        self.0.join("config.json")
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.0.join("rootfs")
    }

    /// Where another vendor's shim mounts its root.
    pub(crate) fn foreign_rootfs(&self) -> PathBuf {
        self.0.join("bundle/rootfs")
    }

    /// Where the image of the mount with this number is mounted.
    pub(crate) fn image_volume(&self, number: usize) -> PathBuf {
        self.0.join("images").join(number.to_string())
    }

    /// A link to where a checkpoint is being made.
    pub(crate) fn checkpoint(&self) -> PathBuf {
        self.0.join("checkpoint")
    }

    /// The FIFO of its first process's input.
    pub(crate) fn stdin(&self) -> PathBuf {
        self.0.join("stdin")
    }

    /// FIFOs of clients that are just being attached.
    pub(crate) fn attached(&self) -> PathBuf {
        self.0.join("attached")
    }

    pub(crate) fn execs(&self) -> PathBuf {
        self.0.join("execs")
    }

    pub(crate) fn exec(&self, exec_id: &str) -> PathBuf {
        self.execs().join(exec_id)
    }
}
