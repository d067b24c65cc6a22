//! What a call of the shim can answer besides its answer.

use cri::ErrorKind;
use ttrpc::Code;

/// A call of the shim that failed.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// The shim did not do it, and said why.
    #[error("{call}: {message}")]
    Refused {
        /// Which call.
        call: &'static str,
        /// How the shim classifies it.
        code: Code,
        /// The shim's own words.
        message: String,
    },
    /// No answer: the shim has ended or does not respond.
    #[error("{call}: the pod's supervisor does not answer ({reason})")]
    Gone {
        /// Which call.
        call: &'static str,
        /// What happened to the connection.
        reason: String,
    },
    /// The shim ended while the sandbox was being made.
    #[error("the pod's supervisor ended at once; it said: {log}")]
    Died {
        /// The end of its standard error.
        log: String,
    },
}

impl ShimError {
    pub(super) fn of(call: &'static str) -> impl FnOnce(ttrpc::Error) -> ShimError {
        move |error| match error {
            ttrpc::Error::RpcStatus(status) => ShimError::Refused {
                call,
                code: status.code(),
                message: status.message.clone(),
            },
            other => ShimError::Gone {
                call,
                reason: other.to_string(),
            },
        }
    }

    /// Whether what the call was about does not exist, so that an undo has nothing left to do.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(
            self,
            ShimError::Refused {
                code: Code::NOT_FOUND,
                ..
            }
        )
    }

    /// Whether nobody answered.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self, ShimError::Gone { .. })
    }

    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            ShimError::Gone { .. } => ErrorKind::Unavailable,
            ShimError::Died { .. } => ErrorKind::Internal,
            ShimError::Refused { code, .. } => match code {
                Code::NOT_FOUND => ErrorKind::NotFound,
                Code::ALREADY_EXISTS => ErrorKind::AlreadyExists,
                Code::INVALID_ARGUMENT | Code::OUT_OF_RANGE => ErrorKind::InvalidArgument,
                Code::FAILED_PRECONDITION | Code::ABORTED => ErrorKind::FailedPrecondition,
                Code::DEADLINE_EXCEEDED => ErrorKind::DeadlineExceeded,
                Code::RESOURCE_EXHAUSTED => ErrorKind::ResourceExhausted,
                Code::UNIMPLEMENTED => ErrorKind::Unimplemented,
                Code::UNAVAILABLE => ErrorKind::Unavailable,
                _ => ErrorKind::Internal,
            },
        }
    }
}
