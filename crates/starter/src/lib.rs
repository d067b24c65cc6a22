//! One container process from an OCI config, without a helper program and without waiting.
//!
//! ```text
//!  Request ──compile──► Plan ──clone3──► child: for step in plan { do it }   namespaces, mounts, root, identity …
//!  (spec, rootfs,       Vec<Step>,         │ (step, errno), notices,
//!   stdio, cgroup)      all prepared       ▼ terminal, "created"
//!                                      Creating ──► Created ──start──► Starting ──► the program runs
//! ```
//!
//! The reading order: [`request`] is what a caller asks for. `plan` decides, before the clone, everything that can be
//! decided: it turns the request into a row of steps with every string prepared; there is a file per concern and the
//! row itself reads top-down in `plan/mod.rs`, each step preceded by the kernel's rule that puts it there. `child` does
//! the steps: flat code, for between clone and exec a process may neither allocate nor lock. `handshake` is the few
//! packets that both sides exchange; [`creating`] is the parent's side of it, which never waits. [`identity`] reads the
//! container's passwd and group files, `filter` is the seccomp profile.
//!
//! Invariants:
//! - The child does all the work. The caller's thread makes the plan, clones, and reads packets; it sees no mount, no
//!   network file system, no slow disk.
//! - Nothing of a container's mounts ever appears in the host's mount table.
//! - A path inside the container's root is resolved by file descriptor and inside that root.
//! - No error without the step, its object and errno. What is done less than to the letter, because the caller itself
//!   lacks a privilege, is said in [`Created::notices`].
//! - The child dies with the handshake: when the parent is gone, the next packet that it waits for is an end of file.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod child;
pub mod creating;
pub mod error;
mod filter;
mod handshake;
pub mod identity;
mod launch;
mod plan;
mod portable;
pub mod request;
pub mod seccomp;

pub use creating::{Created, Creating, Progress, Started, Starting};
pub use error::{Error, Result};
pub use identity::Identity;
pub use launch::{create, exec, explain};
pub use portable::{portable, portable_exec};
pub use request::{
    ExecRequest, Executable, GROUPS_POLICY_ANNOTATION, Request, Rootfs, RootfsMount, Size, Stdio, USER_ANNOTATION,
};
