//! What the state machine is told: requests of connections, and what the kernel and the shim's own tasks report.

use std::fmt;
use std::path::PathBuf;

use jiff::Timestamp;
use rustix::process::Pid;
use starter::RootfsMount;
use sys::pidfd::End;
use tokio::sync::{mpsc, oneshot};

use crate::failure::Failure;
use crate::stdio::Names;
use crate::watch::Change;

/// Requests that may wait for the state machine at once, over all connections. More wait in their connections.
pub const REQUESTS_MAX: usize = 64;

/// Changes that may wait for one watcher. A watcher that falls behind further is cut off, and has to begin anew.
pub const CHANGES_MAX: usize = 1024;

/// Names a process of the pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// The sandbox's own process.
    Pause,
    /// A container's first process.
    Container(String),
    /// A process that was started in a container later: the container's id, the exec's.
    Exec(String, String),
}

impl Key {
    /// As containerd's Task API names processes: an empty exec id means the container's first process.
    pub fn of(container: &str, exec: &str) -> Key {
        if exec.is_empty() {
            Key::Container(container.to_string())
        } else {
            Key::Exec(container.to_string(), exec.to_string())
        }
    }

    /// The container, or "" for pause.
    pub fn container(&self) -> &str {
        match self {
            Key::Pause => "",
            Key::Container(id) | Key::Exec(id, _) => id,
        }
    }

    /// The exec, or "".
    pub fn exec(&self) -> &str {
        match self {
            Key::Exec(_, id) => id,
            Key::Pause | Key::Container(_) => "",
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Pause => f.write_str("pause"),
            Key::Container(id) => write!(f, "container {id}"),
            Key::Exec(id, exec) => write!(f, "exec {exec} of container {id}"),
        }
    }
}

/// What the kernel and the shim's own tasks report. There are at most a few per process, so their queue has no limit.
#[derive(Debug)]
pub enum Event {
    /// A child, or an orphan of a child's, has ended and been reaped.
    Ended {
        /// Which.
        pid: Pid,
        /// How.
        end: End,
        /// When it was reaped.
        at: Timestamp,
    },
    /// A process that is no child of this shim's has ended: the so many-th question how.
    Gone(Key, u32),
    /// A process that is being started has said something.
    Handshake(Key),
    /// Time to look again whether a cgroup is empty.
    Settle(Key, u32),
    /// All output of an ended process has been read.
    Drained(Key),
    /// The kernel may have killed a process of this container for lack of memory: the so many-th look at it.
    Oom(String, u32),
    /// A person should know: about which container, what, and in one word why.
    Notice(String, String, &'static str),
    /// Another vendor's shim has done something, or could not.
    Foreign(Key, Result<crate::foreign::Report, Failure>),
    /// The grace period of StopSandbox is over.
    GraceOver,
    /// The time after which killed processes are given up on is over.
    StopOver,
}

/// Where an answer goes. A connection that has gone away does not mind.
pub type Reply<T> = oneshot::Sender<Result<T, Failure>>;

/// How a process ended, as it is announced.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Exit {
    /// As a shell says it: 128 + signal when killed, 255 when unknown.
    pub code: i32,
    /// When it was reaped, in nanoseconds since 1970.
    pub at_ns: i64,
    /// Whether the kernel killed a process of the container for lack of memory.
    pub oom_killed: bool,
    /// Whether nobody saw how it ended: the code says nothing.
    #[serde(default)]
    pub unseen: bool,
}

/// Task.Create.
#[derive(Debug)]
pub struct Create {
    /// The container's id.
    pub id: String,
    /// Its bundle.
    pub bundle: PathBuf,
    /// Its root file system; empty: the directory that config.json names.
    pub rootfs: Vec<RootfsMount>,
    /// Its streams.
    pub stdio: Names,
}

/// Task.Exec.
#[derive(Debug)]
pub struct Exec {
    /// Which.
    pub container: String,
    /// The exec's id.
    pub id: String,
    /// The OCI process, as JSON.
    pub process: Vec<u8>,
    /// Its streams.
    pub stdio: Names,
}

/// What one process looks like from outside.
#[derive(Debug, Clone)]
pub struct View {
    /// As the Pod service shows it.
    pub process: shim_api::shim::Process,
    /// Its streams.
    pub stdio: Names,
    /// The container's bundle.
    pub bundle: PathBuf,
    /// Whether the container is paused, and the process with it.
    pub paused: bool,
}

/// The sandbox as it is.
#[derive(Debug, Clone)]
pub struct SandboxView {
    /// Its id.
    pub id: String,
    /// pause.
    pub pause: shim_api::shim::Process,
    /// Whether containers can be made in it.
    pub ready: bool,
}

/// Everything that the shim knows.
#[derive(Debug, Clone)]
pub struct PodView {
    /// The sandbox.
    pub sandbox: SandboxView,
    /// The containers' first processes.
    pub containers: Vec<shim_api::shim::Process>,
    /// What else was started in them.
    pub execs: Vec<shim_api::shim::Process>,
}

/// What a connection asks for.
#[derive(Debug)]
#[allow(missing_docs)] // The verbs are containerd's Sandbox and Task services' and those of proto/shim.proto.
pub enum Request {
    CreateSandbox {
        bundle: PathBuf,
        reply: Reply<()>,
    },
    StartSandbox {
        reply: Reply<SandboxView>,
    },
    StopSandbox {
        grace_s: u32,
        reply: Reply<()>,
    },
    WaitSandbox {
        reply: Reply<Exit>,
    },
    SandboxStatus {
        reply: Reply<SandboxView>,
    },
    ShutdownSandbox {
        reply: Reply<()>,
    },

    Create {
        create: Create,
        reply: Reply<u32>,
    },
    Start {
        key: Key,
        reply: Reply<u32>,
    },
    Exec {
        exec: Exec,
        reply: Reply<()>,
    },
    Kill {
        key: Key,
        signal: u32,
        all: bool,
        reply: Reply<()>,
    },
    Wait {
        key: Key,
        reply: Reply<Exit>,
    },
    Delete {
        key: Key,
        reply: Reply<(u32, Exit)>,
    },
    View {
        key: Key,
        reply: Reply<View>,
    },
    Pids {
        id: String,
        reply: Reply<Vec<u32>>,
    },
    CloseInput {
        key: Key,
        reply: Reply<()>,
    },
    Resize {
        key: Key,
        rows: u16,
        columns: u16,
        reply: Reply<()>,
    },
    Stats {
        id: String,
        reply: Reply<(cgroup::Stats, cgroup::Mode)>,
    },
    Update {
        id: String,
        resources: Vec<u8>,
        reply: Reply<()>,
    },
    Pause {
        id: String,
        reply: Reply<()>,
    },
    Resume {
        id: String,
        reply: Reply<()>,
    },
    ShutdownTask {
        reply: Reply<()>,
    },

    Pod {
        reply: Reply<PodView>,
    },
    Watch {
        changes: mpsc::Sender<Change>,
        reply: Reply<()>,
    },
    ReopenLog {
        id: String,
        reply: Reply<()>,
    },
    Attach {
        id: String,
        stdout: String,
        stderr: String,
        reply: Reply<()>,
    },
}
