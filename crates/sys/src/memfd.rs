//! Files in memory that nobody can change any more.

use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, SealFlags};

use crate::{Error, Result};

/// A file in memory with this content, executable, closed on exec and sealed: neither its content nor its size nor
/// its seals can change, whoever holds it. `name` shows in /proc/PID/exe as `/memfd:NAME (deleted)`.
pub fn sealed(name: &str, content: &[u8]) -> Result<OwnedFd> {
    let failed = |call: &'static str| move |e| Error::new(format_args!("{call}({name:?})"), e);
    let fd = create(name).map_err(failed("memfd_create"))?;
    let mut rest = content;
    while !rest.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::write(&fd, rest)).map_err(failed("write"))?;
        rest = &rest[written..];
    }
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&fd, seals).map_err(failed("fcntl(F_ADD_SEALS)"))?;
    Ok(fd)
}

/// Says that the file is meant to be executed, where the kernel knows the flag (Linux 6.3): sysctl vm.memfd_noexec=1
/// takes the execute bits off the files of callers that don't say.
fn create(name: &str) -> rustix::io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match rustix::fs::memfd_create(name, flags | MemfdFlags::EXEC) {
        Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create(name, flags),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_sealed_file_is_executable_and_unchangeable() {
        let fd = sealed("true", b"#!/bin/sh\nexit 7\n").unwrap();
        assert!(rustix::io::write(&fd, b"x").is_err());
        assert!(rustix::fs::ftruncate(&fd, 0).is_err());
        let path = format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd());
        assert_eq!(std::process::Command::new(path).status().unwrap().code(), Some(7));
    }
}
