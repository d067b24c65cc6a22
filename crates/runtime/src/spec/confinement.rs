//! AppArmor and SELinux: Hove confines nothing by them yet, so what asks for more than nothing is refused by name. A pod
//! that is less confined than its author wrote would be worse than none.

use cri::v1::{
    LinuxContainerSecurityContext, LinuxSandboxSecurityContext, Mount, SeLinuxOption, SecurityProfile,
    security_profile::ProfileType,
};

use super::{
    Result,
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

/// Checks what a container asks for, its mounts included.
pub(super) fn container(
    security: &LinuxContainerSecurityContext,
    mounts: &[Mount],
    host: SecurityModules,
) -> Result<()> {
    #[allow(deprecated)] // Older kubelets and crictl still send the name alone.
    let old = &security.apparmor_profile;
    match &security.apparmor {
        Some(profile) => apparmor(profile, host)?,
        None => apparmor_by_name(old, host)?,
    }
    selinux(security.selinux_options.as_ref(), host)?;
    // Without SELinux a file has no label that could be changed.
    match mounts.iter().position(|mount| mount.selinux_relabel && host.selinux) {
        Some(index) => Err(unsupported(
            format_args!("mounts[{index}].selinux_relabel"),
            "volumes can't be relabelled yet",
        )),
        None => Ok(()),
    }
}

/// Checks what a sandbox asks for.
pub(super) fn sandbox(security: &LinuxSandboxSecurityContext, host: SecurityModules) -> Result<()> {
    if let Some(profile) = &security.apparmor {
        apparmor(profile, host)?;
    }
    selinux(security.selinux_options.as_ref(), host)
}

fn apparmor(profile: &SecurityProfile, host: SecurityModules) -> Result<()> {
    match ProfileType::try_from(profile.profile_type) {
        Ok(ProfileType::Unconfined) => Ok(()),
        Ok(ProfileType::RuntimeDefault) => apparmor_default("apparmor.profile_type", host),
        Ok(ProfileType::Localhost) => Err(apparmor_profile("apparmor.localhost_ref", &profile.localhost_ref, host)),
        Err(_) => Err(invalid(
            "apparmor.profile_type",
            format_args!("{} is not a profile's type", profile.profile_type),
        )),
    }
}

fn apparmor_by_name(name: &str, host: SecurityModules) -> Result<()> {
    const FIELD: &str = "apparmor_profile";
    match name {
        "" | "unconfined" => Ok(()),
        "runtime/default" => apparmor_default(FIELD, host),
        _ => match name.strip_prefix("localhost/") {
            Some(profile) => Err(apparmor_profile(FIELD, profile, host)),
            None => Err(invalid(
                FIELD,
                format_args!("{name:?} is none of unconfined, runtime/default, localhost/PROFILE"),
            )),
        },
    }
}

/// The default is to be confined where the node can: without AppArmor it asks for nothing.
fn apparmor_default(field: &str, host: SecurityModules) -> Result<()> {
    match host.apparmor {
        true => Err(unsupported(
            field,
            "this node has AppArmor, and Hove brings no profile for it yet: ask for Unconfined",
        )),
        false => Ok(()),
    }
}

fn apparmor_profile(field: &str, profile: &str, host: SecurityModules) -> super::SpecError {
    match host.apparmor {
        true => unsupported(field, format_args!("AppArmor profile {profile:?} can't be applied yet")),
        false => lacking(
            field,
            format_args!("AppArmor profile {profile:?} is asked for, and this node has no AppArmor"),
        ),
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

    #[test]
    fn nothing_that_is_asked_for_is_ignored() {
        use ProfileType::{Localhost, RuntimeDefault, Unconfined};
        for (security, on_none, on_both) in [
            (LinuxContainerSecurityContext::default(), "", ""),
            (profile(Unconfined, ""), "", ""),
            (old("unconfined"), "", ""),
            (
                profile(RuntimeDefault, ""),
                "",
                "apparmor.profile_type: this node has AppArmor",
            ),
            (old("runtime/default"), "", "apparmor_profile: this node has AppArmor"),
            (
                profile(Localhost, "web"),
                "apparmor.localhost_ref: AppArmor profile \"web\" is asked for, and this node has no AppArmor",
                "apparmor.localhost_ref: AppArmor profile \"web\" can't be applied yet",
            ),
            (
                old("localhost/web"),
                "apparmor_profile: AppArmor profile \"web\" is asked for, and this node has no",
                "apparmor_profile: AppArmor profile \"web\" can't",
            ),
            (
                old("web"),
                "apparmor_profile: \"web\" is none of",
                "apparmor_profile: \"web\" is none of",
            ),
            (label(""), "", ""),
            (
                label("spc_t"),
                "selinux_options: SELinux label ::spc_t: is asked for, and this node has no SELinux",
                "selinux_options: SELinux label ::spc_t: can't be applied yet",
            ),
        ] {
            for (host, expected) in [(NONE, on_none), (BOTH, on_both)] {
                let message = container(&security, &[], host)
                    .err()
                    .map_or(String::new(), |e| e.to_string());
                assert!(
                    message.starts_with(expected) && message.is_empty() == expected.is_empty(),
                    "{security:?} on {host:?}: {message}"
                );
            }
        }
        let relabelled = [Mount {
            selinux_relabel: true,
            ..Default::default()
        }];
        let security = LinuxContainerSecurityContext::default();
        assert_eq!(container(&security, &relabelled, NONE), Ok(()));
        let error = container(&security, &relabelled, BOTH).unwrap_err().to_string();
        assert!(error.starts_with("mounts[0].selinux_relabel"), "{error}");
    }
}
