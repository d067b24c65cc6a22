//! hostPath: checked against its type, made where the type says so. Links are followed: the path is the administrator's.

use std::fs::{DirBuilder, FileType, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::{Component, Path};

use crate::{Error, HostPathType, Result};

/// Checks, and makes where `kind` says so.
pub fn make(volume: &str, path: &Path, kind: HostPathType) -> Result<()> {
    if !path.is_absolute() || path.components().any(|c| c == Component::ParentDir) {
        return Err(Error::BadHostPath {
            volume: volume.to_owned(),
            path: path.to_owned(),
        });
    }
    if kind == HostPathType::Unset {
        return Ok(());
    }
    let failed = |call| {
        move |source| Error::File {
            call,
            path: path.to_owned(),
            source,
        }
    };
    let found = match std::fs::metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return match kind {
                HostPathType::DirectoryOrCreate => DirBuilder::new()
                    .recursive(true)
                    .mode(0o755)
                    .create(path)
                    .map_err(failed("make directory")),
                HostPathType::FileOrCreate => OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o644)
                    .open(path)
                    .map(drop)
                    .map_err(failed("make file")),
                _ => {
                    let wanted = word(kind);
                    Err(Error::Missing {
                        volume: volume.to_owned(),
                        path: path.to_owned(),
                        wanted,
                    })
                }
            };
        }
        Err(e) => return Err(failed("stat")(e)),
    };
    if is(found, kind) {
        return Ok(());
    }
    let (wanted, found) = (word(kind), describe(found));
    Err(Error::WrongKind {
        volume: volume.to_owned(),
        path: path.to_owned(),
        wanted,
        found,
    })
}

fn is(found: FileType, kind: HostPathType) -> bool {
    match kind {
        HostPathType::Unset => true,
        HostPathType::Directory | HostPathType::DirectoryOrCreate => found.is_dir(),
        HostPathType::File | HostPathType::FileOrCreate => found.is_file(),
        HostPathType::Socket => found.is_socket(),
        HostPathType::CharDevice => found.is_char_device(),
        HostPathType::BlockDevice => found.is_block_device(),
    }
}

fn word(kind: HostPathType) -> &'static str {
    match kind {
        HostPathType::Unset => "\"\"",
        HostPathType::DirectoryOrCreate => "DirectoryOrCreate",
        HostPathType::Directory => "Directory",
        HostPathType::FileOrCreate => "FileOrCreate",
        HostPathType::File => "File",
        HostPathType::Socket => "Socket",
        HostPathType::CharDevice => "CharDevice",
        HostPathType::BlockDevice => "BlockDevice",
    }
}

fn describe(found: FileType) -> &'static str {
    if found.is_dir() {
        "a directory"
    } else if found.is_file() {
        "a file"
    } else if found.is_socket() {
        "a socket"
    } else if found.is_char_device() {
        "a character device"
    } else if found.is_block_device() {
        "a block device"
    } else {
        "a FIFO"
    }
}
