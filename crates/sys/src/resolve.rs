//! Paths inside a root that is not ours, resolved by the kernel and by file descriptor (openat2, Linux 5.6).
//!
//! A container's image decides what its symbolic links point to. `RESOLVE_IN_ROOT` makes "/" and ".." mean the root
//! that is given, as chroot would, and `RESOLVE_NO_MAGICLINKS` refuses /proc/…/fd and its kind, which lead out of any
//! root. Everything here may be called between clone and exec: no allocation, no lock; errors are a bare errno.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, Result};

/// How often openat2 is repeated when a rename elsewhere made it give up with EAGAIN.
const MAX_RETRIES: usize = 64;

/// How many dangling links [`create_in_root`] follows before it calls them a loop: as many as the kernel.
const MAX_LINKS: usize = 40;

/// The longest path, with its NUL.
const PATH_MAX: usize = 4096;

/// Opens `path` inside `root`. Close-on-exec.
pub fn open_in_root(root: BorrowedFd<'_>, path: &CStr, flags: OFlags) -> Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..MAX_RETRIES {
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

/// What stands at the end of a path that has to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaf {
    /// A directory, mode 0755.
    Directory,
    /// An empty file, mode 0644.
    File,
}

/// Opens `path` inside `root` (O_PATH), making what is missing of it. Links are followed inside the root; where one
/// dangles, what it points to is made, inside the root.
pub fn create_in_root(root: BorrowedFd<'_>, path: &CStr, leaf: Leaf) -> Result<OwnedFd> {
    match open_in_root(root, path, OFlags::PATH) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    let mut path = Path::new(path.to_bytes())?;
    for _ in 0..MAX_LINKS {
        if let Some(fd) = walk(root, &mut path, leaf)? {
            return Ok(fd);
        }
    }
    Err(Errno::LOOP)
}

/// Opens or makes one component after the other. `None`: a dangling link was met and `path` now leads where it points.
fn walk(root: BorrowedFd<'_>, path: &mut Path, leaf: Leaf) -> Result<Option<OwnedFd>> {
    let mut parent: Option<OwnedFd> = None;
    let mut at = 0;
    while let Some((start, end)) = path.component(at) {
        at = end;
        let found = path.with_prefix(0, end, |prefix| open_in_root(root, prefix, OFlags::PATH))?;
        let fd = match found {
            Ok(fd) => fd,
            Err(Errno::NOENT) => {
                let within = parent.as_ref().map_or(root, |p| p.as_fd());
                let leaf = if path.component(end).is_none() {
                    leaf
                } else {
                    Leaf::Directory
                };
                match path.with_prefix(start, end, |name| make(within, name, leaf))? {
                    Ok(()) => path.with_prefix(0, end, |prefix| open_in_root(root, prefix, OFlags::PATH))??,
                    Err(Errno::EXIST) => {
                        let mut buffer = [0u8; PATH_MAX];
                        let length = path.with_prefix(start, end, |name| read_link(within, name, &mut buffer))??;
                        path.replace(start, end, &buffer[..length])?;
                        return Ok(None);
                    }
                    Err(errno) => return Err(errno),
                }
            }
            Err(errno) => return Err(errno),
        };
        parent = Some(fd);
    }
    parent.map(Some).ok_or(Errno::INVAL)
}

fn make(within: BorrowedFd<'_>, name: &CStr, leaf: Leaf) -> Result<()> {
    match leaf {
        Leaf::Directory => rustix::fs::mkdirat(within, name, Mode::from_raw_mode(0o755)),
        Leaf::File => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            rustix::fs::openat(within, name, flags, Mode::from_raw_mode(0o644)).map(drop)
        }
    }
}

/// The link's target; EEXIST when it is no link (something else took the name meanwhile).
fn read_link(within: BorrowedFd<'_>, name: &CStr, buffer: &mut [u8; PATH_MAX]) -> Result<usize> {
    match rustix::fs::readlinkat_raw(within, name, &mut buffer[..]) {
        Ok(length) => Ok(length),
        Err(Errno::INVAL) => Err(Errno::EXIST),
        Err(errno) => Err(errno),
    }
}

/// A path on the stack.
struct Path {
    bytes: [u8; PATH_MAX],
    length: usize,
}

impl Path {
    fn new(path: &[u8]) -> Result<Self> {
        let mut new = Path {
            bytes: [0; PATH_MAX],
            length: 0,
        };
        new.push(path)?;
        Ok(new)
    }

    fn push(&mut self, part: &[u8]) -> Result<()> {
        let end = self.length + part.len();
        if end >= PATH_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        self.bytes[self.length..end].copy_from_slice(part);
        self.length = end;
        Ok(())
    }

    /// The next component from `at` on: where it starts and ends.
    fn component(&self, at: usize) -> Option<(usize, usize)> {
        let rest = &self.bytes[at..self.length];
        let start = at + rest.iter().position(|&b| b != b'/')?;
        let length = self.bytes[start..self.length]
            .iter()
            .position(|&b| b == b'/')
            .unwrap_or(self.length - start);
        Some((start, start + length))
    }

    /// Calls `f` with the bytes from `start` to `end` as a string.
    fn with_prefix<T>(&mut self, start: usize, end: usize, f: impl FnOnce(&CStr) -> T) -> Result<T> {
        let kept = std::mem::replace(&mut self.bytes[end], 0);
        let value = CStr::from_bytes_with_nul(&self.bytes[start..=end])
            .map(f)
            .map_err(|_| Errno::INVAL);
        self.bytes[end] = kept;
        value
    }

    /// The component is a link to `target`: the path that this makes.
    fn replace(&mut self, start: usize, end: usize, target: &[u8]) -> Result<()> {
        let mut new = Path {
            bytes: [0; PATH_MAX],
            length: 0,
        };
        if target.first() != Some(&b'/') {
            new.push(&self.bytes[..start])?;
        }
        new.push(target)?;
        new.push(&self.bytes[end..self.length])?;
        *self = new;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CString;
    use std::os::unix::fs::symlink;

    fn root() -> (tempfile::TempDir, OwnedFd) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let fd = rustix::fs::open(dir.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).expect("open");
        (dir, fd)
    }

    fn create(fd: &OwnedFd, path: &str, leaf: Leaf) -> Result<OwnedFd> {
        create_in_root(fd.as_fd(), &CString::new(path).expect("no NUL"), leaf)
    }

    #[test]
    fn makes_directories_and_a_leaf() {
        let (dir, fd) = root();
        create(&fd, "/a//b/./c", Leaf::Directory).expect("directories");
        create(&fd, "a/b/file", Leaf::File).expect("a file");
        assert!(dir.path().join("a/b/c").is_dir());
        assert!(dir.path().join("a/b/file").is_file());
        create(&fd, "/a/b/c", Leaf::Directory).expect("once more");
    }

    #[test]
    fn links_stay_inside_the_root() {
        let (dir, fd) = root();
        std::fs::create_dir(dir.path().join("var")).expect("mkdir");
        symlink("/run", dir.path().join("var/run")).expect("symlink");
        symlink("../../../../../../escape", dir.path().join("up")).expect("symlink");
        create(&fd, "/var/run/secrets", Leaf::Directory).expect("through a dangling link");
        assert!(dir.path().join("run/secrets").is_dir());
        create(&fd, "/up/x", Leaf::File).expect("above the root is the root");
        assert!(dir.path().join("escape/x").is_file());
        assert!(!std::path::Path::new("/escape").exists());
    }

    #[test]
    fn a_loop_and_a_file_in_the_way_are_errors() {
        let (dir, fd) = root();
        symlink("b", dir.path().join("a")).expect("symlink");
        symlink("a", dir.path().join("b")).expect("symlink");
        assert_eq!(create(&fd, "/a/x", Leaf::File).map(drop), Err(Errno::LOOP));
        std::fs::write(dir.path().join("file"), "").expect("write");
        assert_eq!(create(&fd, "/file/x", Leaf::File).map(drop), Err(Errno::NOTDIR));
    }

    #[test]
    fn magic_links_are_refused() {
        let proc = rustix::fs::open("/proc", OFlags::PATH, Mode::empty()).expect("open /proc");
        let opened = open_in_root(proc.as_fd(), c"self/root", OFlags::PATH);
        assert_eq!(opened.map(drop), Err(Errno::LOOP));
    }
}
