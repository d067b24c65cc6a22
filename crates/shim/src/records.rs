//! What the shim writes down: enough for another shim to take the pod over, and each end before it is announced.
//!
//! ```text
//!  SANDBOX/shim.json                    Sandbox: which pause holds the namespaces, and where its containers are
//!  BUNDLE/process.json                  Process: a container's first process
//!  BUNDLE/exit.json                     Exit: how it ended
//!  BUNDLE/end.json                      Exit: how it ended, as another vendor's shim said; not announced yet
//!  BUNDLE/execs/EXEC/process.json       Process: an exec
//!  BUNDLE/execs/EXEC/exit.json          Exit: how it ended
//! ```

use std::path::{Path, PathBuf};

use record::Record;
use serde::{Deserialize, Serialize};

use crate::event::Exit;
use crate::stdio::Names;

/// A process that another shim could find again: its number may have been reused, its start time tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// In the host's PID namespace.
    pub pid: u32,
    /// Field 22 of /proc/PID/stat.
    pub start_time_ticks: u64,
}

/// The sandbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sandbox {
    /// Its id.
    pub id: String,
    /// The shim that wrote this.
    pub shim: ProcessId,
    /// Where pause's config.json is.
    #[serde(default)]
    pub bundle: PathBuf,
    /// The namespaces that pause was started with: kind, and inode in nsfs.
    #[serde(default)]
    pub namespaces: Vec<(String, u64)>,
    /// pause, which holds the namespaces; none once the sandbox is stopped.
    pub pause: Option<ProcessId>,
    /// When the sandbox was started, in nanoseconds since 1970.
    pub started_at_ns: i64,
    /// How many pauses there were before this one.
    pub pause_restarts: u32,
    /// The containers' bundles, those too that are being made.
    pub bundles: Vec<PathBuf>,
    /// How the sandbox ended.
    pub exit: Option<Exit>,
}

/// As whom a process runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// A container's first process, or an exec.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Process {
    /// The container's id, or the exec's.
    pub id: String,
    /// Which process.
    pub process: ProcessId,
    /// Its streams, as the caller named them.
    pub stdio: Names,
    /// As whom it runs.
    pub identity: Identity,
    /// Whether its input was closed.
    #[serde(default)]
    pub input_is_closed: bool,
    /// Its cgroup.
    pub cgroup: Option<String>,
    /// Whether its PID namespace is the sandbox's.
    pub shares_pid: bool,
    /// When it was cloned, in nanoseconds since 1970.
    pub created_at_ns: i64,
    /// When it became its program; 0: not yet.
    pub started_at_ns: i64,
}

impl Record for Sandbox {
    const KIND: &'static str = "shim";
    const VERSION: u32 = 1;
    const SURVIVES_BOOT: bool = false;
}

impl Record for Process {
    const KIND: &'static str = "process";
    const VERSION: u32 = 1;
    const SURVIVES_BOOT: bool = false;
}

impl Record for Exit {
    const KIND: &'static str = "exit";
    const VERSION: u32 = 1;
    const SURVIVES_BOOT: bool = false;
}

/// Where the sandbox's record is.
pub fn sandbox(dir: &Path) -> PathBuf {
    dir.join("shim.json")
}

/// Where the record of a container's first process is.
pub fn process(bundle: &Path) -> PathBuf {
    bundle.join("process.json")
}

/// Where the record of an exec is.
pub fn exec_process(bundle: &Path, exec: &str) -> PathBuf {
    exec_dir(bundle, exec).join("process.json")
}

/// Where the record of a container's end is, or with `exec` that of an exec's.
pub fn exit(bundle: &Path, exec: &str) -> PathBuf {
    if exec.is_empty() {
        bundle.join("exit.json")
    } else {
        exec_dir(bundle, exec).join("exit.json")
    }
}

/// Where an end lies that another shim has told of, until it is announced: the same two places.
pub fn end(bundle: &Path, exec: &str) -> PathBuf {
    exit(bundle, exec).with_file_name("end.json")
}

/// What belongs to one exec.
pub fn exec_dir(bundle: &Path, exec: &str) -> PathBuf {
    bundle.join("execs").join(exec)
}
