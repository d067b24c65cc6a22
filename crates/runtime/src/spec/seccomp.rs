//! Which seccomp profile a container asks for. The RuntimeDefault profile belongs to the starter, so the spec only names
//! it, by an annotation; a Localhost profile is read from its file and stands in the spec.

use std::path::PathBuf;

use cri::v1::{LinuxContainerSecurityContext, SecurityProfile, security_profile::ProfileType};

use super::{Result, error::invalid};

/// A seccomp profile by where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Profile {
    /// No filter.
    Unconfined,
    /// Hove's own.
    RuntimeDefault,
    /// The file of this path, in OCI's JSON.
    Localhost(PathBuf),
}

/// What a container asks for. A privileged container has no filter. No word about it means none either.
pub fn container_profile(security: &LinuxContainerSecurityContext) -> Result<Profile> {
    if security.privileged {
        return Ok(Profile::Unconfined);
    }
    #[allow(deprecated)] // Older kubelets and crictl still send the path alone.
    profile(security.seccomp.as_ref(), &security.seccomp_profile_path)
}

/// The profile of either field: the newer one wins.
pub(super) fn profile(profile: Option<&SecurityProfile>, path: &str) -> Result<Profile> {
    let Some(profile) = profile else { return by_path(path) };
    match ProfileType::try_from(profile.profile_type) {
        Ok(ProfileType::RuntimeDefault) => Ok(Profile::RuntimeDefault),
        Ok(ProfileType::Unconfined) => Ok(Profile::Unconfined),
        Ok(ProfileType::Localhost) => localhost(&profile.localhost_ref),
        Err(_) => Err(invalid(
            "seccomp.profile_type",
            format_args!("{} is not a profile's type", profile.profile_type),
        )),
    }
}

fn by_path(path: &str) -> Result<Profile> {
    match path {
        "" | "unconfined" => Ok(Profile::Unconfined),
        "runtime/default" | "docker/default" => Ok(Profile::RuntimeDefault),
        _ => match path.strip_prefix("localhost/") {
            Some(file) => localhost(file),
            None => Err(invalid(
                "seccomp_profile_path",
                format_args!("{path:?} is none of unconfined, runtime/default, localhost/FILE"),
            )),
        },
    }
}

fn localhost(file: &str) -> Result<Profile> {
    if !file.starts_with('/') {
        return Err(invalid(
            "seccomp.localhost_ref",
            format_args!("{file:?} is not an absolute path"),
        ));
    }
    Ok(Profile::Localhost(file.into()))
}
