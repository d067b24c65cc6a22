//! The seccomp filter of a plan.

use oci_spec::runtime::LinuxSeccomp;

use crate::{Error, Result};

/// A compiled filter.
#[derive(Debug)]
pub(crate) struct Program;

/// Compiles the profile.
pub(crate) fn compile(_profile: &LinuxSeccomp) -> Result<Program> {
    Err(Error::unsupported("linux.seccomp", "a profile"))
}

/// Loads the filter into the calling thread. May be called between clone and exec.
pub(crate) fn load(_program: &Program) -> rustix::io::Result<()> {
    Err(rustix::io::Errno::NOSYS)
}
