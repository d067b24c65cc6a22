//! Control groups: where a pod's processes are counted, limited and killed as a whole.
//!
//! One design serves the three ways in which a machine may have them:
//!
//! ```text
//!  V1       /sys/fs/cgroup/{cpu,memory,pids,…}      a hierarchy per controller (or per few of them)
//!  Hybrid   the same + /sys/fs/cgroup/unified       a v2 hierarchy beside them, with no controller or with some
//!  V2       /sys/fs/cgroup                          one hierarchy, all controllers
//! ```
//!
//! A [`Cgroup`] is one path ("/hove/0123…") made in every hierarchy. For each controller it knows which hierarchy has
//! it and in which dialect (v1 or v2) its files are written; a limit never cares about the machine's mode, only about
//! where its controller lives.
//!
//! The reading order: [`hierarchy`] finds what is mounted, [`group`] makes a cgroup and places processes into it,
//! [`resources`] writes limits (first decided as a list of writes, purely, then carried out), [`oom`], [`stats`],
//! [`block_io`], [`huge_pages`], [`pressure`], [`kill`] and [`remove`] are what happens to it later.
//!
//! Invariants:
//! - A process is placed once, when it is created, and never moved: moving from outside waits for an RCU grace period
//!   (12 ms over eight hierarchies, measured). See [`Placement`].
//! - In hybrid mode the process also sits in the v2 hierarchy, even when that has no controllers: `cgroup.kill` there
//!   is atomic, where v1 must freeze, signal and thaw.
//! - Nothing here waits without a named limit.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod block_io;
pub mod error;
mod file;
pub mod group;
pub mod hierarchy;
pub mod huge_pages;
pub mod kill;
pub mod oom;
pub mod pressure;
pub mod remove;
pub mod resources;
pub mod stats;

pub use error::{Error, Result};
pub use group::{Cgroup, Placement};
pub use hierarchy::{Controller, Hierarchies, Mode, Version};
pub use oom::OomEvents;
pub use stats::Stats;
