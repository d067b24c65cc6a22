//! Why a profile can't be compiled.

/// The result of compiling.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a profile can't be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Too many rules.
    #[error("the profile takes {instructions} instructions, the kernel's limit is {max}: it needs fewer rules")]
    TooLong {
        /// What it would take.
        instructions: usize,
        /// What is possible.
        max: usize,
    },
    /// An argument that no system call has.
    #[error("a rule for {call} names argument {index}: system calls have arguments 0 to 5")]
    Argument {
        /// The system call.
        call: String,
        /// The argument's number.
        index: usize,
    },
    /// An errno that doesn't exist.
    #[error("errnoRet {errno} is not an errno: the largest is 4095")]
    Errno {
        /// The number.
        errno: u32,
    },
    /// An action that needs what Hove does not have.
    #[error("the action {action} needs a listener, which is not supported: use SCMP_ACT_ERRNO or SCMP_ACT_LOG instead")]
    Listener {
        /// The action's name.
        action: String,
    },
}
