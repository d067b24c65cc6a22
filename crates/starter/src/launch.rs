//! From a request to a child: compile the plan, clone, hand over.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;
use sys::process::{Clone, clone3};

use crate::child;
use crate::creating::Creating;
use crate::handshake;
use crate::plan::{self, IdMaps, PidNamespace, Plan};
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

fn launch(mut plan: Plan<'_>) -> Result<Creating> {
    let (parent, child_end) = handshake::pair()?;
    let mut parent = Some(parent);
    let mut slots = child::Slots::new(plan.sources);
    let born = {
        let Plan {
            steps,
            inherited,
            command,
            filter,
            identity,
            clone_flags,
            cgroup,
            pid_namespace,
            ..
        } = &mut plan;
        let how = Clone {
            namespaces: *clone_flags,
            cgroup: cgroup.map(|handle| inherited.get(handle)),
        };
        let prepared = child::Prepared {
            steps,
            inherited,
            command,
            filter: filter.as_ref(),
            identity,
        };
        let run = || {
            // Its copy of the other end would keep the handshake open when the parent is gone: the child would wait for
            // itself. (What it takes here is its own; the parent's memory is another.)
            drop(parent.take());
            child::run(prepared, &mut slots, &child_end)
        };
        match pid_namespace {
            PidNamespace::OfClone => clone3(&how, run)?,
            PidNamespace::Join(handle) => within(inherited.get(*handle), || clone3(&how, run))?,
        }
    };
    // The child has its own copies.
    drop(child_end);
    let Some(parent) = parent else {
        return Err(sys::Error::new("clone3: ran the child in the parent", Errno::BADF).into());
    };
    let maps = plan.maps.take();
    let (wanted, known) = (plan.wanted.clone(), plan.known_identity.clone());
    let pid = born.pid;
    let creating = Creating::new(born, parent, plan.into_story(), wanted, known);
    if let Some(maps) = maps {
        write_maps(pid, &maps)?;
        creating.go_on()?;
    }
    Ok(creating)
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

/// The maps can only be written from outside, by someone with CAP_SETUID in the namespace around.
fn write_maps(pid: rustix::process::Pid, maps: &IdMaps) -> Result<()> {
    for (file, map) in [("uid_map", &maps.uid), ("gid_map", &maps.gid)] {
        let path = format!("/proc/{}/{file}", pid.as_raw_nonzero());
        std::fs::write(&path, map).map_err(|e| Error::Step {
            step: format!("write {path} ({})", map.trim_end().replace('\n', ", ")),
            errno: e.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error),
        })?;
    }
    Ok(())
}
