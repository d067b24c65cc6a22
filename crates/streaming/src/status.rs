//! The outcome of an exec or attach, as the `Status` object of Kubernetes' API that versions 4 and 5 of the channel
//! protocols put on the error channel. Version 1 sends the message as plain text, and nothing when all went well.

use serde_json::json;

/// How an exec or an attach ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Exit code 0, or the end of an attach.
    Success,
    /// Another exit code.
    ExitCode(i32),
    /// The process could not be started or watched.
    Failed(String),
}

impl Outcome {
    /// `meta/v1.Status`. A client finds the exit code in the cause `ExitCode`.
    pub fn to_json(&self) -> String {
        match self {
            Outcome::Success => json!({"metadata": {}, "status": "Success"}),
            Outcome::ExitCode(code) => json!({
                "metadata": {},
                "status": "Failure",
                "reason": "NonZeroExitCode",
                "message": format!("command terminated with non-zero exit code: {code}"),
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            }),
            Outcome::Failed(why) => json!({
                "metadata": {},
                "status": "Failure",
                "reason": "InternalError",
                "message": why,
                "code": 500,
            }),
        }
        .to_string()
    }

    /// What version 1 of the protocols sends; `None` when there is nothing to say.
    pub fn to_text(&self) -> Option<String> {
        match self {
            Outcome::Success => None,
            Outcome::ExitCode(code) => Some(format!("command terminated with non-zero exit code: {code}")),
            Outcome::Failed(why) => Some(why.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_a_cause() {
        let status: serde_json::Value = serde_json::from_str(&Outcome::ExitCode(42).to_json()).unwrap();
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(status["details"]["causes"][0]["reason"], "ExitCode");
        assert_eq!(status["details"]["causes"][0]["message"], "42");
    }

    #[test]
    fn success_is_said_by_version_4_alone() {
        assert!(Outcome::Success.to_json().contains("Success"));
        assert_eq!(Outcome::Success.to_text(), None);
    }
}
