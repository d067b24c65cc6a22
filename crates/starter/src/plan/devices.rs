//! What a container finds in /dev.

use std::path::Path;

use oci_spec::runtime::{LinuxDeviceType, Spec};
use rustix::fs::FileType;

use super::mounts::{normal, symlink};
use super::step::{Device, Step};
use super::text::c_path;
use crate::{Error, Result};

/// The devices that every container has (OCI, config-linux.md).
const DEFAULT: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// The links that every container has.
const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("pts/ptmx", "/dev/ptmx"),
];

pub(crate) fn make(spec: &Spec, steps: &mut Vec<Step>) -> Result<()> {
    let listed = spec
        .linux()
        .as_ref()
        .and_then(|l| l.devices().as_deref())
        .unwrap_or_default();
    for (path, major, minor) in DEFAULT {
        if !listed.iter().any(|d| normal(d.path()) == Path::new(path)) {
            push(
                Path::new(path),
                FileType::CharacterDevice,
                (major, minor),
                0o666,
                (0, 0),
                steps,
            )?;
        }
    }
    for (i, device) in listed.iter().enumerate() {
        let path = normal(device.path());
        let field = format!("linux.devices[{i}]");
        // The container's devpts has its own.
        if path == Path::new("/dev/ptmx") {
            continue;
        }
        let kind = match device.typ() {
            LinuxDeviceType::B => FileType::BlockDevice,
            LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
            LinuxDeviceType::P => FileType::Fifo,
            LinuxDeviceType::A => return Err(Error::spec(field + ".type", "a", "is for cgroup rules only")),
        };
        let number = |value: i64, name: &str| {
            u32::try_from(value).map_err(|_| Error::spec(format!("{field}.{name}"), value, "must not be negative"))
        };
        let numbers = match kind {
            FileType::Fifo => (0, 0),
            _ => (number(device.major(), "major")?, number(device.minor(), "minor")?),
        };
        let owner = (device.uid().unwrap_or(0), device.gid().unwrap_or(0));
        push(
            &path,
            kind,
            numbers,
            device.file_mode().unwrap_or(0o666) & 0o7777,
            owner,
            steps,
        )?;
    }
    for (target, path) in LINKS {
        steps.push(symlink(target, Path::new(path))?);
    }
    Ok(())
}

fn push(
    path: &Path,
    kind: FileType,
    (major, minor): (u32, u32),
    mode: u32,
    (uid, gid): (u32, u32),
    steps: &mut Vec<Step>,
) -> Result<()> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::spec("linux.devices", path.display(), "must name a file"));
    };
    steps.push(Step::Device(Box::new(Device {
        path: c_path("linux.devices", path)?,
        directory: c_path("linux.devices", directory)?,
        name: c_path("linux.devices", Path::new(name))?,
        kind,
        major,
        minor,
        mode,
        uid,
        gid,
    })));
    Ok(())
}
