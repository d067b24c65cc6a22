//! The plan: what the child will do, decided and prepared before the clone.
//!
//! [`container`] and [`exec`] are the two recipes. Each row of theirs is a file in this folder; the sentence before it
//! is the kernel's rule that puts it at its place.

mod capabilities;
mod cgroups;
mod command;
mod devices;
mod identity;
mod idmap;
mod joined;
mod label;
mod limits;
mod mounts;
mod namespaces;
mod options;
mod paths;
mod rootfs;
mod stdio;
mod step;
mod story;
mod supported;
mod text;

pub(crate) use command::{Command, Program};
pub(crate) use identity::Decided;
pub(crate) use namespaces::PidNamespace;
pub(crate) use step::{Bind, Capabilities, Device, Filesystem, Handle, Inherited, NamespaceSource, Step};
pub(crate) use story::{Story, detail};

use std::path::Path;

use oci_spec::runtime::{Process, Spec};
use sys::userns::Maps;

use crate::handshake::Packed;
use crate::identity::{Identity, Wanted};
use crate::request::{ExecRequest, Request, Rootfs, Stdio};
use crate::{Error, Result};

/// Everything that the child needs.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub steps: Vec<Step>,
    /// What a second child does, outside of the container's user namespace: open what is only in reach there, map owners,
    /// mount the overlay, and hand all of it over. Empty: the container is in no other user namespace, and does it itself.
    pub errand: Vec<Step>,
    pub inherited: Inherited<'a>,
    pub command: Command,
    /// The seccomp filter.
    pub filter: Option<crate::filter::Program>,
    /// How many mount sources will be open at a time.
    pub sources: usize,
    /// As whom the process runs, unless the child asks ([`Step::Identify`]).
    pub identity: Packed,
    // What the parent does itself:
    pub known_identity: Identity,
    pub wanted: Wanted,
    pub pid_namespace: PidNamespace,
    /// Namespaces that only clone can make.
    pub clone_flags: u64,
    pub maps: Option<Maps>,
    pub cgroup: Option<Handle>,
    /// The maps through which mounts show their files' owners, by number.
    pub idmaps: Vec<Maps>,
    /// For /proc/PID/timens_offsets.
    pub clocks: Option<String>,
}

impl Plan<'_> {
    /// What is kept of the plan after the clone: enough to tell what went wrong.
    pub fn into_story(mut self) -> Story {
        self.steps.append(&mut self.errand);
        Story {
            steps: self.steps,
            clocks: self.clocks,
            command: self.command.into_names(),
        }
    }
}

/// The recipe for a container's first process.
pub(crate) fn container<'a>(request: Request<'a>) -> Result<Plan<'a>> {
    let Request {
        spec,
        executable,
        rootfs,
        bundle,
        stdio,
        pinned,
        cgroup,
    } = request;
    supported::check(spec)?;
    let process = spec
        .process()
        .as_ref()
        .ok_or_else(|| Error::spec("process", "nothing", "must be there"))?;
    supported::check_process(process)?;
    let mut inherited = Inherited::default();
    let mut steps = Vec::with_capacity(96);
    let empty_root = matches!(rootfs, Rootfs::Empty);
    let namespaces = namespaces::Namespaces::read(spec, pinned, &mut inherited)?;
    let identity = identity::Decided::new(process, Some(spec), empty_root)?;
    let terminal = matches!(stdio, Stdio::Terminal { .. });

    // Who shares its PID namespace sees this process from its birth on, with all that the shim has open.
    steps.push(Step::ForbidTracing);
    // A cgroup namespace is rooted where its maker is at that moment, so the process must be in its cgroup first.
    let cgroup_v2 = cgroups::enter(cgroup, &mut inherited, &mut steps);
    // While the host's /proc is in reach, and before privileges go.
    identity::oom_score(process, &mut steps);
    // The user namespace first: it owns those that are made after it, and gives the right to join those it owns.
    namespaces.enter_user(&mut steps);
    // Handlers of the parent's are gone already; what it ignores would be ignored by the program too.
    steps.push(Step::ResetSignals);
    // A controlling terminal can only be acquired by the leader of a session that has none.
    steps.push(Step::NewSession);
    // While /proc is certainly the host's. Only the process itself may write it, so after the last clone.
    label::open(process, &mut steps);
    namespaces.enter(&mut steps);
    // The new namespaces are the caller's to name. The host's /proc shows each reader its own namespaces' values.
    namespaces::names(spec, &namespaces, &mut steps)?;
    namespaces::sysctls(spec, &mut steps)?;
    limits::personality(spec, &mut steps);
    let mut idmaps = idmap::Idmaps::default();
    let mut errand = Vec::new();
    let sources = if namespaces.joined_mount().is_some() {
        joined::check(&namespaces, spec, &rootfs)?;
        // After everything that is opened by a path of the caller's, and after its /proc was used. Its root is the root.
        namespaces.enter_mount(&mut steps);
        steps.push(Step::OpenOwnRoot);
        stdio::open_terminal(&stdio, false, &mut steps);
        0
    } else {
        let request = (rootfs, bundle, &stdio);
        own_root(
            spec,
            process,
            &namespaces,
            request,
            &mut idmaps,
            &mut errand,
            &mut steps,
        )?
    };
    let (filter, command) = finish(
        process,
        spec,
        executable,
        stdio,
        terminal,
        &identity,
        &mut inherited,
        &mut steps,
    )?;

    Ok(Plan {
        sources,
        steps,
        errand,
        inherited,
        command,
        filter,
        identity: identity.packed()?,
        known_identity: identity.known,
        wanted: identity.wanted,
        pid_namespace: namespaces.pid,
        clone_flags: namespaces.clone_flags,
        maps: namespaces.maps,
        cgroup: cgroup_v2,
        idmaps: idmaps.into_maps(),
        clocks: namespaces.clocks,
    })
}

/// The part of a container's recipe that makes its root, in a mount namespace of its own. Returns how many mount sources
/// are open at a time.
fn own_root(
    spec: &Spec,
    process: &Process,
    namespaces: &namespaces::Namespaces,
    (rootfs, bundle, stdio): (Rootfs<'_>, &Path, &Stdio),
    idmaps: &mut idmap::Idmaps,
    errand: &mut Vec<Step>,
    steps: &mut Vec<Step>,
) -> Result<usize> {
    let empty_root = matches!(rootfs, Rootfs::Empty);
    let mut outside = Vec::new();
    // Sources are copied while our mounts are still peers of the host's: a copy that is made later could receive
    // (slave) but never again share.
    let mut mounts = mounts::Mounts::read(spec, namespaces, idmaps, &mut outside)?;
    let sources = mounts.sources();
    match namespaces.has_user() {
        false => {
            steps.append(&mut outside);
            // From here on nothing that we mount or unmount shows on the host.
            steps.push(Step::ReceiveOnly);
            rootfs::mount(rootfs, bundle, idmaps, steps)?;
        }
        // In there the host's directories are a stranger's: the mount point of the root may be out of reach, but "/" is not.
        true if empty_root && sources == 0 => {
            steps.push(Step::ReceiveOnly);
            steps.push(Step::EmptyCover);
        }
        true => {
            errand.append(&mut outside);
            errand.push(Step::NewNamespaces {
                flags: namespaces::NEWNS,
            });
            errand.push(Step::ReceiveOnly);
            rootfs::mount(rootfs, bundle, idmaps, errand)?;
            errand.push(Step::HandOver);
            steps.push(Step::ReceiveOnly);
            steps.push(Step::TakeOver { count: sources + 1 });
            steps.push(Step::CoverRoot);
        }
    }
    // In the config's order, each destination resolved inside the root.
    mounts.mount(steps);
    if !empty_root && !mounts.binds_dev() {
        devices::make(spec, steps)?;
    }
    // The container's own devpts must be there, and must not be masked yet.
    stdio::open_terminal(stdio, true, steps);
    // What is missing must be made before the root is read-only.
    paths::working_directory(process, steps)?;
    paths::mask(spec, steps)?;
    paths::readonly(spec, steps)?;
    mounts.finish(steps);
    if empty_root || spec.root().as_ref().and_then(|r| r.readonly()).unwrap_or(false) {
        steps.push(Step::ReadonlyRoot);
    }
    // The host's mounts go with the old root.
    steps.push(Step::PivotRoot);
    rootfs::propagation(spec, steps)?;
    Ok(mounts.sources())
}

/// The recipe for one more process in a running container.
pub(crate) fn exec<'a>(request: ExecRequest<'a>) -> Result<Plan<'a>> {
    let ExecRequest {
        process,
        spec,
        init,
        executable,
        stdio,
        cgroup,
    } = request;
    supported::check_process(process)?;
    let mut inherited = Inherited::default();
    let mut steps = Vec::with_capacity(32);
    // The annotations speak of the container's user; another one was chosen for this process.
    let same_user = spec.process().as_ref().is_some_and(|p| p.user() == process.user());
    let identity = identity::Decided::new(process, same_user.then_some(spec), false)?;
    let terminal = matches!(stdio, Stdio::Terminal { .. });
    let init = inherited.borrow(init);

    steps.push(Step::ForbidTracing);
    steps.push(Step::ResetSignals);
    steps.push(Step::NewSession);
    // As for a container: before the namespaces, while the host's /proc is in reach.
    label::open(process, &mut steps);
    let cgroup_v2 = cgroups::enter(cgroup, &mut inherited, &mut steps);
    identity::oom_score(process, &mut steps);
    // All at once (Linux 5.8): either the process is in all of them or in none.
    let pid_namespace = namespaces::join_all(spec, init, &mut steps);
    limits::personality(spec, &mut steps);
    steps.push(Step::OpenOwnRoot);
    stdio::open_terminal(&stdio, false, &mut steps);
    let (filter, command) = finish(
        process,
        spec,
        executable,
        stdio,
        terminal,
        &identity,
        &mut inherited,
        &mut steps,
    )?;

    Ok(Plan {
        sources: 0,
        steps,
        errand: Vec::new(),
        inherited,
        command,
        filter,
        identity: identity.packed()?,
        known_identity: identity.known,
        wanted: identity.wanted,
        pid_namespace,
        clone_flags: 0,
        maps: None,
        cgroup: cgroup_v2,
        idmaps: Vec::new(),
        clocks: None,
    })
}

/// What both recipes end with: from a root process in its root to the program.
#[allow(clippy::too_many_arguments)]
fn finish(
    process: &Process,
    spec: &Spec,
    executable: crate::Executable,
    stdio: Stdio,
    terminal: bool,
    identity: &identity::Decided,
    inherited: &mut Inherited<'_>,
    steps: &mut Vec<Step>,
) -> Result<(Option<crate::filter::Program>, Command)> {
    let filter = crate::filter::of(process, spec)?;
    let no_new_privileges = process.no_new_privileges().unwrap_or(false);
    let command = Command::new(process, executable, identity.home_is_missing(), inherited)?;

    // Raising a hard limit takes CAP_SYS_RESOURCE.
    limits::resources(process, steps)?;
    // Only now is there a root in which a name can be looked up.
    if identity.must_ask() {
        steps.push(Step::Identify);
    }
    if terminal {
        steps.push(Step::TerminalOwner);
    }
    stdio::place(stdio, inherited, steps)?;
    // As root it works wherever the user may not look; as the user, where root may not (a network file system).
    steps.push(Step::EnterDirectory {
        path: text::c_path("process.cwd", process.cwd())?,
        last_chance: false,
    });
    steps.push(Step::Umask {
        mask: process.user().umask().unwrap_or(0o022),
    });
    // Dropping from the bounding set takes CAP_SETPCAP in the effective set.
    let capabilities = capabilities::read(process);
    steps.push(Step::DropBounding {
        keep: capabilities.bounding,
    });
    // Keeps the permitted set, or the change to another user would clear it.
    steps.push(Step::SwitchUser);
    let set_capabilities = Step::SetCapabilities(Box::new(capabilities));
    if filter.is_some() && !no_new_privileges {
        // Without no_new_privs a filter takes CAP_SYS_ADMIN: the capabilities go after it.
        steps.push(Step::RaiseForSeccomp);
        steps.push(Step::EnterDirectory {
            path: text::c_path("process.cwd", process.cwd())?,
            last_chance: true,
        });
        label::ask(process, steps)?;
        steps.push(Step::CloseOthers);
        steps.push(Step::AwaitStart);
        steps.push(Step::Seccomp);
        steps.push(set_capabilities);
    } else {
        steps.push(set_capabilities);
        steps.push(Step::EnterDirectory {
            path: text::c_path("process.cwd", process.cwd())?,
            last_chance: true,
        });
        if no_new_privileges {
            steps.push(Step::NoNewPrivileges);
        }
        // For the moment of the exec: the steps before it would not be allowed under it.
        label::ask(process, steps)?;
        // Whatever the caller had open, and whatever the steps opened: now, since the start may be long in coming.
        steps.push(Step::CloseOthers);
        steps.push(Step::AwaitStart);
        // Last: the filter need not allow what the steps before it do.
        if filter.is_some() {
            steps.push(Step::Seccomp);
        }
    }
    steps.push(Step::Exec);
    Ok((filter, command))
}
