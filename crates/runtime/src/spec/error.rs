//! Why a configuration can't become a spec.

use std::fmt;

/// A configuration of the CRI that no container can be made of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// The field's value breaks a rule; the client has to change it.
    #[error("{field}: {problem}")]
    Invalid {
        /// The path of the field inside the configuration, as the .proto names it.
        field: String,
        /// The value and the rule.
        problem: String,
    },
    /// The field asks for something that this node does not have.
    #[error("{field}: {problem}")]
    Lacking {
        /// The path of the field inside the configuration.
        field: String,
        /// What is asked for.
        problem: String,
    },
    /// The field asks for something that Hove does not do yet.
    #[error("{field}: {problem}")]
    Unsupported {
        /// The path of the field inside the configuration.
        field: String,
        /// What is asked for.
        problem: String,
    },
}

/// The result of deriving a part of a spec.
pub type Result<T> = std::result::Result<T, SpecError>;

/// The field's value breaks a rule.
pub(super) fn invalid(field: impl fmt::Display, problem: impl fmt::Display) -> SpecError {
    SpecError::Invalid {
        field: field.to_string(),
        problem: problem.to_string(),
    }
}

/// The field asks for something that this node does not have.
pub(super) fn lacking(field: impl fmt::Display, problem: impl fmt::Display) -> SpecError {
    SpecError::Lacking {
        field: field.to_string(),
        problem: problem.to_string(),
    }
}

/// The field asks for something that Hove does not do yet.
pub(super) fn unsupported(field: impl fmt::Display, problem: impl fmt::Display) -> SpecError {
    SpecError::Unsupported {
        field: field.to_string(),
        problem: problem.to_string(),
    }
}
