//! What a shim's refusal means to its caller.

use ttrpc::{Code, Error};

/// Kinds of failure, by what the caller can do about them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// There is no such container, exec or process (any more).
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// Not in this state.
    Precondition,
    /// The request makes no sense.
    Invalid,
    /// The shim does not do this.
    Unsupported,
    /// It took too long.
    TimedOut,
    /// The shim is gone, or going.
    Gone,
    /// It tried, and failed: the message says at what.
    Failed,
}

/// A call that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What to do about it.
    pub kind: Kind,
    /// For a person.
    pub message: String,
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        match e {
            Error::RpcStatus(status) => {
                let kind = match status.code() {
                    Code::NOT_FOUND => Kind::NotFound,
                    Code::ALREADY_EXISTS => Kind::AlreadyExists,
                    Code::FAILED_PRECONDITION => Kind::Precondition,
                    Code::INVALID_ARGUMENT => Kind::Invalid,
                    Code::UNIMPLEMENTED => Kind::Unsupported,
                    Code::DEADLINE_EXCEEDED => Kind::TimedOut,
                    Code::UNAVAILABLE => Kind::Gone,
                    _ => Kind::Failed,
                };
                Failure {
                    kind,
                    message: status.message,
                }
            }
            // The connection, not the call.
            other => Failure {
                kind: Kind::Gone,
                message: format!("the shim does not answer: {other}"),
            },
        }
    }
}
