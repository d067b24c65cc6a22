//! Why a process could not be started.

use rustix::io::Errno;

/// The result of starting.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a process could not be started, by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The OCI config says something that cannot be done, whatever the machine.
    #[error("config.json: {field}: {rule} (is {value:?})")]
    Spec {
        /// The field, as a path in the document.
        field: String,
        /// What it says.
        value: String,
        /// What it should say.
        rule: String,
    },
    /// The config asks for something that Hove does not do (yet).
    #[error("config.json: {field}: {what} is not supported")]
    Unsupported {
        /// The field, as a path in the document.
        field: String,
        /// What is asked for.
        what: String,
    },
    /// A step of the child's failed: which, on what, and errno.
    #[error("cannot {step}: {errno}")]
    Step {
        /// What was to be done and on what, in words: "mount tmpfs at /dev".
        step: String,
        /// What the kernel answered.
        errno: Errno,
    },
    /// The program is not there.
    #[error("exec {program:?}: {reason}")]
    NotFound {
        /// `process.args[0]`.
        program: String,
        /// "not found in PATH …", or why a file that is there does not start.
        reason: String,
    },
    /// The program is there but may not or cannot be run.
    #[error("exec {program:?}: {reason}: {errno}")]
    NotExecutable {
        /// `process.args[0]`.
        program: String,
        /// In words.
        reason: &'static str,
        /// What the kernel answered.
        errno: Errno,
    },
    /// The user or group is not known in the container.
    #[error("user {user:?}: {reason}")]
    User {
        /// As asked for.
        user: String,
        /// Which part of it, and where it was looked for.
        reason: String,
    },
    /// The process ended before it was ready, without a word: killed from outside, or by its cgroup's limits.
    #[error("the process ended before it was ready{how}")]
    Ended {
        /// ": killed by signal 9", where it is known.
        how: String,
    },
    /// A system call of the caller's side failed.
    #[error(transparent)]
    Sys(#[from] sys::Error),
    /// The machine's cgroups cannot be read.
    #[error(transparent)]
    Cgroup(#[from] cgroup::Error),
    /// The seccomp profile cannot be compiled.
    #[error("config.json: linux.seccomp: {0}")]
    Seccomp(String),
}

impl Error {
    pub(crate) fn spec(field: impl Into<String>, value: impl ToString, rule: impl Into<String>) -> Self {
        Error::Spec {
            field: field.into(),
            value: value.to_string(),
            rule: rule.into(),
        }
    }

    pub(crate) fn unsupported(field: impl Into<String>, what: impl Into<String>) -> Self {
        Error::Unsupported {
            field: field.into(),
            what: what.into(),
        }
    }
}
