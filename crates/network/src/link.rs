//! Links, addresses and routes, by rtnetlink.
//!
//! Each function sends one or two datagrams; the kernel carries their messages out in order. Several messages in one
//! datagram take one system call and, more to the point, are read in one piece.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind,
    InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use sys::netlink::{Message, Socket, attributes, string};

/// The loopback's index: the first link of every net namespace.
const LOOPBACK: u32 = 1;
/// Lengths of `ifinfomsg` and `rtmsg`, and the attributes that are read (linux/if_link.h, linux/rtnetlink.h).
const LINK_HEADER: usize = 16;
const ROUTE_HEADER: usize = 12;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
/// Name of the pod's link inside its namespace.
pub const POD_LINK: &str = "eth0";

/// A hardware address.
pub type Mac = [u8; 6];

/// The hardware address that goes with an IPv4 address: `0a:58` (locally administered, unicast) and its four bytes, as CNI's
/// plug-ins do it. Whoever gets the address after another has the same one, so no neighbour entry is ever wrong.
pub fn mac_of(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    [0x0a, 0x58, a, b, c, d]
}

/// `0a:58:0a:55:00:02`.
pub fn mac_text(mac: Mac) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}

/// What is known of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its kind (`bridge`, `veth`); links of hardware have none.
    pub kind: Option<String>,
    /// Its MTU.
    pub mtu: Option<u32>,
}

/// A route of the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Destination and prefix length; 0.0.0.0/0 is the default route.
    pub destination: (Ipv4Addr, u8),
    /// Index of the link that it leads through.
    pub link: Option<u32>,
    /// Whether the destination is on that link itself, not behind a gateway.
    pub direct: bool,
}

/// Links, addresses and routes of the net namespace that `open` was called in.
#[derive(Debug)]
pub struct Links(Socket);

impl Links {
    /// Those of the calling thread's namespace.
    pub fn open() -> sys::Result<Links> {
        Socket::route().map(Links)
    }

    /// The link called `name`.
    pub fn find(&self, name: &str) -> sys::Result<Option<Link>> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.get(format!("RTM_GETLINK({name})"), message)
            .map(|found| found.map(|(link, _)| link))
    }

    /// The name of link `index`.
    pub fn name(&self, index: u32) -> sys::Result<Option<String>> {
        let found = self.get(format!("RTM_GETLINK({index})"), of_link(index))?;
        Ok(found.and_then(|(_, name)| name))
    }

    /// The MTU of link `index`.
    pub fn mtu(&self, index: u32) -> sys::Result<Option<u32>> {
        let found = self.get(format!("RTM_GETLINK({index})"), of_link(index))?;
        Ok(found.and_then(|(link, _)| link.mtu))
    }

    fn get(&self, what: String, message: LinkMessage) -> sys::Result<Option<(Link, Option<String>)>> {
        let request = encode(what, RouteNetlinkMessage::GetLink(message), NLM_F_REQUEST);
        let Some(answer) = self.0.get(request)? else {
            return Ok(None);
        };
        Ok(parse_link(&answer.payload))
    }

    /// The IPv4 routes of the main table.
    pub fn routes(&self) -> sys::Result<Vec<Route>> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        let request = encode("RTM_GETROUTE", RouteNetlinkMessage::GetRoute(message), NLM_F_REQUEST);
        Ok(self
            .0
            .dump(request)?
            .iter()
            .filter_map(|answer| parse_route(&answer.payload))
            .collect())
    }

    /// Brings the loopback up; the kernel adds 127.0.0.1 and ::1.
    pub fn loopback_up(&self) -> sys::Result<()> {
        self.0.request(&mut [up("RTM_SETLINK(lo, up)", LOOPBACK)])
    }

    /// Makes the bridge `name` with `mac` and `mtu`, down and without an address.
    pub fn create_bridge(&self, name: &str, mac: Mac, mtu: u32) -> sys::Result<()> {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            // An address of its own: without one a bridge takes its lowest port's, and changes it as pods come and go.
            LinkAttribute::Address(mac.to_vec()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
        ];
        self.0
            .request(&mut [create(format!("RTM_NEWLINK({name}, bridge)"), message)])
    }

    /// Gives the bridge its address and brings it up. Idempotent.
    pub fn set_up_bridge(&self, name: &str, index: u32, address: Ipv4Addr, prefix: u8, ipv6: bool) -> sys::Result<()> {
        let mut messages = Vec::new();
        if ipv6 {
            messages.push(without_link_local(
                format!("RTM_SETLINK({name}, addrgenmode none)"),
                index,
            ));
        }
        messages.push(add_address(name, index, address, prefix));
        messages.push(up(format!("RTM_SETLINK({name}, up)"), index));
        self.0.request(&mut messages)
    }

    /// Makes a veth pair in one message: `host` on the bridge, down, and eth0 with `mac` in the net namespace `pod`.
    pub fn create_veth(&self, host: &str, bridge: u32, mtu: u32, pod: BorrowedFd<'_>, mac: Mac) -> sys::Result<()> {
        let mut peer = LinkMessage::default();
        peer.attributes = vec![
            LinkAttribute::IfName(POD_LINK.to_owned()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::Address(mac.to_vec()),
            LinkAttribute::NetNsFd(pod.as_raw_fd()),
        ];
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(host.to_owned()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::Controller(bridge),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
            ]),
        ];
        self.0
            .request(&mut [create(format!("RTM_NEWLINK({host}, veth, peer {POD_LINK})"), message)])
    }

    /// Prepares a pod's port on the bridge and brings it up:
    ///
    /// * hairpin mode, so that a pod reaches itself through its own host port (with br_netfilter the kernel bridges the
    ///   translated packet back to where it came from);
    /// * a static forwarding entry, so that a new pod which has an address of a dead one is found at once, although the kernel
    ///   has not yet collected the dead pod's port; and so that no pod can take another's place by sending with its MAC.
    pub fn set_up_port(&self, host: &str, index: u32, mac: Mac, ipv6: bool) -> sys::Result<()> {
        let hairpin = LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(true)])),
        ]);
        let mut messages = Vec::new();
        // Only RTM_NEWLINK looks at a port's data; on an existing link it changes it.
        let mut message = of_link(index);
        message.attributes.push(hairpin);
        messages.push(encode(
            format!("RTM_NEWLINK({host}, hairpin)"),
            RouteNetlinkMessage::NewLink(message),
            NLM_F_REQUEST,
        ));
        if ipv6 {
            messages.push(without_link_local(
                format!("RTM_SETLINK({host}, addrgenmode none)"),
                index,
            ));
        }
        messages.push(up(format!("RTM_SETLINK({host}, up)"), index));
        let mut entry = NeighbourMessage::default();
        entry.header.family = AddressFamily::Bridge;
        entry.header.ifindex = index;
        entry.header.state = NeighbourState::Noarp;
        entry.header.flags = NeighbourFlags::Controller;
        entry.attributes = vec![NeighbourAttribute::LinkLayerAddress(mac.to_vec())];
        messages.push(encode(
            format!("RTM_NEWNEIGH({host}, {})", mac_text(mac)),
            RouteNetlinkMessage::NewNeighbour(entry),
            NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE,
        ));
        self.0.request(&mut messages)
    }

    /// Connects a pod's port that has lost its bridge to another one.
    pub fn reconnect_port(&self, host: &str, bridge: u32, mac: Mac, ipv6: bool) -> sys::Result<()> {
        let Some(port) = self.find(host)? else {
            return Ok(());
        };
        let mut message = of_link(port.index);
        message.attributes.push(LinkAttribute::Controller(bridge));
        let request = encode(
            format!("RTM_SETLINK({host}, master {bridge})"),
            RouteNetlinkMessage::SetLink(message),
            NLM_F_REQUEST,
        );
        self.0.request(&mut [request])?;
        self.set_up_port(host, port.index, mac, ipv6)
    }

    /// Inside a pod's namespace: brings eth0 up with its address and the default route through `gateway`.
    pub fn set_up_pod(&self, index: u32, address: Ipv4Addr, prefix: u8, gateway: Ipv4Addr) -> sys::Result<()> {
        let mut route = RouteMessage::default();
        route.header.address_family = AddressFamily::Inet;
        route.header.table = RouteHeader::RT_TABLE_MAIN;
        route.header.protocol = RouteProtocol::Boot;
        route.header.scope = RouteScope::Universe;
        route.header.kind = RouteType::Unicast;
        route.attributes = vec![
            RouteAttribute::Gateway(RouteAddress::Inet(gateway)),
            RouteAttribute::Oif(index),
        ];
        let flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE;
        self.0.request(&mut [
            up(format!("RTM_SETLINK({POD_LINK}, up)"), index),
            add_address(POD_LINK, index, address, prefix),
            encode(
                format!("RTM_NEWROUTE(default via {gateway})"),
                RouteNetlinkMessage::NewRoute(route),
                flags,
            ),
        ])
    }

    /// Deletes a link and waits for it: milliseconds (RCU). Only for what is not on anybody's path.
    pub fn delete(&self, name: &str) -> sys::Result<bool> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let request = encode(
            format!("RTM_DELLINK({name})"),
            RouteNetlinkMessage::DelLink(message),
            NLM_F_REQUEST,
        );
        match self.0.request(&mut [request]) {
            Ok(()) => Ok(true),
            Err(e) if e.errno == rustix::io::Errno::NODEV => Ok(false),
            Err(e) => Err(e),
        }
    }
}

fn of_link(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

fn up(what: impl Into<String>, index: u32) -> Message {
    let mut message = of_link(index);
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    encode(what, RouteNetlinkMessage::SetLink(message), NLM_F_REQUEST)
}

/// No link-local IPv6 address on links that only carry IPv4: each would cost duplicate address detection and multicast
/// groups, and chatter on the bridge. Must come before the link is up.
fn without_link_local(what: String, index: u32) -> Message {
    let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    let mut message = of_link(index);
    message.attributes = vec![LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])])];
    encode(what, RouteNetlinkMessage::SetLink(message), NLM_F_REQUEST)
}

fn add_address(name: &str, index: u32, address: Ipv4Addr, prefix: u8) -> Message {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = prefix;
    message.header.index = index;
    let broadcast = Ipv4Addr::from_bits(address.to_bits() | u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0));
    message.attributes = vec![
        AddressAttribute::Local(address.into()),
        AddressAttribute::Address(address.into()),
        AddressAttribute::Broadcast(broadcast),
    ];
    let flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE;
    encode(
        format!("RTM_NEWADDR({name}, {address}/{prefix})"),
        RouteNetlinkMessage::NewAddress(message),
        flags,
    )
}

fn create(what: String, message: LinkMessage) -> Message {
    encode(
        what,
        RouteNetlinkMessage::NewLink(message),
        NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL,
    )
}

fn encode(what: impl Into<String>, message: RouteNetlinkMessage, flags: u16) -> Message {
    let mut header = NetlinkHeader::default();
    header.flags = flags & !NLM_F_ACK;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    Message::from_bytes(what, bytes)
}

/// Reads the few attributes that matter. (The crate's own parser gives up on the whole message when it does not know the
/// layout of one attribute, and newer kernels have newer ones.)
fn parse_link(payload: &[u8]) -> Option<(Link, Option<String>)> {
    let mut link = Link {
        index: u32::from_ne_bytes(payload.get(4..8)?.try_into().ok()?),
        kind: None,
        mtu: None,
    };
    let mut name = None;
    for (kind, value) in attributes(payload.get(LINK_HEADER..)?) {
        match kind {
            IFLA_IFNAME => name = Some(string(value)),
            IFLA_MTU => link.mtu = value.try_into().ok().map(u32::from_ne_bytes),
            IFLA_LINKINFO => {
                link.kind = attributes(value)
                    .find(|(kind, _)| *kind == IFLA_INFO_KIND)
                    .map(|(_, v)| string(v))
            }
            _ => {}
        }
    }
    Some((link, name))
}

fn parse_route(payload: &[u8]) -> Option<Route> {
    let header = RouteHeader::parse(payload).ok()?;
    if header.table != RouteHeader::RT_TABLE_MAIN || header.kind != RouteType::Unicast {
        return None;
    }
    let mut route = Route {
        destination: (Ipv4Addr::UNSPECIFIED, header.destination_prefix_length),
        link: None,
        direct: header.scope == RouteScope::Link,
    };
    for (kind, value) in attributes(payload.get(ROUTE_HEADER..)?) {
        match (kind, <[u8; 4]>::try_from(value)) {
            (RTA_DST, Ok(address)) => route.destination.0 = Ipv4Addr::from(address),
            (RTA_OIF, Ok(index)) => route.link = Some(u32::from_ne_bytes(index)),
            _ => {}
        }
    }
    Some(route)
}
