//! criu, which knows how to write a process down while it lives (criu(8)): whether it is here and works, and how it is told
//! about a container.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::error::{Error, Result};

/// Looked up in the node's PATH.
const PROGRAM: &str = "criu";

/// How many of its complaints are passed on.
const COMPLAINTS: usize = 3;

/// Since this version it can be told not to stop a network.
const WITHOUT_LOCK: (u32, u32) = (3, 18);

/// criu complains of what a process without CAP_SYS_RESOURCE can't have, and goes on.
const HARMLESS: &str = "rlimit: ";

/// Whether it can be used on this node: it is here, and knows this kernel.
pub(super) fn check() -> Result<()> {
    match run(Command::new(PROGRAM).arg("check")) {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(impossible(format!(
            "criu, which makes checkpoints, does not work with this kernel ({}): install a newer criu",
            complaints(&String::from_utf8_lossy(&output.stderr))
        ))),
        Err(e) if e.kind() == ErrorKind::NotFound => Err(impossible(
            "criu, which makes checkpoints, is not installed: install it on the node (Debian's package is criu) and ask again"
                .into(),
        )),
        Err(e) => Err(impossible(format!("criu, which makes checkpoints, can't be started: {e}"))),
    }
}

fn impossible(why: String) -> Error {
    cri::Error::new(cri::ErrorKind::Unimplemented, format!("CheckpointContainer: {why}")).into()
}

/// Writes the process `first`, and all that descends from it, into `images`; what criu has to say, into `work`. They run on.
/// `processes` are all of the container's.
pub(super) fn dump(first: i32, processes: &BTreeSet<i32>, images: &Path, work: &Path) -> Result<()> {
    let mut command = Command::new(PROGRAM);
    command
        .args(["dump", "--leave-running", "--tree", &first.to_string()])
        .arg("--images-dir")
        .arg(images)
        .arg("--work-dir")
        .arg(work)
        .args(["--log-file", "dump.log"])
        // Limits are the container's, not its processes'.
        .arg("--manage-cgroups=ignore")
        // What goes on between a container and others stays as it is, and is written down as ended.
        .args(["--tcp-close", "--ext-unix-sk", "--file-locks"])
        .args(leaves_the_network_alone().then_some("--network-lock=skip"))
        // What is bound from the host is named, not copied.
        .args(["--external", "mnt[]:sm"])
        .args(external(first, processes).flat_map(|name| ["--external".to_owned(), name]));
    let output = run(&mut command).map_err(Error::file("start", Path::new(PROGRAM)))?;
    if output.status.success() {
        return Ok(());
    }
    let log = fs::read_to_string(work.join("dump.log")).unwrap_or_default();
    let said = format!("{log}\n{}", String::from_utf8_lossy(&output.stderr));
    Err(cri::Error::internal(format!("criu could not dump the container: {}", complaints(&said))).into())
}

/// Whether it can leave the pod's network alone. An older one stops its packets for a moment, by iptables.
fn leaves_the_network_alone() -> bool {
    let output = Command::new(PROGRAM).arg("--version").stdin(Stdio::null()).output();
    output.is_ok_and(|output| version(&String::from_utf8_lossy(&output.stdout)).is_some_and(|v| v >= WITHOUT_LOCK))
}

/// From `Version: 4.2.1`.
fn version(said: &str) -> Option<(u32, u32)> {
    let number = said.lines().find_map(|line| line.strip_prefix("Version:"))?;
    let mut parts = number.trim().split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??))
}

fn run(command: &mut Command) -> std::io::Result<Output> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
}

/// What of the container is not its own: the pod's namespaces, and files that it was given from outside its mount namespace
/// (the FIFOs of its output among them).
fn external(first: i32, processes: &BTreeSet<i32>) -> impl Iterator<Item = String> {
    let mut names = BTreeSet::new();
    if let Some(network) = namespace(first, "net").filter(|ns| namespace_of_node("net") != Some(*ns)) {
        names.insert(format!("net[{network}]:net"));
    }
    let is_first_of_namespace = number_inside(first) == Some(1);
    if let Some(pids) = namespace(first, "pid").filter(|_| !is_first_of_namespace)
        && namespace_of_node("pid") != Some(pids)
    {
        names.insert(format!("pid[{pids}]:pid"));
    }
    for pid in processes {
        names.extend(files_from_outside(*pid));
    }
    names.into_iter()
}

fn namespace(pid: i32, kind: &str) -> Option<u64> {
    fs::metadata(format!("/proc/{pid}/ns/{kind}")).ok().map(|m| m.ino())
}

fn namespace_of_node(kind: &str) -> Option<u64> {
    fs::metadata(format!("/proc/thread-self/ns/{kind}"))
        .ok()
        .map(|m| m.ino())
}

/// A process's number in its own PID namespace.
fn number_inside(pid: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    numbers.split_whitespace().last()?.parse().ok()
}

/// Open files whose mount is none of the process's, as criu names them. A process that ends meanwhile has none.
fn files_from_outside(pid: i32) -> Vec<String> {
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    let inside: BTreeSet<&str> = mounts.lines().filter_map(|line| line.split(' ').next()).collect();
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let mut names = Vec::new();
    for descriptor in descriptors {
        // Pipes, sockets and the like have no path, and belong to nobody's mounts.
        let has_path = fs::read_link(descriptor.path()).is_ok_and(|path| path.is_absolute());
        let number = descriptor.file_name();
        let about = fs::read_to_string(format!("/proc/{pid}/fdinfo/{}", number.to_string_lossy()));
        if let Some((mount, inode)) = about.ok().filter(|_| has_path).as_deref().and_then(place)
            && !inside.contains(mount.to_string().as_str())
        {
            names.push(format!("file[{mount:x}:{inode:x}]"));
        }
    }
    names
}

/// Mount and inode, as a file of /proc/PID/fdinfo has them (proc(5)).
fn place(about: &str) -> Option<(u64, u64)> {
    let field = |name: &str| {
        let value = about.lines().find_map(|line| line.strip_prefix(name))?;
        value.trim().parse().ok()
    };
    Some((field("mnt_id:")?, field("ino:")?))
}

/// The first of criu's own errors, without their times and places.
fn complaints(said: &str) -> String {
    let errors = said
        .lines()
        .filter_map(|line| line.split_once("Error (")?.1.split_once("): "));
    let errors: Vec<&str> = errors
        .map(|(_, message)| message.trim())
        .filter(|message| !message.starts_with(HARMLESS))
        .take(COMPLAINTS)
        .collect();
    match errors.is_empty() {
        true => "it does not say why".into(),
        false => errors.join("; "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_criu_complains_of() {
        let said = "(00.32) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self\n\
                    (00.34) Warn  (criu/x.c:1): no matter\n\
                    (00.35) Error (criu/files-reg.c:1790): Can't lookup mount=24 for fd=0 path=/dev/null\n\
                    Error (criu/vdso.c:381): vdso: Unexpected rt vDSO area bounds\n";
        assert_eq!(
            complaints(said),
            "Can't lookup mount=24 for fd=0 path=/dev/null; vdso: Unexpected rt vDSO area bounds"
        );
        assert_eq!(complaints(""), "it does not say why");
    }

    #[test]
    fn which_criu_it_is() {
        assert_eq!(version("Version: 4.2.1\n"), Some((4, 2)));
        assert_eq!(version("Version: 3.17.1\nGitID: v3.17.1\n"), Some((3, 17)));
        assert!(version("Version: 3.17.1") < Some(WITHOUT_LOCK));
        assert_eq!(version("criu"), None);
    }

    #[test]
    fn where_an_open_file_is() {
        assert_eq!(
            place("pos:\t0\nflags:\t0500002\nmnt_id:\t27\nino:\t10936804\n"),
            Some((27, 10_936_804))
        );
        assert_eq!(place("pos:\t0\n"), None);
    }
}
