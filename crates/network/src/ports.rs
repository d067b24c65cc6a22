//! Host ports: who has which, and the sockets that hold them.
//!
//! nf_tables would translate a port whether or not a program listens on it, and so take it away from that program without a
//! word. So the node binds each port (without listening) before granting it, and keeps the socket: then nobody is
//! shadowed, and nobody can start listening behind a rule that hides him.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::owner;
use crate::{Error, PortMapping, Protocol, Result};

/// How long a socket may live on in a child that was forked before it was closed and has not reached exec yet.
const CLOSING: Duration = Duration::from_secs(1);

/// The address that a mapping is bound to: 0.0.0.0 stands for all.
pub fn bound_address(mapping: &PortMapping) -> Ipv4Addr {
    match mapping.host_ip {
        Some(IpAddr::V4(address)) => address,
        Some(IpAddr::V6(_)) | None => Ipv4Addr::UNSPECIFIED,
    }
}

/// Refuses what this network can't serve.
pub fn check(mapping: &PortMapping) -> Result<()> {
    let unsupported = |rule: &str| {
        Err(Error::Unsupported {
            port: mapping.host_port,
            protocol: mapping.protocol,
            rule: rule.to_owned(),
        })
    };
    if mapping.protocol == Protocol::Sctp {
        return unsupported("SCTP can't be published; TCP and UDP can");
    }
    if mapping.host_port == 0 || mapping.container_port == 0 {
        return unsupported("hostPort and containerPort must be from 1 to 65535");
    }
    match mapping.host_ip {
        Some(IpAddr::V6(address)) if !address.is_unspecified() => unsupported(&format!(
            "hostIP {address}: pods have IPv4 addresses only; use an IPv4 address of this host"
        )),
        Some(IpAddr::V4(address)) if address.is_multicast() || address.is_broadcast() => {
            unsupported(&format!("hostIP {address} is not an address of one host"))
        }
        _ => Ok(()),
    }
}

/// Whether two mappings want the same port of the same address.
pub fn clash(a: &PortMapping, b: &PortMapping) -> bool {
    let (x, y) = (bound_address(a), bound_address(b));
    a.protocol == b.protocol && a.host_port == b.host_port && (x == y || x.is_unspecified() || y.is_unspecified())
}

/// Refuses a sandbox that wants one port twice.
pub fn check_among_themselves(wanted: &[PortMapping]) -> Result<()> {
    for (place, mapping) in wanted.iter().enumerate() {
        if wanted[..place].iter().any(|other| clash(mapping, other)) {
            let (port, protocol) = (mapping.host_port, mapping.protocol);
            return Err(Error::Unsupported {
                port,
                protocol,
                rule: "the pod publishes it twice".to_owned(),
            });
        }
    }
    Ok(())
}

/// The sandbox among `holders` that has what one of `wanted` wants.
pub fn find_clash<'a>(
    wanted: &[PortMapping],
    holders: impl Iterator<Item = (&'a str, &'a [PortMapping])>,
) -> Option<(PortMapping, &'a str)> {
    for (holder, held) in holders {
        for mapping in wanted {
            if held.iter().any(|other| clash(mapping, other)) {
                return Some((*mapping, holder));
            }
        }
    }
    None
}

/// The sockets that hold the ports of each sandbox.
#[derive(Debug, Default)]
pub struct Held {
    sockets: BTreeMap<String, Vec<OwnedFd>>,
    closed: Vec<(PortMapping, Instant)>,
}

impl Held {
    /// Keeps `sockets` for sandbox `id`.
    pub fn keep(&mut self, id: &str, sockets: Vec<OwnedFd>) {
        if !sockets.is_empty() {
            self.sockets.insert(id.to_owned(), sockets);
        }
    }

    /// Closes the sockets of sandbox `id`, which hold `ports`.
    pub fn let_go(&mut self, id: &str, ports: &[PortMapping]) {
        if self.sockets.remove(id).is_some() {
            self.note_closed(ports);
        }
    }

    /// Remembers for a while that this node closed sockets with `ports`.
    pub fn note_closed(&mut self, ports: &[PortMapping]) {
        let now = Instant::now();
        self.closed.retain(|(_, when)| now.duration_since(*when) < CLOSING);
        self.closed.extend(ports.iter().map(|mapping| (*mapping, now)));
    }

    /// Whether a socket with this port was closed so recently that a child between fork and exec may still have it.
    pub fn closed_just_now(&self, wanted: &PortMapping) -> bool {
        self.closed
            .iter()
            .any(|(mapping, when)| when.elapsed() < CLOSING && clash(mapping, wanted))
    }
}

/// Binds one port, in the calling thread's net namespace. One that this node itself closed just now (`just_closed`) is
/// waited for: close-on-exec closes a child's copy of the socket at exec, which may be a moment after ours.
pub fn bind(mapping: &PortMapping, just_closed: bool) -> Result<OwnedFd> {
    let start = Instant::now();
    loop {
        match try_bind(mapping) {
            Err(Error::PortInUse { .. }) if just_closed && start.elapsed() < CLOSING => {
                std::thread::sleep(CLOSING / 1000);
            }
            other => return other,
        }
    }
}

fn try_bind(mapping: &PortMapping) -> Result<OwnedFd> {
    let (port, protocol) = (mapping.host_port, mapping.protocol);
    let address = bound_address(mapping);
    let refused = |call: &str, errno| Error::PortRefused {
        port,
        protocol,
        source: sys::Error::new(call, errno),
    };
    let kind = if protocol == Protocol::Udp {
        SocketType::DGRAM
    } else {
        SocketType::STREAM
    };
    let socket = rustix::net::socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC, None)
        .map_err(|e| refused("socket(AF_INET)", e))?;
    match rustix::net::bind(&socket, &SocketAddrV4::new(address, port)) {
        Ok(()) => Ok(socket),
        Err(Errno::ADDRINUSE) => Err(Error::PortInUse {
            port,
            protocol,
            address,
            owner: owner::of_port(protocol, port),
        }),
        Err(Errno::ADDRNOTAVAIL) => Err(Error::Unsupported {
            port,
            protocol,
            rule: format!("hostIP {address} is not an address of this host"),
        }),
        Err(e) => Err(refused(&format!("bind({address}:{port})"), e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(host_ip: Option<&str>, host_port: u16, protocol: Protocol) -> PortMapping {
        PortMapping {
            host_ip: host_ip.map(|a| a.parse().unwrap()),
            host_port,
            container_port: 80,
            protocol,
        }
    }

    #[test]
    fn clashes() {
        let all = mapping(None, 80, Protocol::Tcp);
        let unspecified = mapping(Some("0.0.0.0"), 80, Protocol::Tcp);
        let one = mapping(Some("127.0.0.1"), 80, Protocol::Tcp);
        let other = mapping(Some("10.1.1.1"), 80, Protocol::Tcp);
        let udp = mapping(None, 80, Protocol::Udp);
        for (a, b, expected) in [
            (all, unspecified, true),
            (all, one, true),
            (unspecified, other, true),
            (one, other, false),
            (one, one, true),
            (all, udp, false),
            (all, mapping(None, 81, Protocol::Tcp), false),
        ] {
            assert_eq!(clash(&a, &b), expected, "{a:?} {b:?}");
            assert_eq!(clash(&b, &a), expected, "{b:?} {a:?}");
        }
    }

    #[test]
    fn refuses_what_cannot_be_served() {
        assert!(check(&mapping(None, 80, Protocol::Tcp)).is_ok());
        assert!(check(&mapping(Some("::"), 80, Protocol::Tcp)).is_ok());
        let error = check(&mapping(None, 80, Protocol::Sctp)).unwrap_err().to_string();
        assert!(
            error.contains("80/SCTP") && error.contains("TCP and UDP can"),
            "{error}"
        );
        let error = check(&mapping(Some("fd00::1"), 80, Protocol::Tcp))
            .unwrap_err()
            .to_string();
        assert!(error.contains("fd00::1"), "{error}");
        assert!(check(&mapping(None, 0, Protocol::Tcp)).is_err());
    }
}
