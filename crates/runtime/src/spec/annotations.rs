//! `annotations`: what the starter and the shim need to know and OCI has no field for, and what other vendors' shims
//! look for.

use std::collections::HashMap;

use cri::v1::{LinuxContainerSecurityContext, PodSandboxConfig};
use oci_spec::image::ImageConfiguration;

use super::{ContainerInputs, Profile, Result, container_profile, user};

/// Who the container runs as, in the form of an image's `USER`; resolved in the container's own root.
pub const USER: &str = "dev.hove.user";
/// `Merge` or `Strict`.
pub const GROUPS_POLICY: &str = "dev.hove.supplemental-groups-policy";
/// [`RUNTIME_DEFAULT`]: the starter's own seccomp profile.
pub const SECCOMP: &str = "dev.hove.seccomp";
/// The value of [`SECCOMP`].
pub const RUNTIME_DEFAULT: &str = "runtime-default";

/// A JSON list of the mounts' sources in which the starter is to follow no link: they are resolved already.
pub const RESOLVED_SOURCES: &str = "dev.hove.resolved-sources";

pub(super) fn container(
    inputs: &ContainerInputs<'_>,
    security: &LinuxContainerSecurityContext,
) -> Result<HashMap<String, String>> {
    let mut annotations = of_pod("container", inputs.sandbox_id, inputs.sandbox);
    let name = inputs
        .config
        .metadata
        .as_ref()
        .map(|m| m.name.clone())
        .unwrap_or_default();
    annotations.insert("io.kubernetes.cri.container-name".into(), name);
    mark_user(&mut annotations, security, inputs.image)?;
    mark_seccomp(&mut annotations, &container_profile(security)?);
    if !inputs.facts.mount_sources.is_empty() {
        // A path that is not UTF-8 stands in no spec, and so in no list of these.
        let sources: Vec<_> = inputs.facts.mount_sources.iter().filter_map(|p| p.to_str()).collect();
        annotations.insert(RESOLVED_SOURCES.into(), serde_json::json!(sources).to_string());
    }
    Ok(annotations)
}

/// The names under which containerd's CRI plug-in tells a shim which pod a container belongs to.
pub(super) fn of_pod(kind: &str, sandbox_id: &str, config: &PodSandboxConfig) -> HashMap<String, String> {
    let metadata = config.metadata.clone().unwrap_or_default();
    HashMap::from([
        ("io.kubernetes.cri.container-type".into(), kind.into()),
        ("io.kubernetes.cri.sandbox-id".into(), sandbox_id.into()),
        ("io.kubernetes.cri.sandbox-name".into(), metadata.name),
        ("io.kubernetes.cri.sandbox-namespace".into(), metadata.namespace),
        ("io.kubernetes.cri.sandbox-uid".into(), metadata.uid),
    ])
}

pub(super) fn mark_user(
    annotations: &mut HashMap<String, String>,
    security: &LinuxContainerSecurityContext,
    image: &ImageConfiguration,
) -> Result<()> {
    annotations.insert(USER.into(), user::request(security, image)?);
    annotations.insert(GROUPS_POLICY.into(), user::groups_policy(security)?.into());
    Ok(())
}

pub(super) fn mark_seccomp(annotations: &mut HashMap<String, String>, profile: &Profile) {
    if *profile == Profile::RuntimeDefault {
        annotations.insert(SECCOMP.into(), RUNTIME_DEFAULT.into());
    }
}
