//! The same configuration for those who read OCI's own words only: what Hove says by annotations stands in the fields.
//!
//! An OCI runtime behind another vendor's shim knows no user by name and no profile by its name, and refuses a container whose
//! oom_score_adj it may not set, where this crate would say so in a notice.

use std::os::fd::BorrowedFd;

use oci_spec::runtime::{Process, Spec};
use rustix::thread::CapabilitySet;

use crate::creating::read_database;
use crate::identity::Identity;
use crate::plan::Decided;
use crate::{Result, filter};

/// What the names of Hove's own annotations begin with.
const OWN_ANNOTATIONS: &str = "dev.hove.";

/// The configuration in OCI's words alone, and as whom its process runs. `root` is the container's root file system, in which
/// users are looked up.
pub fn portable(spec: &Spec, root: BorrowedFd<'_>) -> Result<(Spec, Identity)> {
    let mut spec = spec.clone();
    let Some(mut process) = spec.process().clone() else {
        return Ok((spec, Identity::default()));
    };
    let decided = Decided::new(&process, Some(&spec), false)?;
    let identity = if decided.must_ask() {
        let (passwd, group) = (read_database(root, c"etc/passwd")?, read_database(root, c"etc/group")?);
        decided.wanted.resolve(&passwd, &group)?
    } else {
        decided.known
    };
    let profile = filter::profile(&process, &spec)?.map(|profile| profile.into_owned());
    run_as(&mut process, &identity);
    settle_oom_score(&mut process);
    spec.set_process(Some(process));
    if let Some(linux) = spec.linux_mut() {
        linux.set_seccomp(profile);
    }
    if let Some(annotations) = spec.annotations_mut() {
        annotations.retain(|name, _| !name.starts_with(OWN_ANNOTATIONS));
    }
    Ok((spec, identity))
}

/// The same for a process that joins a container: `first` is the configuration's process as it was, `identity` as whom that one
/// runs. A user equal to the first process's is that identity.
pub fn portable_exec(process: &Process, first: Option<&Process>, identity: &Identity) -> Process {
    let mut process = process.clone();
    let same = |first: &Process| {
        let (a, b) = (first.user(), process.user());
        (a.uid(), a.gid()) == (b.uid(), b.gid())
    };
    if first.is_some_and(same) {
        run_as(&mut process, identity);
    }
    settle_oom_score(&mut process);
    process
}

fn run_as(process: &mut Process, identity: &Identity) {
    let mut user = process.user().clone();
    user.set_uid(identity.uid)
        .set_gid(identity.gid)
        .set_additional_gids(Some(identity.groups.clone()));
    let mut env = process.env().clone().unwrap_or_default();
    if !env.iter().any(|entry| entry.starts_with("HOME=")) {
        env.push(format!("HOME={}", identity.home));
    }
    process.set_user(user).set_env(Some(env));
}

/// Lowering it takes CAP_SYS_RESOURCE: without it, what this process has is as low as can be.
fn settle_oom_score(process: &mut Process) {
    let may_lower =
        rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_RESOURCE));
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    if let (Some(wanted), false, Ok(own)) = (process.oom_score_adj(), may_lower, own.trim().parse::<i32>()) {
        process.set_oom_score_adj(Some(wanted.max(own)));
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn spec(annotations: serde_json::Value) -> Spec {
        let json = serde_json::json!({
            "ociVersion": "1.1.0",
            "process": {"cwd": "/", "args": ["a"], "user": {"uid": 0, "gid": 0}, "oomScoreAdj": -1000},
            "linux": {},
            "annotations": annotations,
        });
        serde_json::from_value(json).unwrap()
    }

    fn root() -> (tempfile::TempDir, std::fs::File) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("etc/passwd"), "www:x:33:34:web:/srv:/bin/sh\n").unwrap();
        std::fs::write(dir.path().join("etc/group"), "www:x:34:\nlog:x:4:www\n").unwrap();
        let opened = std::fs::File::open(dir.path()).unwrap();
        (dir, opened)
    }

    #[test]
    fn a_user_by_name_becomes_numbers_and_a_home() {
        let (_dir, root) = root();
        let annotated = spec(serde_json::json!({"dev.hove.user": "www", "io.kubernetes.cri.sandbox-id": "s"}));
        let (spec, identity) = portable(&annotated, root.as_fd()).unwrap();
        let process = spec.process().as_ref().unwrap();
        assert_eq!((process.user().uid(), process.user().gid()), (33, 34));
        assert_eq!(process.user().additional_gids().as_deref(), Some([34, 4].as_slice()));
        assert_eq!(process.env().as_deref(), Some(["HOME=/srv".to_owned()].as_slice()));
        assert_eq!(identity.uid, 33);
        let left: Vec<_> = spec.annotations().iter().flat_map(|a| a.keys()).collect();
        assert_eq!(left, ["io.kubernetes.cri.sandbox-id"]);
    }

    #[test]
    fn the_profile_is_written_out() {
        let (_dir, root) = root();
        let (spec, _) = portable(
            &spec(serde_json::json!({"dev.hove.seccomp": "runtime-default"})),
            root.as_fd(),
        )
        .unwrap();
        assert!(spec.linux().as_ref().unwrap().seccomp().is_some());
    }

    #[test]
    fn who_joins_as_the_same_user_has_its_groups() {
        let (_dir, root) = root();
        let annotated = spec(serde_json::json!({"dev.hove.user": "www"}));
        let (_, identity) = portable(&annotated, root.as_fd()).unwrap();
        let first = annotated.process().clone().unwrap();
        let same = portable_exec(&first, Some(&first), &identity);
        assert_eq!(same.user().uid(), 33);
        let mut other = first.clone();
        other.set_user({
            let mut user = first.user().clone();
            user.set_uid(7);
            user
        });
        assert_eq!(portable_exec(&other, Some(&first), &identity).user().uid(), 7);
    }
}
