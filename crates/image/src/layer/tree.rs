//! Writes entries of a layer below one directory, and nowhere else, whatever their names and links say.
//!
//! Paths are resolved by the kernel with the directory as root (openat2, RESOLVE_IN_ROOT, Linux 5.6): a symbolic link
//! that an earlier entry made is followed inside the tree, as a container would follow it, and can't lead out. The last
//! component is never followed: it is made anew (O_EXCL), and what stood there before is removed first. So an
//! archive may name an entry twice, and the later one wins.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::File;
use std::io::{self, BufRead, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat,
    fchmod, fchown, fgetxattr, fsetxattr, futimens, linkat, lsetxattr, makedev, mkdirat, mknodat, openat, openat2,
    readlinkat, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use super::lower::{Found, Lower, directory_flags};
use super::sweep::remove_tree;
use super::tarball::{Entry, Kind};

/// Marks a directory whose lower namesakes do not show (Documentation/filesystems/overlayfs.rst, "whiteouts and opaque
/// directories").
const OPAQUE: &str = "trusted.overlay.opaque";

/// Symbolic links followed in one path: the kernel's own number (path_resolution(7)).
const LINKS: usize = 40;

/// Why an entry can't be made.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It breaks a rule.
    #[error("{0}")]
    Rule(String),
    /// The kernel refused.
    #[error("{0}: {1}")]
    Call(&'static str, Errno),
    /// Reading the archive or writing a file failed.
    #[error("{0}: {1}")]
    Io(&'static str, io::Error),
}

type Result<T> = std::result::Result<T, Failure>;

fn call(name: &'static str) -> impl Fn(Errno) -> Failure {
    move |errno| Failure::Call(name, errno)
}

fn rule<T>(text: impl Into<String>) -> Result<T> {
    Err(Failure::Rule(text.into()))
}

/// A directory that a layer is unpacked into.
pub struct Tree {
    root: Rc<OwnedFd>,
    lower: Lower,
    /// The parent used last: archives list a directory's entries together.
    recent: Option<(Vec<u8>, Rc<OwnedFd>)>,
    /// Times of directories, set when nothing more is written into them: (device, inode) to (path, times).
    times: HashMap<(u64, u64), (Vec<u8>, Timestamps)>,
}

/// Where an entry goes: a name in a directory.
struct Place<'a> {
    dir: Rc<OwnedFd>,
    name: &'a [u8],
}

/// Is this overlayfs's mark for "removed here"? A character device 0/0.
pub fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Does this directory hide what is below it?
pub fn is_opaque(dir: impl AsFd) -> bool {
    let mut value = [0; 1];
    matches!(fgetxattr(dir, OPAQUE, &mut value), Ok(1) if &value == b"y")
}

/// The components of an entry's name. Leading slashes and dots are the archiver's habit and mean the tree's root.
pub fn components(path: &[u8]) -> Result<Vec<&[u8]>> {
    if path.len() > crate::limits::PATH_BYTES {
        return rule(format!(
            "a path of {} bytes; at most {} are allowed",
            path.len(),
            crate::limits::PATH_BYTES
        ));
    }
    let parts: Vec<_> = path
        .split(|b| *b == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .collect();
    if parts.iter().any(|part| *part == b"..") {
        return rule("a path with .. would lead out of the image");
    }
    Ok(parts)
}

impl Tree {
    /// Into the directory `root`, above `lower`.
    pub fn new(root: OwnedFd, lower: Lower) -> Self {
        Tree {
            root: Rc::new(root),
            lower,
            recent: None,
            times: HashMap::new(),
        }
    }

    /// Makes what `entry` describes; `data` yields the bytes stored for it.
    pub fn make(&mut self, entry: &Entry, data: &mut impl BufRead) -> Result<()> {
        let parts = components(&entry.path)?;
        let Some((name, parents)) = parts.split_last() else {
            return match entry.kind {
                Kind::Directory => self.dress_directory(None, &[], entry),
                _ => rule("the root of the image can only be a directory"),
            };
        };
        let place = Place {
            dir: self.parent(parents)?,
            name,
        };
        match &entry.kind {
            Kind::Directory => {
                self.directory(&place)?;
                self.dress_directory(Some(&place), &parts, entry)
            }
            Kind::File => {
                let file = match create(&place) {
                    Err(Failure::Call(_, Errno::EXIST)) => {
                        self.clear(&place)?;
                        create(&place)?
                    }
                    other => other?,
                };
                write(&file, entry, data)?;
                dress(&file, entry)
            }
            Kind::Symlink(target) => {
                self.clear(&place)?;
                symlinkat(target.as_slice(), &place.dir, place.name).map_err(call("symlinkat"))?;
                dress_node(&place, entry, true)
            }
            Kind::HardLink(target) => self.hard_link(&place, target),
            Kind::CharDevice { major, minor } => {
                self.node(&place, FileType::CharacterDevice, makedev(*major, *minor), entry)
            }
            Kind::BlockDevice { major, minor } => {
                self.node(&place, FileType::BlockDevice, makedev(*major, *minor), entry)
            }
            Kind::Fifo => self.node(&place, FileType::Fifo, 0, entry),
        }
    }

    /// Removes `path` from what the stack shows (`.wh.NAME` in an archive).
    pub fn white_out(&mut self, path: &[&[u8]]) -> Result<()> {
        let Some((name, parents)) = path.split_last() else {
            return rule("the image's root cannot be removed");
        };
        if self.lower.is_empty() {
            return Ok(());
        }
        let place = Place {
            dir: self.parent(parents)?,
            name,
        };
        // A whiteout speaks of lower layers only: what this layer itself has at the path stays.
        match statat(&place.dir, place.name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {
                mknodat(&place.dir, place.name, FileType::CharacterDevice, Mode::empty(), 0).map_err(call("mknodat"))
            }
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                set_opaque(openat(&place.dir, place.name, directory_flags(), Mode::empty()).map_err(call("openat"))?)
            }
            Ok(_) => Ok(()),
            Err(errno) => Err(Failure::Call("statat", errno)),
        }
    }

    /// Hides what the layers below have in the directory `path` (`.wh..wh..opq` in an archive).
    pub fn make_opaque(&mut self, path: &[&[u8]]) -> Result<()> {
        if self.lower.is_empty() {
            return Ok(());
        }
        let dir = self.parent(path)?;
        set_opaque(openat(&dir, ".", directory_flags(), Mode::empty()).map_err(call("openat"))?)
    }

    /// Sets the directories' times; nothing may be written afterwards.
    pub fn finish(self) -> Result<()> {
        for ((device, inode), (path, times)) in &self.times {
            let path: &[u8] = if path.is_empty() { b"." } else { path };
            let flags = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
            // Gone or replaced since: then a later entry said so.
            let Ok(dir) = openat2(&self.root, path, directory_flags(), Mode::empty(), flags) else {
                continue;
            };
            let stat = rustix::fs::fstat(&dir).map_err(call("fstat"))?;
            if (stat.st_dev, stat.st_ino) == (*device, *inode) {
                futimens(&dir, times).map_err(call("futimens"))?;
            }
        }
        Ok(())
    }

    /// The directory of this path, made where it is missing.
    fn parent(&mut self, parts: &[&[u8]]) -> Result<Rc<OwnedFd>> {
        if parts.is_empty() {
            return Ok(self.root.clone());
        }
        let path = parts.join(&b'/');
        if let Some((recent, fd)) = &self.recent
            && *recent == path
        {
            return Ok(fd.clone());
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let fd = match openat2(&self.root, path.as_slice(), flags, Mode::empty(), resolve) {
            Ok(fd) => Rc::new(fd),
            Err(Errno::NOENT | Errno::NOTDIR) => Rc::new(self.walk(parts)?),
            Err(errno) => return Err(Failure::Call("openat2", errno)),
        };
        self.recent = Some((path, fd.clone()));
        Ok(fd)
    }

    /// As `parent`, component by component: makes directories that are missing here, like those below, and follows
    /// links that only a lower layer has.
    fn walk(&mut self, parts: &[&[u8]]) -> Result<OwnedFd> {
        let mut todo: VecDeque<Vec<u8>> = parts.iter().map(|part| part.to_vec()).collect();
        let mut done: Vec<Vec<u8>> = Vec::new();
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            if name == b".." {
                done.pop();
                continue;
            }
            let dir = Rc::new(self.open_real(&done)?);
            let target = match statat(&dir, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink => {
                    Some(readlinkat(&dir, name.as_slice(), Vec::new()).map_err(call("readlinkat"))?)
                }
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory || is_whiteout(&stat) => {
                    self.directory(&Place { dir, name: &name })?;
                    None
                }
                Ok(_) => return rule(format!("{:?} above it is no directory", String::from_utf8_lossy(&name))),
                Err(Errno::NOENT) => match self.below(&done, &name)? {
                    Some(found) if found.file_type() == FileType::Symlink => {
                        Some(readlinkat(&found.dir, name.as_slice(), Vec::new()).map_err(call("readlinkat"))?)
                    }
                    found => {
                        self.directory_like(&done, &Place { dir, name: &name }, found.as_ref())?;
                        None
                    }
                },
                Err(errno) => return Err(Failure::Call("statat", errno)),
            };
            let Some(target) = target else {
                done.push(name);
                continue;
            };
            links += 1;
            if links > LINKS {
                return Err(Failure::Call("symbolic links", Errno::LOOP));
            }
            let target = target.into_bytes();
            if target.starts_with(b"/") {
                done.clear();
            }
            for part in target
                .split(|b| *b == b'/')
                .rev()
                .filter(|part| !part.is_empty() && *part != b".")
            {
                todo.push_front(part.to_vec());
            }
        }
        self.open_real(&done)
    }

    /// A directory that exists here, on a path without links.
    fn open_real(&self, path: &[Vec<u8>]) -> Result<OwnedFd> {
        let path = if path.is_empty() {
            b".".to_vec()
        } else {
            path.join(&b'/')
        };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        openat2(&self.root, path.as_slice(), directory_flags(), Mode::empty(), resolve).map_err(call("openat2"))
    }

    /// What shows from below at `name` in the directory `dir` of this tree.
    fn below(&self, dir: &[Vec<u8>], name: &[u8]) -> Result<Option<Found>> {
        if self.lower.is_empty() {
            return Ok(None);
        }
        for depth in 0..=dir.len() {
            if is_opaque(self.open_real(&dir[..depth])?) {
                return Ok(None);
            }
        }
        let mut path = dir.to_vec();
        path.push(name.to_vec());
        self.lower.find(&path).map_err(call("looking up in the layers below"))
    }

    /// A directory at `place`: the one that is there, or a new one.
    fn directory(&mut self, place: &Place<'_>) -> Result<()> {
        match make_directory(place) {
            Err(Failure::Call(_, Errno::EXIST)) => {}
            other => return other,
        }
        let stat = statat(&place.dir, place.name, AtFlags::SYMLINK_NOFOLLOW).map_err(call("statat"))?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Ok(());
        }
        // In the place of something that hid the lower directory, it must go on hiding it.
        self.clear(place)?;
        make_directory(place)?;
        if !self.lower.is_empty() {
            set_opaque(openat(&place.dir, place.name, directory_flags(), Mode::empty()).map_err(call("openat"))?)?;
        }
        Ok(())
    }

    /// A new directory with the owner, permissions, attributes and times of the one below.
    fn directory_like(&mut self, above: &[Vec<u8>], place: &Place<'_>, below: Option<&Found>) -> Result<()> {
        make_directory(place)?;
        let Some(below) = below.filter(|found| found.file_type() == FileType::Directory) else {
            return Ok(());
        };
        let new = openat(&place.dir, place.name, directory_flags(), Mode::empty()).map_err(call("openat"))?;
        let old = openat(&below.dir, place.name, directory_flags(), Mode::empty()).map_err(call("openat"))?;
        copy_metadata(&old, &below.stat, &new)?;
        let path = [above, &[place.name.to_vec()]].concat().join(&b'/');
        self.set_times_later(
            &new,
            path,
            timestamps(below.stat.st_mtime, below.stat.st_mtime_nsec as u32),
        )
    }

    /// Directories get their times when nothing more is written into them.
    fn set_times_later(&mut self, dir: impl AsFd, path: Vec<u8>, times: Timestamps) -> Result<()> {
        let stat = rustix::fs::fstat(dir).map_err(call("fstat"))?;
        self.times.insert((stat.st_dev, stat.st_ino), (path, times));
        Ok(())
    }

    /// Makes sure that nothing is at `place`.
    fn clear(&mut self, place: &Place<'_>) -> Result<()> {
        match unlinkat(&place.dir, place.name, AtFlags::empty()) {
            Ok(()) => {
                // It may have been a link on the way to the recent parent.
                self.recent = None;
                Ok(())
            }
            Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {
                self.recent = None;
                remove_tree(place.dir.as_fd(), place.name).map_err(call("removing what an earlier entry made"))
            }
            Err(errno) => Err(Failure::Call("unlinkat", errno)),
        }
    }

    fn node(&mut self, place: &Place<'_>, kind: FileType, device: u64, entry: &Entry) -> Result<()> {
        self.clear(place)?;
        mknodat(&place.dir, place.name, kind, Mode::from_raw_mode(0o600), device).map_err(call("mknodat"))?;
        dress_node(place, entry, false)
    }

    fn hard_link(&mut self, place: &Place<'_>, target: &[u8]) -> Result<()> {
        let parts = components(target).map_err(|e| Failure::Rule(format!("hard link to {:?}: {e}", lossy(target))))?;
        let Some((name, parents)) = parts.split_last() else {
            return rule("hard link to the image's root");
        };
        let dir = self.parent(parents)?;
        match statat(&dir, *name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if is_whiteout(&stat) => {
                return rule(format!("hard link to {:?}, which is removed", lossy(target)));
            }
            Ok(there) => {
                let here = statat(&place.dir, place.name, AtFlags::SYMLINK_NOFOLLOW);
                if here.is_ok_and(|here| (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)) {
                    return Ok(());
                }
            }
            Err(Errno::NOENT) => self.copy_up(&dir, parents, name, target)?,
            Err(errno) => return Err(Failure::Call("statat", errno)),
        }
        self.clear(place)?;
        linkat(&dir, *name, &place.dir, place.name, AtFlags::empty())
            .map_err(|errno| Failure::Rule(format!("hard link to {:?}: linkat: {errno}", lossy(target))))
    }

    /// Copies a file of a lower layer, so that it can have one more name here.
    fn copy_up(&mut self, dir: &Rc<OwnedFd>, parents: &[&[u8]], name: &[u8], target: &[u8]) -> Result<()> {
        let missing = || Failure::Rule(format!("hard link to {:?}, which does not exist", lossy(target)));
        let parents: Vec<_> = parents.iter().map(|part| part.to_vec()).collect();
        // Through a link below, the name differs: rare enough to be refused.
        let found = match self.open_real(&parents) {
            Ok(_) => self.below(&parents, name)?,
            Err(_) => None,
        };
        let found = found
            .filter(|found| found.file_type() == FileType::RegularFile)
            .ok_or_else(missing)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let old = File::from(openat(&found.dir, name, flags, Mode::empty()).map_err(call("openat"))?);
        let new = create(&Place { dir: dir.clone(), name })?;
        io::copy(&mut &old, &mut &new).map_err(|e| Failure::Io("copying a file of a lower layer", e))?;
        copy_metadata(&old, &found.stat, &new)
    }

    fn dress_directory(&mut self, place: Option<&Place<'_>>, parts: &[&[u8]], entry: &Entry) -> Result<()> {
        let dir = match place {
            Some(place) => openat(&place.dir, place.name, directory_flags(), Mode::empty()).map_err(call("openat"))?,
            None => rustix::io::dup(&self.root).map_err(call("dup"))?,
        };
        dress(&dir, entry)?;
        self.set_times_later(&dir, parts.join(&b'/'), timestamps(entry.mtime, entry.mtime_nanos))
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// 0755 whatever the umask is.
fn make_directory(place: &Place<'_>) -> Result<()> {
    let mode = Mode::from_raw_mode(0o755);
    mkdirat(&place.dir, place.name, mode).map_err(call("mkdirat"))?;
    chmodat(&place.dir, place.name, mode, AtFlags::empty()).map_err(call("fchmodat"))
}

fn set_opaque(dir: OwnedFd) -> Result<()> {
    fsetxattr(&dir, OPAQUE, b"y", XattrFlags::empty()).map_err(call("fsetxattr(trusted.overlay.opaque)"))
}

fn create(place: &Place<'_>) -> Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = openat(&place.dir, place.name, flags, Mode::from_raw_mode(0o600)).map_err(call("openat"))?;
    Ok(File::from(fd))
}

/// The file's bytes. Holes stay holes.
fn write(mut file: &File, entry: &Entry, data: &mut impl BufRead) -> Result<()> {
    let failed = |e| Failure::Io("writing", e);
    let Some(segments) = &entry.segments else {
        let written = copy(data, file, entry.size)?;
        return if written == entry.size {
            Ok(())
        } else {
            rule("ends early")
        };
    };
    for (offset, length) in segments {
        file.seek(SeekFrom::Start(*offset)).map_err(failed)?;
        if copy(data, file, *length)? != *length {
            return rule("ends early");
        }
    }
    file.set_len(entry.size).map_err(failed)
}

/// At most so many bytes of it, from where they are.
fn copy(data: &mut impl BufRead, mut file: &File, bytes: u64) -> Result<u64> {
    let mut written = 0;
    while written < bytes {
        let chunk = match data.fill_buf() {
            Ok([]) => break,
            Ok(chunk) => chunk,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(Failure::Io("reading the layer", e)),
        };
        let wanted = chunk.len().min(usize::try_from(bytes - written).unwrap_or(usize::MAX));
        file.write_all(&chunk[..wanted])
            .map_err(|e| Failure::Io("writing", e))?;
        data.consume(wanted);
        written += wanted as u64;
    }
    Ok(written)
}

fn timestamps(seconds: i64, nanos: u32) -> Timestamps {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: nanos.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// Owner before permissions and attributes: chown clears set-uid bits and file capabilities (chown(2)).
fn dress(file: impl AsFd, entry: &Entry) -> Result<()> {
    let fd = file.as_fd();
    fchown(fd, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid))).map_err(call("fchown"))?;
    fchmod(fd, Mode::from_raw_mode(entry.mode)).map_err(call("fchmod"))?;
    set_xattrs(&entry.xattrs, |name, value| {
        fsetxattr(fd, name, value, XattrFlags::empty())
    })?;
    futimens(fd, &timestamps(entry.mtime, entry.mtime_nanos)).map_err(call("futimens"))
}

/// As `dress`, for what must not be opened: links, devices, pipes.
fn dress_node(place: &Place<'_>, entry: &Entry, is_link: bool) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    chownat(&place.dir, place.name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).map_err(call("fchownat"))?;
    if !is_link {
        chmodat(
            &place.dir,
            place.name,
            Mode::from_raw_mode(entry.mode),
            AtFlags::empty(),
        )
        .map_err(call("fchmodat"))?;
    }
    let path = node_path(place);
    set_xattrs(&entry.xattrs, |name, value| {
        lsetxattr(path.as_slice(), name, value, XattrFlags::empty())
    })?;
    utimensat(
        &place.dir,
        place.name,
        &timestamps(entry.mtime, entry.mtime_nanos),
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .map_err(call("utimensat"))
}

/// There is no setxattrat before Linux 6.13; the directory's descriptor pins the way.
fn node_path(place: &Place<'_>) -> Vec<u8> {
    [
        format!("/proc/self/fd/{}/", place.dir.as_raw_fd()).as_bytes(),
        place.name,
    ]
    .concat()
}

/// What an archive may not set is left out: overlayfs's own attributes would redirect directories to other places.
/// What this file system or kernel can't keep is left out too, but for capabilities: a program without them fails
/// later, and nobody would know why.
fn set_xattrs(
    xattrs: &BTreeMap<Vec<u8>, Vec<u8>>,
    set: impl Fn(&[u8], &[u8]) -> std::result::Result<(), Errno>,
) -> Result<()> {
    for (name, value) in xattrs {
        if name.starts_with(b"trusted.overlay.") {
            continue;
        }
        match set(name, value) {
            Ok(()) => {}
            Err(errno @ (Errno::OPNOTSUPP | Errno::PERM)) if name != b"security.capability" => {
                tracing::debug!(name = %lossy(name), %errno, "extended attribute left out");
            }
            Err(errno) => return rule(format!("extended attribute {}: setxattr: {errno}", lossy(name))),
        }
    }
    Ok(())
}

/// Owner, permissions, extended attributes and times, from one open file to another.
pub fn copy_metadata(old: impl AsFd, stat: &Stat, new: impl AsFd) -> Result<()> {
    let (old, new) = (old.as_fd(), new.as_fd());
    fchown(new, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid))).map_err(call("fchown"))?;
    fchmod(new, Mode::from_raw_mode(stat.st_mode & 0o7777)).map_err(call("fchmod"))?;
    set_xattrs(&xattrs_of(old).map_err(call("fgetxattr"))?, |name, value| {
        fsetxattr(new, name, value, XattrFlags::empty())
    })?;
    futimens(new, &timestamps(stat.st_mtime, stat.st_mtime_nsec as u32)).map_err(call("futimens"))
}

/// The extended attributes of an open file.
pub fn xattrs_of(file: BorrowedFd<'_>) -> std::result::Result<BTreeMap<Vec<u8>, Vec<u8>>, Errno> {
    // XATTR_LIST_MAX and XATTR_SIZE_MAX of the kernel.
    let mut names = vec![0; 64 << 10];
    let length = match rustix::fs::flistxattr(file, &mut names) {
        Err(Errno::OPNOTSUPP) => 0,
        length => length?,
    };
    names.truncate(length);
    let mut xattrs = BTreeMap::new();
    for name in names.split(|b| *b == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 64 << 10];
        let length = fgetxattr(file, name, &mut value)?;
        value.truncate(length);
        xattrs.insert(name.to_vec(), value);
    }
    Ok(xattrs)
}

/// Opens a directory that Hove itself made.
pub fn open_directory(path: &Path) -> std::result::Result<OwnedFd, Errno> {
    rustix::fs::open(path, directory_flags(), Mode::empty())
}
