//! The files of a pod that are the engine's own.
//!
//! ```text
//! ROOT/pods/UID/etc-hosts                   /etc/hosts of its containers
//! ROOT/pods/UID/containers/NAME/ATTEMPT     behind terminationMessagePath
//! ROOT/pods/UID/volumes/…                   crate volume's
//! LOG_ROOT/NAMESPACE_NAME_UID/NAME/         where the runtime writes ATTEMPT.log
//! ```

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::{Pod, Volume};
use pod::quantity::Quantity;
use volume::{ChangePolicy, FsGroup, HostPathType, Medium, Source, Volumes};

use crate::config::{Identity, Node, container, hosts, sandbox};

/// How much of a termination message counts, as in Kubernetes.
const MESSAGE_LIMIT: u64 = 4096;
/// How much of the log stands in for it.
const LOG_TAIL_LINES: u64 = 80;
const LOG_TAIL_BYTES: usize = 2048;

/// A file operation failed.
#[derive(Debug, thiserror::Error)]
#[error("{what} {path}: {source}", path = path.display())]
pub(crate) struct FileError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError { what, path, source }
}

/// Makes the directory of a pod's logs.
pub(crate) fn make_log_directory(pod: Identity<'_>, node: &Node) -> Result<(), FileError> {
    let path = pod.log_directory(node);
    fs::create_dir_all(&path).map_err(failed("make the log directory", &path))
}

/// Removes it with the logs.
pub(crate) fn remove_log_directory(pod: Identity<'_>, node: &Node) -> Result<(), FileError> {
    let path = pod.log_directory(node);
    match fs::remove_dir_all(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove the log directory", &path)(error)),
        _ => Ok(()),
    }
}

/// Makes what a container's mounts and log need.
pub(crate) fn make_container_files(
    pod: &Pod,
    name: &str,
    attempt: u32,
    pod_ips: &[String],
    node: &Node,
) -> Result<(), FileError> {
    let identity = Identity::of(pod);
    let logs = identity.log_directory(node).join(name);
    fs::create_dir_all(&logs).map_err(failed("make the log directory", &logs))?;
    make_hosts_file(pod, pod_ips, node)?;
    let message = container::termination_message(node, identity.uid, name, attempt);
    if let Some(directory) = message.parent() {
        fs::create_dir_all(directory).map_err(failed("make the directory", directory))?;
    }
    let file = fs::OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(false)
        .mode(0o666)
        .open(&message);
    let file = file.map_err(failed("make the termination message", &message))?;
    // Whoever the container runs as may write it, whatever our umask is.
    file.set_permissions(fs::Permissions::from_mode(0o666))
        .map_err(failed("open to all", &message))
}

/// Written only if it differs: containers have the file itself mounted, so it must stay the same file.
fn make_hosts_file(pod: &Pod, pod_ips: &[String], node: &Node) -> Result<(), FileError> {
    let spec = pod.spec.clone().unwrap_or_default();
    let identity = Identity::of(pod);
    let text = hosts::text(&spec, pod_ips, &sandbox::hostname(&spec, identity.name), &node.hosts);
    let path = container::hosts_file(node, identity.uid);
    if fs::read_to_string(&path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(failed("make the directory", directory))?;
    }
    fs::write(&path, text).map_err(failed("write", &path))
}

/// What a container left behind as its last words; empty if nothing.
pub(crate) fn termination_message(path: &Path, policy: &str, exit_code: i32, log: &Path) -> String {
    let mut message = Vec::new();
    if let Ok(file) = fs::OpenOptions::new().read(true).open(path) {
        // What can't be read is as good as not written.
        let _ = file.take(MESSAGE_LIMIT).read_to_end(&mut message);
    }
    if message.is_empty() && policy == "FallbackToLogsOnError" && exit_code != 0 {
        message = log_tail(log);
    }
    String::from_utf8_lossy(&message).into_owned()
}

fn log_tail(log: &Path) -> Vec<u8> {
    let query = logs::Query {
        tail_lines: Some(LOG_TAIL_LINES),
        ..logs::Query::default()
    };
    let mut tail = Vec::new();
    if let Ok(mut reader) = logs::Reader::open(log, &query) {
        while let Ok(logs::Progress::More) = reader.read(&mut tail) {
            // Lines can be long; only the end is wanted.
            let surplus = tail.len().saturating_sub(LOG_TAIL_BYTES);
            tail.drain(..surplus);
        }
    }
    let surplus = tail.len().saturating_sub(LOG_TAIL_BYTES);
    tail.drain(..surplus);
    tail
}

/// Makes a pod's volumes; answers where each is on the host.
pub(crate) fn make_volumes(pod: &Pod, volumes: &Volumes) -> Result<BTreeMap<String, PathBuf>, volume::Error> {
    let identity = Identity::of(pod);
    let group = fs_group(pod);
    let mut paths = BTreeMap::new();
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        // Validation lets no other kinds pass.
        if let Some(source) = source(volume) {
            paths.insert(
                volume.name.clone(),
                volumes.prepare(identity.uid, &volume.name, &source, group)?,
            );
        }
    }
    Ok(paths)
}

fn fs_group(pod: &Pod) -> Option<FsGroup> {
    let context = pod.spec.as_ref()?.security_context.as_ref()?;
    Some(FsGroup {
        // Validation lets nothing else pass.
        gid: u32::try_from(context.fs_group?).ok()?,
        policy: match context.fs_group_change_policy.as_deref() {
            Some("OnRootMismatch") => ChangePolicy::OnRootMismatch,
            _ => ChangePolicy::Always,
        },
    })
}

fn source(volume: &Volume) -> Option<Source> {
    if let Some(empty_dir) = &volume.empty_dir {
        let limit = empty_dir
            .size_limit
            .as_ref()
            .and_then(|limit| limit.0.parse::<Quantity>().ok());
        return Some(Source::EmptyDir {
            medium: if empty_dir.medium.as_deref() == Some("Memory") {
                Medium::Memory
            } else {
                Medium::Default
            },
            size_limit_bytes: limit
                .and_then(|limit| u64::try_from(limit.value()).ok())
                .filter(|limit| *limit > 0),
        });
    }
    let host_path = volume.host_path.as_ref()?;
    Some(Source::HostPath {
        path: PathBuf::from(&host_path.path),
        kind: HostPathType::parse(host_path.type_.as_deref().unwrap_or_default())?,
    })
}
