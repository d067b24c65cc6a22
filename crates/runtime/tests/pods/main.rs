//! Real pods: the real shim, starter, image store and network, on a host of the test's own.
//!
//! The supervisor's binary comes from `HOVE_SHIM`, else from the directory that this test was built into
//! (`cargo build -p hove-shim`).

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, missing_docs)]

mod adopt;
mod attach;
mod checkpoint;
mod conformance;
mod contact;
mod failures;
mod guests;
mod handlers;
mod host;
mod image_volumes;
mod life;
mod memory;
mod metrics;
mod modes;
mod resources;
mod restart;
mod sandbox_image;
mod streams;
mod users;
