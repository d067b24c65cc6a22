//! Which namespaces are made, which are joined, and in what order.
//!
//! The order is the kernel's: a namespace belongs to the user namespace in which it is made, and only who has
//! CAP_SYS_ADMIN there may mount in it. So the user namespace comes first, and what is new is made inside it. A PID
//! namespace is the hard one: it can only be made by clone. Where the user namespace is new as well, one clone makes both.
//! Where it is joined, the first child enters it and bears the container's process as its sibling ([`Step::Heir`]).

use std::fs;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use sys::userns::Maps;

use super::idmap;
use super::step::{Handle, Inherited, NamespaceSource, Step};
use super::text::{absolute, c_path, c_string};
use crate::{Error, Result};

/// The process's PID namespace.
#[derive(Debug)]
pub(crate) enum PidNamespace {
    /// The caller's, or a new one (a clone flag).
    OfClone,
    /// The parent must enter it around the clone: setns changes only where children are born.
    Join(Handle),
}

/// The spec's namespaces.
#[derive(Debug)]
pub(crate) struct Namespaces {
    joined: Vec<(&'static str, u64, NamespaceSource)>,
    joined_user: Option<NamespaceSource>,
    /// Whose mounts the container shares; `None`: it gets its own.
    joined_mount: Option<NamespaceSource>,
    unshared: u64,
    pub pid: PidNamespace,
    pub clone_flags: u64,
    /// What the parent writes to /proc/PID/{uid,gid}_map of a new user namespace.
    pub maps: Option<Maps>,
    /// Whether the PID namespace is to be made inside the user namespace that is joined.
    heir: bool,
    /// What the parent writes to /proc/PID/timens_offsets of a new time namespace.
    pub clocks: Option<String>,
    /// All kinds in the list, new or joined.
    listed: u64,
}

const NEWTIME: u64 = 0x80;
const NEWUSER: u64 = 0x1000_0000;
const NEWPID: u64 = 0x2000_0000;
pub(crate) const NEWNS: u64 = 0x0002_0000;
const NEWCGROUP: u64 = 0x0200_0000;
const NEWUTS: u64 = 0x0400_0000;
const NEWIPC: u64 = 0x0800_0000;
const NEWNET: u64 = 0x4000_0000;

fn kind(kind: LinuxNamespaceType) -> Result<(&'static str, u64)> {
    Ok(match kind {
        LinuxNamespaceType::Mount => ("mount", NEWNS),
        LinuxNamespaceType::Cgroup => ("cgroup", NEWCGROUP),
        LinuxNamespaceType::Uts => ("uts", NEWUTS),
        LinuxNamespaceType::Ipc => ("ipc", NEWIPC),
        LinuxNamespaceType::User => ("user", NEWUSER),
        LinuxNamespaceType::Pid => ("pid", NEWPID),
        LinuxNamespaceType::Network => ("network", NEWNET),
        LinuxNamespaceType::Time => ("time", NEWTIME),
    })
}

impl Namespaces {
    pub fn read<'a>(
        spec: &Spec,
        pinned: &dyn Fn(&Path) -> Option<BorrowedFd<'a>>,
        inherited: &mut Inherited<'a>,
    ) -> Result<Self> {
        // Even if it isn't listed, the mount namespace is new unless one is joined: the mounts rely on it.
        let mut namespaces = Namespaces {
            joined: Vec::new(),
            joined_user: None,
            joined_mount: None,
            unshared: NEWNS,
            pid: PidNamespace::OfClone,
            clone_flags: 0,
            maps: None,
            heir: false,
            clocks: None,
            listed: 0,
        };
        let linux = spec.linux().as_ref();
        for (i, namespace) in linux
            .and_then(|l| l.namespaces().as_deref())
            .unwrap_or_default()
            .iter()
            .enumerate()
        {
            let (name, flag) = kind(namespace.typ())?;
            let field = format!("linux.namespaces[{i}]");
            if namespaces.listed & flag != 0 {
                return Err(Error::spec(field, name, "each kind may be listed once"));
            }
            namespaces.listed |= flag;
            let Some(path) = namespace.path() else {
                match flag {
                    NEWPID | NEWUSER => namespaces.clone_flags |= flag,
                    _ => namespaces.unshared |= flag,
                }
                continue;
            };
            let held = pinned(path);
            match (flag, held) {
                (NEWPID, Some(fd)) => namespaces.pid = PidNamespace::Join(inherited.borrow(fd)),
                (NEWPID, None) => namespaces.pid = PidNamespace::Join(inherited.own(open(path)?)),
                (_, held) => {
                    let source = match held {
                        Some(fd) => NamespaceSource::Held(inherited.borrow(fd), path.display().to_string()),
                        None => NamespaceSource::Path(absolute(&format!("{field}.path"), path)?),
                    };
                    match flag {
                        NEWUSER => namespaces.joined_user = Some(source),
                        NEWNS => {
                            namespaces.joined_mount = Some(source);
                            namespaces.unshared &= !NEWNS;
                        }
                        _ => namespaces.joined.push((name, flag, source)),
                    }
                }
            }
        }
        if namespaces.joined_user.is_some() && namespaces.clone_flags & NEWPID != 0 {
            // Made by the clone, it would belong to the caller's user namespace, and the container could not mount its /proc.
            namespaces.clone_flags &= !NEWPID;
            namespaces.heir = true;
        }
        if let (Some(source), true) = (&namespaces.joined_mount, namespaces.clone_flags & NEWUSER != 0) {
            // setns(2) takes CAP_SYS_ADMIN in the namespace that owns it, which the new one is not.
            return Err(Error::spec(
                "linux.namespaces",
                format!("a new user namespace and the mount namespace {source}"),
                "the mount namespace must belong to the user namespace: join that one too",
            ));
        }
        if namespaces.clone_flags & NEWUSER != 0 {
            namespaces.maps =
                Some(idmap::of_container(spec)?.ok_or_else(|| {
                    Error::spec("linux.uidMappings", "nothing", "a new user namespace needs mappings")
                })?);
        }
        namespaces.clocks = clocks(spec, namespaces.unshared & NEWTIME != 0)?;
        Ok(namespaces)
    }

    /// Whether a namespace of this kind is new.
    pub fn is_new(&self, kind: LinuxNamespaceType) -> bool {
        self::kind(kind).is_ok_and(|(_, flag)| (self.unshared | self.clone_flags) & flag != 0)
    }

    /// Whether the container has another user namespace than the caller.
    pub fn has_user(&self) -> bool {
        self.maps.is_some() || self.joined_user.is_some()
    }

    /// The steps that lead into the user namespace, and into the PID namespace if that is made inside it.
    pub fn enter_user(&self, steps: &mut Vec<Step>) {
        if self.maps.is_some() {
            // Until the maps are written every id is the overflow id.
            steps.push(Step::AwaitMaps);
            steps.push(Step::BecomeRoot);
        }
        if let Some(source) = &self.joined_user {
            steps.push(Step::JoinNamespace {
                kind: "user",
                flag: NEWUSER,
                source: copy(source),
            });
            steps.push(Step::BecomeRoot);
        }
        if self.heir {
            steps.push(Step::Heir);
        }
    }

    /// The steps that lead into all others but a mount namespace that is joined.
    pub fn enter(&self, steps: &mut Vec<Step>) {
        for (kind, flag, source) in &self.joined {
            steps.push(Step::JoinNamespace {
                kind,
                flag: *flag,
                source: copy(source),
            });
        }
        steps.push(Step::NewNamespaces { flags: self.unshared });
        if self.unshared & NEWTIME != 0 {
            // unshare(2) moves only the children there (time_namespaces(7)): the clocks are set while nobody is in it yet.
            if self.clocks.is_some() {
                steps.push(Step::SetClocks);
            }
            steps.push(Step::EnterTime);
        }
    }

    /// The mount namespace that is joined, if one is.
    pub fn joined_mount(&self) -> Option<&NamespaceSource> {
        self.joined_mount.as_ref()
    }

    /// The step that leads into it.
    pub fn enter_mount(&self, steps: &mut Vec<Step>) {
        if let Some(source) = &self.joined_mount {
            steps.push(Step::JoinNamespace {
                kind: "mount",
                flag: NEWNS,
                source: copy(source),
            });
        }
    }
}

fn copy(source: &NamespaceSource) -> NamespaceSource {
    match source {
        NamespaceSource::Path(path) => NamespaceSource::Path(path.clone()),
        NamespaceSource::Held(handle, name) => NamespaceSource::Held(*handle, name.clone()),
    }
}

fn open(path: &Path) -> Result<OwnedFd> {
    fs::File::open(path).map(OwnedFd::from).map_err(|e| Error::Step {
        step: format!("join the pid namespace {}", path.display()),
        errno: e
            .raw_os_error()
            .map_or(rustix::io::Errno::IO, rustix::io::Errno::from_raw_os_error),
    })
}

/// `linux.timeOffsets`, as /proc/PID/timens_offsets takes them.
fn clocks(spec: &Spec, own: bool) -> Result<Option<String>> {
    let offsets = spec.linux().as_ref().and_then(|l| l.time_offsets().as_ref());
    let Some(offsets) = offsets.filter(|o| !o.is_empty()) else {
        return Ok(None);
    };
    if !own {
        let rule = "needs a new time namespace: a joined one, or the host's, has its clocks";
        return Err(Error::spec("linux.timeOffsets", offsets.len(), rule));
    }
    let mut lines: Vec<_> = offsets.iter().collect();
    lines.sort_by_key(|(clock, _)| *clock);
    let mut text = String::new();
    for (clock, offset) in lines {
        if !["monotonic", "boottime"].contains(&clock.as_str()) {
            return Err(Error::spec("linux.timeOffsets", clock, "must be monotonic or boottime"));
        }
        let (seconds, nanoseconds) = (offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
        text += &format!("{clock} {seconds} {nanoseconds}\n");
    }
    Ok(Some(text))
}

/// Host name and domain name, of a new uts namespace: one that is joined has its names from its owner.
pub(crate) fn names(spec: &Spec, namespaces: &Namespaces, steps: &mut Vec<Step>) -> Result<()> {
    for (field, name) in [("hostname", spec.hostname()), ("domainname", spec.domainname())] {
        let Some(name) = name.as_ref().filter(|n| !n.is_empty()) else {
            continue;
        };
        if namespaces.listed & NEWUTS == 0 {
            return Err(Error::spec(
                field,
                name,
                "needs a uts namespace, or it would be the host's",
            ));
        }
        if namespaces.unshared & NEWUTS != 0 {
            let name = c_string(field, name)?;
            steps.push(if field == "hostname" {
                Step::Hostname { name }
            } else {
                Step::Domainname { name }
            });
        }
    }
    Ok(())
}

/// Kernel parameters. Only those that belong to a namespace which the container does not share with the host.
pub(crate) fn sysctls(spec: &Spec, steps: &mut Vec<Step>) -> Result<()> {
    let linux = spec.linux().as_ref();
    let Some(sysctls) = linux.and_then(|l| l.sysctl().as_ref()) else {
        return Ok(());
    };
    let listed = |wanted| {
        let namespaces = linux.and_then(|l| l.namespaces().as_deref()).unwrap_or_default();
        namespaces.iter().any(|n| n.typ() == wanted)
    };
    let mut sorted: Vec<_> = sysctls.iter().collect();
    sorted.sort();
    for (key, value) in sorted {
        let field = format!("linux.sysctl[{key}]");
        // A slash separates as well, and then a dot is part of a name (an interface's).
        let first_separator = key.find(['.', '/']).map(|i| &key[i..=i]);
        let path = match first_separator {
            Some(".") => key
                .chars()
                .map(|c| {
                    if c == '.' {
                        '/'
                    } else if c == '/' {
                        '.'
                    } else {
                        c
                    }
                })
                .collect(),
            _ => key.clone(),
        };
        let (kind, needed) = match path.as_str() {
            p if p.starts_with("net/") => ("network", listed(LinuxNamespaceType::Network)),
            "kernel/hostname" | "kernel/domainname" => ("uts", listed(LinuxNamespaceType::Uts)),
            p if IPC_SYSCTLS.contains(&p) || p.starts_with("fs/mqueue/") => ("ipc", listed(LinuxNamespaceType::Ipc)),
            _ => {
                return Err(Error::spec(
                    field,
                    value,
                    "is not kept per namespace: it would change the host's",
                ));
            }
        };
        if path.split('/').any(|part| part.is_empty() || part == "..") {
            return Err(Error::spec(field, value, "is not the name of a kernel parameter"));
        }
        if !needed {
            return Err(Error::spec(
                field,
                value,
                format!("needs a {kind} namespace, or it would change the host's"),
            ));
        }
        let path = c_path(&field, Path::new(&format!("/proc/sys/{path}")))?;
        steps.push(Step::Sysctl {
            key: key.clone(),
            path,
            value: c_string(&field, value)?,
        });
    }
    Ok(())
}

const IPC_SYSCTLS: [&str; 8] = [
    "kernel/msgmax",
    "kernel/msgmnb",
    "kernel/msgmni",
    "kernel/sem",
    "kernel/shmall",
    "kernel/shmmax",
    "kernel/shmmni",
    "kernel/shm_rmid_forced",
];

/// For exec: every namespace of the container's first process, through its pidfd.
pub(crate) fn join_all(spec: &Spec, init: Handle, steps: &mut Vec<Step>) -> PidNamespace {
    let namespaces = spec
        .linux()
        .as_ref()
        .and_then(|l| l.namespaces().as_deref())
        .unwrap_or_default();
    // Joining one's own user namespace is an error (EINVAL), so only if the container has another.
    let user = namespaces.iter().any(|n| n.typ() == LinuxNamespaceType::User);
    // A kernel without time namespaces refuses the flag.
    let time = namespaces.iter().any(|n| n.typ() == LinuxNamespaceType::Time);
    let extra = if user { NEWUSER } else { 0 } | if time { NEWTIME } else { 0 };
    let flags = NEWNS | NEWUTS | NEWIPC | NEWNET | NEWCGROUP | extra;
    steps.push(Step::JoinAll { process: init, flags });
    if user {
        steps.push(Step::BecomeRoot);
    }
    PidNamespace::Join(init)
}
