//! Forgetting tracked connections to a host port.
//!
//! Connection tracking decides about translation once per flow and remembers. A UDP flow that never pauses would go
//! on missing a port that was published after it began, or go on to the dead pod that had the port before. So its flows are
//! forgotten when a UDP port is published. (A new TCP connection is a new flow; an old one has died with its pod.)
//!
//! The kernel has no index by port: it walks its whole table, 10 to 40 ms with the default size however little is in it.
//! Nobody waits for that.

use std::net::Ipv4Addr;

use rustix::io::Errno;
use sys::netfilter::{HEADER, IPV4, conntrack_message};
use sys::netlink::{ACK, Message, Socket, attributes};

use crate::firewall::protocol_number;
use crate::ports::bound_address;
use crate::{PortMapping, Protocol};

/// linux/netfilter/nfnetlink_conntrack.h.
const GET: u16 = 1;
const DELETE: u16 = 2;
const TUPLE_ORIG: u16 = 1;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const IP_V4_DST: u16 = 2;
const PROTO_NUM: u16 = 1;
const PROTO_DST_PORT: u16 = 3;
const ZONE: u16 = 18;
const FILTER: u16 = 25;
const FILTER_ORIG_FLAGS: u16 = 1;
const FILTER_REPLY_FLAGS: u16 = 2;
/// Compare the protocol's number and the destination port (bits 3 and 5).
const FILTER_PROTO_AND_PORT: u32 = 1 << 3 | 1 << 5;

/// Forgets the flows to those of `mappings` that are UDP, on a thread of its own. Best effort: a flow that stays
/// remembered ends by itself, once it pauses.
pub fn forget_in_background(mappings: &[PortMapping]) {
    let udp: Vec<PortMapping> = mappings
        .iter()
        .filter(|m| m.protocol == Protocol::Udp)
        .copied()
        .collect();
    if udp.is_empty() {
        return;
    }
    let work = move || {
        for mapping in udp {
            if let Err(error) = forget(&mapping) {
                tracing::warn!(port = mapping.host_port, %error, "tracked flows to a host port not forgotten");
            }
        }
    };
    if let Err(error) = std::thread::Builder::new().name("conntrack".to_owned()).spawn(work) {
        tracing::warn!(%error, "tracked flows to host ports not forgotten");
    }
}

/// Deletes the connections that were made to `mapping`'s port of this host, in the calling thread's net namespace.
/// A kernel without conntrack's netlink has nothing to say about them and is left alone.
fn forget(mapping: &PortMapping) -> sys::Result<()> {
    match try_forget(mapping) {
        Err(e) if matches!(e.errno, Errno::PROTONOSUPPORT | Errno::OPNOTSUPP) => Ok(()),
        other => other,
    }
}

fn try_forget(mapping: &PortMapping) -> sys::Result<()> {
    let socket = Socket::netfilter()?;
    let all = || conntrack_message("IPCTNL_MSG_CT_GET", GET, 0, IPV4);
    // The kernel compares (5.8) and sends us little; older ones refuse the filter and send everything.
    let entries = match socket.dump(filtered(all(), mapping)) {
        Ok(entries) => entries,
        Err(e) if matches!(e.errno, Errno::INVAL | Errno::OPNOTSUPP) => socket.dump(all())?,
        Err(e) => return Err(e),
    };
    for entry in entries {
        let Some(payload) = entry.payload.get(HEADER..) else {
            continue;
        };
        if !is_to(payload, mapping) {
            continue;
        }
        let mut message = conntrack_message("IPCTNL_MSG_CT_DELETE", DELETE, ACK, IPV4);
        for (kind, value) in attributes(payload) {
            match kind {
                TUPLE_ORIG => message = message.attr(TUPLE_ORIG | sys::netlink::NESTED, value),
                ZONE => message = message.attr(ZONE, value),
                _ => {}
            }
        }
        match socket.request(&mut [message]) {
            Err(e) if e.errno == Errno::NOENT => {}
            other => other?,
        }
    }
    Ok(())
}

fn filtered(message: Message, mapping: &PortMapping) -> Message {
    message
        .nest(FILTER, |m| {
            m.attr(FILTER_ORIG_FLAGS, &FILTER_PROTO_AND_PORT.to_ne_bytes())
                .attr(FILTER_REPLY_FLAGS, &[0; 4])
        })
        .nest(TUPLE_ORIG, |m| {
            m.nest(TUPLE_PROTO, |m| {
                m.attr(PROTO_NUM, &[protocol_number(mapping.protocol)])
                    .attr(PROTO_DST_PORT, &mapping.host_port.to_be_bytes())
            })
        })
}

/// Whether the connection that these attributes describe was made to `mapping`'s port.
fn is_to(entry: &[u8], mapping: &PortMapping) -> bool {
    let Some((_, tuple)) = attributes(entry).find(|(kind, _)| *kind == TUPLE_ORIG) else {
        return false;
    };
    let inner = |part: u16, kind: u16| {
        let (_, part) = attributes(tuple).find(|(k, _)| *k == part)?;
        attributes(part).find(|(k, _)| *k == kind).map(|(_, value)| value)
    };
    let address = bound_address(mapping);
    inner(TUPLE_PROTO, PROTO_NUM) == Some(&[protocol_number(mapping.protocol)])
        && inner(TUPLE_PROTO, PROTO_DST_PORT) == Some(&mapping.host_port.to_be_bytes())
        && (address == Ipv4Addr::UNSPECIFIED || inner(TUPLE_IP, IP_V4_DST) == Some(&address.octets()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    fn tracked() -> usize {
        let message = conntrack_message("IPCTNL_MSG_CT_GET", GET, 0, IPV4);
        Socket::netfilter().unwrap().dump(message).unwrap().len()
    }

    #[test]
    fn forgets_what_went_to_the_port_and_nothing_else() {
        std::thread::spawn(|| {
            sys::netns::isolate_thread().unwrap();
            crate::link::Links::open().unwrap().loopback_up().unwrap();
            // Connections are tracked where a rule asks for it: any nat chain does.
            crate::firewall::Firewall::new("test0", crate::Subnet::DEFAULT)
                .rebuild(&[])
                .unwrap();
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            let _servers = [5353, 5354].map(|port| {
                let server = UdpSocket::bind(("127.0.0.1", port)).unwrap();
                client.send_to(b"?", ("127.0.0.1", port)).unwrap();
                server
            });
            assert_eq!(tracked(), 2);
            let mut mapping = PortMapping {
                host_ip: Some("192.0.2.1".parse().unwrap()),
                host_port: 5353,
                container_port: 53,
                protocol: Protocol::Udp,
            };
            forget(&mapping).unwrap();
            assert_eq!(tracked(), 2, "another address of the host");
            mapping.host_ip = None;
            forget(&mapping).unwrap();
            assert_eq!(tracked(), 1);
            forget(&mapping).unwrap();
            mapping.host_port = 5354;
            forget(&mapping).unwrap();
            assert_eq!(tracked(), 0);
        })
        .join()
        .unwrap();
    }
}
