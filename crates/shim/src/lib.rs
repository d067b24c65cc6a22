//! The pod's supervisor: one per pod, parent of all that runs in it.
//!
//! ```text
//!  ttrpc socket          tasks                     the one owner                       the kernel
//!
//!  connection ─► sandbox_service ┐                                        ┌─► starter: pause, containers, execs
//!  connection ─► task_service    ├─ door ─ Request ─►  pod::Pod ──────────┼─► cgroup: limits, kill
//!  connection ─► pod_service     ┘                      │  ▲              └─► records: who runs, how who ended
//!                                                       │  │
//!                 reap    (SIGCHLD → waitpid) ── Event ─┼──┤
//!                 pump    (FIFO, terminal → log) ───────┼──┤
//!                 process (handshake of a start) ───────┘──┘
//! ```
//!
//! Where a pod's handler is another vendor's shim, that one starts the processes and this one keeps it: see [`foreign`].
//!
//! One thread. Connections and pumps are tasks; they own no state and start no process, they send messages to
//! [`pod::Pod`], which does. [`state`] is the table of what may be asked when; [`ending`] the order in which a process
//! ends; [`sandbox`] the life of pause and of the namespaces that it holds.
//!
//! Invariants:
//! - The shim never waits in the state machine: starting a process is a handshake of messages, a kill is followed by the
//!   reaped child, a slow disk is the pump's trouble.
//! - An end is on disk before anyone is told (invariant 9), and after it no byte of the process's output is missing
//!   from its log.
//! - Nothing but a request ends the shim: signals that would are ignored.
//! - What a pod costs while it idles is this process's private pages: no thread pool, no subscriber, buffers only while
//!   there is something in them, and freed memory goes back to the kernel after each start and end.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod state;

pub mod adopt;
mod attached;
mod container;
mod control;
mod devices;
pub mod diary;
mod door;
pub mod ending;
mod event;
mod exec;
pub mod failure;
mod foreign;
mod handover;
mod journal;
pub mod pod;
mod pod_service;
mod process;
mod pump;
mod ready;
mod reap;
mod records;
pub mod remains;
pub mod sandbox;
mod sandbox_service;
mod serve;
mod stdio;
mod task_service;
mod terminal;
mod watch;

pub use pod::Config;
#[cfg(fuzzing)]
pub use serve::orphaned_services;
pub use serve::{Start, run};
