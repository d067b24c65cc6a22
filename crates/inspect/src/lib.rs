//! What is on the machine, read from /proc, /sys and netlink: nothing here changes anything.
//!
//! * [`process`], [`namespace`], [`sys::mountinfo`], [`link`], [`cgroup`]: one source each, as plain data.
//! * [`view`]: a pod's namespaces, kind by kind: whose each is and who is in it; drawn by [`tree`] and [`svg`] (`hove ns`).
//! * [`kernel`]: what this kernel offers of what Hove uses (`hove doctor`).
//! * [`audit`]: two snapshots and what the second one has that the first had not (the leak audit).
//!
//! The machine changes while it is read: a process that ends between two looks is left out, not an error.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod audit;
pub mod cgroup;
pub mod error;
pub mod kernel;
pub mod link;
pub mod namespace;
pub mod process;
pub mod svg;
pub mod tree;
pub mod view;

pub use error::{Error, Result};
