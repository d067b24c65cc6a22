//! User namespaces: made by a child that ends afterwards, their maps written from outside, kept by descriptor or bound to
//! a path.
//!
//! A user namespace is made by unshare or clone, and a process with threads cannot unshare one: so a child is cloned, which
//! waits while its parent writes the maps and takes the descriptors, and is killed.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::process::{Signal, WaitId, WaitIdOptions};

use crate::process::{Child, Clone, clone3};
use crate::{Error, Result};

const NEWUSER: u64 = 0x1000_0000;
const NEWNET: u64 = 0x4000_0000;

/// What the kernel is told about the ids of a user namespace: lines of "inside outside count", as /proc/PID/uid_map has
/// them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Maps {
    /// For /proc/PID/uid_map.
    pub uid: String,
    /// For /proc/PID/gid_map.
    pub gid: String,
}

impl Maps {
    /// Writes them for the new user namespace of `child`. Takes CAP_SETUID and CAP_SETGID in the namespace around.
    pub fn write(&self, child: rustix::process::Pid) -> Result<()> {
        for (file, map) in [("uid_map", &self.uid), ("gid_map", &self.gid)] {
            let path = format!("/proc/{}/{file}", child.as_raw_nonzero());
            std::fs::write(&path, map)
                .map_err(|e| Error::new(format_args!("write({path:?}, {:?})", map.trim_end()), errno(&e)))?;
        }
        Ok(())
    }
}

/// A process that sleeps in namespaces of its own until it is dropped.
struct Sleeper(Child);

impl Sleeper {
    fn start(namespaces: u64) -> Result<Sleeper> {
        let how = Clone {
            namespaces,
            ..Clone::default()
        };
        // Signals are blocked in it; it ends by SIGKILL alone, and with its parent by the pipe that is not there: the
        // kernel sends it SIGKILL (below).
        let parent = rustix::process::getpid();
        let child = clone3(&how, || {
            let dies = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
            // The parent may have died before that was set. (In the same PID namespace the numbers can be compared.)
            if dies.is_err() || rustix::process::getppid() != Some(parent) {
                return 1;
            }
            loop {
                rustix::event::pause();
            }
        })?;
        Ok(Sleeper(child))
    }

    fn namespace(&self, kind: &str) -> String {
        format!("/proc/{}/ns/{kind}", self.0.pid.as_raw_nonzero())
    }

    fn open(&self, kind: &str) -> Result<OwnedFd> {
        let path = self.namespace(kind);
        File::open(&path)
            .map(OwnedFd::from)
            .map_err(|e| Error::new(format_args!("open({path:?})"), errno(&e)))
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        // It is our child and not reaped, so both can only fail if somebody else waits for our children.
        let _ = rustix::process::pidfd_send_signal(&self.0.pidfd, Signal::KILL);
        let _ = rustix::process::waitid(WaitId::PidFd(self.0.pidfd.as_fd()), WaitIdOptions::EXITED);
    }
}

/// A new user namespace with these maps: for instance to map the owners of a mount's files through it.
pub fn new(maps: &Maps) -> Result<OwnedFd> {
    let sleeper = Sleeper::start(NEWUSER)?;
    maps.write(sleeper.0.pid)?;
    sleeper.open("user")
}

/// Makes a user namespace, bound to `user`, and inside it (so that it belongs to it) a net namespace, bound to `net`. Both
/// files are created. When this fails, nothing stays.
pub fn make_bound(maps: &Maps, user: &Path, net: Option<&Path>) -> Result<()> {
    // With both flags the kernel makes the user namespace first, and the other one in it (clone(2)).
    let sleeper = Sleeper::start(NEWUSER | if net.is_some() { NEWNET } else { 0 })?;
    maps.write(sleeper.0.pid)?;
    bind(&sleeper.namespace("user"), user)?;
    let Some(net) = net else { return Ok(()) };
    bind(&sleeper.namespace("net"), net).inspect_err(|_| {
        let _ = crate::netns::remove_bound(user);
    })
}

fn bind(namespace: &str, path: &Path) -> Result<()> {
    File::create_new(path).map_err(|e| Error::new(format_args!("open({path:?}, O_CREAT|O_EXCL)"), errno(&e)))?;
    rustix::mount::mount_bind(namespace, path).map_err(|e| {
        let _ = std::fs::remove_file(path);
        Error::new(format_args!("mount({namespace:?}, {path:?}, MS_BIND)"), e)
    })
}

/// Whether the file at `path` is a user namespace. A file that was meant to have one bound on it, and has none, is not.
pub fn is_bound(path: &Path) -> bool {
    // ioctl NS_GET_NSTYPE (Linux 4.11) answers with the CLONE_ flag; other files refuse it.
    const NS_GET_NSTYPE: libc::Ioctl = 0xb703;
    let Ok(file) = File::open(path) else { return false };
    // SAFETY: the descriptor is open for the call, and this request takes no argument.
    let kind = unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE) };
    kind == libc::CLONE_NEWUSER
}

/// The user namespace that a namespace belongs to (ioctl NS_GET_USERNS, Linux 4.9).
pub fn owner(namespace: BorrowedFd<'_>) -> Result<OwnedFd> {
    const NS_GET_USERNS: libc::Ioctl = 0xb701;
    // SAFETY: the descriptor is borrowed for the call; the request takes no argument and answers with a new descriptor.
    let fd = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_USERNS) };
    if fd < 0 {
        return Err(Error::last("ioctl(NS_GET_USERNS)"));
    }
    // SAFETY: the kernel has just opened it for us (close-on-exec), and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn errno(e: &std::io::Error) -> Errno {
    e.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn maps() -> Maps {
        Maps {
            uid: "0 100000 65536\n".into(),
            gid: "0 100000 1000\n1000 200000 64536\n".into(),
        }
    }

    #[test]
    fn a_namespace_by_descriptor_outlives_its_maker() {
        let namespace = new(&maps()).expect("a user namespace");
        assert_ne!(
            crate::netns::inode(File::open("/proc/self/ns/user").expect("open")),
            crate::netns::inode(&namespace)
        );
        let bad = Maps {
            uid: "0 0\n".into(),
            ..maps()
        };
        let error = new(&bad).expect_err("not a map").to_string();
        assert!(error.contains("uid_map\", \"0 0\"): Invalid argument"), "{error}");
    }

    #[test]
    fn the_net_namespace_belongs_to_the_user_namespace() {
        std::thread::spawn(|| {
            crate::netns::isolate_thread().expect("these tests need root");
            let dir = tempfile::tempdir().expect("a directory");
            let (user, net) = (dir.path().join("user"), dir.path().join("net"));
            make_bound(&maps(), &user, Some(&net)).expect("made");
            assert!(is_bound(&user) && !is_bound(&net));
            let owner = owner(crate::netns::open(&net).expect("open").as_fd()).expect("owner");
            assert_eq!(
                crate::netns::inode(owner),
                crate::netns::inode(File::open(&user).expect("open"))
            );
            // Made twice: refused, and what was there stays.
            let again = make_bound(&maps(), &user, Some(&net)).expect_err("is there");
            assert_eq!(again.errno, Errno::EXIST);
            assert!(is_bound(&user));
            for path in [&user, &net] {
                crate::netns::remove_bound(path).expect("removed");
            }
            // Half of it in the way: nothing of it stays.
            File::create_new(&net).expect("a file");
            make_bound(&maps(), &user, Some(&net)).expect_err("is there");
            assert!(!user.exists());
        })
        .join()
        .expect("no panic");
    }
}
