//! Where a process's standard streams come from and go to.
//!
//! The caller names each as containerd does: an empty string (nothing), the path of a FIFO, `file:///PATH`, or Hove's
//! own `cri:///PATH`, a log in the CRI's format.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::failure::{Failure, Result};

/// The three streams as the caller named them.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub struct Names {
    /// Standard input.
    pub stdin: String,
    /// Standard output; of a terminal, all output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Whether the process gets a terminal.
    pub terminal: bool,
}

/// Where output goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Nowhere.
    Nothing,
    /// A log in the CRI's format.
    Log(PathBuf),
    /// A FIFO of the caller's.
    Fifo(PathBuf),
    /// A file, appended to.
    File(PathBuf),
}

impl Output {
    /// Understands what the caller named.
    pub fn parse(name: &str) -> Result<Output> {
        if name.is_empty() {
            return Ok(Output::Nothing);
        }
        let (scheme, path) = name.split_once("://").unwrap_or(("", name));
        let path = PathBuf::from(path);
        if !path.is_absolute() {
            return Err(Failure::Invalid(format!("output {name:?}: the path must begin with /")));
        }
        match scheme {
            "" | "fifo" => Ok(Output::Fifo(path)),
            "file" => Ok(Output::File(path)),
            "cri" => Ok(Output::Log(path)),
            scheme => Err(Failure::Invalid(format!(
                "output {name:?}: the scheme {scheme} is unknown (a FIFO's path, file:// and cri:// are known)"
            ))),
        }
    }
}

/// The path of the FIFO that input comes from, if any does.
pub fn parse_input(name: &str) -> Result<Option<&Path>> {
    match name.strip_prefix("fifo://").unwrap_or(name) {
        "" => Ok(None),
        path if path.starts_with('/') => Ok(Some(Path::new(path))),
        _ => Err(Failure::Invalid(format!(
            "input {name:?}: it must be a FIFO's absolute path"
        ))),
    }
}

/// Opens /dev/null, for reading and writing.
pub fn null() -> Result<OwnedFd> {
    Ok(
        rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| sys::Error::new("open(\"/dev/null\")", e))?,
    )
}

/// Opens a file that output is appended to.
pub fn append_to(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR | Mode::RGRP)
        .map_err(|e| sys::Error::new(format_args!("open({path:?}, O_WRONLY|O_APPEND|O_CREAT)"), e))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (name, expected) in [
            ("", Some(Output::Nothing)),
            (
                "cri:///var/log/pods/a/0.log",
                Some(Output::Log("/var/log/pods/a/0.log".into())),
            ),
            ("/run/x/stdout", Some(Output::Fifo("/run/x/stdout".into()))),
            ("fifo:///run/x/stdout", Some(Output::Fifo("/run/x/stdout".into()))),
            ("file:///tmp/out", Some(Output::File("/tmp/out".into()))),
            ("binary:///usr/bin/logger", None),
            ("relative", None),
            ("cri://relative", None),
        ] {
            assert_eq!(Output::parse(name).ok(), expected, "{name}");
        }
        assert_eq!(parse_input("").unwrap(), None);
        assert_eq!(parse_input("/run/in").unwrap(), Some(Path::new("/run/in")));
        assert!(parse_input("in").is_err());
    }
}
