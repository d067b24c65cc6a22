//! Packs a directory into a layer: a tar stream (PAX where ustar is too narrow), entries sorted, so that the same
//! directory gives the same digest.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, major, minor, openat, readlinkat, statat};
use tar::{Builder, EntryType, Header};

use super::lower::directory_flags;
use super::tree::xattrs_of;
use crate::error::{Error, Result};

/// Directories nested deeper than this are refused: no root file system is.
const DEPTH: usize = 256;

/// What ustar's octal fields hold at most.
const USTAR_ID: u64 = 0o7_777_777;
const USTAR_SIZE: u64 = 0o77_777_777_777;

/// Writes all below `dir` as a tar stream. Returns the newest time of modification in it, in seconds since 1970.
pub fn pack(dir: &Path, output: impl Write) -> Result<i64> {
    let root = super::tree::open_directory(dir).map_err(Error::call("opening", dir))?;
    let mut packer = Packer {
        builder: Builder::new(output),
        seen: HashMap::new(),
        newest: 0,
    };
    let stat = rustix::fs::fstat(&root).map_err(Error::call("stat", dir))?;
    packer.entry(
        EntryType::Directory,
        b"./",
        &stat,
        None,
        xattr_records(&root, dir)?,
        &mut io::empty(),
        dir,
    )?;
    packer.directory(&root, b"", dir, DEPTH)?;
    packer
        .builder
        .finish()
        .map_err(Error::io("writing the layer of", dir))?;
    Ok(packer.newest)
}

struct Packer<W: Write> {
    builder: Builder<W>,
    /// Files with several names: (device, inode) to the first name.
    seen: HashMap<(u64, u64), Vec<u8>>,
    newest: i64,
}

/// PAX records: keys are UTF-8, values are bytes.
type Records = Vec<(String, Vec<u8>)>;

impl<W: Write> Packer<W> {
    fn directory(&mut self, dir: &OwnedFd, prefix: &[u8], base: &Path, levels: usize) -> Result<()> {
        let here = base.join(OsString::from_vec(prefix.to_vec()));
        if levels == 0 {
            return Err(Error::malformed(
                here.display(),
                "directory",
                format!("nested deeper than {DEPTH}"),
            ));
        }
        let mut names = Dir::read_from(dir)
            .and_then(|entries| {
                entries
                    .map(|entry| entry.map(|e| e.file_name().to_bytes().to_vec()))
                    .collect::<Result<Vec<_>, _>>()
            })
            .map_err(Error::call("reading", &here))?;
        names.sort();
        for name in names.iter().filter(|name| !matches!(name.as_slice(), b"." | b"..")) {
            let path = [prefix, name].concat();
            let full = base.join(OsString::from_vec(path.clone()));
            let stat = statat(dir, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW).map_err(Error::call("stat", &full))?;
            self.file(dir, name, &path, &stat, &full, base, levels)?;
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn file(
        &mut self,
        dir: &OwnedFd,
        name: &[u8],
        path: &[u8],
        stat: &Stat,
        full: &Path,
        base: &Path,
        levels: usize,
    ) -> Result<()> {
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::Directory && stat.st_nlink > 1 {
            if let Some(first) = self.seen.get(&(stat.st_dev, stat.st_ino)).cloned() {
                return self.entry(
                    EntryType::Link,
                    path,
                    stat,
                    Some(&first),
                    Vec::new(),
                    &mut io::empty(),
                    full,
                );
            }
            self.seen.insert((stat.st_dev, stat.st_ino), path.to_vec());
        }
        let open = |flags| openat(dir, name, flags, Mode::empty()).map_err(Error::call("opening", full));
        match kind {
            FileType::Directory => {
                let child = open(directory_flags())?;
                let slashed = [path, b"/"].concat();
                let xattrs = xattr_records(&child, full)?;
                self.entry(
                    EntryType::Directory,
                    &slashed,
                    stat,
                    None,
                    xattrs,
                    &mut io::empty(),
                    full,
                )?;
                self.directory(&child, &slashed, base, levels - 1)
            }
            FileType::RegularFile => {
                let file = open(OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC)?;
                let xattrs = xattr_records(&file, full)?;
                self.entry(
                    EntryType::Regular,
                    path,
                    stat,
                    None,
                    xattrs,
                    &mut File::from(file),
                    full,
                )
            }
            FileType::Symlink => {
                let target = readlinkat(dir, name, Vec::new()).map_err(Error::call("readlink", full))?;
                self.entry(
                    EntryType::Symlink,
                    path,
                    stat,
                    Some(target.as_bytes()),
                    Vec::new(),
                    &mut io::empty(),
                    full,
                )
            }
            FileType::CharacterDevice => {
                self.entry(EntryType::Char, path, stat, None, Vec::new(), &mut io::empty(), full)
            }
            FileType::BlockDevice => self.entry(EntryType::Block, path, stat, None, Vec::new(), &mut io::empty(), full),
            FileType::Fifo => self.entry(EntryType::Fifo, path, stat, None, Vec::new(), &mut io::empty(), full),
            // A socket is the process that listens on it; an image has none.
            _ => Ok(()),
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn entry(
        &mut self,
        kind: EntryType,
        path: &[u8],
        stat: &Stat,
        link: Option<&[u8]>,
        mut records: Records,
        data: &mut dyn Read,
        full: &Path,
    ) -> Result<()> {
        let failed = || Error::io("packing", full);
        self.newest = self.newest.max(stat.st_mtime);
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(stat.st_mode & 0o7777);
        let size = if kind == EntryType::Regular {
            u64::try_from(stat.st_size).unwrap_or(0)
        } else {
            0
        };
        let mut add = |key: &str, value: &[u8]| records.push((key.to_string(), value.to_vec()));
        for (key, value, limit) in [
            ("uid", u64::from(stat.st_uid), USTAR_ID),
            ("gid", u64::from(stat.st_gid), USTAR_ID),
            ("size", size, USTAR_SIZE),
        ] {
            if value > limit {
                add(key, value.to_string().as_bytes());
            }
        }
        header.set_uid(u64::from(stat.st_uid).min(USTAR_ID));
        header.set_gid(u64::from(stat.st_gid).min(USTAR_ID));
        header.set_size(size.min(USTAR_SIZE));
        if stat.st_mtime_nsec != 0 || stat.st_mtime < 0 {
            add("mtime", pax_time(stat.st_mtime, stat.st_mtime_nsec).as_bytes());
        }
        header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0).min(USTAR_SIZE));
        if matches!(kind, EntryType::Char | EntryType::Block) {
            header.set_device_major(major(stat.st_rdev)).map_err(failed())?;
            header.set_device_minor(minor(stat.st_rdev)).map_err(failed())?;
        }
        let name = Path::new(std::ffi::OsStr::from_bytes(path));
        // The crate normalises "./" to "": the root's own name is written by hand.
        if path == b"./" {
            header.as_mut_bytes()[..2].copy_from_slice(b"./");
        } else if header.set_path(name).is_err() {
            add("path", path);
        }
        if let Some(link) = link
            && header.set_link_name_literal(link).is_err()
        {
            add("linkpath", link);
        }
        header.set_cksum();
        if !records.is_empty() {
            let records = records.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
            self.builder.append_pax_extensions(records).map_err(failed())?;
        }
        // Exactly as long as announced, should the file grow or shrink meanwhile.
        let mut bounded = data.take(size);
        let mut exact = Exact {
            inner: &mut bounded,
            left: size,
        };
        self.builder.append(&header, &mut exact).map_err(failed())
    }
}

/// Fails where the stream ends before its announced length.
struct Exact<'a> {
    inner: &'a mut dyn Read,
    left: u64,
}

impl Read for Exact<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.left -= n as u64;
        if n == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file became shorter while it was read",
            ));
        }
        Ok(n)
    }
}

fn pax_time(seconds: i64, nanos: u64) -> String {
    // A timespec counts nanoseconds forwards; PAX writes a decimal.
    if seconds < 0 && nanos > 0 {
        format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanos)
    } else {
        format!("{seconds}.{nanos:09}")
    }
}

fn xattr_records(file: impl AsFd, path: &Path) -> Result<Records> {
    let xattrs = xattrs_of(file.as_fd()).map_err(Error::call("reading the extended attributes of", path))?;
    xattrs
        .into_iter()
        .filter(|(name, _)| !name.starts_with(b"trusted.overlay."))
        .map(|(name, value)| match String::from_utf8(name) {
            Ok(name) => Ok((format!("SCHILY.xattr.{name}"), value)),
            Err(_) => Err(Error::malformed(
                path.display(),
                "extended attribute",
                "its name is not UTF-8",
            )),
        })
        .collect()
}
