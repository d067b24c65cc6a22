//! The messages between the node's `runtime` and a pod's shim: containerd's Sandbox v1 and Task services
//! (from `containerd-shim-protos`), and Hove's extension, [`shim`], generated from `proto/shim.proto` by
//! `cargo xtask codegen`.

#![forbid(unsafe_code)]

#[allow(missing_docs, clippy::all, unused)]
#[rustfmt::skip]
pub mod shim;
#[allow(missing_docs, clippy::all, unused)]
#[rustfmt::skip]
pub mod shim_ttrpc;
