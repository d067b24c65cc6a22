//! The child: does the plan's steps, one after the other, and becomes the program.
//!
//! It is a copy of a process that may have had other threads, so nothing here allocates, takes a lock or unwinds: each
//! step is a few system calls on what the plan prepared. A step that fails is reported by its number; the parent has
//! the words. There is no way back from here: a child ends by exec or by its exit status.
//!
//! Where the container is in a user namespace of its own there are others besides, each for what the kernel gives only to
//! it, and each with the same loop over its own steps:
//!
//! ```text
//!  caller ──clone──► first child ──enters the user namespace, bears──► the container's process ──► the program
//!     │              (only for a PID namespace inside a joined user namespace; then it ends)  ▲
//!     └────clone──► errand, outside of the user namespace ──hands over root and sources───────┘   (then it ends)
//! ```

mod devices;
mod identity;
mod mounts;
mod terminal;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, Result};
use rustix::process::{Rlimit, getrlimit, setrlimit};

use crate::filter;
use crate::handshake::{ChildEnd, Kind, Link, Packed, Report};
use crate::plan::{Command, Inherited, NamespaceSource, Program, Step, detail};

const NEWPID: u64 = 0x2000_0000;
const NEWTIME: u64 = 0x80;

/// The status of a child that could not become the program; the handshake says why.
const FAILED: i32 = 127;

/// What the parent prepared.
pub(crate) struct Prepared<'p, 'f> {
    pub steps: &'p [Step],
    /// The number of the first step, for reports.
    pub first: usize,
    /// Namespaces with the plan's maps, by number.
    pub idmaps: &'p [OwnedFd],
    /// Between the errand and the container's process.
    pub link: Option<&'p Link>,
    pub inherited: &'p Inherited<'f>,
    pub command: &'p mut Command,
    pub filter: Option<&'p filter::Program>,
    pub identity: &'p mut Packed,
}

/// What the steps leave to one another; its space is made before the clone.
pub(crate) struct Slots {
    /// The container's root, once it is there.
    root: Option<OwnedFd>,
    /// Opened mount sources.
    sources: Vec<Option<OwnedFd>>,
    /// The empty directory that masks others, once one had to be.
    empty: Option<OwnedFd>,
    /// The terminal's other end.
    terminal: Option<OwnedFd>,
    /// Where the kernel takes the order for an AppArmor profile.
    label: Option<OwnedFd>,
    /// Whether the working directory was entered.
    in_directory: bool,
}

impl Slots {
    pub fn new(sources: usize) -> Self {
        let sources = (0..sources).map(|_| None).collect();
        Slots {
            root: None,
            sources,
            empty: None,
            terminal: None,
            label: None,
            in_directory: false,
        }
    }

    fn root(&self) -> Result<BorrowedFd<'_>> {
        self.root.as_ref().map(|fd| fd.as_fd()).ok_or(Errno::BADF)
    }
}

/// Where a step can put what an errno cannot say.
struct Reporter<'a> {
    socket: &'a ChildEnd,
    step: usize,
    last: usize,
    detail: u64,
}

impl Reporter<'_> {
    fn failed(&self, errno: Errno) -> i32 {
        let report = Report::new(Kind::Failed, self.step, errno.raw_os_error(), self.detail);
        // If nobody listens any more, nobody wants to know.
        let _ = self.socket.report(report, None);
        FAILED
    }

    /// From now on another process is the child.
    fn heir(&self, heir: &sys::process::Child) -> Result<()> {
        let number = heir.pid.as_raw_nonzero().get() as u64;
        let report = Report::new(Kind::Heir, self.step, 0, number);
        self.socket.report(report, Some(heir.pidfd.as_fd()))
    }

    /// Done as far as possible.
    fn notice(&self, detail: u64) -> Result<()> {
        self.socket
            .report(Report::new(Kind::Notice, self.step, 0, detail), None)
    }

    fn send(&self, kind: Kind, fd: Option<BorrowedFd<'_>>) -> Result<()> {
        self.socket.report(Report::new(kind, self.step, 0, 0), fd)
    }
}

/// Does all steps, and becomes the program. Returns when a step failed, or when the last of the steps was not exec.
pub(crate) fn run(prepared: Prepared<'_, '_>, slots: &mut Slots, socket: &ChildEnd) -> i32 {
    // Modes are given exactly as the plan has them; the process's own umask is one of the last steps.
    rustix::process::umask(Mode::empty());
    run_from(0, prepared, slots, socket)
}

fn run_from(start: usize, mut prepared: Prepared<'_, '_>, slots: &mut Slots, socket: &ChildEnd) -> i32 {
    let steps = prepared.steps;
    for (index, step) in steps.iter().enumerate().skip(start) {
        let mut reporter = Reporter {
            socket,
            step: prepared.first + index,
            last: prepared.first + steps.len() - 1,
            detail: 0,
        };
        let done = match step {
            Step::Heir => {
                let how = sys::process::Clone {
                    namespaces: NEWPID,
                    cgroup: None,
                    sibling: true,
                };
                match sys::process::bear(&how, || run_from(index + 1, prepared, slots, socket)) {
                    // The heir does the rest.
                    Ok(heir) => return reporter.heir(&heir).map_or(FAILED, |()| 0),
                    Err(errno) => return reporter.failed(errno),
                }
            }
            _ => perform(step, &mut prepared, slots, &mut reporter),
        };
        if let Err(errno) = done {
            return reporter.failed(errno);
        }
    }
    0
}

fn perform(step: &Step, prepared: &mut Prepared<'_, '_>, slots: &mut Slots, reporter: &mut Reporter<'_>) -> Result<()> {
    match step {
        Step::ForbidTracing => sys::process::forbid_tracing(),
        Step::ResetSignals => {
            sys::process::reset_signals();
            Ok(())
        }
        // A leader already (the pid of a new namespace's first process can be one): then it has its session.
        Step::NewSession => match rustix::process::setsid() {
            Ok(_) | Err(Errno::PERM) => Ok(()),
            Err(errno) => Err(errno),
        },
        Step::EnterCgroup { tasks, .. } => write_all(prepared.inherited.get(*tasks), b"0"),
        Step::OomScore { value } => oom_score(*value, reporter),
        Step::AwaitMaps => reporter.socket.await_go_on(),
        Step::BecomeRoot => identity::become_root(),
        // Done by the loop.
        Step::Heir => Err(Errno::INVAL),
        Step::OpenLabel => {
            slots.label = Some(sys::procfs::open(
                c"/proc/thread-self/attr/apparmor/exec",
                OFlags::WRONLY,
            )?);
            Ok(())
        }
        Step::JoinNamespace { flag, source, .. } => match source {
            NamespaceSource::Held(handle, _) => sys::process::setns(prepared.inherited.get(*handle), *flag),
            NamespaceSource::Path(path) => {
                let fd = rustix::fs::open(path.as_c_str(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
                sys::process::setns(fd.as_fd(), *flag)
            }
        },
        Step::JoinAll { process, flags } => sys::process::setns(prepared.inherited.get(*process), *flags),
        Step::NewNamespaces { flags } => sys::process::unshare(*flags),
        Step::SetClocks => {
            reporter.send(Kind::Clocks, None)?;
            reporter.socket.await_go_on()
        }
        Step::EnterTime => {
            let path = c"/proc/thread-self/ns/time_for_children";
            let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
            sys::process::setns(fd.as_fd(), NEWTIME)
        }
        Step::Personality { persona } => sys::process::personality(*persona),
        Step::Hostname { name } => rustix::system::sethostname(name.to_bytes()),
        Step::Domainname { name } => rustix::system::setdomainname(name.to_bytes()),
        Step::Sysctl { path, value, .. } => {
            let fd = sys::procfs::open(path, OFlags::WRONLY)?;
            write_all(fd.as_fd(), value.to_bytes())
        }

        Step::OpenSource {
            index,
            path,
            recursive,
            follow,
            idmap,
        } => {
            let tree = mounts::open_source(path, *recursive, *follow)?;
            if let Some(idmap) = idmap {
                let map = prepared.idmaps.get(idmap.number).ok_or(Errno::BADF)?;
                sys::mount::mount_idmap(tree.as_fd(), idmap.recursive, map.as_fd())?;
            }
            *slots.sources.get_mut(*index).ok_or(Errno::BADF)? = Some(tree);
            Ok(())
        }
        Step::IdmapLayer { path, idmap } => {
            let map = prepared.idmaps.get(*idmap).ok_or(Errno::BADF)?;
            mounts::cover_mapped(path, map.as_fd())
        }
        Step::OwnUpper { path, uid, gid } => mounts::own_upper(path, *uid, *gid),
        Step::ReceiveOnly => mounts::receive_only(),
        Step::MountOverlay {
            base,
            data,
            target,
            flags,
        } => {
            rustix::process::chdir(base.as_c_str())?;
            rustix::mount::mount(c"overlay", target.as_c_str(), c"overlay", *flags, data.as_c_str())
        }
        Step::MountRoot {
            kind,
            source,
            data,
            target,
            flags,
        } => rustix::mount::mount(
            source.as_c_str(),
            target.as_c_str(),
            kind.as_c_str(),
            *flags,
            data.as_c_str(),
        ),
        Step::BindRoot {
            source,
            recursive,
            attributes,
            target,
        } => mounts::bind_root(source, *recursive, attributes, target),
        Step::EmptyRoot { target } => mounts::empty_root(target),
        Step::OpenRoot { path } => open_root(path, slots),
        Step::OpenOwnRoot => open_root(c"/", slots),
        Step::HandOver => {
            let link = prepared.link.ok_or(Errno::BADF)?;
            for (number, source) in slots.sources.iter().enumerate() {
                link.hand_over(Some(number), source.as_ref().ok_or(Errno::BADF)?.as_fd())?;
            }
            let root = sys::mount::clone_tree(slots.root()?, c"", true)?;
            link.hand_over(None, root.as_fd())
        }
        Step::TakeOver { count } => {
            for _ in 0..*count {
                match prepared.link.ok_or(Errno::BADF)?.take_over()? {
                    (Some(number), fd) => *slots.sources.get_mut(number).ok_or(Errno::BADMSG)? = Some(fd),
                    (None, fd) => slots.root = Some(fd),
                }
            }
            Ok(())
        }
        Step::CoverRoot => mounts::cover_root(slots.root()?),
        Step::EmptyCover => {
            let root = mounts::empty()?;
            mounts::cover_root(root.as_fd())?;
            slots.root = Some(root);
            Ok(())
        }
        Step::Mount(filesystem) => mounts::filesystem(slots.root()?, filesystem),
        Step::Bind(bind) => {
            let tree = slots
                .sources
                .get_mut(bind.source)
                .and_then(Option::take)
                .ok_or(Errno::BADF)?;
            mounts::bind(slots.root()?, tree, bind)
        }
        Step::Symlink {
            target,
            directory,
            name,
            ..
        } => devices::symlink(slots.root()?, target, directory, name),
        Step::Device(device) => devices::make(slots.root()?, device),
        Step::OpenTerminal { size } => {
            let (master, terminal) = terminal::open(slots.root()?, *size)?;
            slots.terminal = Some(terminal);
            reporter.send(Kind::Terminal, Some(master.as_fd()))
        }
        Step::Console => terminal::console(slots.root()?, slots.terminal.as_ref().ok_or(Errno::BADF)?.as_fd()),
        Step::MakeDirectory { path } => {
            sys::resolve::create_in_root(slots.root()?, path, sys::resolve::Leaf::Directory).map(drop)
        }
        Step::Mask { path } => mounts::mask(slots, path),
        Step::MakeReadonly { path } => mounts::make_readonly(slots.root()?, path),
        Step::LateAttributes { path, attributes } => {
            let mount = sys::resolve::open_in_root(slots.root()?, path, OFlags::PATH)?;
            sys::mount::mount_setattr(mount.as_fd(), false, attributes)
        }
        Step::ReadonlyRoot => {
            let readonly = sys::mount::Attributes {
                set: sys::mount::RDONLY,
                ..Default::default()
            };
            sys::mount::mount_setattr(slots.root()?, false, &readonly)
        }
        Step::PivotRoot => mounts::pivot_root(slots.root()?),
        Step::RootPropagation {
            propagation, recursive, ..
        } => {
            let attributes = sys::mount::Attributes {
                propagation: *propagation,
                ..Default::default()
            };
            sys::mount::mount_setattr(slots.root()?, *recursive, &attributes)
        }

        Step::ResourceLimit {
            resource, soft, hard, ..
        } => resource_limit(
            *resource,
            Rlimit {
                current: *soft,
                maximum: *hard,
            },
            reporter,
        ),
        Step::Identify => {
            reporter.send(Kind::Rooted, Some(slots.root()?))?;
            *prepared.identity = reporter.socket.await_identity()?;
            match prepared.command.add_home {
                true => prepared.command.envp.set_spare(b"HOME=", prepared.identity.home()),
                false => Ok(()),
            }
        }
        Step::TerminalOwner => terminal::give(
            slots.terminal.as_ref().ok_or(Errno::BADF)?.as_fd(),
            prepared.identity.uid,
        ),
        Step::Stdio { stdin, stdout, stderr } => {
            rustix::stdio::dup2_stdin(prepared.inherited.get(*stdin))?;
            rustix::stdio::dup2_stdout(prepared.inherited.get(*stdout))?;
            rustix::stdio::dup2_stderr(prepared.inherited.get(*stderr))
        }
        Step::ControllingTerminal => terminal::control(slots.terminal.take().ok_or(Errno::BADF)?),
        Step::EnterDirectory { path, last_chance } => enter_directory(path, *last_chance, slots),
        Step::Umask { mask } => {
            rustix::process::umask(Mode::from_raw_mode(*mask));
            Ok(())
        }
        Step::DropBounding { keep } => identity::drop_bounding(*keep),
        Step::SwitchUser => identity::switch_user(prepared.identity),
        Step::RaiseForSeccomp => identity::raise_permitted(),
        Step::SetCapabilities(capabilities) => match identity::set_capabilities(capabilities)? {
            0 => Ok(()),
            // After a filter without no_new_privs the handshake is over: the parent waits for exec alone.
            missing if reporter.step + 1 < reporter.last => reporter.notice(missing),
            _ => Ok(()),
        },
        Step::NoNewPrivileges => rustix::thread::set_no_new_privs(true),
        Step::AwaitStart => {
            reporter.send(Kind::Created, None)?;
            reporter.socket.await_go_on()
        }
        Step::Seccomp => filter::load(prepared.filter.ok_or(Errno::INVAL)?),
        Step::Label { order, .. } => {
            let label = slots.label.as_ref().ok_or(Errno::BADF)?;
            write_all(label.as_fd(), order.to_bytes())
        }
        Step::CloseOthers => {
            let program = match prepared.command.program {
                Program::File(handle) => Some(prepared.inherited.get(handle)),
                Program::Candidates(_) => None,
            };
            sys::process::close_from_but(3, [Some(reporter.socket.as_fd()), program])
        }
        Step::Exec => Err(exec(prepared.command, prepared.inherited, reporter)),
    }
}

fn open_root(path: &std::ffi::CStr, slots: &mut Slots) -> Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    slots.root = Some(rustix::fs::open(path, flags, Mode::empty())?);
    Ok(())
}

/// Below what it is now only with CAP_SYS_RESOURCE: then it stays.
fn oom_score(value: i32, reporter: &Reporter<'_>) -> Result<()> {
    let file = sys::procfs::open(c"/proc/self/oom_score_adj", OFlags::RDWR)?;
    let mut digits = [0u8; 12];
    match write_all(file.as_fd(), decimal(value, &mut digits)) {
        Err(Errno::ACCESS | Errno::PERM) => {}
        other => return other,
    }
    let mut now = [0u8; 12];
    let length = rustix::io::pread(&file, &mut now, 0)?;
    reporter.notice(u64::from(parse_decimal(&now[..length]) as u32))
}

fn decimal(value: i32, buffer: &mut [u8; 12]) -> &[u8] {
    let mut rest = value.unsigned_abs();
    let mut at = buffer.len();
    loop {
        at -= 1;
        buffer[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if value < 0 {
        at -= 1;
        buffer[at] = b'-';
    }
    &buffer[at..]
}

fn parse_decimal(text: &[u8]) -> i32 {
    let digits = text.iter().filter(|b| b.is_ascii_digit());
    let value = digits.fold(0i32, |value, digit| {
        value.wrapping_mul(10).wrapping_add(i32::from(digit - b'0'))
    });
    if text.first() == Some(&b'-') { -value } else { value }
}

/// A hard limit can be raised with CAP_SYS_RESOURCE only: then as far as it goes.
fn resource_limit(resource: rustix::process::Resource, wanted: Rlimit, reporter: &Reporter<'_>) -> Result<()> {
    match setrlimit(resource, wanted) {
        Err(Errno::PERM) => {}
        other => return other,
    }
    let highest = getrlimit(resource).maximum;
    let soft = match (wanted.current, highest) {
        (Some(soft), Some(highest)) => Some(soft.min(highest)),
        (soft, highest) => soft.or(highest),
    };
    setrlimit(
        resource,
        Rlimit {
            current: soft,
            maximum: highest,
        },
    )?;
    reporter.notice(highest.unwrap_or(u64::MAX))
}

/// By descriptor and inside the root, without magic links: /proc/self/fd/N would lead out. And where we are then is asked
/// of the kernel once more, whatever the way there was.
fn enter_directory(path: &std::ffi::CStr, last_chance: bool, slots: &mut Slots) -> Result<()> {
    if slots.in_directory {
        return Ok(());
    }
    let open = sys::resolve::open_in_root(slots.root()?, path, OFlags::PATH | OFlags::DIRECTORY);
    match open.and_then(rustix::process::fchdir) {
        Ok(()) => {
            slots.in_directory = sys::process::working_directory_is_inside()?;
            if slots.in_directory { Ok(()) } else { Err(Errno::XDEV) }
        }
        Err(Errno::ACCESS | Errno::PERM) if !last_chance => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// As execvp does it: a candidate that is missing is passed over, one that may not be run is remembered.
fn exec(command: &Command, inherited: &Inherited<'_>, reporter: &mut Reporter<'_>) -> Errno {
    let candidates = match &command.program {
        Program::File(handle) => return sys::process::execveat(inherited.get(*handle), &command.argv, &command.envp),
        Program::Candidates(candidates) => candidates,
    };
    let mut last = Errno::NOENT;
    for path in candidates {
        last = sys::process::execve(path, &command.argv, &command.envp);
        match last {
            Errno::NOENT => {
                if rustix::fs::access(path.as_c_str(), rustix::fs::Access::EXISTS).is_ok() {
                    reporter.detail |= detail::FILE_EXISTS;
                    return last;
                }
            }
            Errno::NOTDIR => {}
            Errno::ACCESS => reporter.detail |= detail::DENIED,
            _ => return last,
        }
    }
    last
}

fn write_all(fd: BorrowedFd<'_>, bytes: &[u8]) -> Result<()> {
    loop {
        match rustix::io::write(fd, bytes) {
            Ok(written) if written == bytes.len() => return Ok(()),
            Ok(_) => return Err(Errno::IO),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_without_an_allocator() {
        for value in [0, 7, -1, 1000, -1000, i32::MAX, i32::MIN] {
            let mut buffer = [0; 12];
            assert_eq!(decimal(value, &mut buffer), value.to_string().as_bytes());
        }
        assert_eq!(
            (
                parse_decimal(b"-998\n"),
                parse_decimal(b"0\n"),
                parse_decimal(b"1000\n")
            ),
            (-998, 0, 1000)
        );
    }
}
