//! Network links.

use sys::netlink::{Message, Socket, attributes, string};

use crate::Result;

/// A network link.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// `bridge`, `veth`, …; hardware and the loopback have none.
    pub kind: Option<String>,
    /// Index of the bridge that it is a port of.
    pub controller: Option<u32>,
    /// Whether it is up.
    pub up: bool,
}

/// linux/rtnetlink.h, linux/if_link.h.
const RTM_GETLINK: u16 = 18;
const HEADER: usize = 16;
const IFLA_IFNAME: u16 = 3;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFF_UP: u32 = 1;

/// The links of the calling thread's net namespace.
pub fn links() -> Result<Vec<Link>> {
    let answers = Socket::route()?.dump(Message::new("RTM_GETLINK", RTM_GETLINK, 0, &[0; HEADER]))?;
    Ok(answers.iter().filter_map(|answer| parse(&answer.payload)).collect())
}

fn parse(payload: &[u8]) -> Option<Link> {
    let number = |bytes: &[u8]| bytes.try_into().ok().map(u32::from_ne_bytes);
    let mut link = Link {
        index: number(payload.get(4..8)?)?,
        name: String::new(),
        kind: None,
        controller: None,
        up: number(payload.get(8..12)?)? & IFF_UP != 0,
    };
    for (kind, value) in attributes(payload.get(HEADER..)?) {
        match kind {
            IFLA_IFNAME => link.name = string(value),
            IFLA_MASTER => link.controller = number(value),
            IFLA_LINKINFO => {
                link.kind = attributes(value)
                    .find(|(kind, _)| *kind == IFLA_INFO_KIND)
                    .map(|(_, v)| string(v));
            }
            _ => {}
        }
    }
    Some(link)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_loopback_is_the_first() {
        let links = super::links().unwrap();
        assert_eq!((links[0].index, links[0].name.as_str()), (1, "lo"));
    }
}
