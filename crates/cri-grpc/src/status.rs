//! Errors on the wire: a kind of `cri::Error` is a gRPC code, there and back.

use cri::{Error, ErrorKind};
use tonic::{Code, Status};

use crate::MAX_ERROR_BYTES;

/// The answer to a call that failed.
pub fn to_status(error: Error) -> Status {
    let code = match error.kind {
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::AlreadyExists => Code::AlreadyExists,
        ErrorKind::InvalidArgument => Code::InvalidArgument,
        ErrorKind::FailedPrecondition => Code::FailedPrecondition,
        ErrorKind::DeadlineExceeded => Code::DeadlineExceeded,
        ErrorKind::ResourceExhausted => Code::ResourceExhausted,
        ErrorKind::Unimplemented => Code::Unimplemented,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::Internal => Code::Internal,
    };
    Status::new(code, shortened(error.message))
}

/// What a client's caller is told. Codes that no kind stands for are failures of the runtime's own; their name is kept.
pub fn from_status(status: Status) -> Error {
    let kind = match status.code() {
        Code::NotFound => ErrorKind::NotFound,
        Code::AlreadyExists => ErrorKind::AlreadyExists,
        Code::InvalidArgument | Code::OutOfRange => ErrorKind::InvalidArgument,
        Code::FailedPrecondition | Code::Aborted => ErrorKind::FailedPrecondition,
        Code::DeadlineExceeded => ErrorKind::DeadlineExceeded,
        Code::ResourceExhausted => ErrorKind::ResourceExhausted,
        Code::Unimplemented => ErrorKind::Unimplemented,
        Code::Unavailable => ErrorKind::Unavailable,
        // As containerd answers what it can't name better; the message tells.
        Code::Unknown | Code::Internal => ErrorKind::Internal,
        code => return Error::new(ErrorKind::Internal, format!("{code:?}: {}", status.message())),
    };
    Error::new(kind, status.message())
}

/// At most [`MAX_ERROR_BYTES`], cut between two characters, with a mark.
fn shortened(mut message: String) -> String {
    const MARK: &str = " […]";
    if message.len() > MAX_ERROR_BYTES {
        message.truncate(message.floor_char_boundary(MAX_ERROR_BYTES - MARK.len()));
        message.push_str(MARK);
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_comes_back_as_it_went() {
        for kind in [
            ErrorKind::NotFound,
            ErrorKind::AlreadyExists,
            ErrorKind::InvalidArgument,
            ErrorKind::FailedPrecondition,
            ErrorKind::DeadlineExceeded,
            ErrorKind::ResourceExhausted,
            ErrorKind::Unimplemented,
            ErrorKind::Unavailable,
            ErrorKind::Internal,
        ] {
            let error = Error::new(kind, "container 3f is not running: start it");
            assert_eq!(from_status(to_status(error.clone())), error);
        }
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let status = to_status(Error::internal("é".repeat(MAX_ERROR_BYTES)));
        assert!(status.message().len() <= MAX_ERROR_BYTES);
        assert!(status.message().ends_with("é […]"));
    }
}
