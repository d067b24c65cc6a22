//! The daemon, and how it and what belongs to a pod are killed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use end_to_end::instance::{PATIENT, QUICK};
use end_to_end::running::wait_for_end;
use end_to_end::{Instance, Running};
use inspect::process::Process;
use rustix::process::{Pid, Signal, kill_process};

use crate::plan::Victim;

/// A daemon that is started again whenever it was killed.
pub struct Node {
    instance: Instance,
    daemon: Mutex<Running>,
    /// Odd while there is none.
    epoch: AtomicU64,
    killed: [AtomicU64; 3],
}

/// Of a daemon's words, for the report of a violation.
const LAST_LINES: usize = 200;

/// How many were killed.
#[derive(Debug, Clone, Copy)]
pub struct Killed {
    pub nodes: u64,
    pub shims: u64,
    pub pauses: u64,
}

impl Node {
    pub fn start(instance: Instance) -> Result<Node> {
        let daemon = Mutex::new(spawn(&instance)?);
        Ok(Node {
            instance,
            daemon,
            epoch: AtomicU64::new(0),
            killed: Default::default(),
        })
    }

    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    pub fn killed(&self) -> Killed {
        let [nodes, shims, pauses] = [0, 1, 2].map(|which| self.killed[which].load(Ordering::Relaxed));
        Killed { nodes, shims, pauses }
    }

    /// Asks, and asks again if the node died meanwhile: half an answer is none.
    pub fn ask<T>(&self, question: impl Fn() -> Result<T>) -> Result<T> {
        loop {
            let before = self.epoch.load(Ordering::SeqCst);
            if before % 2 == 1 {
                drop(self.daemon());
                continue;
            }
            let answer = question();
            if self.epoch.load(Ordering::SeqCst) == before {
                return answer;
            }
        }
    }

    /// Does something that must not meet the node's death: a command that finds no node starts one of its own.
    pub fn undisturbed<T>(&self, work: impl FnOnce() -> T) -> T {
        let _alive = self.daemon();
        work()
    }

    /// Kills who is to die of a pod, as far as they are there, and starts the next daemon.
    pub fn kill(&self, victim: Victim, pod: &str) -> Result<()> {
        let (node, shim, pause) = match victim {
            Victim::Node => (true, false, false),
            Victim::Shim => (false, true, false),
            Victim::Pause => (false, false, true),
            Victim::ShimAndNode => (true, true, false),
            Victim::All => (true, true, true),
        };
        let mut daemon = self.daemon();
        // First the node, which would notice.
        if node {
            self.epoch.fetch_add(1, Ordering::SeqCst);
            daemon.signal(Signal::KILL)?;
            wait_for_end(daemon.pid(), QUICK)?;
            self.killed[0].fetch_add(1, Ordering::Relaxed);
        }
        let (shims, pauses) = self.of_pod(pod)?;
        for (kills, which, pids) in [(shim, 1, shims), (pause, 2, pauses)] {
            for pid in pids.into_iter().filter(|_| kills) {
                // One that has ended by itself is no less dead.
                if kill_process(pid, Signal::KILL).is_ok() {
                    self.killed[which].fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        if node {
            let next = spawn(&self.instance);
            self.epoch.fetch_add(1, Ordering::SeqCst);
            *daemon = next?;
        }
        Ok(())
    }

    /// The supervisor and the pause of a pod's sandbox.
    fn of_pod(&self, pod: &str) -> Result<(Vec<Pid>, Vec<Pid>)> {
        let sandboxes = self.instance.state().join("sandboxes");
        let named = format!("\"{pod}\"");
        let (mut shims, mut pauses) = (Vec::new(), Vec::new());
        for entry in std::fs::read_dir(&sandboxes).into_iter().flatten().flatten() {
            let record = std::fs::read_to_string(entry.path().join("sandbox.json")).unwrap_or_default();
            let id = entry.file_name().to_string_lossy().into_owned();
            if !record.contains(&named) {
                continue;
            }
            for process in inspect::process::processes()? {
                if process.command.contains("hove-shim") && process.command.contains(&id) {
                    shims.extend(pid(&process));
                } else if is_in_cgroup(&process, &id) {
                    pauses.extend(pid(&process));
                }
            }
        }
        Ok((shims, pauses))
    }

    /// What the daemon that runs now has said at last.
    pub fn last_words(&self) -> String {
        let words = self.daemon().words();
        let lines: Vec<_> = words.lines().collect();
        lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
    }

    /// Ends the daemon as an init system would.
    pub fn stop(self) -> Result<()> {
        let daemon = self.daemon.into_inner().unwrap_or_else(PoisonError::into_inner);
        daemon.signal(Signal::TERM)?;
        let ended = daemon.wait(PATIENT)?;
        anyhow::ensure!(
            ended.code() == 0,
            "the daemon ended with {}: {}",
            ended.code(),
            ended.stderr
        );
        Ok(())
    }

    fn daemon(&self) -> MutexGuard<'_, Running> {
        self.daemon.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn spawn(instance: &Instance) -> Result<Running> {
    // By its arguments the audit knows whose it is.
    let daemon = instance.spawn(["daemon".as_ref(), "--state".as_ref(), instance.state().as_os_str()])?;
    daemon
        .wait_for_words("the node is ready", PATIENT)
        .context("the next daemon")?;
    Ok(daemon)
}

fn pid(process: &Process) -> Option<Pid> {
    Pid::from_raw(process.pid.cast_signed())
}

/// Only pause is in the cgroup that is named after the sandbox.
fn is_in_cgroup(process: &Process, sandbox: &str) -> bool {
    let cgroups = inspect::process::cgroups(process.pid).unwrap_or_default();
    cgroups.iter().any(|path| path.ends_with(sandbox))
}
