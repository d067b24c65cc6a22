//! A supervisor that dies is replaced: the next one takes the pod over (invariant 4).
//!
//! ```text
//!   its pidfd is readable ─► supervisor_ended ──► take_over: connect, or start `hove-shim --adopt` ──► attend, take in
//!   its stream has ended ──► connection_lost ───────▲                      │
//!   a restart of the node ─► resume ────────────────┤                      │
//!                                                   └── after a pause ◄────┤ failed, or died again
//!                                                                          └──► died too often: the sandbox is not ready
//! ```
//!
//! Where none can be started, the node lacks something (room, processes, the program), and that is no fault of the pod's: what runs
//! in it is left alone, and it is tried again for as long as the lack lasts.

use std::time::{Duration, Instant};

use shim_api::shim::{self, ProcessState};
use tracing::{info, warn};

use super::attempts::{LONGEST_PAUSE, MAX, WINDOW};
use super::{Notice, ShimClient, ShimError, ShimProcess, log_tail};
use crate::blocking::blocking;
use crate::container::Attendance;
use crate::error::{Error, Result};
use crate::id::ContainerId;
use crate::records::{Intent, ProcessName};
use crate::sandbox::{Message, Sandbox};

/// How long a supervisor that does not answer may take to be seen dead.
const DEATH_LIMIT: Duration = Duration::from_secs(1);

const SIGKILL: i32 = 9;

/// A supervisor that was found.
pub(crate) struct Supervisor {
    /// What it knows.
    pub(crate) state: shim::StateResponse,
    /// It was started just now, in another's place.
    pub(crate) is_another: bool,
}

impl Sandbox {
    /// The supervisor has ended. It is replaced, unless the pod is going down anyway.
    pub(crate) async fn supervisor_ended(&mut self) {
        if self.state.record.intent != Intent::Run {
            self.shim_gone();
            return;
        }
        if self.process.as_ref().is_some_and(|process| !process.has_ended()) {
            // News of an earlier one.
            return;
        }
        self.take_over_within_limits().await;
    }

    /// What the supervisor had to tell has ended. If it lives (a connection was broken, or this node did not keep up with it), a
    /// new connection is made; otherwise its pidfd tells of its end.
    pub(crate) async fn connection_lost(&mut self) {
        let Some(process) = self.process.clone().filter(|_| self.state.record.intent == Intent::Run) else {
            return;
        };
        // A process that dies closes its connections first.
        if !process.exited_within(DEATH_LIMIT).await {
            warn!("the connection with the pod's supervisor has ended; a new one is made");
            self.take_over_within_limits().await;
        }
    }

    async fn take_over_within_limits(&mut self) {
        match self.attempts.next(Instant::now()) {
            Some(Duration::ZERO) => self.take_over().await,
            Some(pause) => {
                self.leave_unattended(Attendance::Awaited);
                self.take_over_after(pause);
            }
            None => {
                let message = format!(
                    "the pod's supervisor has ended {MAX} times within {WINDOW:?} and is not replaced any more; it said: {}",
                    log_tail(&self.dir().shim_log())
                );
                self.shim_gone();
                self.tell_a_person("", "SupervisorLost", message);
            }
        }
    }

    /// Has a new supervisor take the pod over.
    pub(crate) async fn take_over(&mut self) {
        if self.state.record.intent != Intent::Run {
            self.shim_gone();
            return;
        }
        let taken_over = match self.find_supervisor().await {
            Ok(found) => self.go_on_from(&found.state).await.map(|()| found.is_another),
            Err(e) => Err(e),
        };
        match taken_over {
            Ok(is_another) => self.is_supervised(is_another),
            Err(error) => self.try_again(&error),
        }
    }

    /// All is as it was; if another supervisor than before has seen to that, a person is told.
    pub(crate) fn is_supervised(&mut self, by_another: bool) {
        self.attempts.has_succeeded();
        if by_another {
            let message = "the pod's supervisor had ended; another has taken over";
            info!("{message}");
            self.tell_a_person("", "SupervisorReplaced", message.to_string());
        }
    }

    fn try_again(&mut self, error: &Error) {
        self.process = None;
        self.leave_unattended(Attendance::Awaited);
        let pause = self.attempts.after_failure();
        warn!(%error, ?pause, "the pod could not be taken over; trying again");
        if self.attempts.is_time_to_tell() {
            let message = format!(
                "the pod's supervisor has ended and can't be replaced ({error}); its containers run on, and it is tried again every {} s",
                LONGEST_PAUSE.as_secs()
            );
            self.tell_a_person("", "SupervisorMissing", message);
        }
        self.take_over_after(pause);
    }

    fn take_over_after(&self, pause: Duration) {
        let mailbox = self.mailbox.clone();
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            // An owner that has gone has no supervisor to replace.
            let _ = mailbox.send(Message::TakeOver).await;
        });
    }

    /// Takes a sandbox up again after a restart; what does not work at once is tried again as usual.
    pub(crate) async fn find_supervisor_or_try_again(&mut self) -> Option<Supervisor> {
        match self.find_supervisor().await {
            Ok(found) => Some(found),
            Err(error) => {
                self.try_again(&error);
                None
            }
        }
    }

    /// The supervisor that serves the sandbox, else a new one.
    async fn find_supervisor(&mut self) -> Result<Supervisor> {
        let socket = self.dir().socket();
        let (client, started) = match ShimClient::connect(&socket).await {
            // It listens as long as it lives.
            Ok(client) => (client, None),
            Err(_) => {
                let (name, pidfd) = self.start_adopter().await?;
                let process = ShimProcess::new(name, pidfd)?;
                (ShimClient::connect(&socket).await?, Some(process))
            }
        };
        let state = match (client.state().await, &started) {
            (Ok(state), _) => state,
            (Err(e), Some(process)) if e.is_gone() && process.exited_within(DEATH_LIMIT).await => {
                let log = log_tail(&self.dir().shim_log());
                return Err(ShimError::Died { log }.into());
            }
            (Err(e), _) => return Err(e.into()),
        };
        let is_another = started.is_some();
        let process = match started {
            Some(process) => process,
            None => {
                let name = ProcessName::of(state.shim_pid);
                let found = name.map(ShimProcess::find).transpose()?.flatten();
                found.ok_or_else(|| Error::from(ShimError::no_shim("State")))?
            }
        };
        if self.state.record.shim != Some(process.name()) {
            self.state.record.shim = Some(process.name());
            self.save()?;
        }
        self.attend(client, process).await?;
        Ok(Supervisor { state, is_another })
    }

    async fn start_adopter(&self) -> Result<(ProcessName, std::os::fd::OwnedFd)> {
        let (node, dir, id) = (self.node().clone(), self.dir().clone(), self.state.record.id.clone());
        let (held, shims) = (self.held.copies()?, self.supervisors_cgroup());
        blocking(move || {
            let placement = node.cgroups.placement(&shims)?;
            ShimProcess::adopt(&node.config.shim, &id, &dir, &placement, &held)
        })
        .await
    }

    /// Takes in what a new supervisor has found.
    async fn go_on_from(&mut self, state: &shim::StateResponse) -> Result<()> {
        self.take_in(state);
        self.unstart(state).await?;
        self.lose_unknown(state);
        self.end_strays(state);
        self.publish();
        Ok(())
    }

    /// Containers that have ended as far as was announced: their start failed because the supervisor died over it.
    fn end_strays(&self, state: &shim::StateResponse) {
        let Some(shim) = self.state.shim.clone() else { return };
        for process in &state.containers {
            let id = ContainerId::from(process.container_id.as_str());
            if self.state.containers.get(&id).is_none_or(|c| !c.is_exited()) {
                continue;
            }
            let (shim, runs) = (shim.clone(), process.state != ProcessState::PROCESS_STATE_EXITED.into());
            tokio::spawn(async move {
                if runs && shim.kill(id.as_str(), "", SIGKILL, true).await.is_ok() {
                    let _ = shim.wait(id.as_str(), "").await;
                }
                match shim.delete(id.as_str(), "").await {
                    Err(error) if !error.is_not_found() => {
                        warn!(container = %id, %error, "the task remains in the shim")
                    }
                    _ => {}
                }
            });
        }
    }

    /// Holds open what its supervisor's death must not lose.
    pub(crate) fn hold(&mut self, process: &shim::Process) {
        let Some(name) = i32::try_from(process.pid).ok().filter(|pid| *pid > 0) else {
            return;
        };
        let name = ProcessName {
            pid: name,
            start_time_ticks: process.start_time_ticks,
        };
        if process.container_id.is_empty() {
            self.held.hold_pause(name);
            return;
        }
        let id = ContainerId::from(process.container_id.as_str());
        let dir = self.dir().container(&id);
        let stdin = self.has_stdin(&id);
        if let Err(error) = self.held.hold_streams(&id, &dir, stdin) {
            warn!(container = %id, %error, "its streams are not safe if its supervisor dies");
        }
        self.held.hold_process(&id, name);
    }

    /// Tells of the pod, or of one of its containers, to whoever makes events of it.
    pub(crate) fn tell_a_person(&self, container: &str, reason: &str, message: String) {
        let pod = self.state.record.config.metadata.clone().unwrap_or_default();
        let container = self.state.containers.get(&ContainerId::from(container));
        let container = container.and_then(|c| c.record.config.metadata.clone());
        self.node().notices.tell(Notice {
            namespace: pod.namespace,
            name: pod.name,
            uid: pod.uid,
            container: container.map(|m| m.name).unwrap_or_default(),
            reason: reason.to_string(),
            message,
        });
    }
}
