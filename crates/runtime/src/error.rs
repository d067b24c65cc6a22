//! What can go wrong, by what the caller can do about it, and the one place where it becomes an error of the CRI.

use std::fmt;
use std::path::Path;

use cri::ErrorKind;
use image::registry;

use crate::shim::ShimError;
use crate::spec::SpecError;

/// The result of the runtime's own functions.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure of the runtime.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An error of the CRI already, its kind chosen where it arose.
    #[error("{0}")]
    Cri(#[from] cri::Error),
    /// The configuration can't become a spec.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The image store failed.
    #[error(transparent)]
    Image(#[from] image::Error),
    /// An image could not be brought here.
    #[error(transparent)]
    Registry(#[from] registry::Error),
    /// The network failed.
    #[error(transparent)]
    Network(#[from] network::Error),
    /// A cgroup could not be made, read or taken away.
    #[error(transparent)]
    Cgroup(#[from] cgroup::Error),
    /// A record could not be written or read.
    #[error(transparent)]
    Record(#[from] record::Error),
    /// A system call failed.
    #[error(transparent)]
    System(#[from] sys::Error),
    /// The shim failed, or refused.
    #[error(transparent)]
    Shim(#[from] ShimError),
    /// A file could not be used.
    #[error("{doing}: {source}")]
    File {
        /// What was attempted, with the path.
        doing: String,
        /// What the kernel answered.
        source: std::io::Error,
    },
    /// Steps of an undo failed; everything was attempted.
    #[error("{what} could not be taken down whole, try again: {}", failures.join("; "))]
    Undo {
        /// Which sandbox or container.
        what: String,
        /// What failed, each with its reason.
        failures: Vec<String>,
    },
    /// The runtime's own task ended: a bug.
    #[error("the owner of {0} has ended unexpectedly; restart the node")]
    OwnerGone(String),
}

impl Error {
    /// For `map_err` on a file operation.
    pub(crate) fn file(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
        let doing = format!("{doing} {}", path.display());
        move |source| Error::File { doing, source }
    }

    /// For `map_err` on a system call made through rustix.
    pub(crate) fn call(call: impl fmt::Display) -> impl FnOnce(rustix::io::Errno) -> Error {
        let call = call.to_string();
        move |errno| sys::Error::new(call, errno).into()
    }
}

/// The CRI's edge: kinds become gRPC codes.
impl From<Error> for cri::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Cri(e) => return e.clone(),
            Error::Registry(e) => return pull_error(e),
            Error::Spec(SpecError::Invalid { .. }) => ErrorKind::InvalidArgument,
            Error::Spec(SpecError::Lacking { .. }) => ErrorKind::FailedPrecondition,
            Error::Spec(SpecError::Unsupported { .. }) => ErrorKind::Unimplemented,
            Error::Image(image::Error::NotFound { .. }) => ErrorKind::NotFound,
            Error::Image(image::Error::InUse { .. }) => ErrorKind::FailedPrecondition,
            Error::Image(image::Error::Ambiguous { .. } | image::Error::Reference(_) | image::Error::Digest(_)) => {
                ErrorKind::InvalidArgument
            }
            Error::Network(e) => network_kind(e),
            Error::Cgroup(e) => cgroup_kind(e),
            Error::Shim(e) => e.kind(),
            Error::System(e) if e.errno == rustix::io::Errno::NOSPC => ErrorKind::ResourceExhausted,
            Error::Undo { .. } => ErrorKind::Unavailable,
            Error::Image(_) | Error::Record(_) | Error::System(_) | Error::File { .. } | Error::OwnerGone(_) => {
                ErrorKind::Internal
            }
        };
        cri::Error::new(kind, error.to_string())
    }
}

/// kubelet looks for the word with which some messages begin (cri-api/pkg/errors).
fn pull_error(error: &registry::Error) -> cri::Error {
    let message = error.to_string();
    match error {
        registry::Error::Unavailable { .. } => {
            cri::Error::new(ErrorKind::Unavailable, format!("RegistryUnavailable: {message}"))
        }
        registry::Error::Untrusted { .. } => cri::Error::new(
            ErrorKind::FailedPrecondition,
            format!("SignatureValidationFailed: {message}"),
        ),
        registry::Error::NotFound { .. } => cri::Error::new(ErrorKind::NotFound, message),
        registry::Error::Store { .. } => cri::Error::internal(message),
        registry::Error::Denied { .. }
        | registry::Error::Platform { .. }
        | registry::Error::Malformed { .. }
        | registry::Error::Hosts { .. }
        | registry::Error::Credentials { .. } => cri::Error::new(ErrorKind::FailedPrecondition, message),
    }
}

fn network_kind(error: &network::Error) -> ErrorKind {
    match error {
        network::Error::PortInUse { .. } | network::Error::PortPublished { .. } => ErrorKind::FailedPrecondition,
        network::Error::Unsupported { .. } => ErrorKind::InvalidArgument,
        network::Error::Exhausted { .. } => ErrorKind::ResourceExhausted,
        _ => ErrorKind::Internal,
    }
}

fn cgroup_kind(error: &cgroup::Error) -> ErrorKind {
    match error {
        cgroup::Error::BadPath { .. } | cgroup::Error::BadValue { .. } => ErrorKind::InvalidArgument,
        cgroup::Error::ControllerMissing { .. } | cgroup::Error::Unsupported { .. } => ErrorKind::FailedPrecondition,
        _ => ErrorKind::Internal,
    }
}
