//! The AppArmor profile under which the program will run.

use oci_spec::runtime::Process;

use super::step::Step;
use super::text::c_string;
use crate::Result;

/// The profile that is asked for. "unconfined" is one as well: it says that none is wanted, which needs no doing, since a
/// program keeps what it was started under, and Hove itself runs under none.
fn profile(process: &Process) -> Option<&str> {
    let profile = process.apparmor_profile().as_deref()?;
    (!profile.is_empty() && profile != "unconfined").then_some(profile)
}

/// The file that the kernel takes the order from. Opened while /proc is the host's.
pub(crate) fn open(process: &Process, steps: &mut Vec<Step>) {
    if profile(process).is_some() {
        steps.push(Step::OpenLabel);
    }
}

/// The order: it is carried out by the next exec.
pub(crate) fn ask(process: &Process, steps: &mut Vec<Step>) -> Result<()> {
    if let Some(profile) = profile(process) {
        steps.push(Step::Label {
            profile: profile.to_owned(),
            order: c_string("process.apparmorProfile", &format!("exec {profile}"))?,
        });
    }
    Ok(())
}
