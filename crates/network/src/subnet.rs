//! An IPv4 subnet, as `10.85.0.0/16` is written.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// A network address and its prefix length; host bits are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Subnet {
    network: Ipv4Addr,
    prefix: u8,
}

/// Why a text is not a usable [`Subnet`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("subnet {text:?}: {rule}; write it as 10.85.0.0/16")]
pub struct Invalid {
    text: String,
    rule: &'static str,
}

impl Subnet {
    /// 10.85.0.0/16: room for 65,533 pods.
    pub const DEFAULT: Subnet = Subnet {
        network: Ipv4Addr::new(10, 85, 0, 0),
        prefix: 16,
    };

    /// The network's address.
    pub fn network(self) -> Ipv4Addr {
        self.network
    }

    /// Length of the prefix in bits, 8 to 30.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// The netmask.
    pub fn mask(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(u32::MAX << (32 - u32::from(self.prefix)))
    }

    /// The bridge's own address: the first of the subnet.
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network.to_bits() + 1)
    }

    /// The last address, which is the broadcast address.
    pub fn broadcast(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network.to_bits() | !self.mask().to_bits())
    }

    /// The first address that a pod may get.
    pub fn first_pod(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network.to_bits() + 2)
    }

    /// The last address that a pod may get.
    pub fn last_pod(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.broadcast().to_bits() - 1)
    }

    /// Whether `address` lies in the subnet.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & self.mask().to_bits() == self.network.to_bits()
    }

    /// Whether the subnet and `network/prefix` have an address in common.
    pub fn overlaps(self, network: Ipv4Addr, prefix: u8) -> bool {
        let shorter = u32::from(self.prefix.min(prefix));
        let mask = u32::MAX.checked_shl(32 - shorter).unwrap_or(0);
        (self.network.to_bits() ^ network.to_bits()) & mask == 0
    }
}

impl FromStr for Subnet {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Subnet, Invalid> {
        let invalid = |rule| Invalid {
            text: text.to_owned(),
            rule,
        };
        let (network, prefix) = text.split_once('/').ok_or_else(|| invalid("it has no prefix length"))?;
        let network: Ipv4Addr = network
            .parse()
            .map_err(|_| invalid("its address is not an IPv4 address"))?;
        let prefix: u8 = prefix
            .parse()
            .map_err(|_| invalid("its prefix length is not a number"))?;
        if !(8..=30).contains(&prefix) {
            return Err(invalid("its prefix length must be from 8 to 30"));
        }
        let subnet = Subnet { network, prefix };
        if network.to_bits() & !subnet.mask().to_bits() != 0 {
            return Err(invalid("its address has bits set beyond the prefix"));
        }
        Ok(subnet)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_it_prints() {
        for text in ["10.85.0.0/16", "192.168.4.0/30", "10.0.0.0/8"] {
            assert_eq!(text.parse::<Subnet>().unwrap().to_string(), text);
        }
        assert_eq!("10.85.0.0/16".parse::<Subnet>().unwrap(), Subnet::DEFAULT);
    }

    #[test]
    fn refuses_with_the_rule() {
        for (text, rule) in [
            ("10.85.0.0", "no prefix length"),
            ("10.85.0/16", "not an IPv4 address"),
            ("10.85.0.0/x", "not a number"),
            ("10.85.0.0/31", "from 8 to 30"),
            ("10.85.0.1/16", "beyond the prefix"),
        ] {
            let error = text.parse::<Subnet>().unwrap_err().to_string();
            assert!(error.contains(rule), "{text}: {error}");
        }
    }

    #[test]
    fn edges() {
        let subnet: Subnet = "192.168.4.0/29".parse().unwrap();
        assert_eq!(subnet.gateway(), Ipv4Addr::new(192, 168, 4, 1));
        assert_eq!(subnet.first_pod(), Ipv4Addr::new(192, 168, 4, 2));
        assert_eq!(subnet.last_pod(), Ipv4Addr::new(192, 168, 4, 6));
        assert_eq!(subnet.mask(), Ipv4Addr::new(255, 255, 255, 248));
        assert!(subnet.contains(Ipv4Addr::new(192, 168, 4, 7)));
        assert!(!subnet.contains(Ipv4Addr::new(192, 168, 4, 8)));
    }

    #[test]
    fn overlap_is_symmetric_in_length() {
        let subnet: Subnet = "10.85.0.0/16".parse().unwrap();
        assert!(subnet.overlaps(Ipv4Addr::new(10, 85, 7, 0), 24));
        assert!(subnet.overlaps(Ipv4Addr::new(10, 0, 0, 0), 8));
        assert!(subnet.overlaps(Ipv4Addr::UNSPECIFIED, 0));
        assert!(!subnet.overlaps(Ipv4Addr::new(10, 86, 0, 0), 16));
    }
}
