//! Typed system calls: what rustix has no word for, and what deserves an error that reads like a line of strace.
//! The only library of Hove's with `unsafe` in it; every other one forbids it.
//!
//! Each function is one system call (or one that the kernel wants in two parts), hardened: file descriptors are
//! [`OwnedFd`](std::os::fd::OwnedFd) and close-on-exec, processes are pidfds, paths are resolved below a directory.
//! Functions that a child may call between clone and exec take prepared data and neither allocate nor lock; their
//! documentation says so.

pub mod bpf;
pub mod error;
pub mod failpoint;
pub mod fifo;
pub mod inherited;
pub mod memfd;
pub mod memory;
pub mod mount;
pub mod mountinfo;
pub mod netfilter;
pub mod netlink;
pub mod netns;
pub mod overlay;
pub mod pidfd;
pub mod pidfd_info;
pub mod process;
pub mod procfs;
pub mod resolve;
pub mod scm;
pub mod seccomp;
pub mod signalfd;
pub mod spawn;
pub mod userns;

pub use error::{Error, Result};
