//! What the caller asks for.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Process, Spec};

/// Annotation: the user as the image or the CRI names it ("name", "name:group", "1000", "1000:50", ":group"), resolved
/// in the container's own /etc/passwd and /etc/group. Without it `process.user` counts.
pub const USER_ANNOTATION: &str = "dev.hove.user";

/// Annotation: `Merge` (default) adds the groups that the container's /etc/group lists for the user to those of the
/// spec, `Strict` takes the spec's alone. As the CRI's SupplementalGroupsPolicy.
pub const GROUPS_POLICY_ANNOTATION: &str = "dev.hove.supplemental-groups-policy";

/// Annotation: "runtime-default" means, where there is no profile in `linux.seccomp`, Hove's own
/// ([`crate::seccomp::default_profile`], for the bounding set of the process).
pub const SECCOMP_ANNOTATION: &str = "dev.hove.seccomp";

/// Annotation: a JSON list of bind mounts' sources (as the mounts spell them) in which no link is followed: the caller has
/// resolved them, and what became a link since then was put there to lead somewhere else.
pub const RESOLVED_SOURCES_ANNOTATION: &str = "dev.hove.resolved-sources";

/// The first process of a container.
pub struct Request<'a> {
    /// The OCI config. Mounts, masked paths, namespaces: nothing is added to what it says.
    pub spec: &'a Spec,
    /// The program.
    pub executable: Executable,
    /// Where the root file system comes from. Where the spec joins a mount namespace, that has its root: a
    /// [`Rootfs::Directory`] means nothing then, mounts are refused.
    pub rootfs: Rootfs<'a>,
    /// The bundle: `rootfs` below it is the mount point (in the container's own mount namespace only). An
    /// [`Rootfs::Empty`] covers the bundle itself.
    pub bundle: &'a Path,
    /// Descriptors 0, 1 and 2.
    pub stdio: Stdio,
    /// Namespace paths of the spec that the caller holds as descriptors: asked first, for every path.
    pub pinned: &'a dyn Fn(&Path) -> Option<BorrowedFd<'a>>,
    /// Where the process is born. `None`: in the caller's cgroups.
    pub cgroup: Option<&'a cgroup::Placement>,
}

/// One more process in a running container.
pub struct ExecRequest<'a> {
    /// What to run and as whom. A user equal to the container's is resolved as the container's was (annotations).
    pub process: &'a Process,
    /// The container's config: its namespaces, seccomp profile and annotations.
    pub spec: &'a Spec,
    /// The container's first process: its namespaces are joined through this pidfd.
    pub init: BorrowedFd<'a>,
    /// The program.
    pub executable: Executable,
    /// Descriptors 0, 1 and 2.
    pub stdio: Stdio,
    /// Where the process is born.
    pub cgroup: Option<&'a cgroup::Placement>,
}

/// The program that the process becomes.
#[derive(Debug)]
pub enum Executable {
    /// `process.args[0]`, looked up in the environment's PATH, in the container's root.
    Path,
    /// This file (a memfd, or an O_PATH descriptor): a static binary. `process.args` are its arguments all the same.
    Fd(OwnedFd),
}

/// Where the root file system comes from.
#[derive(Debug)]
pub enum Rootfs<'a> {
    /// Mounted one after the other onto `bundle/rootfs`, as containerd's CreateTaskRequest.rootfs.
    Mounts(&'a [RootfsMount]),
    /// A directory of the host.
    Directory(PathBuf),
    /// Nothing at all: a read-only directory (pause).
    Empty,
}

/// One mount of a root file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootfsMount {
    /// `overlay`, `bind`, or another file system type.
    pub kind: String,
    /// The source; for an overlay any word.
    pub source: String,
    /// Relative to the root; usually empty.
    pub target: String,
    /// As mount(8) has them: `lowerdir=…`, `ro`, …
    pub options: Vec<String>,
}

/// Descriptors 0, 1 and 2.
#[derive(Debug)]
pub enum Stdio {
    /// These.
    Fds {
        /// 0
        stdin: OwnedFd,
        /// 1
        stdout: OwnedFd,
        /// 2
        stderr: OwnedFd,
    },
    /// A terminal of the container's own devpts, of this size; its master comes back in `Created::terminal`.
    Terminal {
        /// Rows and columns.
        size: Size,
    },
}

/// A terminal's size. All zero: not set.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}
