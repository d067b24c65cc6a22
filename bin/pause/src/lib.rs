//! PID 1 of a pod, as a file to carry along.
//!
//! The program itself is src/pause.rs with src/arch/; build.rs compiles it. `hove-shim` starts it from a sealed memfd,
//! so no pod ever waits for, or fails over, an image that holds it; `hove pause-image` packs it for other runtimes.

#![forbid(unsafe_code)]

/// The ELF executable: static, at fixed addresses, for this target. At most 1,024 bytes.
pub const ELF: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pause"));
