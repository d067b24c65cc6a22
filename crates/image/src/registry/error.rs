//! What can go wrong between a registry and the store.

use std::path::PathBuf;
use std::time::Duration;

/// The result of a call to a registry.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A pull or a push that failed. No message carries a credential.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// No server could be asked.
    #[error("{task}: {}", reasons.join("; "))]
    Unavailable {
        /// What was to be done: `pull REFERENCE`, `push REFERENCE`.
        task: String,
        /// What each server, or the way to it, said.
        reasons: Vec<String>,
    },
    /// The servers know no such image.
    #[error("{task}: no such image: {}", reasons.join("; "))]
    NotFound {
        /// What was to be done: `pull REFERENCE`, `push REFERENCE`.
        task: String,
        /// What each server said.
        reasons: Vec<String>,
    },
    /// The servers want other credentials, or give this image to nobody whom we can be.
    #[error("{task}: access is denied: {}", reasons.join("; "))]
    Denied {
        /// What was to be done: `pull REFERENCE`, `push REFERENCE`.
        task: String,
        /// What each server said.
        reasons: Vec<String>,
    },
    /// The image is not for this machine.
    #[error("{task}: there is no image for linux/{}; there is: {}", crate::archive::ARCHITECTURE, offered.join(", "))]
    Platform {
        /// What was to be done: `pull REFERENCE`, `push REFERENCE`.
        task: String,
        /// The platforms that there are.
        offered: Vec<String>,
    },
    /// A manifest or a configuration breaks a rule of its format, or is not what its digest says.
    #[error("{task}: {what}: {rule}")]
    Malformed {
        /// What was to be done: `pull REFERENCE`, `push REFERENCE`.
        task: String,
        /// The part.
        what: String,
        /// The rule it breaks.
        rule: String,
    },
    /// This node's rules about signatures keep the image out.
    #[error("{task}: not trusted: {reason}")]
    Untrusted {
        /// What was to be done.
        task: String,
        /// What is missing.
        reason: String,
    },
    /// A file that says where registries are.
    #[error("{}: {rule}", path.display())]
    Hosts {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        rule: String,
    },
    /// Credentials that can't be had.
    #[error("credentials for {registry}: {reason}")]
    Credentials {
        /// The registry they are for.
        registry: String,
        /// Why.
        reason: String,
    },
    /// The store could not take what came.
    #[error("{task}: {message}")]
    Store {
        /// What was to be done: `pull REFERENCE`, `push REFERENCE`.
        task: String,
        /// What the store said.
        message: String,
    },
}

/// Why one server's answer is of no use.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// Nobody answered, or the connection broke.
    Unreachable(String),
    /// No byte came for so long.
    Stalled(Duration),
    /// It said that there is no such thing.
    NotFound(String),
    /// It said that we may not.
    Denied(String),
    /// Another answer that is none.
    Refused(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Stalled(limit) => write!(f, "no byte came for {limit:?}"),
            Failure::Unreachable(why) | Failure::NotFound(why) | Failure::Denied(why) | Failure::Refused(why) => {
                f.write_str(why)
            }
        }
    }
}

impl Error {
    /// What all servers' failures come to: the most telling kind, with every reason.
    pub(super) fn of(task: &str, failures: Vec<(String, Failure)>) -> Error {
        let (task, reasons) = (
            task.to_owned(),
            failures
                .iter()
                .map(|(host, failure)| format!("{host}: {failure}"))
                .collect(),
        );
        let any = |kind: fn(&Failure) -> bool| failures.iter().any(|(_, failure)| kind(failure));
        if any(|f| matches!(f, Failure::Denied(_))) {
            Error::Denied { task, reasons }
        } else if any(|f| matches!(f, Failure::NotFound(_)))
            && !any(|f| matches!(f, Failure::Unreachable(_) | Failure::Stalled(_)))
        {
            Error::NotFound { task, reasons }
        } else {
            Error::Unavailable { task, reasons }
        }
    }
}
