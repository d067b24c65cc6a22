//! The rules for volumes and their mounts.

use k8s_openapi::api::core::v1::{Container, PodSpec, Volume};

use super::{Names, Once, names};
use crate::{path::Path, problem::Found, quantity::Quantity};

/// Checks the volumes; answers their names.
pub fn volumes(spec: &PodSpec, path: &Path<'_>, found: &mut Found) -> Names {
    let mut once = Once::new();
    let mut all = Names::new();
    for (n, volume) in spec.volumes.iter().flatten().enumerate() {
        let path = path.index(n);
        names::label(found, path.field("name"), &volume.name);
        if !volume.name.is_empty() {
            once.check(found, path.field("name"), &volume.name);
            all.insert(volume.name.clone());
        }
        source(volume, &path, found);
    }
    all
}

fn source(volume: &Volume, path: &Path<'_>, found: &mut Found) {
    let json = serde_json::to_value(volume).unwrap_or_default();
    let sources: Vec<&str> = json
        .as_object()
        .into_iter()
        .flatten()
        .map(|(field, _)| field.as_str())
        .filter(|field| *field != "name")
        .collect();
    match sources.as_slice() {
        [] => found.push(*path, crate::Rule::Required("must specify a volume type".into())),
        [_] => {}
        [_, more @ ..] => {
            for source in more {
                found.forbidden(path.field(source), "may not specify more than 1 volume type");
            }
        }
    }
    if let Some(host_path) = &volume.host_path {
        let path = path.field("hostPath");
        absolute_without_dots(found, path.field("path"), &host_path.path);
        let types = [
            "",
            "DirectoryOrCreate",
            "Directory",
            "FileOrCreate",
            "File",
            "Socket",
            "CharDevice",
            "BlockDevice",
        ];
        found.one_of(
            path.field("type"),
            host_path.type_.as_deref().unwrap_or_default(),
            &types,
        );
    }
    if let Some(empty_dir) = &volume.empty_dir {
        let medium = empty_dir.medium.as_deref().unwrap_or_default();
        found.one_of(path.field("emptyDir").field("medium"), medium, &["", "Memory"]);
        if let Some(limit) = &empty_dir.size_limit {
            let path = path.field("emptyDir");
            match limit.0.parse::<Quantity>() {
                Ok(quantity) if quantity.is_negative() => {
                    found.invalid(path.field("sizeLimit"), &limit.0, "must be greater than or equal to 0");
                }
                // On disk nobody would watch over it.
                Ok(_) if medium != "Memory" => found.not_honoured(path.field("sizeLimit"), "without medium: Memory"),
                Ok(_) => {}
                Err(error) => found.invalid(path.field("sizeLimit"), &limit.0, error.to_string()),
            }
        }
    }
}

/// A host's path may not climb: the user would not see from the manifest what is mounted.
fn absolute_without_dots(found: &mut Found, path: Path<'_>, text: &str) {
    if text.is_empty() {
        found.required(path);
    } else if !text.starts_with('/') {
        found.invalid(path, text, "must be an absolute path");
    } else if text.split('/').any(|part| part == "..") {
        found.invalid(path, text, "must not contain '..'");
    }
}

/// Checks a container's mounts against the pod's volumes.
pub fn mounts(container: &Container, path: &Path<'_>, volumes: &Names, found: &mut Found) {
    let mut once = Once::new();
    let privileged = container
        .security_context
        .as_ref()
        .and_then(|context| context.privileged)
        .unwrap_or_default();
    for (n, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let path = path.index(n);
        if mount.name.is_empty() {
            found.required(path.field("name"));
        } else if !volumes.contains(&mount.name) {
            found.not_found(path.field("name"), &mount.name);
        }
        if mount.mount_path.is_empty() {
            found.required(path.field("mountPath"));
        } else {
            // "/data" and "/data/" are one place.
            let trimmed = mount.mount_path.trim_end_matches('/');
            if mount.mount_path.split('/').any(|part| part == "..") {
                found.invalid(path.field("mountPath"), &mount.mount_path, "must not contain '..'");
            } else if once.0.insert(trimmed.to_owned(), ()).is_some() {
                found.invalid(path.field("mountPath"), &mount.mount_path, "must be unique");
            }
        }
        if let Some(propagation) = &mount.mount_propagation {
            let path = path.field("mountPropagation");
            found.one_of(path, propagation, &["None", "HostToContainer", "Bidirectional"]);
            if propagation == "Bidirectional" && !privileged {
                found.forbidden(
                    path,
                    "Bidirectional mount propagation is available only to privileged containers",
                );
            }
        }
    }
}
