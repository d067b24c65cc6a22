//! What a process of the pod may be asked for, and when. Pure: no process is touched here.
//!
//! ```text
//!            advance: created          start             advance: running
//!  Creating ──────────────────► Created ──────► Starting ────────────────► Running
//!     │                            │               │                          │
//!     │ failed: forgotten          │ ended         │ ended (a failed exec     │ ended
//!     ▼                            ▼               ▼  ends the process too)   ▼
//!    (gone)                      Ending ◄──────────┴──────────────────────────┘
//!                                  │  the rest of its cgroup killed, its output drained, its exit record durable
//!                                  ▼
//!                                Exited ──── Delete ────► (gone)
//! ```

use std::fmt;

use crate::failure::Failure;

/// Where a process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Known by name only: an exec that was not started yet.
    Registered,
    /// Cloned; its surroundings are being made.
    Creating,
    /// Everything is ready but the exec.
    Created,
    /// Told to exec.
    Starting,
    /// It runs its program.
    Running,
    /// It has ended, and nobody knows yet.
    Ending,
    /// Its end is recorded and announced.
    Exited,
}

/// What may be asked of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Task.Start
    Start,
    /// Task.Kill
    Kill,
    /// Task.Exec, asked of the container's first process
    Exec,
    /// Task.Delete
    Delete,
    /// Task.ResizePty
    Resize,
    /// Task.Update
    Control,
    /// Task.Pause and Task.Resume. Being paused is no state of a process's: the kernel keeps it, for a whole container.
    Pause,
    /// Pod.ReopenLog
    ReopenLog,
    /// Pod.Attach
    Attach,
}

impl State {
    /// Whether `verb` may be carried out now; if not, what to tell the one who asked. `what` names the process.
    pub fn admit(self, verb: Verb, what: impl fmt::Display) -> Result<(), Failure> {
        use State::*;
        let refuse = |why: &str| Err(Failure::Precondition(format!("{what} {why}")));
        match (verb, self) {
            (Verb::Start, Registered | Created) => Ok(()),
            (Verb::Start, Creating) => refuse("is still being created"),
            (Verb::Start, Starting | Running) => refuse("was started already"),
            (Verb::Start, Ending | Exited) => refuse("has ended; delete it and create it anew"),

            // containerd's word for ESRCH, which its clients look for.
            (Verb::Kill, Ending | Exited) => Err(Failure::NotFound(format!("{what}: process already finished"))),
            (Verb::Kill, Registered) => refuse("was not started yet"),
            (Verb::Kill, Creating | Created | Starting | Running) => Ok(()),

            (Verb::Exec | Verb::Control | Verb::Pause | Verb::ReopenLog | Verb::Attach, Running) => Ok(()),
            (Verb::ReopenLog | Verb::Control | Verb::Attach, Created | Starting) => Ok(()),
            (Verb::Exec | Verb::Control | Verb::Pause | Verb::ReopenLog | Verb::Attach, _) => refuse("is not running"),

            (Verb::Delete, Registered | Exited) => Ok(()),
            (Verb::Delete, _) => refuse("has not ended: kill it, and wait for its end, before it is deleted"),

            (Verb::Resize, Created | Starting | Running) => Ok(()),
            (Verb::Resize, _) => refuse("has no terminal now"),
        }
    }

    /// Whether there is a process that has not ended.
    pub fn is_alive(self) -> bool {
        matches!(
            self,
            State::Creating | State::Created | State::Starting | State::Running
        )
    }
}

#[cfg(test)]
mod tests {
    use super::State::*;
    use super::*;

    const STATES: [State; 7] = [Registered, Creating, Created, Starting, Running, Ending, Exited];

    #[test]
    fn the_whole_table() {
        // y: done; p: failed precondition; n: not found. In the order of STATES.
        for (verb, answers) in [
            (Verb::Start, "ypypppp"),
            (Verb::Kill, "pyyyynn"),
            (Verb::Exec, "ppppypp"),
            (Verb::Delete, "ypppppy"),
            (Verb::Resize, "ppyyypp"),
            (Verb::Control, "ppyyypp"),
            (Verb::Pause, "ppppypp"),
            (Verb::ReopenLog, "ppyyypp"),
            (Verb::Attach, "ppyyypp"),
        ] {
            for (state, expected) in STATES.into_iter().zip(answers.chars()) {
                let answer = match state.admit(verb, "it") {
                    Ok(()) => 'y',
                    Err(Failure::Precondition(_)) => 'p',
                    Err(Failure::NotFound(_)) => 'n',
                    Err(e) => panic!("{e}"),
                };
                assert_eq!(answer, expected, "{verb:?} in {state:?}");
            }
        }
    }
}
