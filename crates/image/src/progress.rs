//! How far an import, a pull or a push is.

use crate::digest::Digest;

/// What is being done to a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Its bytes are copied into the store and checked.
    Storing,
    /// Its files are written.
    Unpacking,
    /// Its bytes go to a registry.
    Sending,
    /// It is where it should be.
    Ready,
}

/// How far a layer is: sent many times a second, for several layers side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub stage: Stage,
    /// Which layer, from 1…
    pub layer: usize,
    /// …of how many.
    pub layers: usize,
    /// The layer.
    pub digest: Digest,
    /// Bytes of the layer done.
    pub done_bytes: u64,
    /// Bytes of the layer.
    pub total_bytes: u64,
}
