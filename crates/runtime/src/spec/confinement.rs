//! AppArmor, by the name of a profile; and SELinux, by which Hove confines nothing yet, so that what asks for it is refused by
//! name. A pod that is less confined than its author wrote would be worse than none.

use cri::v1::{
    LinuxContainerSecurityContext, LinuxSandboxSecurityContext, Mount, SeLinuxOption, SecurityProfile,
    security_profile::ProfileType,
};

use super::{
    Facts, Result,
    error::{invalid, lacking, unsupported},
};

/// Which security modules the host's kernel enforces.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SecurityModules {
    /// AppArmor.
    pub apparmor: bool,
    /// SELinux.
    pub selinux: bool,
}

/// The profile that RuntimeDefault means. The node loads it when it starts.
pub const DEFAULT_PROFILE: &str = "hove-default";

/// Checks what a container asks for, its mounts included, and names the AppArmor profile that it gets.
pub(super) fn container(
    security: &LinuxContainerSecurityContext,
    mounts: &[Mount],
    facts: &Facts,
) -> Result<Option<String>> {
    let host = facts.security_modules;
    #[allow(deprecated)] // Older kubelets and crictl still send the name alone.
    let old = &security.apparmor_profile;
    let profile = match &security.apparmor {
        // A privileged container is confined by nothing, whatever else is asked for.
        _ if security.privileged => None,
        Some(profile) => apparmor(profile, host)?,
        None => apparmor_by_name(old, host)?,
    };
    if let (Some(profile), Some(loaded)) = (&profile, &facts.apparmor_profiles)
        && !loaded.contains(profile)
    {
        return Err(match profile == DEFAULT_PROFILE {
            true => lacking(
                "apparmor",
                "Hove's own AppArmor profile could not be loaded when the node started (is the package apparmor installed?)",
            ),
            false => invalid(
                "apparmor",
                format_args!(
                    "AppArmor profile {profile:?} is not loaded on this node (apparmor_parser --replace FILE)"
                ),
            ),
        });
    }
    selinux(security.selinux_options.as_ref(), host)?;
    // Without SELinux a file has no label that could be changed.
    match mounts.iter().position(|mount| mount.selinux_relabel && host.selinux) {
        Some(index) => Err(unsupported(
            format_args!("mounts[{index}].selinux_relabel"),
            "volumes can't be relabelled yet",
        )),
        None => Ok(profile),
    }
}

/// Checks what a sandbox asks for. pause gets no profile but one that is asked for by name: it is ours, and can do nothing.
pub(super) fn sandbox(security: &LinuxSandboxSecurityContext, host: SecurityModules) -> Result<Option<String>> {
    selinux(security.selinux_options.as_ref(), host)?;
    let profile = security
        .apparmor
        .as_ref()
        .map(|profile| apparmor(profile, host))
        .transpose()?;
    Ok(profile.flatten().filter(|profile| profile != DEFAULT_PROFILE))
}

/// Whether a container asks for a profile at all.
pub fn asks_for_apparmor(security: &LinuxContainerSecurityContext) -> bool {
    #[allow(deprecated)]
    let old = &security.apparmor_profile;
    security.apparmor.is_some() || !old.is_empty()
}

fn apparmor(profile: &SecurityProfile, host: SecurityModules) -> Result<Option<String>> {
    match ProfileType::try_from(profile.profile_type) {
        Ok(ProfileType::Unconfined) => Ok(None),
        Ok(ProfileType::RuntimeDefault) => Ok(default_profile(host)),
        Ok(ProfileType::Localhost) => localhost("apparmor.localhost_ref", &profile.localhost_ref, host),
        Err(_) => Err(invalid(
            "apparmor.profile_type",
            format_args!("{} is not a profile's type", profile.profile_type),
        )),
    }
}

fn apparmor_by_name(name: &str, host: SecurityModules) -> Result<Option<String>> {
    const FIELD: &str = "apparmor_profile";
    match name {
        // No word about it means the default, where there is one, as everywhere in the field.
        "" | "runtime/default" => Ok(default_profile(host)),
        "unconfined" => Ok(None),
        _ => match name.strip_prefix("localhost/") {
            Some(profile) => localhost(FIELD, profile, host),
            None => Err(invalid(
                FIELD,
                format_args!("{name:?} is none of unconfined, runtime/default, localhost/PROFILE"),
            )),
        },
    }
}

/// The default is to be confined where the node can: without AppArmor it asks for nothing.
fn default_profile(host: SecurityModules) -> Option<String> {
    host.apparmor.then(|| DEFAULT_PROFILE.to_owned())
}

fn localhost(field: &str, profile: &str, host: SecurityModules) -> Result<Option<String>> {
    // Kubelet of before 1.30 leaves the prefix in the newer field.
    let profile = profile.strip_prefix("localhost/").unwrap_or(profile);
    if profile.is_empty() || profile.contains(|c: char| c.is_whitespace() || c == '\0') {
        return Err(invalid(field, format_args!("{profile:?} is no profile's name")));
    }
    match host.apparmor {
        true => Ok(Some(profile.to_owned())),
        false => Err(lacking(
            field,
            format_args!("AppArmor profile {profile:?} is asked for, and this node has no AppArmor"),
        )),
    }
}

fn selinux(label: Option<&SeLinuxOption>, host: SecurityModules) -> Result<()> {
    const FIELD: &str = "selinux_options";
    let Some(SeLinuxOption {
        user,
        role,
        r#type,
        level,
    }) = label
    else {
        return Ok(());
    };
    let label = format!("{user}:{role}:{}:{level}", r#type);
    if label == ":::" {
        return Ok(());
    }
    Err(match host.selinux {
        true => unsupported(FIELD, format_args!("SELinux label {label} can't be applied yet")),
        false => lacking(
            FIELD,
            format_args!("SELinux label {label} is asked for, and this node has no SELinux"),
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: SecurityModules = SecurityModules {
        apparmor: false,
        selinux: false,
    };
    const BOTH: SecurityModules = SecurityModules {
        apparmor: true,
        selinux: true,
    };

    fn profile(kind: ProfileType, name: &str) -> LinuxContainerSecurityContext {
        LinuxContainerSecurityContext {
            apparmor: Some(SecurityProfile {
                profile_type: kind.into(),
                localhost_ref: name.into(),
            }),
            ..Default::default()
        }
    }

    fn old(name: &str) -> LinuxContainerSecurityContext {
        #[allow(deprecated)]
        LinuxContainerSecurityContext {
            apparmor_profile: name.into(),
            ..Default::default()
        }
    }

    fn label(kind: &str) -> LinuxContainerSecurityContext {
        LinuxContainerSecurityContext {
            selinux_options: Some(SeLinuxOption {
                r#type: kind.into(),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn on(host: SecurityModules, loaded: Option<&[&str]>) -> Facts {
        Facts {
            security_modules: host,
            apparmor_profiles: loaded.map(|list| list.iter().map(|p| (*p).to_owned()).collect()),
            ..Facts::default()
        }
    }

    /// The profile, or the error.
    fn outcome(security: &LinuxContainerSecurityContext, facts: &Facts) -> String {
        match container(security, &[], facts) {
            Ok(profile) => profile.unwrap_or_default(),
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn nothing_that_is_asked_for_is_ignored() {
        use ProfileType::{Localhost, RuntimeDefault, Unconfined};
        for (security, on_none, on_both) in [
            (LinuxContainerSecurityContext::default(), "", DEFAULT_PROFILE),
            (profile(Unconfined, ""), "", ""),
            (old("unconfined"), "", ""),
            (profile(RuntimeDefault, ""), "", DEFAULT_PROFILE),
            (old("runtime/default"), "", DEFAULT_PROFILE),
            (
                profile(Localhost, "web"),
                "apparmor.localhost_ref: AppArmor profile \"web\" is asked for, and this node has no AppArmor",
                "web",
            ),
            (
                old("localhost/web"),
                "apparmor_profile: AppArmor profile \"web\" is asked for, and this node has no AppArmor",
                "web",
            ),
            (
                profile(Localhost, "a b"),
                "apparmor.localhost_ref: \"a b\" is no profile's name",
                "apparmor.localhost_ref: \"a b\" is no profile's name",
            ),
            (
                old("web"),
                "apparmor_profile: \"web\" is none of unconfined, runtime/default, localhost/PROFILE",
                "apparmor_profile: \"web\" is none of unconfined, runtime/default, localhost/PROFILE",
            ),
            (label(""), "", DEFAULT_PROFILE),
            (
                label("spc_t"),
                "selinux_options: SELinux label ::spc_t: is asked for, and this node has no SELinux",
                "selinux_options: SELinux label ::spc_t: can't be applied yet",
            ),
        ] {
            for (host, expected) in [(NONE, on_none), (BOTH, on_both)] {
                assert_eq!(
                    outcome(&security, &on(host, None)),
                    expected,
                    "{security:?} on {host:?}"
                );
            }
        }
        let relabelled = [Mount {
            selinux_relabel: true,
            ..Default::default()
        }];
        let security = LinuxContainerSecurityContext::default();
        assert_eq!(container(&security, &relabelled, &on(NONE, None)), Ok(None));
        let error = container(&security, &relabelled, &on(BOTH, None))
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("mounts[0].selinux_relabel"), "{error}");
    }

    #[test]
    fn a_profile_that_is_not_loaded_is_named() {
        let web = profile(ProfileType::Localhost, "web");
        assert_eq!(outcome(&web, &on(BOTH, Some(&["web", DEFAULT_PROFILE]))), "web");
        let missing = outcome(&web, &on(BOTH, Some(&[DEFAULT_PROFILE])));
        assert!(missing.contains("\"web\" is not loaded on this node"), "{missing}");
        let missing = outcome(&profile(ProfileType::RuntimeDefault, ""), &on(BOTH, Some(&[])));
        assert!(
            missing.contains("could not be loaded when the node started"),
            "{missing}"
        );
        // Privileged: confined by nothing.
        let mut privileged = profile(ProfileType::RuntimeDefault, "");
        privileged.privileged = true;
        assert_eq!(outcome(&privileged, &on(BOTH, Some(&[]))), "");
    }
}
