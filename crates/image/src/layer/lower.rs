//! What the layers below show at a path.
//!
//! A layer is unpacked into a directory of its own, not into a mount of the whole stack: that needs no mount and one
//! directory write per file. The price is paid here: where a layer names `usr/bin/tool` without naming `usr`, the
//! directory must look as it does below, `/bin` may be a symbolic link there, and a hard link may point to a file
//! that only a lower layer has. Names are looked up one component at a time, as overlayfs does it.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, openat, statat};
use rustix::io::Errno;

use super::tree::{is_opaque, is_whiteout};

/// The layers below, topmost first.
pub struct Lower(Vec<OwnedFd>);

/// What is at a path: `name` in `dir`.
pub struct Found {
    /// The directory that has it, in the topmost layer that shows it.
    pub dir: OwnedFd,
    /// Its description, links not followed.
    pub stat: Stat,
}

impl Found {
    /// What kind of file it is.
    pub fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }
}

impl Lower {
    /// Over the root directories of layers, topmost first.
    pub fn new(layers: Vec<OwnedFd>) -> Self {
        Lower(layers)
    }

    /// Nothing is below.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What the layers show at `path`, none of whose components but the last may be a link.
    pub fn find(&self, path: &[Vec<u8>]) -> Result<Option<Found>, Errno> {
        let Some((name, parents)) = path.split_last() else {
            return Ok(None);
        };
        let mut dirs = self.0.iter().map(rustix::io::dup).collect::<Result<Vec<_>, _>>()?;
        for component in parents {
            let mut next = Vec::new();
            for dir in &dirs {
                match statat(dir, component.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
                    Err(Errno::NOENT) => continue,
                    Err(errno) => return Err(errno),
                    Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Directory => break,
                    Ok(_) => {}
                }
                let fd = openat(dir, component.as_slice(), directory_flags(), Mode::empty())?;
                let opaque = is_opaque(&fd);
                next.push(fd);
                if opaque {
                    break;
                }
            }
            dirs = next;
        }
        for dir in dirs {
            match statat(&dir, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(errno),
                Ok(stat) if is_whiteout(&stat) => return Ok(None),
                Ok(stat) => return Ok(Some(Found { dir, stat })),
            }
        }
        Ok(None)
    }
}

/// How a directory is opened whose extended attributes will be read or whose entries will be changed.
pub fn directory_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}
