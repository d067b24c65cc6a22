//! The streaming server: what exec, attach and port-forward connect to.
//!
//! A client asks the CRI for Exec, Attach or PortForward and gets a URL that works once, within a minute. It connects
//! there and upgrades the connection; from then on bytes flow between it and the process.
//!
//! ```text
//!  CRI Exec ─► Server::exec ─► tickets ─► http://127.0.0.1:PORT/exec/TICKET
//!                                                     │ GET, Upgrade: websocket
//!  server ◄───────────────────────────────────────────┘
//!    ├─ websocket   one connection, a channel byte before each message
//!    ├─ spdy        one connection, streams that the client opens
//!    └─ command     runs cri's StreamingRuntime over the streams, reports its outcome
//! ```
//!
//! - [`held`]: a connection and what lives as long.
//! - [`serve`]: HTTP with limits, for this server and for others that know no client by name.
//! - [`server`]: the listener, the routes, and which protocol a request asks for.
//! - `tickets`: single-use, short-lived, limited in number.
//! - `session`: what every protocol offers to the work, and the work itself. It knows no protocol.
//! - `status`: the outcome as Kubernetes' `Status`.
//! - `spdy`: SPDY/3.1, with versions 1 to 4 of the same family.
//! - `websocket`: the `channel.k8s.io` family, versions 1, 4 and 5, binary and base64.
//!
//! The server listens on a loopback address: whoever may reach it still needs a ticket of 128 random bits.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod held;
pub mod serve;
pub mod server;
mod session;
mod spdy;
mod status;
mod tickets;
mod websocket;

pub use server::Server;
