//! The network of pods: net namespaces, the built-in bridge, addresses, host ports.
//!
//! A sandbox's network is made in two steps; [`Network::release`] undoes both:
//!
//! ```text
//!  make_namespace(id)      a net namespace, bind-mounted on NETNS_DIR/ID, with its loopback up
//!  attach(id, ports)       address (pool) → record → host ports bound (ports) → veth (link) → nf_tables (firewall)
//!
//!    pod's namespace          host
//!   ┌───────────────┐      ┌───────────────────────────────────────────────┐
//!   │ lo 127.0.0.1  │      │ hove0 10.85.0.1/16 (bridge) ── routed, ───────┼── the host's links
//!   │ eth0 10.85.0.2├──────┤ hv3f2a… ┘                       masqueraded   │
//!   └───────────────┘ veth └───────────────────────────────────────────────┘
//!
//!  release(id)             everything above, in one go, best effort, idempotent
//! ```
//!
//! Rules that hold throughout:
//!
//! * No helper program runs: links, addresses and routes are rtnetlink messages (`link`), host ports and masquerading
//!   are nf_tables messages (`firewall`).
//! * Intent is on disk before anything is acquired: an attachment's record (address, ports, link name) is saved first,
//!   so that a crash at any instant leaves something that `release` or the next [`Network::open`] can undo.
//! * Nobody waits for the kernel to collect a namespace or a veth. An address can be used again at once: a pod's MAC
//!   address is derived from its IP address and the bridge is told which port it is behind, so that nothing stale is believed.
//! * A host port is bound by the node before it is granted, and packets to 127/8 from any link but lo are dropped:
//!   publishing a port neither shadows a listener nor opens the host's loopback to pods.
//!
//! All calls block (for fractions of a millisecond) and may come from many threads at once. A pod on the host's network
//! needs none of them. IPv4 today: addresses are kept as `IpAddr` where callers see them, and the nf_tables table is of
//! the `inet` family, so that a second address family is an addition.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod error;
pub mod subnet;

mod bridge;
mod conntrack;
mod firewall;
mod link;
mod network;
mod owner;
mod pool;
mod ports;
mod records;

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use error::{Error, Result};
pub use network::Network;
pub use subnet::Subnet;

/// Where the network keeps its state, and what it calls itself on the host.
///
/// Two nodes on one host need different `bridge` and `subnet`; the nf_tables table is named after the bridge.
#[derive(Debug, Clone)]
pub struct Config {
    /// Records: the address pool, one file per attachment.
    pub state_dir: PathBuf,
    /// Bind-mounted net namespaces, one file per sandbox.
    pub netns_dir: PathBuf,
    /// Name of the bridge, at most 15 bytes.
    pub bridge: String,
    /// The pods' addresses; the first one is the gateway's (the bridge's own).
    pub subnet: Subnet,
    /// MTU of the pods' links; by default that of the link which has the default route, else 1500.
    pub mtu: Option<u32>,
}

impl Config {
    /// The default network of the node whose state directory is `state`: bridge `hove0`, 10.85.0.0/16.
    pub fn below(state: &Path) -> Config {
        Config {
            state_dir: state.join("network"),
            netns_dir: state.join("netns"),
            bridge: "hove0".to_owned(),
            subnet: Subnet::DEFAULT,
            mtu: None,
        }
    }
}

/// A transport protocol whose ports can be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP: known, so that it can be refused by name.
    Sctp,
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        })
    }
}

/// One published port: what arrives at the host's `host_port` goes to the pod's `container_port`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortMapping {
    /// The host's address it is published on; `None` and the unspecified address mean all of them.
    pub host_ip: Option<IpAddr>,
    /// Port on the host, 1-65535.
    pub host_port: u16,
    /// Port in the pod, 1-65535.
    pub container_port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
}

/// A sandbox's place in the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The pod's addresses, the primary one first.
    pub ips: Vec<IpAddr>,
    /// Hardware address of the pod's link, `0a:58:…`.
    pub mac: String,
    /// Name of the pod's link inside its namespace: `eth0`.
    pub interface: String,
    /// The pod's default gateway: the bridge's address.
    pub gateway: IpAddr,
    /// The published ports.
    pub ports: Vec<PortMapping>,
}

/// Something of this network that is still on the machine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Remainder {
    /// A net namespace bound below `netns_dir`, by sandbox id.
    Namespace(String),
    /// An attachment's record, by sandbox id.
    Attachment(String),
}
