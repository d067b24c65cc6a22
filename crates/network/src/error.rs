//! What can go wrong, by what the caller can do about it.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use crate::{Protocol, Subnet};

/// The result of a network operation.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure of the network.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another program listens on the host port.
    #[error("host port {port}/{protocol} on {address} is in use by {owner}; stop it or choose another hostPort")]
    PortInUse {
        /// The port.
        port: u16,
        /// Its protocol.
        protocol: Protocol,
        /// The host's address.
        address: Ipv4Addr,
        /// Who holds it: `nginx (pid 812)`, or `another program`.
        owner: String,
    },

    /// Another pod has published the host port.
    #[error("host port {port}/{protocol} is published by {holder}; delete it or choose another hostPort")]
    PortPublished {
        /// The port.
        port: u16,
        /// Its protocol.
        protocol: Protocol,
        /// Who has it: `pod default/web`, or `sandbox ID`.
        holder: String,
    },

    /// The port can't be bound for another reason.
    #[error("host port {port}/{protocol} can't be bound: {source}")]
    PortRefused {
        /// The port.
        port: u16,
        /// Its protocol.
        protocol: Protocol,
        /// What the kernel answered.
        source: sys::Error,
    },

    /// A mapping that this network can't serve.
    #[error("host port {port}/{protocol}: {rule}")]
    Unsupported {
        /// The port.
        port: u16,
        /// Its protocol.
        protocol: Protocol,
        /// What is not supported, and what is.
        rule: String,
    },

    /// No address is free.
    #[error("all {count} addresses of {subnet} are in use; delete pods or configure a larger [network] subnet")]
    Exhausted {
        /// The subnet.
        subnet: Subnet,
        /// How many addresses it has for pods.
        count: u32,
    },

    /// The subnet belongs to another link of this host.
    #[error(
        "subnet {subnet} overlaps {route}, which this host already routes through {link}; configure another [network] subnet"
    )]
    Overlap {
        /// The configured subnet.
        subnet: Subnet,
        /// The route in the way.
        route: String,
        /// The link it leads through.
        link: String,
    },

    /// Another node of Hove runs the bridge in this net namespace.
    #[error("bridge {bridge} belongs to another running Hove node; configure another [network] bridge and subnet")]
    BridgeTaken {
        /// Name of the bridge.
        bridge: String,
    },

    /// A link has the bridge's name but is not a bridge.
    #[error("link {bridge} exists and is not a bridge; remove it or configure another [network] bridge")]
    NotABridge {
        /// Name of the link.
        bridge: String,
    },

    /// `attach` without `make_namespace`.
    #[error("sandbox {id} has no net namespace at {path}: make it before attaching it")]
    NoNamespace {
        /// The sandbox.
        id: String,
        /// Where it was expected.
        path: PathBuf,
    },

    /// A sandbox id that can't be a file name.
    #[error(
        "{id:?} is not a sandbox id: letters, digits, '-', '_' and '.' only, at most 128 of them, not starting with a dot"
    )]
    BadId {
        /// The id.
        id: String,
    },

    /// The kernel has no nf_tables, or not all that is needed of it.
    #[error(
        "{source}: this kernel lacks nf_tables support that host ports and masquerading need \
         (CONFIG_NF_TABLES, NF_TABLES_INET, NFT_NAT, NFT_MASQ, NFT_FIB_INET; modules nf_tables, nft_chain_nat, nft_fib_inet)"
    )]
    NoNfTables {
        /// The message that failed.
        source: sys::Error,
    },

    /// A system call or netlink request failed.
    #[error("{what}: {source}")]
    System {
        /// What was being done, and to which object.
        what: String,
        /// The call and errno.
        source: sys::Error,
    },

    /// A file or directory of the state could not be used.
    #[error("{what} {}: {source}", path.display())]
    File {
        /// What was being done.
        what: &'static str,
        /// The path.
        path: PathBuf,
        /// What the kernel answered.
        source: std::io::Error,
    },

    /// A record could not be saved or loaded.
    #[error(transparent)]
    Record(#[from] record::Error),

    /// An address in a record that is not of this subnet.
    #[error("{ip} is not an address of {subnet}")]
    ForeignAddress {
        /// The address.
        ip: IpAddr,
        /// The subnet.
        subnet: Subnet,
    },
}

/// Says what was being done when a system call failed.
pub(crate) trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Doing<T> for sys::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::System { what: what(), source })
    }
}
