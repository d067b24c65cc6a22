//! Killed anywhere: a node dies, fails or is slow at every step of a pod's life, is started again, and converges: what was
//! asked for runs or is wholly undone, the same requests succeed, and at the end nothing is left on the machine.
//!
//! Each case is a process of its own, this test's binary run again ([`node`]): it opens a runtime in the directories of
//! its test, leads a pod through its life ([`life`]), and comes to harm at one failpoint (`sys::failpoint`). The test then
//! opens the same directories, looks whether what is there is what the runtime says, and leads the same pod through its
//! life once more.
//!
//! The supervisor's binary comes from `HOVE_SHIM`, else from the directory that this test was built into
//! (`cargo build -p hove-shim`). `HOVE_CRASH_ONLY=sandbox.shim` goes through the points only that begin so.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, missing_docs)]

mod exhausted;
mod life;
mod matrix;
mod node;
mod place;
mod quarantine;
