//! From a step's number and errno to a sentence.

use rustix::io::Errno;
use rustix::thread::CapabilitySet;

use super::command::Names;
use super::step::Step;
use crate::Error;

/// What [`Report::detail`](crate::handshake::Report) means for [`Step::Exec`].
pub(crate) mod detail {
    /// The program's file is there, so what is missing is the interpreter that it names.
    pub(crate) const FILE_EXISTS: u64 = 1;
    /// A candidate was there but not executable.
    pub(crate) const DENIED: u64 = 2;
}

/// What the parent keeps of a plan.
#[derive(Debug)]
pub(crate) struct Story {
    pub steps: Vec<Step>,
    /// For /proc/PID/timens_offsets.
    pub clocks: Option<String>,
    pub command: Names,
}

impl Story {
    pub fn describe_failure(&self, step: usize, errno: Errno, detail: u64) -> Error {
        match self.steps.get(step) {
            Some(Step::Exec) => self.command.failure(errno, detail),
            Some(Step::EnterDirectory { path, .. }) if errno == Errno::XDEV => Error::spec(
                "process.cwd",
                path.to_string_lossy(),
                "must be inside the container's root",
            ),
            Some(Step::OpenLabel) if errno == Errno::NOENT => {
                Error::unsupported("process.apparmorProfile", "AppArmor, by this kernel,")
            }
            Some(Step::Label { profile, .. }) if errno == Errno::NOENT => Error::spec(
                "process.apparmorProfile",
                profile,
                "must be loaded into the kernel (apparmor_parser --replace FILE)",
            ),
            Some(step) => Error::Step {
                step: step.to_string(),
                errno,
            },
            None => Error::Step {
                step: format!("do step {step}"),
                errno,
            },
        }
    }

    pub fn describe_notice(&self, step: usize, detail: u64) -> String {
        match self.steps.get(step) {
            Some(Step::OomScore { value }) => {
                let kept = detail as u32 as i32;
                format!("oom_score_adj stays at {kept}: lowering it to {value} takes CAP_SYS_RESOURCE")
            }
            Some(Step::ResourceLimit { name, hard, .. }) => {
                let wanted = hard.map_or("unlimited".to_owned(), |h| h.to_string());
                format!("{name} is limited to {detail}: raising its hard limit to {wanted} takes CAP_SYS_RESOURCE")
            }
            Some(Step::SetCapabilities(_)) => {
                let names: Vec<_> = CapabilitySet::from_bits_retain(detail)
                    .iter_names()
                    .map(|(n, _)| n)
                    .collect();
                format!("not given, because Hove itself lacks it: CAP_{}", names.join(", CAP_"))
            }
            Some(step) => format!("could not {step} ({detail})"),
            None => format!("step {step}: {detail}"),
        }
    }
}
