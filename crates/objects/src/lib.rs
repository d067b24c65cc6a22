//! The node's objects, Pods and Events: created, versioned, watched, and kept on disk. This crate is their only writer;
//! `apiserver`, the manifest directory and `sync` are its clients.
//!
//! - [`Store`]: create, get, list, update, delete, finalise and watch, with the meaning that the Kubernetes API gives to
//!   them: a uid and a resourceVersion for each object, optimistic concurrency, deletion in two steps.
//! - [`Object`]: one version of one object, as the JSON that was applied; typed on demand ([`Object::decode`]).
//! - [`Watch`]: the changes after a resourceVersion; a watcher that is too slow is told so ([`Error::Expired`]) and lists again.
//! - [`Recorder`]: the way to write an Event: equal ones are counted, old ones expire.
//!
//! # On disk
//!
//! ```text
//! ROOT/objects.redb                 tables: objects (kind, namespace, name) → JSON; meta; broken (records that don't parse)
//! ROOT/objects.redb.quarantined-N   a database that could not be opened, set aside; see Store::quarantined
//! ```
//!
//! # Invariants
//!
//! - One write path: [`Store`]'s `write` holds the one lock while it reads, decides, commits and announces. So a watcher
//!   sees every change once, in the order of resourceVersions.
//! - A resourceVersion is never used twice, not after a crash either: versions are reserved on disk in blocks
//!   before any of a block is given out.
//! - What a user asked for (create, update, delete) is on disk before the call returns. What can be found out again from
//!   the CRI (status) or is of passing interest (events) is written without waiting for the disk, and gets there within
//!   a quarter of a second (`flush`): what a killed node saw last can be read at the next one.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod disk;
mod error;
mod events;
mod flush;
mod object;
mod store;
mod watch;

pub use disk::Quarantined;
pub use error::{Error, Result};
pub use events::{EventType, Recorder};
pub use object::{Key, Kind, Object};
pub use store::{Deletion, Store};
pub use watch::{Scope, Watch, WatchEvent};

#[cfg(test)]
mod tests;
