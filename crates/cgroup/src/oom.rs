//! Out of memory: who was killed for it, and a descriptor that becomes readable when it happens.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::inotify;
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::file;
use crate::group::Cgroup;
use crate::hierarchy::{Controller, Version};

/// A watch on a cgroup's OOM kills. Poll [`OomEvents::as_fd`] for reading, then call [`OomEvents::drain`], then compare
/// [`OomEvents::kills`] with what it was: a wake-up is a hint, the count is the truth (the kernel announces on v1
/// before it kills, and once more when the cgroup is removed; on v2 any memory event wakes).
#[derive(Debug)]
pub struct OomEvents {
    fd: OwnedFd,
    count_file: PathBuf,
}

impl Cgroup {
    /// Starts watching for OOM kills.
    pub fn oom_events(&self) -> Result<OomEvents> {
        let (version, dir) = self.memory_dir()?;
        match version {
            Version::V1 => {
                let count_file = dir.join("memory.oom_control");
                let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
                    .map_err(|e| sys::Error::new("eventfd2(0)", e))?;
                let control = std::fs::File::open(&count_file).map_err(|e| {
                    sys::Error::new(
                        format_args!("open({count_file:?})"),
                        Errno::from_io_error(&e).unwrap_or(Errno::IO),
                    )
                })?;
                // The kernel takes a reference on both; the control file may be closed after.
                let request = format!("{} {}", fd.as_raw_fd(), control.as_raw_fd());
                file::write(&dir.join("cgroup.event_control"), &request)?;
                Ok(OomEvents { fd, count_file })
            }
            Version::V2 => {
                let count_file = dir.join("memory.events");
                let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
                let fd = inotify::init(flags).map_err(|e| sys::Error::new("inotify_init1()", e))?;
                inotify::add_watch(&fd, &count_file, inotify::WatchFlags::MODIFY)
                    .map_err(|e| sys::Error::new(format_args!("inotify_add_watch({count_file:?}, IN_MODIFY)"), e))?;
                Ok(OomEvents { fd, count_file })
            }
        }
    }

    /// How many of its processes the kernel has killed for lack of memory (whichever limit was hit: its own, an
    /// ancestor's, or the machine's). 0 if the cgroup is gone.
    pub fn oom_kills(&self) -> Result<u64> {
        let (version, dir) = self.memory_dir()?;
        Ok(count(&dir.join(match version {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        }))?)
    }

    fn memory_dir(&self) -> Result<(Version, &std::path::Path)> {
        self.dir(Controller::Memory).ok_or_else(|| Error::ControllerMissing {
            controller: Controller::Memory,
            field: "OOM detection".to_owned(),
        })
    }
}

impl OomEvents {
    /// Makes the descriptor unreadable until the next event.
    pub fn drain(&self) -> Result<()> {
        let mut buffer = [0; 1024];
        loop {
            match rustix::io::read(&self.fd, &mut buffer) {
                Ok(n) if n == buffer.len() => {}
                Ok(_) | Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(e) => return Err(sys::Error::new("read(oom events)", e).into()),
            }
        }
    }

    /// The number of OOM kills so far; 0 if the cgroup is gone.
    pub fn kills(&self) -> Result<u64> {
        Ok(count(&self.count_file)?)
    }
}

impl AsFd for OomEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for OomEvents {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.fd.as_raw_fd()
    }
}

/// Both dialects have a line `oom_kill N` (v1 since Linux 4.13).
fn count(path: &std::path::Path) -> sys::Result<u64> {
    Ok(file::read_optional(path)?
        .and_then(|text| file::keyed(&text, "oom_kill"))
        .unwrap_or(0))
}
