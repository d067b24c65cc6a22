//! Hove's own AppArmor profile, which RuntimeDefault means: loaded when the node starts, by the one helper program that Hove
//! ever runs (the policy's compiler is part of AppArmor, and no library). It stays loaded: containers outlive the node.

use std::io::Write;
use std::process::{Command, Stdio};

use tracing::{info, warn};

use crate::spec::DEFAULT_PROFILE;

/// Which profiles the kernel has; one a line, as "NAME (MODE)".
const PROFILES: &str = "/sys/kernel/security/apparmor/profiles";

/// What a container may not do, whatever its capabilities: change the kernel through /proc and /sys, mount, or look into
/// processes that are not confined as it is. Everything else is left to capabilities, seccomp and namespaces.
const POLICY: &str = include_str!("hove-default.apparmor");

/// Loads the default profile, in place of an older one. A failure is said in the log, and again to whoever asks for the
/// profile: a node without the parser runs all other pods.
pub(crate) fn load_default() {
    match parse(POLICY) {
        Ok(()) => info!(profile = DEFAULT_PROFILE, "AppArmor profile is loaded"),
        Err(error) => warn!(
            profile = DEFAULT_PROFILE,
            error, "AppArmor profile can't be loaded: containers that ask for RuntimeDefault will be refused"
        ),
    }
}

fn parse(policy: &str) -> Result<(), String> {
    let mut parser = Command::new("apparmor_parser")
        // The cache of the distribution is not ours to write.
        .args(["--replace", "--skip-cache"])
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("apparmor_parser: {e} (the package apparmor has it)"))?;
    if let Some(mut stdin) = parser.stdin.take() {
        // One that does not read says why on its standard error.
        let _ = stdin.write_all(policy.as_bytes());
    }
    let output = parser.wait_with_output().map_err(|e| format!("apparmor_parser: {e}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!(
            "apparmor_parser: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        )),
    }
}

/// The profiles that the kernel has; none where the list can't be read (securityfs is not mounted): then the kernel itself
/// says what is missing, when a container starts.
pub(crate) fn loaded() -> Option<Vec<String>> {
    let list = std::fs::read_to_string(PROFILES).ok()?;
    Some(list.lines().map(name).map(str::to_owned).collect())
}

fn name(line: &str) -> &str {
    line.rsplit_once(" (").map_or(line, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(name("hove-default (enforce)"), "hove-default");
        assert_eq!(name("/usr/bin/man (complain)"), "/usr/bin/man");
        assert!(POLICY.contains(&format!("profile {DEFAULT_PROFILE} ")));
    }

    #[test]
    fn the_default_profile_loads() {
        if !crate::container::security_modules().apparmor {
            println!("SKIPPED: the_default_profile_loads: this kernel has no AppArmor (cargo xtask vm has one)");
            return;
        }
        parse(POLICY).unwrap();
        assert!(loaded().unwrap().iter().any(|p| p == DEFAULT_PROFILE));
        // What is no policy is refused with the parser's own words.
        assert!(parse("profile x {").unwrap_err().contains("apparmor_parser"));
    }
}
