//! What a call of the shim can answer besides its answer.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cri::ErrorKind;
use shim_api::{Failure, Kind};

/// A call of the shim that failed.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// The shim refused, failed, or did not answer. Its own words are whole sentences; that nobody answers is
    /// about the call.
    #[error("{}{failure}", if failure.kind == Kind::Gone { format!("{call}: ") } else { String::new() })]
    Failed {
        /// Which call.
        call: &'static str,
        /// How, and the shim's own words.
        failure: Failure,
    },
    /// The shim lives, and does not answer.
    #[error(
        "{call}: the supervisor that listens on {} does not answer within {limit:?}: see whether it is stopped \
         (/proc/PID/status), and let it go on (SIGCONT) or kill it (it is replaced)",
        socket.display()
    )]
    Silent {
        /// Which call.
        call: &'static str,
        /// The shim's, in its sandbox's directory.
        socket: Arc<Path>,
        /// How long it was waited for.
        limit: Duration,
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
        move |error| ShimError::Failed {
            call,
            failure: error.into(),
        }
    }

    /// There is no shim to call.
    pub(crate) fn no_shim(call: &'static str) -> ShimError {
        let failure = Failure {
            kind: Kind::Gone,
            message: "the pod's supervisor has ended".into(),
            exit_code: None,
        };
        ShimError::Failed { call, failure }
    }

    /// Whether what the call was about does not exist, so that an undo has nothing left to do.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(
            self,
            ShimError::Failed {
                failure: Failure {
                    kind: Kind::NotFound,
                    ..
                },
                ..
            }
        )
    }

    /// Of a program that could not be started: what a shell would answer.
    pub(crate) fn exit_code(&self) -> Option<u8> {
        match self {
            ShimError::Failed { failure, .. } => failure.exit_code,
            ShimError::Silent { .. } | ShimError::Died { .. } => None,
        }
    }

    /// Whether nobody answered.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(
            self,
            ShimError::Failed {
                failure: Failure { kind: Kind::Gone, .. },
                ..
            }
        )
    }

    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            ShimError::Silent { .. } => ErrorKind::DeadlineExceeded,
            ShimError::Died { .. } => ErrorKind::Internal,
            ShimError::Failed { failure, .. } => match failure.kind {
                Kind::NotFound => ErrorKind::NotFound,
                Kind::AlreadyExists => ErrorKind::AlreadyExists,
                Kind::Precondition => ErrorKind::FailedPrecondition,
                Kind::Invalid => ErrorKind::InvalidArgument,
                Kind::Unsupported => ErrorKind::Unimplemented,
                Kind::TimedOut => ErrorKind::DeadlineExceeded,
                Kind::Gone => ErrorKind::Unavailable,
                Kind::Failed => ErrorKind::Internal,
            },
        }
    }
}
