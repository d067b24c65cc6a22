//! A container's log, in the CRI's format: written by the shim, read by whoever asks for logs.
//!
//! ```text
//! 2026-11-22T07:08:09.123456789Z stdout F a whole line, its newline taken off
//! 2026-11-22T07:08:09.123456790Z stderr P the first 16 KiB of a long line, or a prompt that waits for an answer
//! 2026-11-22T07:08:11.000000001Z stderr F the rest of it
//! ```
//!
//! The time is RFC 3339 with nanoseconds; `F` ends a line of the container's, `P` is a piece that the next entry of
//! the same stream goes on from. The format is published with Kubernetes' CRI (kubelet's cri-client/pkg/logs reads it).
//!
//! - [`line`] is the format itself: pure, both ways.
//! - [`Writer`] appends. It never loses a byte to a full disk: what could not be written stays with the writer, and
//!   the file always ends with a whole entry.
//! - [`Reader`] selects (tail, since, stream, byte limit) and turns entries back into what the container wrote.
//! - [`Follower`] goes on reading across rotations, told by inotify when to look.
//!
//! Rotation is the reader of the configuration's business (kubelet's, or ours): the file is renamed, then the writer is
//! told to [`Writer::reopen`].

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod error;
mod follow;
pub mod line;
mod read;
mod select;
mod write;

pub use error::{Error, Result};
pub use follow::Follower;
pub use line::{Entry, PIECE_MAX, Stream, Tag};
pub use read::{Progress, Reader};
pub use select::Query;
pub use write::{Position, Writer};
