//! The CRI over a unix socket: [`serve`] for kubelet, crictl and critest, and [`Client`] for whoever would drive another
//! runtime. Both carry the traits of `cri`, and say nothing of their own.
//!
//! ```text
//!  kubelet ─► HTTP/2 ─► server: path ─► rpcs: one table ─► cri::RuntimeService, cri::ImageService
//!                       client: cri::RuntimeService … ─► the same table ─► HTTP/2 ─► containerd, CRI-O, Hove
//! ```
//!
//! [`rpcs`] lists the 41 calls once; the server's dispatch and the client's methods are both made from it.

#![forbid(unsafe_code)]

mod client;
mod rpcs;
mod server;
mod status;

pub use client::{Client, ConnectError};
pub use server::{Services, serve};

/// The largest message, in bytes, in either direction: kubelet's own limit.
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;
/// Calls in flight on one connection; a client's further ones wait.
pub const MAX_CONCURRENT_CALLS: u32 = 1024;
/// The longest error message sent, in bytes. It travels in a header, and clients limit those.
pub const MAX_ERROR_BYTES: usize = 4 * 1024;
