//! The bridge: made when the first pod needs it, taken away when no pod does.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::error::Doing;
use crate::firewall::{Firewall, Published};
use crate::link::{Links, mac_of};
use crate::{Config, Error, Result, Subnet};

/// Ethernet's MTU, where no link has a default route.
const MTU_DEFAULT: u32 = 1500;

/// The bridge, up, with its nf_tables table.
#[derive(Debug)]
pub struct Bridge {
    /// Index of the link.
    pub index: u32,
    /// MTU of the pods' links.
    pub mtu: u32,
    /// Whether it was made now: pods that were connected before are not connected to this one.
    pub is_new: bool,
}

/// The right to the bridge's name: an abstract unix socket, which exists per net namespace as the bridge does, and ends with
/// its process. A second node of this namespace with the same bridge would give out the same addresses.
#[derive(Debug)]
pub struct Claim(#[expect(dead_code, reason = "held for as long as the bridge is used")] OwnedFd);

impl Claim {
    /// Claims `bridge` in the calling thread's net namespace.
    pub fn take(bridge: &str) -> Result<Claim> {
        let name = format!("hove/bridge/{bridge}");
        let claim = || {
            let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
            rustix::net::bind(&socket, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?;
            Ok(Claim(socket))
        };
        claim().map_err(|errno| match errno {
            Errno::ADDRINUSE => Error::BridgeTaken {
                bridge: bridge.to_owned(),
            },
            errno => Error::System {
                what: format!("claim bridge {bridge}"),
                source: sys::Error::new(format_args!("bind(@{name})"), errno),
            },
        })
    }
}

/// Makes the bridge, or takes over the one that is there, and its table with `published` in it.
///
/// The guard comes first, then the settings that make it necessary: there is no instant at which a pod reaches the host's loopback.
pub fn set_up(config: &Config, firewall: &Firewall, published: &[Published]) -> Result<Bridge> {
    let name = config.bridge.as_str();
    let links = Links::open().doing(|| format!("set up bridge {name}"))?;
    let existing = links.find(name).doing(|| format!("look for bridge {name}"))?;
    if existing
        .as_ref()
        .is_some_and(|link| link.kind.as_deref() != Some("bridge"))
    {
        return Err(Error::NotABridge {
            bridge: name.to_owned(),
        });
    }
    let default_mtu = check_routes(&links, config.subnet, existing.as_ref().map(|link| link.index))?;
    let mtu = config.mtu.unwrap_or(default_mtu);
    let gateway = config.subnet.gateway();
    let is_new = existing.is_none();
    let index = match existing {
        Some(link) => link.index,
        None => {
            links
                .create_bridge(name, mac_of(gateway), mtu)
                .doing(|| format!("make bridge {name}"))?;
            let made = links.find(name).doing(|| format!("look for bridge {name}"))?;
            made.ok_or_else(|| Error::NotABridge {
                bridge: name.to_owned(),
            })?
            .index
        }
    };
    sys::failpoint!("network.bridge.made").doing(|| format!("make bridge {name}"))?;
    firewall.rebuild(published).map_err(firewall_refused)?;
    sys::failpoint!("network.bridge.firewall").doing(|| format!("make bridge {name}"))?;
    links
        .set_up_bridge(name, index, gateway, config.subnet.prefix(), has_ipv6())
        .doing(|| format!("bring bridge {name} up"))?;
    // Publishing on 127.0.0.1: packets from there may leave through the bridge.
    set_sysctl(&format!("net/ipv4/conf/{name}/route_localnet"), "1")?;
    set_sysctl("net/ipv4/ip_forward", "1")?;
    Ok(Bridge { index, mtu, is_new })
}

/// Removes the table and the bridge, whichever are there. Returns the first failure, having attempted both.
pub fn remove(config: &Config, firewall: &Firewall) -> Result<()> {
    let name = config.bridge.as_str();
    let table = match firewall.remove() {
        // A kernel without nf_tables has no table.
        Err(e) if matches!(e.errno, Errno::PROTONOSUPPORT | Errno::OPNOTSUPP) => Ok(()),
        other => other.doing(|| format!("remove the nf_tables table of {name}")),
    };
    let bridge = Links::open().and_then(|links| match links.find(name)? {
        Some(link) if link.kind.as_deref() == Some("bridge") => links.delete(name).map(drop),
        _ => Ok(()),
    });
    table.and(bridge.doing(|| format!("remove bridge {name}")))
}

/// An nf_tables transaction that a kernel without (all of) nf_tables refuses.
pub fn firewall_refused(source: sys::Error) -> Error {
    match source.errno {
        Errno::PROTONOSUPPORT | Errno::OPNOTSUPP | Errno::NOENT | Errno::AFNOSUPPORT => Error::NoNfTables { source },
        _ => Error::System {
            what: "set up host ports and masquerading".to_owned(),
            source,
        },
    }
}

/// Refuses a subnet that this host routes elsewhere; returns the MTU of the link with the default route.
fn check_routes(links: &Links, subnet: Subnet, bridge: Option<u32>) -> Result<u32> {
    let mut mtu = None;
    for route in links.routes().doing(|| "list routes".to_owned())? {
        let (network, prefix) = route.destination;
        if (network, prefix) == (Ipv4Addr::UNSPECIFIED, 0) {
            if let (None, Some(index)) = (mtu, route.link) {
                mtu = links.mtu(index).doing(|| format!("look at link {index}"))?;
            }
            continue;
        }
        // A wide route to elsewhere (10.0.0.0/8 through a gateway) may have a hole in it; a link's own subnet may not.
        let in_the_way = route.direct || prefix >= subnet.prefix();
        if route.link != bridge && in_the_way && subnet.overlaps(network, prefix) {
            let link = match route.link {
                Some(index) => links.name(index).doing(|| format!("look at link {index}"))?,
                None => None,
            };
            let link = link.unwrap_or_else(|| "several links".to_owned());
            return Err(Error::Overlap {
                subnet,
                route: format!("{network}/{prefix}"),
                link,
            });
        }
    }
    Ok(mtu.unwrap_or(MTU_DEFAULT))
}

/// Whether the kernel has IPv6 at all.
pub fn has_ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6").exists()
}

/// Writes a sysctl of the calling thread's net namespace, unless it has the value already: /proc/sys may be read-only.
fn set_sysctl(key: &str, value: &str) -> Result<()> {
    let path = Path::new("/proc/sys").join(key);
    if std::fs::read_to_string(&path).is_ok_and(|present| present.trim() == value) {
        return Ok(());
    }
    std::fs::write(&path, value).map_err(|source| Error::File {
        what: "write",
        path,
        source,
    })
}
