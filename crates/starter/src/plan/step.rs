//! What a child can do, a step at a time, and how each step reads in an error.
//!
//! A step holds all it needs, prepared: the child only passes it on to the kernel.

use std::ffi::{CStr, CString};
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::process::Resource;
use rustix::thread::CapabilitySet;
use sys::mount::Attributes;

use crate::request::Size;

/// A descriptor that the child inherits: an index into [`Inherited`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Handle(usize);

/// The descriptors that the child inherits from the parent. Apart from the plan, because the parent lets go of them as
/// soon as the child is born.
#[derive(Debug, Default)]
pub(crate) struct Inherited<'a>(Vec<Held<'a>>);

#[derive(Debug)]
enum Held<'a> {
    Owned(OwnedFd),
    Borrowed(BorrowedFd<'a>),
}

impl<'a> Inherited<'a> {
    pub fn own(&mut self, fd: OwnedFd) -> Handle {
        self.0.push(Held::Owned(fd));
        Handle(self.0.len() - 1)
    }

    pub fn borrow(&mut self, fd: BorrowedFd<'a>) -> Handle {
        self.0.push(Held::Borrowed(fd));
        Handle(self.0.len() - 1)
    }

    pub fn get(&self, handle: Handle) -> BorrowedFd<'_> {
        match &self.0[handle.0] {
            Held::Owned(fd) => fd.as_fd(),
            Held::Borrowed(fd) => fd.as_fd(),
        }
    }
}

/// Where a namespace to be joined is found.
#[derive(Debug)]
pub(crate) enum NamespaceSource {
    Path(CString),
    Held(Handle, String),
}

/// A file system to be made by fsopen and fsmount.
#[derive(Debug)]
pub(crate) struct Filesystem {
    pub kind: CString,
    pub source: Option<CString>,
    /// Keys, with their values; without one it is a flag.
    pub parameters: Vec<(CString, Option<CString>)>,
    /// `MOUNT_ATTR_…` bits for fsmount.
    pub attributes: u64,
    /// `MS_…` propagation, or 0.
    pub propagation: u64,
    pub destination: CString,
}

/// A bind mount whose source was opened before.
#[derive(Debug)]
pub(crate) struct Bind {
    /// Which of the opened sources.
    pub source: usize,
    pub source_path: CString,
    pub destination: CString,
    /// For the mount itself.
    pub attributes: Attributes,
    /// For it and all below it.
    pub recursive: Attributes,
}

/// Where a mount's files get their owners from: the number of a map of the plan's, and whether that holds for all mounts
/// below as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Idmap {
    pub number: usize,
    pub recursive: bool,
}

/// A device node.
#[derive(Debug)]
pub(crate) struct Device {
    pub path: CString,
    pub directory: CString,
    pub name: CString,
    pub kind: rustix::fs::FileType,
    pub major: u32,
    pub minor: u32,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// The capability sets that a process is to have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Capabilities {
    pub bounding: CapabilitySet,
    pub effective: CapabilitySet,
    pub permitted: CapabilitySet,
    pub inheritable: CapabilitySet,
    pub ambient: CapabilitySet,
}

/// One step of the child's.
#[derive(Debug)]
pub(crate) enum Step {
    ForbidTracing,
    ResetSignals,
    NewSession,
    EnterCgroup {
        tasks: Handle,
        number: usize,
    },
    OomScore {
        value: i32,
    },
    AwaitMaps,
    BecomeRoot,
    Heir,
    OpenLabel,
    JoinNamespace {
        kind: &'static str,
        flag: u64,
        source: NamespaceSource,
    },
    JoinAll {
        process: Handle,
        flags: u64,
    },
    NewNamespaces {
        flags: u64,
    },
    SetClocks,
    EnterTime,
    Personality {
        persona: u64,
    },
    Hostname {
        name: CString,
    },
    Domainname {
        name: CString,
    },
    Sysctl {
        key: String,
        path: CString,
        value: CString,
    },
    OpenSource {
        index: usize,
        path: CString,
        recursive: bool,
        /// Whether links in the path may be followed; not where the caller has followed them already.
        follow: bool,
        idmap: Option<Idmap>,
    },
    ReceiveOnly,
    IdmapLayer {
        path: CString,
        idmap: usize,
    },
    OwnUpper {
        path: CString,
        uid: u32,
        gid: u32,
    },
    MountOverlay {
        base: CString,
        data: CString,
        target: CString,
        flags: rustix::mount::MountFlags,
    },
    MountRoot {
        kind: CString,
        source: CString,
        data: CString,
        target: CString,
        flags: rustix::mount::MountFlags,
    },
    BindRoot {
        source: CString,
        recursive: bool,
        attributes: Attributes,
        target: CString,
    },
    EmptyRoot {
        target: CString,
    },
    OpenRoot {
        path: CString,
    },
    OpenOwnRoot,
    HandOver,
    TakeOver {
        count: usize,
    },
    CoverRoot,
    EmptyCover,
    Mount(Box<Filesystem>),
    Bind(Box<Bind>),
    Symlink {
        target: CString,
        directory: CString,
        name: CString,
        path: CString,
    },
    Device(Box<Device>),
    OpenTerminal {
        size: Size,
    },
    Console,
    MakeDirectory {
        path: CString,
    },
    Mask {
        path: CString,
    },
    MakeReadonly {
        path: CString,
    },
    LateAttributes {
        path: CString,
        attributes: Attributes,
    },
    ReadonlyRoot,
    PivotRoot,
    RootPropagation {
        word: &'static str,
        propagation: u64,
        recursive: bool,
    },
    ResourceLimit {
        name: &'static str,
        resource: Resource,
        soft: Option<u64>,
        hard: Option<u64>,
    },
    Identify,
    TerminalOwner,
    Stdio {
        stdin: Handle,
        stdout: Handle,
        stderr: Handle,
    },
    ControllingTerminal,
    EnterDirectory {
        path: CString,
        last_chance: bool,
    },
    Umask {
        mask: u32,
    },
    DropBounding {
        keep: CapabilitySet,
    },
    SwitchUser,
    RaiseForSeccomp,
    SetCapabilities(Box<Capabilities>),
    NoNewPrivileges,
    Label {
        profile: String,
        order: CString,
    },
    CloseOthers,
    AwaitStart,
    Seccomp,
    Exec,
}

struct Text<'a>(&'a CStr);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_string_lossy())
    }
}

impl fmt::Display for NamespaceSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NamespaceSource::Path(path) => f.write_str(&path.to_string_lossy()),
            NamespaceSource::Held(_, name) => f.write_str(name),
        }
    }
}

/// As it stands after "cannot".
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::ForbidTracing => write!(f, "make itself untraceable"),
            Step::ResetSignals => write!(f, "reset signal handlers"),
            Step::NewSession => write!(f, "start a session (setsid)"),
            Step::EnterCgroup { number, .. } => write!(f, "enter the container's cgroup (hierarchy {number}, tasks)"),
            Step::OomScore { value } => write!(f, "set oom_score_adj to {value}"),
            Step::AwaitMaps => write!(f, "wait for the user namespace's maps"),
            Step::BecomeRoot => write!(f, "become root in the user namespace"),
            Step::Heir => write!(f, "make a PID namespace inside the user namespace"),
            Step::OpenLabel => write!(f, "open /proc/thread-self/attr/apparmor/exec"),
            Step::JoinNamespace { kind, source, .. } => write!(f, "join the {kind} namespace {source}"),
            Step::JoinAll { .. } => write!(f, "join the container's namespaces"),
            Step::NewNamespaces { flags } => write!(f, "make namespaces (unshare {flags:#x})"),
            Step::SetClocks => write!(f, "have the clocks of the time namespace set"),
            Step::EnterTime => write!(f, "enter the time namespace"),
            Step::Personality { persona } => write!(f, "set the personality {persona:#x}"),
            Step::Hostname { name } => write!(f, "set the host name {}", Text(name)),
            Step::Domainname { name } => write!(f, "set the domain name {}", Text(name)),
            Step::Sysctl { key, value, .. } => write!(f, "set sysctl {key}={}", Text(value)),
            Step::OpenSource { path, .. } => write!(f, "open the mount source {}", Text(path)),
            Step::ReceiveOnly => write!(f, "cut the mount namespace off the host's (slave)"),
            Step::IdmapLayer { path, .. } => write!(f, "map the owners of the layer {}", Text(path)),
            Step::OwnUpper { path, uid, gid } => write!(f, "give {} to the container's root ({uid}:{gid})", Text(path)),
            Step::MountOverlay { base, data, target, .. } => {
                write!(
                    f,
                    "mount the overlay ({}) at {}, from {}",
                    Text(data),
                    Text(target),
                    Text(base)
                )
            }
            Step::MountRoot {
                kind, source, target, ..
            } => {
                write!(f, "mount {} of type {} at {}", Text(source), Text(kind), Text(target))
            }
            Step::BindRoot { source, target, .. } => {
                write!(f, "bind the root {} at {}", Text(source), Text(target))
            }
            Step::EmptyRoot { target } => write!(f, "mount an empty root at {}", Text(target)),
            Step::OpenRoot { path } => write!(f, "open the root {}", Text(path)),
            Step::OpenOwnRoot => write!(f, "open the container's root"),
            Step::HandOver => write!(f, "hand the root and the mount sources over"),
            Step::TakeOver { .. } => write!(f, "take the root and the mount sources over"),
            Step::CoverRoot => write!(f, "mount the root over the host's"),
            Step::EmptyCover => write!(f, "mount an empty root over the host's"),
            Step::Mount(m) => write!(f, "mount {} at {}", Text(&m.kind), Text(&m.destination)),
            Step::Bind(b) => write!(f, "bind {} at {}", Text(&b.source_path), Text(&b.destination)),
            Step::Symlink { target, path, .. } => write!(f, "link {} to {}", Text(path), Text(target)),
            Step::Device(d) => write!(f, "make the device {} ({}:{})", Text(&d.path), d.major, d.minor),
            Step::OpenTerminal { .. } => write!(f, "open a terminal on /dev/pts/ptmx"),
            Step::Console => write!(f, "bind the terminal at /dev/console"),
            Step::MakeDirectory { path } => write!(f, "make the directory {}", Text(path)),
            Step::Mask { path } => write!(f, "mask {}", Text(path)),
            Step::MakeReadonly { path } => write!(f, "make {} read-only", Text(path)),
            Step::LateAttributes { path, .. } => write!(f, "make the mount at {} read-only", Text(path)),
            Step::ReadonlyRoot => write!(f, "make the root read-only"),
            Step::PivotRoot => write!(f, "change the root (pivot_root)"),
            Step::RootPropagation { word, .. } => write!(f, "make the root {word}"),
            Step::ResourceLimit { name, soft, hard, .. } => {
                write!(f, "set {name} to {}:{}", Limit(*soft), Limit(*hard))
            }
            Step::Identify => write!(f, "have the user looked up"),
            Step::TerminalOwner => write!(f, "give the terminal to the user"),
            Step::Stdio { .. } => write!(f, "set up stdin, stdout and stderr"),
            Step::ControllingTerminal => write!(f, "make the terminal the controlling one"),
            Step::EnterDirectory { path, .. } => write!(f, "enter the working directory {}", Text(path)),
            Step::Umask { mask } => write!(f, "set the umask {mask:03o}"),
            Step::DropBounding { .. } => write!(f, "drop capabilities from the bounding set"),
            Step::SwitchUser => write!(f, "change to the user and its groups"),
            Step::RaiseForSeccomp => write!(f, "keep capabilities for seccomp"),
            Step::SetCapabilities(_) => write!(f, "set capabilities"),
            Step::NoNewPrivileges => write!(f, "set no_new_privs"),
            Step::AwaitStart => write!(f, "wait for the start"),
            Step::Seccomp => write!(f, "load the seccomp filter"),
            Step::Label { profile, .. } => write!(f, "ask for the AppArmor profile {profile}"),
            Step::CloseOthers => write!(f, "close descriptors"),
            Step::Exec => write!(f, "exec"),
        }
    }
}

struct Limit(Option<u64>);

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(value) => write!(f, "{value}"),
            None => f.write_str("unlimited"),
        }
    }
}
