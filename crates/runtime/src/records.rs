//! What the runtime keeps on disk about a sandbox and a container: the truth about them after a restart. About processes
//! the shim's records are the truth.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use cri::v1::{ContainerConfig, LinuxContainerResources, PodSandboxConfig};
use serde::{Deserialize, Serialize};

use crate::id::{ContainerId, SandboxId};
use crate::sandbox::Step;

/// What is to become of a sandbox. Recorded before anything is done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Intent {
    /// It is being made. Found after a crash: undone, since nobody has its id.
    Create,
    /// It runs.
    Run,
    /// It is to hold nothing but its name, records and containers' snapshots.
    Stop,
    /// Nothing of it is to remain.
    Remove,
}

/// A sandbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SandboxRecord {
    pub(crate) id: SandboxId,
    pub(crate) intent: Intent,
    /// The highest step that may have acquired something.
    pub(crate) step: Step,
    pub(crate) created_at_ns: i64,
    pub(crate) config: PodSandboxConfig,
    pub(crate) runtime_handler: String,
    /// The shim that runs its containers, as it was configured when the sandbox was made; `None`: Hove's own.
    #[serde(default)]
    pub(crate) foreign: Option<shim_api::Handler>,
    /// `sha256:…` of the image whose program is the first process; `None`: the shim's own pause.
    #[serde(default)]
    pub(crate) image: Option<String>,
    pub(crate) hostname: String,
    /// The pod's cgroup.
    pub(crate) cgroup_parent: String,
    /// Cgroups above the sandbox's that were missing, so that they are ours to remove.
    pub(crate) cgroups_made: Vec<String>,
    /// `None` on the host's network.
    pub(crate) netns: Option<PathBuf>,
    pub(crate) ips: Vec<IpAddr>,
    pub(crate) shim: Option<ProcessName>,
}

impl SandboxRecord {
    /// The cgroup of pause (by the sandbox's id) or of a container.
    pub(crate) fn cgroup_path(&self, id: &str) -> String {
        format!("{}/{id}", self.cgroup_parent.trim_end_matches('/'))
    }
}

impl record::Record for SandboxRecord {
    const KIND: &'static str = "sandbox";
    const VERSION: u32 = 1;
    const SURVIVES_BOOT: bool = false;
}

/// One process for ever: its number and when it was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessName {
    pub(crate) pid: i32,
    pub(crate) start_time_ticks: u64,
}

impl ProcessName {
    /// The process that has the number `pid` now.
    pub(crate) fn of(pid: u32) -> Option<ProcessName> {
        let number = rustix::process::Pid::from_raw(i32::try_from(pid).ok()?)?;
        Some(ProcessName {
            pid: number.as_raw_nonzero().get(),
            start_time_ticks: sys::spawn::start_time_ticks(number)?,
        })
    }
}

/// What is to become of a container. Recorded before anything is done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ContainerIntent {
    /// It is being made. Found after a crash: undone.
    Create,
    /// It is there, in whatever state.
    Keep,
    /// Nothing of it is to remain.
    Remove,
}

/// A container's life.
///
/// ```text
///  Created ──start──► Running ──exit──► Exited
///     └──────start fails, sandbox stops────▲
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Life {
    /// Made and never started.
    Created,
    /// Started, as far as the runtime knows; recorded before the shim is asked.
    Running {
        /// When; 0 until the shim has said.
        started_at_ns: i64,
    },
    /// Ended, or never came up.
    Exited(Exit),
}

/// How a container ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Exit {
    pub(crate) started_at_ns: i64,
    pub(crate) finished_at_ns: i64,
    /// 128 + signal when killed, 128 when it could not be started, 255 when unknown.
    pub(crate) exit_code: i32,
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// A container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub(crate) id: ContainerId,
    pub(crate) sandbox_id: SandboxId,
    pub(crate) intent: ContainerIntent,
    pub(crate) created_at_ns: i64,
    pub(crate) config: ContainerConfig,
    /// `sha256:…` of the image's configuration.
    pub(crate) image_id: String,
    /// The same of the images that it mounts, by the mounts' numbers in `config`.
    #[serde(default)]
    pub(crate) image_volumes: BTreeMap<usize, String>,
    /// Signal to stop it with, from the configuration or the image.
    pub(crate) stop_signal: i32,
    /// Where its output goes, if it has a log.
    pub(crate) log: Option<PathBuf>,
    /// Limits in force: the configuration's, or those of the last update.
    pub(crate) resources: Option<LinuxContainerResources>,
    pub(crate) life: Life,
    /// uid, gid and groups of its first process, once known.
    pub(crate) user: Option<(u32, u32, Vec<u32>)>,
    /// Its input has ended, and nobody can open it again.
    #[serde(default)]
    pub(crate) stdin_closed: bool,
}

impl record::Record for ContainerRecord {
    const KIND: &'static str = "container";
    const VERSION: u32 = 1;
    const SURVIVES_BOOT: bool = false;
}
