//! From a request to a child: compile the plan, clone, hand over.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::Pid;
use sys::process::{Child, Clone, clone3};

use crate::child;
use crate::creating::Creating;
use crate::handshake::{self, Kind, Received};
use crate::plan::{self, PidNamespace, Plan, Step, Story};
use crate::request::{ExecRequest, Request};
use crate::{Error, Result};

const NEWPID: u64 = 0x2000_0000;

/// Starts a container's first process: returns as soon as the child is born, which then works on its own. Wait until
/// [`Creating::as_fd`] is readable, and call [`Creating::advance`].
pub fn create(request: Request<'_>) -> Result<Creating> {
    launch(plan::container(request)?)
}

/// Starts one more process in a running container: the same way, into the namespaces that are there.
pub fn exec(request: ExecRequest<'_>) -> Result<Creating> {
    launch(plan::exec(request)?)
}

/// What [`create`] would do, a line for each step, and what is wrong with the request; nothing is started. Of a step that
/// another process does than the container's own, the line says so.
pub fn explain(request: Request<'_>) -> Result<Vec<String>> {
    let plan = plan::container(request)?;
    let mut lines: Vec<_> = plan.errand.iter().map(|step| format!("from outside: {step}")).collect();
    lines.extend(plan.steps.iter().map(Step::to_string));
    Ok(lines)
}

fn launch(mut plan: Plan<'_>) -> Result<Creating> {
    let (parent, child_end) = handshake::pair()?;
    let (errand_link, link) = match plan.errand.is_empty() {
        true => (None, None),
        false => handshake::link().map(|(a, b)| (Some(a), Some(b)))?,
    };
    let idmaps = plan
        .idmaps
        .iter()
        .map(sys::userns::new)
        .collect::<sys::Result<Vec<_>>>()?;
    // Each child takes what is its own out of these, and drops what is another's: a copy of the parent's end would keep the
    // handshake open when the parent is gone, and the child would wait for itself.
    let mut ends = Some((parent, errand_link));
    let mut slots = child::Slots::new(plan.sources);
    let born = {
        let how = Clone {
            namespaces: plan.clone_flags,
            cgroup: plan.cgroup.map(|handle| plan.inherited.get(handle)),
            sibling: false,
        };
        let prepared = child::Prepared {
            steps: &plan.steps,
            first: 0,
            idmaps: &idmaps,
            link: link.as_ref(),
            inherited: &plan.inherited,
            command: &mut plan.command,
            filter: plan.filter.as_ref(),
            identity: &mut plan.identity,
        };
        let run = || {
            drop(ends.take());
            child::run(prepared, &mut slots, &child_end)
        };
        match plan.pid_namespace {
            PidNamespace::OfClone => clone3(&how, run)?,
            PidNamespace::Join(handle) => within(plan.inherited.get(handle), || clone3(&how, run))?,
        }
    };
    // A copy of the container's end would keep the errand's from seeing that it is gone.
    drop(link);
    let Some((parent, errand_link)) = ends.take() else {
        return Err(sys::Error::new("clone3: ran the child in the parent", Errno::BADF).into());
    };
    let mut parent = Some(parent);
    let mut born = Born(Some(born));
    let errand = match errand_link {
        None => Born(None),
        Some(errand_link) => {
            let prepared = child::Prepared {
                steps: &plan.errand,
                first: plan.steps.len(),
                idmaps: &idmaps,
                link: Some(&errand_link),
                inherited: &plan.inherited,
                command: &mut plan.command,
                filter: None,
                identity: &mut plan.identity,
            };
            Born(Some(clone3(&Clone::default(), || {
                drop(parent.take());
                child::run(prepared, &mut slots, &child_end)
            })?))
        }
    };
    // The children have their own copies.
    drop(child_end);
    let Some(parent) = parent else {
        return Err(sys::Error::new("clone3: ran the child in the parent", Errno::BADF).into());
    };
    if let (Some(maps), Some(child)) = (&plan.maps, &born.0) {
        maps.write(child.pid)?;
        parent.go_on()?;
    }
    let inherits = plan.steps.iter().any(|step| matches!(step, Step::Heir));
    let (wanted, known) = (plan.wanted.clone(), plan.known_identity.clone());
    let story = plan.into_story();
    let mut notices = Vec::new();
    if inherits {
        born = Born(Some(heir(&parent, &story, &mut notices)?));
    }
    let (Some(child), errand) = (born.take(), errand.take()) else {
        return Err(sys::Error::new("clone3", Errno::CHILD).into());
    };
    Ok(Creating::new(child, errand, parent, story, wanted, known).with_notices(notices))
}

/// Waits for the process that takes the first child's place. The one place that waits: for a few system calls of the
/// child's, none of which can hang.
fn heir(parent: &handshake::ParentEnd, story: &Story, notices: &mut Vec<String>) -> Result<Child> {
    loop {
        let waiting = parent.as_fd();
        match poll(&mut [PollFd::new(&waiting, PollFlags::IN)], None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(sys::Error::new("poll(handshake)", errno).into()),
        }
        match parent.receive()? {
            Received::Nothing => {}
            Received::Report(report, Some(pidfd)) if report.kind == Kind::Heir => {
                let pid = Pid::from_raw(report.detail as i32);
                let pid = pid.ok_or_else(|| sys::Error::new("recvmsg(handshake)", Errno::BADMSG))?;
                return Ok(Child { pid, pidfd });
            }
            Received::Report(report, _) if report.kind == Kind::Failed => return Err(story.failure(&report)),
            Received::Report(report, _) if report.kind == Kind::Notice => notices.push(story.notice(&report)),
            // Neither the first child nor the errand says anything else.
            Received::Report(..) => return Err(sys::Error::new("recvmsg(handshake)", Errno::BADMSG).into()),
            Received::Closed | Received::Reset => return Err(Error::Ended { how: String::new() }),
        }
    }
}

/// A child that is killed and reaped unless it is taken.
struct Born(Option<Child>);

impl Born {
    fn take(mut self) -> Option<Child> {
        self.0.take()
    }
}

impl Drop for Born {
    fn drop(&mut self) {
        if let Some(child) = &self.0 {
            crate::creating::end(child);
        }
    }
}

/// Children of the calling thread are born in the PID namespace of `fd` (a namespace or a pidfd) while `f` runs.
fn within(fd: BorrowedFd<'_>, f: impl FnOnce() -> sys::Result<sys::process::Child>) -> Result<sys::process::Child> {
    let own = std::fs::File::open("/proc/self/ns/pid").map_err(|e| {
        let errno = e.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error);
        sys::Error::new("open(\"/proc/self/ns/pid\")", errno)
    })?;
    sys::process::setns(fd, NEWPID).map_err(|errno| Error::Step {
        step: "join the pid namespace".into(),
        errno,
    })?;
    let born = f();
    let back = sys::process::setns(own.as_fd(), NEWPID);
    let born = born.map_err(|error| match error.errno {
        // The kernel's way to say that the namespace takes no more processes.
        Errno::NOMEM => Error::Step {
            step: "start a process in the pid namespace (its first process has ended)".into(),
            errno: error.errno,
        },
        _ => Error::Sys(error),
    })?;
    match back {
        Ok(()) => Ok(born),
        Err(errno) => {
            // Every later child of ours would be born in a foreign namespace: better none now.
            let _ = rustix::process::pidfd_send_signal(&born.pidfd, rustix::process::Signal::KILL);
            Err(sys::Error::new("setns(own pid namespace)", errno).into())
        }
    }
}
