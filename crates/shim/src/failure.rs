//! What the shim answers when it can't do what it was asked for, and the one place where that becomes a ttrpc code.

use ttrpc::Code;

/// The result of a request.
pub type Result<T> = std::result::Result<T, Failure>;

/// Why a request failed, by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No container, exec or process of that name (any more).
    #[error("{0}")]
    NotFound(String),
    /// The name is taken.
    #[error("{0}")]
    AlreadyExists(String),
    /// Not now: the process is in the wrong state.
    #[error("{0}")]
    Precondition(String),
    /// The request itself makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// Hove's shim does not do this.
    #[error("{0}")]
    Unsupported(String),
    /// It took longer than its named limit.
    #[error("{0}")]
    TimedOut(String),
    /// A process could not be started.
    #[error(transparent)]
    Starter(#[from] starter::Error),
    /// A cgroup could not be made, changed or read.
    #[error(transparent)]
    Cgroup(#[from] cgroup::Error),
    /// A record could not be written.
    #[error(transparent)]
    Record(#[from] record::Error),
    /// A log could not be opened.
    #[error(transparent)]
    Log(#[from] logs::Error),
    /// The kernel refused.
    #[error(transparent)]
    System(#[from] sys::Error),
    /// Another vendor's shim has tried, and failed.
    #[error("{0}")]
    Foreign(String),
    /// The shim is shutting down.
    #[error("the shim is shutting down")]
    ShuttingDown,
}

impl Failure {
    /// What a shell would answer (POSIX, "Exit Status for Commands").
    fn exit_code(&self) -> Option<u8> {
        match self {
            Failure::Starter(starter::Error::NotFound { .. }) => Some(127),
            Failure::Starter(starter::Error::NotExecutable { .. }) => Some(126),
            // Another shim hands its OCI runtime's words on; runc's and crun's are these.
            Failure::Foreign(said) if said.contains("permission denied") || said.contains("Permission denied") => {
                Some(126)
            }
            Failure::Foreign(said)
                if said.contains("executable file") || said.contains("no such file or directory") =>
            {
                Some(127)
            }
            _ => None,
        }
    }

    fn code(&self) -> Code {
        match self {
            Failure::NotFound(_) => Code::NOT_FOUND,
            Failure::AlreadyExists(_) => Code::ALREADY_EXISTS,
            Failure::Precondition(_) => Code::FAILED_PRECONDITION,
            Failure::Invalid(_) => Code::INVALID_ARGUMENT,
            Failure::Unsupported(_) => Code::UNIMPLEMENTED,
            Failure::TimedOut(_) => Code::DEADLINE_EXCEEDED,
            Failure::ShuttingDown => Code::UNAVAILABLE,
            Failure::Starter(starter::Error::Spec { .. } | starter::Error::Seccomp(_)) => Code::INVALID_ARGUMENT,
            Failure::Starter(starter::Error::Unsupported { .. }) => Code::UNIMPLEMENTED,
            Failure::Starter(_)
            | Failure::Cgroup(_)
            | Failure::Record(_)
            | Failure::Log(_)
            | Failure::System(_)
            | Failure::Foreign(_) => Code::INTERNAL,
        }
    }
}

impl From<Failure> for ttrpc::Error {
    fn from(failure: Failure) -> Self {
        let exit_code = failure.exit_code();
        let mut status = ttrpc::get_status(failure.code(), failure);
        if let Some(code) = exit_code {
            shim_api::add_exit_code(&mut status, code);
        }
        ttrpc::Error::RpcStatus(status)
    }
}

/// A system call that failed inside the standard library.
pub(crate) fn system(call: impl std::fmt::Display, e: &std::io::Error) -> sys::Error {
    sys::Error::new(
        call,
        rustix::io::Errno::from_io_error(e).unwrap_or(rustix::io::Errno::IO),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_oci_runtime_says_of_a_program_becomes_a_shells_code() {
        for (said, code) in [
            (
                "exec failed: exec: \"nosuch\": executable file not found in $PATH",
                Some(127),
            ),
            (
                "exec: \"/no/such\": stat /no/such: no such file or directory",
                Some(127),
            ),
            ("exec: \"/etc\": permission denied", Some(126)),
            ("cgroups in hybrid mode not supported", None),
        ] {
            assert_eq!(Failure::Foreign(said.into()).exit_code(), code, "{said}");
        }
    }
}
