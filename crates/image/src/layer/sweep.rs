//! Removes a directory tree however deep it is.
//!
//! The standard library holds a descriptor per level, and an archive (or a container) can nest deeper than there are
//! descriptors: its remains would stay for ever. Here, what lies deeper than a bound is moved up first.

use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, Dir, Mode, RenameFlags, openat, renameat_with, unlinkat};
use rustix::io::Errno;

use super::lower::directory_flags;

/// Levels that are descended before what is below is moved up.
const DEPTH: usize = 64;

/// Removes `name` in `parent`, directory or not. Nobody else may be writing there. A missing one is no error.
pub fn remove_tree(parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    let mut moved = Vec::new();
    remove(
        parent,
        name,
        &mut |dir, name| {
            // A name that nothing else has.
            for number in moved.len().. {
                let up = format!(".hove-removing-{}-{number}", std::process::id()).into_bytes();
                match renameat_with(dir, name, parent, up.as_slice(), RenameFlags::NOREPLACE) {
                    Err(Errno::EXIST) => continue,
                    other => other?,
                }
                moved.push(up);
                break;
            }
            Ok(())
        },
        DEPTH,
    )?;
    while let Some(name) = moved.pop() {
        remove_tree(parent, &name)?;
    }
    Ok(())
}

/// Moves a name of a directory to where it is removed later.
type MoveUp<'a> = dyn FnMut(BorrowedFd<'_>, &[u8]) -> Result<(), Errno> + 'a;

fn remove(parent: BorrowedFd<'_>, name: &[u8], move_up: &mut MoveUp<'_>, levels: usize) -> Result<(), Errno> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno),
    }
    if levels == 0 {
        return move_up(parent, name);
    }
    let dir = openat(parent, name, directory_flags(), Mode::empty())?;
    // Names first: removing while reading may skip entries.
    let names = Dir::read_from(&dir)?
        .map(|entry| entry.map(|entry| entry.file_name().to_bytes().to_vec()))
        .collect::<Result<Vec<_>, _>>()?;
    for name in names.iter().filter(|name| !matches!(name.as_slice(), b"." | b"..")) {
        use std::os::fd::AsFd;
        remove(dir.as_fd(), name, move_up, levels - 1)?;
    }
    unlinkat(parent, name, AtFlags::REMOVEDIR)
}
