//! Images: what a container's files come from.
//!
//! An image is a configuration (what to run, as whom, with which environment) and a list of layers, each a tar stream
//! of files added, changed and removed. It comes from an archive, an OCI layout or a directory, with a
//! [name](reference). The [`Store`] keeps what came, by digest, and each layer unpacked, once, however many images and
//! containers share it. A container gets a writable snapshot above them: an [`Overlay`], which the runtime passes on
//! and the shim mounts inside the container's own mount namespace. Mounted here is only what a person asks to look into
//! ([`Store::mount`]).
//!
//! ```text
//! ROOT/images/content/sha256/HEX     layers, configurations, manifests, as they came      [content]
//! ROOT/images/lock                   one process per store
//! ROOT/images/images.redb            images and their names; layers and where they are    [catalogue]
//! ROOT/snapshots/N/fs                files of a layer, or what a container wrote          [snapshot]
//! ```
//!
//! Invariants:
//! - Bytes are used only after their SHA-256 was found to be what was promised.
//! - Whoever kills us, whenever: the next [`Store::open`] sees each image and layer whole or not at all. Files are
//!   written under another name first, renamed when they are whole, then recorded; what no record knows is swept.
//! - An archive writes below the directory of its layer and nowhere else ([`layer`]).
//! - What a container, an image or an import in flight stands on is never collected.
//! - What is fetched ([`registry`]) comes in by the same store: nothing unverified is ever used.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod archive;
mod arrival;
mod catalogue;
mod content;
pub mod digest;
pub mod error;
mod export;
mod import;
pub mod layer;
pub mod limits;
mod model;
mod mount;
mod progress;
pub mod reference;
pub mod registry;
mod room;
mod snapshot;
mod store;

pub use digest::Digest;
pub use error::{Error, Result};
pub use import::Source;
pub use model::{FsInfo, Image, ImageConfig, Layer, Overlay, Usage};
pub use mount::Mounted;
pub use progress::{Progress, Stage};
pub use reference::Reference;
pub use store::{Collected, Removed, Store};
