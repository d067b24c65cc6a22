//! A pod's supervisor as the daemon sees it: a process to be started and waited for ([`process`]), and the services that
//! it answers on its socket ([`client`]). One that dies is replaced ([`adopt`]), and nothing is lost meanwhile ([`held`]).

mod adopt;
mod attempts;
mod client;
mod error;
mod held;
mod notices;
mod process;

pub(crate) use attempts::Attempts;
pub(crate) use client::{Events, ExecStreams, ShimClient, TaskStreams};
pub use error::ShimError;
pub(crate) use held::Held;
pub use notices::Notice;
pub(crate) use notices::Notices;
pub(crate) use process::{ShimProcess, log_tail};
