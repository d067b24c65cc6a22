//! The messages between the node's `runtime` and a pod's shim: containerd's Sandbox v1 and Task services
//! (from `containerd-shim-protos`), and Hove's extension, [`shim`], generated from `proto/shim.proto` by
//! `cargo xtask codegen`.
//!
//! [`Client`] is one connection to one shim, with a client for each of its services.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod client;
mod failure;
mod handler;
mod root;
#[allow(missing_docs, clippy::all, clippy::unwrap_used, unused)]
#[rustfmt::skip]
pub mod shim;
#[allow(missing_docs, clippy::all, clippy::unwrap_used, unused)]
#[rustfmt::skip]
pub mod shim_ttrpc;

/// containerd's Task messages.
pub use containerd_shim_protos::api as task;
/// containerd's Sandbox messages.
pub use containerd_shim_protos::sandbox_api as sandbox;

pub use client::{Client, deadline, forever};
pub use failure::{Failure, Kind, add_exit_code};
pub use handler::{Handler, OptionError, Setting};
pub use root::RootMount;
