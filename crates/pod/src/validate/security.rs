//! The rules for securityContext, of pods and of containers.

use k8s_openapi::api::core::v1::{Container, PodSpec, SeccompProfile};

use super::Once;
use crate::{path::Path, problem::Found};

/// Users and groups are numbered from 0 to 2³¹−1.
fn id(found: &mut Found, path: Path<'_>, id: Option<i64>) {
    if let Some(id) = id
        && !(0..=i64::from(i32::MAX)).contains(&id)
    {
        found.invalid(path, id, format!("must be between 0 and {}, inclusive", i32::MAX));
    }
}

pub fn pod(spec: &PodSpec, path: &Path<'_>, found: &mut Found) {
    let Some(context) = &spec.security_context else { return };
    id(found, path.field("runAsUser"), context.run_as_user);
    id(found, path.field("runAsGroup"), context.run_as_group);
    id(found, path.field("fsGroup"), context.fs_group);
    if let Some(policy) = &context.fs_group_change_policy {
        found.one_of(path.field("fsGroupChangePolicy"), policy, &["Always", "OnRootMismatch"]);
    }
    let groups = path.field("supplementalGroups");
    for (n, group) in context.supplemental_groups.iter().flatten().enumerate() {
        id(found, groups.index(n), Some(*group));
    }
    if let Some(policy) = &context.supplemental_groups_policy {
        found.one_of(path.field("supplementalGroupsPolicy"), policy, &["Merge", "Strict"]);
    }
    seccomp(context.seccomp_profile.as_ref(), &path.field("seccompProfile"), found);
    let sysctls = path.field("sysctls");
    let mut once = Once::new();
    for (n, sysctl) in context.sysctls.iter().flatten().enumerate() {
        let path = sysctls.index(n);
        let name = sysctl.name.replace('/', ".");
        if name.is_empty() {
            found.required(path.field("name"));
            continue;
        }
        once.check(found, path.field("name"), &name);
        if spec.host_network == Some(true) && name.starts_with("net.") {
            found.invalid(
                path.field("name"),
                &sysctl.name,
                "may not be specified when 'hostNetwork' is true",
            );
        }
        let ipc = name.starts_with("kernel.shm")
            || name.starts_with("kernel.msg")
            || name == "kernel.sem"
            || name.starts_with("fs.mqueue.");
        if spec.host_ipc == Some(true) && ipc {
            found.invalid(
                path.field("name"),
                &sysctl.name,
                "may not be specified when 'hostIPC' is true",
            );
        } else if !ipc && !name.starts_with("net.") {
            found.forbidden(path.field("name"), "only sysctls that belong to the pod's own namespaces (net.*, kernel.shm*, kernel.msg*, kernel.sem, fs.mqueue.*) can be set");
        }
    }
}

pub fn container(container: &Container, path: &Path<'_>, found: &mut Found) {
    let Some(context) = &container.security_context else {
        return;
    };
    id(found, path.field("runAsUser"), context.run_as_user);
    id(found, path.field("runAsGroup"), context.run_as_group);
    seccomp(context.seccomp_profile.as_ref(), &path.field("seccompProfile"), found);
    if context.allow_privilege_escalation == Some(false) {
        if context.privileged == Some(true) {
            found.invalid(
                *path,
                "allowPrivilegeEscalation: false",
                "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            );
        }
        let added = context
            .capabilities
            .iter()
            .flat_map(|capabilities| capabilities.add.iter().flatten());
        if added
            .into_iter()
            .any(|capability| matches!(capability.as_str(), "CAP_SYS_ADMIN" | "SYS_ADMIN"))
        {
            found.invalid(
                *path,
                "allowPrivilegeEscalation: false",
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.add` to CAP_SYS_ADMIN",
            );
        }
    }
}

/// AppArmor's old form, which asks for as much as the field `appArmorProfile`: that one is refused by its name.
const APPARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

pub fn annotation(found: &mut Found, path: &Path<'_>, key: &str, value: &str) {
    if key.starts_with(APPARMOR_ANNOTATION) && value != "unconfined" {
        found.not_honoured(path.key(key), value);
    }
}

fn seccomp(profile: Option<&SeccompProfile>, path: &Path<'_>, found: &mut Found) {
    let Some(profile) = profile else { return };
    found.one_of(
        path.field("type"),
        &profile.type_,
        &["Localhost", "RuntimeDefault", "Unconfined"],
    );
    let localhost = path.field("localhostProfile");
    match (profile.type_.as_str(), &profile.localhost_profile) {
        ("Localhost", None) => {
            found.push(
                localhost,
                crate::Rule::Required("must be set when seccomp type is Localhost".into()),
            );
        }
        ("Localhost", Some(file)) if file.starts_with('/') || file.split('/').any(|part| part == "..") => {
            found.invalid(localhost, file, "must be a relative path without '..'");
        }
        ("Localhost", Some(_)) | (_, None) => {}
        (_, Some(file)) => found.invalid(localhost, file, "can only be set when seccomp type is Localhost"),
    }
}
