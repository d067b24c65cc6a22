//! Mounts that are to pass between host and container: the host's side must let them.
//!
//! The kernel takes any combination, and mounts from a private mount just never arrive. So the rule of the field's runtimes is checked: what
//! passes both ways lies on a shared mount, what passes from the host on one that is shared or a slave (mount_namespaces(7)).

use std::fs;
use std::path::Path;

use cri::ErrorKind;
use cri::v1::MountPropagation;
use rustix::fs::{AtFlags, CWD, StatxFlags};

use crate::error::{Error, Result};

/// Checks the host's side of the mount of `source` that `field` asks for.
pub(super) fn check(field: &str, source: &Path, asked: MountPropagation) -> Result<()> {
    if asked == MountPropagation::PropagationPrivate {
        return Ok(());
    }
    let status = rustix::fs::statx(CWD, source, AtFlags::empty(), StatxFlags::MNT_ID)
        .map_err(Error::call(format_args!("statx({source:?}, STATX_MNT_ID)")))?;
    // The calling thread's mount namespace, as it is for statx.
    let path = Path::new("/proc/thread-self/mountinfo");
    let mountinfo = fs::read_to_string(path).map_err(Error::file("read", path))?;
    let mount = find(&mountinfo, status.stx_mnt_id);
    match problem(mount.as_ref(), asked) {
        None => Ok(()),
        Some(problem) => Err(cri::Error::new(
            ErrorKind::FailedPrecondition,
            format!("{field}: {}: {problem}", source.display()),
        )
        .into()),
    }
}

/// A line of mountinfo, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
struct HostMount<'a> {
    point: &'a str,
    is_shared: bool,
    is_slave: bool,
}

/// The mount with this id (proc_pid_mountinfo(5): fields 1, 5, and from 7 to the lone dash).
fn find(mountinfo: &str, id: u64) -> Option<HostMount<'_>> {
    let line = mountinfo
        .lines()
        .find(|line| line.split(' ').next().and_then(|first| first.parse().ok()) == Some(id))?;
    let mut fields = line.split(' ').skip(4);
    let point = fields.next()?;
    let optional = || fields.clone().skip(1).take_while(|field| *field != "-");
    Some(HostMount {
        point,
        is_shared: optional().any(|field| field.starts_with("shared:")),
        is_slave: optional().any(|field| field.starts_with("master:")),
    })
}

fn problem(mount: Option<&HostMount<'_>>, asked: MountPropagation) -> Option<String> {
    let Some(mount) = mount else {
        return Some("lies on a mount that this node can't see".into());
    };
    match asked {
        MountPropagation::PropagationBidirectional if !mount.is_shared => Some(format!(
            "lies on the mount at {point}, which is not shared, so no mount can pass from the container: `mount --make-shared {point}`, or ask for less",
            point = mount.point
        )),
        MountPropagation::PropagationHostToContainer if !mount.is_shared && !mount.is_slave => Some(format!(
            "lies on the mount at {point}, which is neither shared nor a slave, so no mount can pass to the container: `mount --make-shared {point}`, or ask for less",
            point = mount.point
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &str = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:25 / /mnt/slave rw master:1 propagate_from:2 - tmpfs tmpfs rw
31 22 0:26 / /mnt/both rw shared:5 master:1 - tmpfs tmpfs rw
32 22 0:27 / /mnt/private rw - tmpfs shared:1 rw
";

    #[test]
    fn the_hosts_side_must_pass_mounts_on() {
        use MountPropagation::{PropagationBidirectional as Both, PropagationHostToContainer as In};
        for (id, asked, is_good) in [
            (22, Both, true),
            (22, In, true),
            (30, Both, false),
            (30, In, true),
            (31, Both, true),
            (31, In, true),
            (32, Both, false),
            (32, In, false),
            (99, In, false),
        ] {
            let problem = problem(find(MOUNTINFO, id).as_ref(), asked);
            assert_eq!(problem.is_none(), is_good, "{id} {asked:?}: {problem:?}");
        }
        assert_eq!(find(MOUNTINFO, 30).unwrap().point, "/mnt/slave");
    }

    /// The kernel's own mounts, in a mount namespace of this thread's.
    #[test]
    fn a_real_mount_is_found() {
        std::thread::spawn(|| {
            use MountPropagation::{PropagationBidirectional as Both, PropagationPrivate as Private};
            use rustix::mount::{MountFlags, MountPropagationFlags};
            sys::netns::isolate_thread().unwrap();
            let directory = tempfile::tempdir().unwrap();
            rustix::mount::mount("tmpfs", directory.path(), "tmpfs", MountFlags::empty(), None).unwrap();
            rustix::mount::mount_change(directory.path(), MountPropagationFlags::PRIVATE).unwrap();
            let below = directory.path().join("below");
            fs::create_dir(&below).unwrap();
            check("mounts[0].propagation", &below, Private).unwrap();
            let error = check("mounts[0].propagation", &below, Both).unwrap_err().to_string();
            let point = directory.path().display();
            assert!(error.contains(&format!("`mount --make-shared {point}`")), "{error}");
            rustix::mount::mount_change(directory.path(), MountPropagationFlags::SHARED).unwrap();
            check("mounts[0].propagation", &below, Both).unwrap();
            rustix::mount::unmount(directory.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
        })
        .join()
        .unwrap();
    }
}
