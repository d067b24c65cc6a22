//! Errors by what the caller can do about them; each kind is one gRPC code.

/// What went wrong with a call of the CRI: a kind for the program, a sentence for the person.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What the caller can do about it.
    pub kind: ErrorKind,
    /// What happened, to which object, why, and what to do.
    pub message: String,
}

/// The result of a call of the CRI.
pub type Result<T> = std::result::Result<T, Error>;

/// Named as the gRPC codes they become on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The object does not exist.
    NotFound,
    /// Another object holds the name.
    AlreadyExists,
    /// The request can never succeed as it is.
    InvalidArgument,
    /// The request can't succeed in the object's present state.
    FailedPrecondition,
    /// The time that the caller gave was over (an exec's time-out among them).
    DeadlineExceeded,
    /// A named limit was reached: addresses, disk, processes.
    ResourceExhausted,
    /// This runtime does not serve the call.
    Unimplemented,
    /// Not now; the same call may succeed later.
    Unavailable,
    /// The runtime failed.
    Internal,
}

impl Error {
    /// An error of `kind` that says `message`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error {
            kind,
            message: message.into(),
        }
    }

    /// The answer to an RPC that is not served.
    pub fn unimplemented(rpc: &str) -> Self {
        Error::new(ErrorKind::Unimplemented, format!("this runtime does not serve {rpc}"))
    }

    /// The answer to a call that names `what` (“sandbox 3f…”), which does not exist.
    pub fn not_found(what: impl std::fmt::Display) -> Self {
        Error::new(ErrorKind::NotFound, format!("{what} not found"))
    }

    /// A failure of the runtime's own.
    pub fn internal(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Internal, message)
    }

    /// A request that can never succeed.
    pub fn invalid(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::InvalidArgument, message)
    }
}
