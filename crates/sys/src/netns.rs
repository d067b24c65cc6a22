//! Net namespaces: made, entered by a thread that ends afterwards, bound to a path.
//!
//! A namespace is a property of a thread. Whoever enters one on a thread that lives on must be able to come back,
//! whatever happens meanwhile; so these functions start a thread for it and let it end.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::{Error, Result};

/// Stack of the threads that enter a namespace: they send a few messages.
const STACK_BYTES: usize = 64 * 1024;
/// `/proc/thread-self` names the calling thread, so that this is right in any thread.
const OWN: &str = "/proc/thread-self/ns/net";

/// Runs `work` in a new net namespace, on a thread of its own, and returns the namespace with its result.
pub fn with_new<T: Send>(work: impl FnOnce() -> T + Send) -> Result<(OwnedFd, T)> {
    on_thread(|| {
        unshare(UnshareFlags::NEWNET, "CLONE_NEWNET")?;
        let namespace = current()?;
        Ok((namespace, work()))
    })
}

/// Runs `work` in the net namespace `namespace`, on a thread of its own.
pub fn within<T: Send>(namespace: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> Result<T> {
    on_thread(|| {
        rustix::thread::move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))
            .map_err(|e| Error::new("setns(CLONE_NEWNET)", e))?;
        Ok(work())
    })
}

/// The calling thread's net namespace.
pub fn current() -> Result<OwnedFd> {
    open(Path::new(OWN))
}

/// The net namespace at `path`: a bind mount of one, or a link below /proc.
pub fn open(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Error::new(format_args!("open({path:?}, O_RDONLY)"), e))
}

/// Whether `file` is a net namespace at all. A file that was meant to have one bound on it, and has none, is not.
pub fn is_namespace(file: BorrowedFd<'_>) -> bool {
    // ioctl NS_GET_NSTYPE (Linux 4.11) answers with the CLONE_ flag; other files refuse it.
    use std::os::fd::AsRawFd;
    const NS_GET_NSTYPE: libc::Ioctl = 0xb703;
    // SAFETY: the descriptor is borrowed for the call, and this request takes no argument.
    let kind = unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE) };
    kind == libc::CLONE_NEWNET
}

/// Makes a new net namespace, runs `work` in it and binds it to `path`, which is created. When this fails, nothing stays.
pub fn make_bound<T: Send>(path: &Path, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    File::create_new(path).map_err(|e| Error::new(format_args!("open({path:?}, O_CREAT|O_EXCL)"), errno(&e)))?;
    let made = on_thread(|| {
        crate::failpoint!("network.namespace.file")?;
        unshare(UnshareFlags::NEWNET, "CLONE_NEWNET")?;
        let outcome = work()?;
        rustix::mount::mount_bind(OWN, path)
            .map_err(|e| Error::new(format_args!("mount({OWN:?}, {path:?}, MS_BIND)"), e))?;
        Ok(outcome)
    });
    if made.is_err() {
        let _ = std::fs::remove_file(path);
    }
    made
}

/// Takes the bind mount at `path` away and removes the file. The kernel collects the namespace when its last
/// process, socket and file descriptor are gone; nobody waits for it. A path that isn't there is as good as removed.
pub fn remove_bound(path: &Path) -> Result<()> {
    match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        // EINVAL: the file is there, but nothing is mounted on it.
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
        Err(e) => return Err(Error::new(format_args!("umount2({path:?}, MNT_DETACH)"), e)),
    }
    match rustix::fs::unlink(path) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(Error::new(format_args!("unlink({path:?})"), e)),
    }
}

/// Gives the calling thread, and the threads that it starts from now on, a net and a mount namespace of its own, with
/// every mount private: what it does there stays there. For tests, which are threads of one process.
pub fn isolate_thread() -> Result<()> {
    unshare(UnshareFlags::NEWNET | UnshareFlags::NEWNS, "CLONE_NEWNET|CLONE_NEWNS")?;
    let private = rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).map_err(|e| Error::new("mount(\"/\", MS_REC|MS_PRIVATE)", e))
}

fn unshare(flags: UnshareFlags, names: &str) -> Result<()> {
    // SAFETY: UnshareFlags::FILES, the flag that would make descriptors of other threads unusable, is never among them.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(|e| Error::new(format_args!("unshare({names})"), e))
}

fn on_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("netns".to_owned())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, work)
            .map_err(|e| Error::new("clone(CLONE_THREAD)", errno(&e)))?;
        match thread.join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn errno(e: &std::io::Error) -> Errno {
    e.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}

/// Inode number of a namespace: what `readlink /proc/PID/ns/net` shows in brackets.
pub fn inode(namespace: impl AsFd) -> Result<u64> {
    rustix::fs::fstat(namespace)
        .map(|s| s.st_ino)
        .map_err(|e| Error::new("fstat(namespace)", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bound_entered_and_removed() {
        std::thread::spawn(|| {
            isolate_thread().unwrap();
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("ns");
            let made = make_bound(&path, || inode(current()?)).unwrap();
            let opened = open(&path).unwrap();
            assert!(is_namespace(opened.as_fd()));
            assert_eq!(inode(&opened).unwrap(), made);
            assert_eq!(
                within(opened.as_fd(), || inode(current().unwrap()).unwrap()).unwrap(),
                made
            );
            assert_ne!(
                inode(current().unwrap()).unwrap(),
                made,
                "the caller stays where it was"
            );
            remove_bound(&path).unwrap();
            assert!(!path.exists());
            remove_bound(&path).unwrap();
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_failure_leaves_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ns");
        let failed = make_bound(&path, || Err::<(), _>(Error::new("work", Errno::BUSY)));
        assert_eq!(failed.unwrap_err().errno, Errno::BUSY);
        assert!(!path.exists());
    }

    #[test]
    fn a_plain_file_is_no_namespace() {
        let file = tempfile::tempfile().unwrap();
        assert!(!is_namespace(file.as_fd()));
    }
}
