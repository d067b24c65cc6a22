//! Named pipes: how a container's output outlives the process that reads it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::{Error, Result};

/// Makes a FIFO at `path` that its owner alone may open. One that is there already is as good.
pub fn make(path: &Path) -> Result<()> {
    match rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(e) => Err(Error::new(format_args!("mknod({path:?}, S_IFIFO|0600)"), e)),
    }
}

/// Opens a FIFO for reading and writing, so that this descriptor is both ends at once: the open never waits for the
/// other side (fifo(7); Linux alone defines it), and while it is open the other users meet neither end of file nor
/// SIGPIPE. With `nonblocking`, reads and writes answer EAGAIN instead of waiting.
pub fn open_both_ends(path: &Path, nonblocking: bool) -> Result<OwnedFd> {
    open(path, OFlags::RDWR, nonblocking)
}

/// Opens a FIFO for reading. Without `nonblocking` this waits for a writer unless [`open_both_ends`] holds it open.
pub fn open_reader(path: &Path, nonblocking: bool) -> Result<OwnedFd> {
    open(path, OFlags::RDONLY, nonblocking)
}

/// Opens a FIFO for writing. Without `nonblocking` this waits for a reader unless [`open_both_ends`] holds it open; with
/// it, a FIFO that nobody reads is ENXIO.
pub fn open_writer(path: &Path, nonblocking: bool) -> Result<OwnedFd> {
    open(path, OFlags::WRONLY, nonblocking)
}

fn open(path: &Path, access: OFlags, nonblocking: bool) -> Result<OwnedFd> {
    // O_NONBLOCK for the open itself: at a path that is no FIFO (a device, a lease) it must not wait either. It is taken
    // off again, because it belongs to the open file, which the container shares.
    let needs_other_side = access != OFlags::RDWR && !nonblocking;
    let wait = if needs_other_side {
        OFlags::empty()
    } else {
        OFlags::NONBLOCK
    };
    let flags = access | wait | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NOCTTY;
    let call = |errno| Error::new(format_args!("open({path:?}, {flags:?})"), errno);
    let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(call)?;
    let stat = rustix::fs::fstat(&fd).map_err(|e| Error::new(format_args!("fstat({path:?})"), e))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Fifo {
        return Err(Error::new(
            format_args!("open({path:?}, {flags:?}): not a FIFO"),
            Errno::INVAL,
        ));
    }
    if !nonblocking {
        set_nonblocking(&fd, false)?;
    }
    Ok(fd)
}

/// Switches O_NONBLOCK of an open file. Every descriptor that shares the open file sees it.
pub fn set_nonblocking(fd: impl AsFd, nonblocking: bool) -> Result<()> {
    let fd = fd.as_fd();
    let failed = |call: &'static str| move |e| Error::new(format_args!("fcntl({fd:?}, {call})"), e);
    let mut flags = rustix::fs::fcntl_getfl(fd).map_err(failed("F_GETFL"))?;
    flags.set(OFlags::NONBLOCK, nonblocking);
    rustix::fs::fcntl_setfl(fd, flags).map_err(failed("F_SETFL"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn both_ends_meet_neither_end_of_file_nor_epipe() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        make(&path).unwrap();
        make(&path).unwrap();
        let both = open_both_ends(&path, true).unwrap();
        let mut buffer = [0; 8];
        assert_eq!(rustix::io::read(&both, &mut buffer), Err(Errno::AGAIN));
        {
            let writer = open_writer(&path, false).unwrap();
            rustix::io::write(&writer, b"hello").unwrap();
        }
        assert_eq!(rustix::io::read(&both, &mut buffer), Ok(5));
        assert_eq!(rustix::io::read(&both, &mut buffer), Err(Errno::AGAIN));
    }

    #[test]
    fn what_is_no_fifo_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = open_both_ends(file.path(), true).unwrap_err();
        assert!(error.to_string().contains("not a FIFO"), "{error}");
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(file.path(), &link).unwrap();
        assert_eq!(open_both_ends(&link, true).unwrap_err().errno, Errno::LOOP);
    }
}
