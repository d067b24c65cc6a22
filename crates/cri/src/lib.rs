//! The Container Runtime Interface, `runtime.v1` at the level of cri-api v0.36: its messages, its verbs as traits, and
//! its errors. The house's two halves meet here: `sync` calls these traits, `runtime` implements them, and
//! `cri-grpc` carries them over a socket.
//!
//! - [`v1`]: the messages, generated from `proto/api.proto` by `cargo xtask codegen`.
//! - [`service`]: [`RuntimeService`] and [`ImageService`], one method per RPC.
//! - [`streaming`]: what stands behind the URLs that Exec, Attach and PortForward return.
//! - `conformance`: the suite that any implementation can run, behind the feature of that name.
//! - [`error`]: [`Error`], one kind per gRPC code that the interface uses.

#![forbid(unsafe_code)]

#[cfg(feature = "conformance")]
pub mod conformance;
pub mod error;
mod redacted;
pub mod service;
pub mod streaming;
#[allow(missing_docs, clippy::all)]
#[rustfmt::skip]
pub mod v1;

/// The label by which a sandbox says which engine made it. A sandbox without it belongs to whoever calls over a socket.
pub const OWNER_LABEL: &str = "hove.dev/owner";

pub use error::{Error, ErrorKind, Result};
pub use service::{ImageService, RuntimeService};
