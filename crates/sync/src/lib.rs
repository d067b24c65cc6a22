//! SyncPod: makes the pods that should run, run. A small kubelet that knows the CRI's traits and no runtime.
//!
//! Decide, then do. What should happen is decided by pure functions over plain data; the rest carries it out.
//!
//! ```text
//!  objects ──watch──►┌────────┐ mailbox  ┌────────┐  observe   PodStatusFromCri   decide   PodActions
//!                    │ engine ├────────► │ worker ├──────────► ──────────────────► ──────► sync_pod: eight steps ──► CRI
//!  CRI ────events───►└────────┘  poke    └───┬────┘                                              │
//!    └─────relist──►  routes only     one per pod ◄──── again, until there is nothing to do ─────┘
//!                                            └──► status ──► objects
//! ```
//!
//! | decide | do |
//! |---|---|
//! | [`decide`]: what a pod needs now | [`mod@sync_pod`]: the eight steps |
//! | [`status`]: the PodStatus that follows | [`observe`]: what the CRI says; [`worker`]: when |
//! | [`config`]: Pod → the CRI's configurations | [`start`], [`stop`], [`files`] |
//! | [`backoff`], [`memory`]: when to try again | [`engine`]: who is told |
//!
//! # Invariants
//!
//! - A pod is found again from the CRI alone ([`labels`]): after a crash at any point the next look decides what is missing. Nothing
//!   that was done is remembered elsewhere; the failures in [`memory`] may be forgotten.
//! - One task per pod, so that a slow pod delays no other. Nothing polls: workers wake for a changed object, an event of the CRI, the end
//!   of a back-off. A relist catches what a broken event stream lost.
//! - Only sandboxes with the label `hove.dev/owner: sync` are seen or touched.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod labels;
pub mod observed;

pub mod backoff;
pub mod config;
pub mod decide;
pub mod memory;
pub mod status;

mod engine;
mod files;
mod observe;
mod report;
mod start;
mod stop;
mod sync_pod;
mod users;
mod worker;

pub use engine::{Config, Engine, Error};
