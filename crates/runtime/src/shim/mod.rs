//! A pod's supervisor as the daemon sees it: a process to be started and waited for ([`process`]), and the services that
//! it answers on its socket ([`client`]).

mod client;
mod error;
mod process;

pub(crate) use client::{Events, ExecStreams, RootMount, ShimClient, TaskStreams};
pub use error::ShimError;
pub(crate) use process::{ShimProcess, log_tail};
