//! What a shim's refusal means to its caller.

use ttrpc::{Code, Error, Status, proto::Any};

/// The detail of a status that carries [`Failure::exit_code`], a byte.
const EXIT_CODE_TYPE: &str = "hove.dev/shim/v1/ExitCode";

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
    /// Of a program that could not be started: what a shell would answer, 127 (it is not there) or 126 (it can't be run).
    pub exit_code: Option<u8>,
}

/// Adds [`Failure::exit_code`] to a shim's refusal.
pub fn add_exit_code(status: &mut Status, code: u8) {
    status.details.push(Any {
        type_url: EXIT_CODE_TYPE.into(),
        value: vec![code],
        ..Default::default()
    });
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
                let code = status.details.iter().find(|detail| detail.type_url == EXIT_CODE_TYPE);
                Failure {
                    kind,
                    exit_code: code.and_then(|detail| detail.value.first().copied()),
                    message: status.message,
                }
            }
            // The connection, not the call.
            other => Failure {
                kind: Kind::Gone,
                message: format!("the shim does not answer: {other}"),
                exit_code: None,
            },
        }
    }
}
