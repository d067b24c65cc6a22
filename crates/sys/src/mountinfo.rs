//! The mount table, `proc_pid_mountinfo(5)`: read in one place.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::{Error, Result};

/// One line of `proc_pid_mountinfo(5)`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mount {
    /// Its number.
    pub id: u64,
    /// The number of the mount it is mounted on.
    pub parent: u64,
    /// The file system's device number, `major:minor`: the same for every mount of it.
    pub device: String,
    /// Which part of the file system is mounted: `/`, or the source of a bind mount within it; `net:[…]` for a namespace.
    pub root: PathBuf,
    /// Where.
    pub mount_point: PathBuf,
    /// Per-mount options, such as `rw,nosuid`.
    pub options: String,
    /// Propagation: `shared:1`, `master:2`; nothing for private.
    pub propagation: Vec<String>,
    /// File system type.
    pub fs_type: String,
    /// What is mounted.
    pub source: String,
    /// The file system's own options, the same for every mount of it.
    pub super_options: String,
}

/// The mounts of the calling thread's mount namespace.
pub fn mounts() -> Result<Vec<Mount>> {
    const TABLE: &str = "/proc/thread-self/mountinfo";
    let text = std::fs::read(TABLE).map_err(|e| {
        let errno = Errno::from_io_error(&e).unwrap_or(Errno::IO);
        Error::new(format_args!("read({TABLE:?})"), errno)
    })?;
    Ok(parse(&text))
}

/// Reads mountinfo; lines that are not laid out so are left out.
pub fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|b| *b == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|b| *b == b' ');
    let number = |field: &[u8]| std::str::from_utf8(field).ok()?.parse::<u64>().ok();
    let text = |field: &[u8]| String::from_utf8_lossy(&unescape(field)).into_owned();
    let id = number(fields.next()?)?;
    let parent = number(fields.next()?)?;
    let device = text(fields.next()?);
    let root = path(fields.next()?);
    let mount_point = path(fields.next()?);
    let options = text(fields.next()?);
    let propagation = fields.by_ref().take_while(|field| *field != b"-").map(text).collect();
    let fs_type = text(fields.next()?);
    let source = text(fields.next()?);
    let super_options = text(fields.next()?);
    Some(Mount {
        id,
        parent,
        device,
        root,
        mount_point,
        options,
        propagation,
        fs_type,
        source,
        super_options,
    })
}

fn path(field: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(unescape(field)))
}

/// Space, tab, newline and backslash are written as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        match (first, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    bytes
}

/// Those mounts that are at or below one of `directories`.
pub fn below<'a>(mounts: &'a [Mount], directories: &'a [PathBuf]) -> impl Iterator<Item = &'a Mount> {
    let within = |point: &Path| directories.iter().any(|directory| point.starts_with(directory));
    mounts.iter().filter(move |mount| within(&mount.mount_point))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_everything() {
        let text =
            b"36 35 98:0 /mnt1 /mnt\\0402 rw,noatime shared:1 master:2 - ext3 /dev/root rw,errors=continue\nshort\n";
        let mounts = parse(text);
        assert_eq!(mounts.len(), 1);
        assert_eq!(mounts[0].mount_point, Path::new("/mnt 2"));
        assert_eq!(mounts[0].root, Path::new("/mnt1"));
        assert_eq!(mounts[0].propagation, ["shared:1", "master:2"]);
        assert_eq!(
            (mounts[0].fs_type.as_str(), mounts[0].source.as_str()),
            ("ext3", "/dev/root")
        );
        assert_eq!(
            (mounts[0].device.as_str(), mounts[0].super_options.as_str()),
            ("98:0", "rw,errors=continue")
        );
    }

    #[test]
    fn here() {
        let mounts = mounts().unwrap();
        assert!(
            mounts
                .iter()
                .any(|m| m.mount_point == Path::new("/proc") && m.fs_type == "proc")
        );
        assert!(below(&mounts, &["/proc".into()]).count() >= 1);
    }
}
