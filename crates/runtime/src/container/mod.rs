//! One container: its state and how it changes. What is done to it is done by its sandbox's owner, in the files below.

mod create;
mod facts;
mod image_volumes;
mod lifecycle;
mod propagation;
pub(crate) mod signal;

use shim_api::shim::{Process, ProcessState};

use crate::records::{ContainerIntent, ContainerRecord, Exit, Life, ProcessName};

pub(crate) use facts::{own_capabilities, security_modules};
pub(crate) use image_volumes::owner_of_snapshot;

/// The exit code of a container that could not be started, and of one whose end nobody saw.
pub(crate) const START_ERROR: i32 = 128;
pub(crate) const UNKNOWN_EXIT: i32 = 255;

/// What the kernel takes for a container of which nothing is said.
pub(crate) const DEFAULT_CPU_PERIOD_US: i64 = 100_000;
pub(crate) const DEFAULT_CPU_SHARES: i64 = 1024;

/// A container.
#[derive(Debug, Clone)]
pub(crate) struct Container {
    pub(crate) record: ContainerRecord,
    /// Its first process, while it runs.
    pub(crate) process: Option<ProcessName>,
    pub(crate) attendance: Attendance,
}

/// Whether somebody is there who would see it end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attendance {
    /// The shim is.
    Attended,
    /// The shim has died, and the next is on its way. What ran goes on until the opposite is known.
    Awaited,
    /// The shim has died, and there will be no other.
    Lost,
}

/// What a report of the shim changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Started,
    Exited,
}

impl Container {
    pub(crate) fn new(record: ContainerRecord) -> Self {
        Container {
            record,
            process: None,
            attendance: Attendance::Attended,
        }
    }

    /// Whether CreateContainer has finished.
    pub(crate) fn is_made(&self) -> bool {
        self.record.intent != ContainerIntent::Create
    }

    pub(crate) fn is_running(&self) -> bool {
        matches!(self.record.life, Life::Running { .. })
    }

    pub(crate) fn is_exited(&self) -> bool {
        matches!(self.record.life, Life::Exited(_))
    }

    /// Takes in what the shim says about the first process. Reports come more than once and late: a state never goes
    /// back.
    pub(crate) fn observe(&mut self, process: &Process) -> Option<Change> {
        if self.is_exited() {
            return None;
        }
        match process.state.enum_value_or_default() {
            ProcessState::PROCESS_STATE_RUNNING => {
                self.identify(process);
                let news = !matches!(self.record.life, Life::Running { started_at_ns } if started_at_ns != 0);
                self.record.life = Life::Running {
                    started_at_ns: process.started_at_ns,
                };
                news.then_some(Change::Started)
            }
            ProcessState::PROCESS_STATE_EXITED => {
                self.identify(process);
                self.end(Exit {
                    started_at_ns: process.started_at_ns,
                    finished_at_ns: process.finished_at_ns,
                    exit_code: process.exit_code,
                    reason: reason(process).into(),
                    message: process.message.clone(),
                });
                Some(Change::Exited)
            }
            _ => None,
        }
    }

    /// It has ended like this.
    pub(crate) fn end(&mut self, exit: Exit) {
        self.record.life = Life::Exited(exit);
        self.process = None;
        self.attendance = Attendance::Attended;
    }

    /// It has ended, nobody knows how.
    pub(crate) fn end_unseen(&mut self, now_ns: i64, message: &str) {
        let started_at_ns = match self.record.life {
            Life::Running { started_at_ns } => started_at_ns,
            _ => 0,
        };
        self.end(Exit {
            started_at_ns,
            finished_at_ns: now_ns,
            exit_code: UNKNOWN_EXIT,
            reason: "Unknown".into(),
            message: message.into(),
        });
    }

    fn identify(&mut self, process: &Process) {
        self.attendance = Attendance::Attended;
        if let Ok(pid @ 1..) = i32::try_from(process.pid) {
            self.process = Some(ProcessName {
                pid,
                start_time_ticks: process.start_time_ticks,
            });
            self.record.user = Some((process.uid, process.gid, process.groups.clone()));
        }
    }
}

fn reason(process: &Process) -> &'static str {
    if process.end_unseen {
        "Unknown"
    } else if process.oom_killed {
        "OOMKilled"
    } else if process.exit_code == 0 {
        "Completed"
    } else {
        "Error"
    }
}

#[cfg(test)]
mod tests;
