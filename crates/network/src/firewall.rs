//! The nf_tables table of the network: masquerading, host ports, the loopback guard.
//!
//! One table of family `inet`, named after the bridge. As `nft list table inet hove0` would print it:
//!
//! ```text
//! table inet hove0 {
//!     map host_ports           { type inet_proto . inet_service : ipv4_addr . inet_service }
//!     map host_address_ports   { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service }
//!
//!     chain guard {            type filter hook prerouting priority raw; policy accept;
//!         meta nfproto ipv4 iif != lo ip daddr 127.0.0.0/8 drop
//!         meta nfproto ipv4 iif != lo ip saddr 127.0.0.0/8 drop
//!     }
//!     chain prerouting {       type nat hook prerouting priority dstnat; policy accept;
//!         meta nfproto ipv4 fib daddr type local goto translate
//!     }
//!     chain output {           type nat hook output priority dstnat; policy accept;
//!         meta nfproto ipv4 fib daddr type local goto translate
//!     }
//!     chain translate {
//!         dnat ip to ip daddr . meta l4proto . th dport map @host_address_ports
//!         dnat ip to meta l4proto . th dport map @host_ports
//!     }
//!     chain postrouting {      type nat hook postrouting priority srcnat; policy accept;
//!         meta nfproto ipv4 ip saddr SUBNET oifname != BRIDGE ip daddr != 224.0.0.0/4 masquerade
//!         meta nfproto ipv4 ip saddr SUBNET oifname BRIDGE ct status dnat masquerade
//!         meta nfproto ipv4 ip saddr 127.0.0.0/8 oifname BRIDGE masquerade
//!     }
//!     chain forward {          type filter hook forward priority filter; policy accept;
//!         iifname BRIDGE accept
//!         oifname BRIDGE accept
//!     }
//! }
//! ```
//!
//! * Host ports are map elements, not rules: a packet costs two look-ups however many pods there are, and publishing one more port is
//!   one small message.
//! * The guard (invariant 16): publishing on 127.0.0.1 needs `route_localnet` on the bridge, and that alone would let a pod send to the
//!   host's 127.0.0.1. It comes before connection tracking, so it sees addresses as they were on the wire.
//! * The second masquerade rule is for a pod that reaches a pod through the host's port: the answer must come back
//!   through the host to be translated back.
//! * An accept in `forward` speaks for this table alone: another table's drop still drops (nf_tables has no override).

use std::net::Ipv4Addr;
use std::sync::{Mutex, PoisonError};

use sys::netfilter::{Batch, INET, IPV4, table_message};
use sys::netlink::{CREATE, Message, Socket};

use crate::ports::bound_address;
use crate::{PortMapping, Protocol, Subnet};

/// A published port and where it leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// The mapping.
    pub mapping: PortMapping,
    /// The pod's address.
    pub pod: Ipv4Addr,
}

/// The table of one bridge.
#[derive(Debug)]
pub struct Firewall {
    table: String,
    bridge: String,
    subnet: Subnet,
    /// Kept, because closing one waits for the kernel to free what was deleted.
    socket: Mutex<Option<Socket>>,
}

const HOST_PORTS: &str = "host_ports";
const HOST_ADDRESS_PORTS: &str = "host_address_ports";
const TRANSLATE: &str = "translate";
const LOOPBACK_NET: (Ipv4Addr, u8) = (Ipv4Addr::new(127, 0, 0, 0), 8);
const MULTICAST_NET: (Ipv4Addr, u8) = (Ipv4Addr::new(224, 0, 0, 0), 4);
/// Elements per message: an attribute's length has 16 bits, an element takes about 60 bytes.
const ELEMENTS_PER_MESSAGE: usize = 500;

impl Firewall {
    /// The firewall of `bridge`, whose pods have the addresses of `subnet`.
    pub fn new(bridge: &str, subnet: Subnet) -> Firewall {
        Firewall {
            table: bridge.to_owned(),
            bridge: bridge.to_owned(),
            subnet,
            socket: Mutex::new(None),
        }
    }

    /// Makes the table anew with `published` in it, replacing whatever it was, in one transaction.
    pub fn rebuild(&self, published: &[Published]) -> sys::Result<()> {
        let mut batch = Batch::new();
        // Deleting what may not exist fails; creating what may exist does not.
        batch.push(self.new_table());
        batch.push(self.delete_table());
        batch.push(self.new_table());
        batch.push(self.new_map(1, HOST_PORTS, &[data_type::INET_PROTO, data_type::INET_SERVICE]));
        let key = [data_type::IPV4_ADDR, data_type::INET_PROTO, data_type::INET_SERVICE];
        batch.push(self.new_map(2, HOST_ADDRESS_PORTS, &key));
        self.push_chains(&mut batch);
        self.push_elements(&mut batch, Change::Add, published);
        self.commit(batch)
    }

    /// Publishes ports.
    pub fn publish(&self, ports: &[Published]) -> sys::Result<()> {
        let mut batch = Batch::new();
        self.push_elements(&mut batch, Change::Add, ports);
        self.commit(batch)
    }

    /// Withdraws ports that are published. Fails with ENOENT when one is not; nothing is changed then.
    pub fn withdraw(&self, ports: &[Published]) -> sys::Result<()> {
        let mut batch = Batch::new();
        self.push_elements(&mut batch, Change::Delete, ports);
        self.commit(batch)
    }

    /// Removes the table, if it is there.
    pub fn remove(&self) -> sys::Result<()> {
        let mut batch = Batch::new();
        batch.push(self.new_table());
        batch.push(self.delete_table());
        self.commit(batch)
    }

    /// In the net namespace of the thread that came here first.
    fn commit(&self, batch: Batch) -> sys::Result<()> {
        let mut kept = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        let socket = match kept.take() {
            Some(socket) => socket,
            None => Socket::netfilter()?,
        };
        // After an error there may be more answers on it than were read: it is not kept.
        batch.commit_on(&socket)?;
        *kept = Some(socket);
        Ok(())
    }

    fn push_chains(&self, batch: &mut Batch) {
        use expr::*;
        let bridge = self.bridge.as_str();
        let pods = (self.subnet.network(), self.subnet.prefix());

        batch.push(self.base_chain("guard", "filter", hook::PREROUTING, priority::RAW));
        batch.push(self.rule(
            "guard",
            &[
                ipv4(),
                not_from_loopback(),
                destination(LOOPBACK_NET),
                verdict(DROP, None),
            ],
        ));
        batch.push(self.rule(
            "guard",
            &[ipv4(), not_from_loopback(), source(LOOPBACK_NET), verdict(DROP, None)],
        ));

        batch.push(self.chain(TRANSLATE));
        batch.push(self.base_chain("prerouting", "nat", hook::PREROUTING, priority::DSTNAT));
        batch.push(self.base_chain("output", "nat", hook::OUTPUT, priority::DSTNAT));
        for chain in ["prerouting", "output"] {
            batch.push(self.rule(
                chain,
                &[ipv4(), to_this_host(), verdict(libc_verdict::GOTO, Some(TRANSLATE))],
            ));
        }
        batch.push(self.rule(
            TRANSLATE,
            &[
                load_destination(KEY),
                load_protocol(KEY + 1),
                load_port(KEY + 2),
                lookup(HOST_ADDRESS_PORTS),
                dnat(),
            ],
        ));
        batch.push(self.rule(
            TRANSLATE,
            &[load_protocol(KEY), load_port(KEY + 1), lookup(HOST_PORTS), dnat()],
        ));

        batch.push(self.base_chain("postrouting", "nat", hook::POSTROUTING, priority::SRCNAT));
        batch.push(self.rule(
            "postrouting",
            &[
                ipv4(),
                source(pods),
                leaves_through(bridge, NOT_EQUAL),
                not_destination(MULTICAST_NET),
                masquerade(),
            ],
        ));
        batch.push(self.rule(
            "postrouting",
            &[
                ipv4(),
                source(pods),
                leaves_through(bridge, EQUAL),
                was_translated(),
                masquerade(),
            ],
        ));
        batch.push(self.rule(
            "postrouting",
            &[
                ipv4(),
                source(LOOPBACK_NET),
                leaves_through(bridge, EQUAL),
                masquerade(),
            ],
        ));

        batch.push(self.base_chain("forward", "filter", hook::FORWARD, priority::FILTER));
        batch.push(self.rule("forward", &[came_through(bridge), verdict(ACCEPT, None)]));
        batch.push(self.rule("forward", &[leaves_through(bridge, EQUAL), verdict(ACCEPT, None)]));
    }

    fn push_elements(&self, batch: &mut Batch, change: Change, published: &[Published]) {
        for map in [HOST_PORTS, HOST_ADDRESS_PORTS] {
            let elements: Vec<_> = published.iter().filter(|p| map_of(p) == map).collect();
            for chunk in elements.chunks(ELEMENTS_PER_MESSAGE) {
                batch.push(self.elements(change, map, chunk));
            }
        }
    }

    fn new_table(&self) -> Message {
        self.message("NFT_MSG_NEWTABLE", msg::NEWTABLE, "", CREATE)
            .attr_str(attr::TABLE_NAME, &self.table)
    }

    fn delete_table(&self) -> Message {
        self.message("NFT_MSG_DELTABLE", msg::DELTABLE, "", 0)
            .attr_str(attr::TABLE_NAME, &self.table)
    }

    fn new_map(&self, id: u32, name: &str, key: &[u32]) -> Message {
        let data = [data_type::IPV4_ADDR, data_type::INET_SERVICE];
        // Every component takes a register of 4 bytes.
        self.message("NFT_MSG_NEWSET", msg::NEWSET, name, CREATE)
            .attr_str(attr::SET_TABLE, &self.table)
            .attr_str(attr::SET_NAME, name)
            .attr_be32(attr::SET_FLAGS, attr::SET_FLAG_MAP)
            .attr_be32(attr::SET_KEY_TYPE, data_type::concatenation(key))
            .attr_be32(attr::SET_KEY_LEN, 4 * key.len() as u32)
            .attr_be32(attr::SET_DATA_TYPE, data_type::concatenation(&data))
            .attr_be32(attr::SET_DATA_LEN, 4 * data.len() as u32)
            .attr_be32(attr::SET_ID, id)
    }

    fn elements(&self, change: Change, map: &str, published: &[&Published]) -> Message {
        let (what, kind, flags) = match change {
            Change::Add => ("NFT_MSG_NEWSETELEM", msg::NEWSETELEM, CREATE),
            Change::Delete => ("NFT_MSG_DELSETELEM", msg::DELSETELEM, 0),
        };
        self.message(what, kind, map, flags)
            .attr_str(attr::ELEM_LIST_TABLE, &self.table)
            .attr_str(attr::ELEM_LIST_SET, map)
            .nest(attr::ELEM_LIST_ELEMENTS, |mut list| {
                for published in published {
                    list = list.nest(attr::LIST_ELEM, |element| {
                        let element =
                            element.nest(attr::ELEM_KEY, |m| m.attr(attr::DATA_VALUE, &element_key(published)));
                        match change {
                            Change::Add => {
                                element.nest(attr::ELEM_DATA, |m| m.attr(attr::DATA_VALUE, &element_data(published)))
                            }
                            Change::Delete => element,
                        }
                    });
                }
                list
            })
    }

    fn chain(&self, name: &str) -> Message {
        self.message("NFT_MSG_NEWCHAIN", msg::NEWCHAIN, name, CREATE)
            .attr_str(attr::CHAIN_TABLE, &self.table)
            .attr_str(attr::CHAIN_NAME, name)
    }

    fn base_chain(&self, name: &str, kind: &str, hook: u32, priority: i32) -> Message {
        self.chain(name)
            .attr_str(attr::CHAIN_TYPE, kind)
            .attr_be32(attr::CHAIN_POLICY, expr::ACCEPT as u32)
            .nest(attr::CHAIN_HOOK, |m| {
                m.attr_be32(attr::HOOK_NUMBER, hook)
                    .attr_be32(attr::HOOK_PRIORITY, priority.cast_unsigned())
            })
    }

    fn rule(&self, chain: &str, expressions: &[expr::Expressions]) -> Message {
        // NLM_F_APPEND: rules stand in the order in which they are added.
        let message = self
            .message("NFT_MSG_NEWRULE", msg::NEWRULE, chain, CREATE | sys::netlink::APPEND)
            .attr_str(attr::RULE_TABLE, &self.table)
            .attr_str(attr::RULE_CHAIN, chain);
        message.nest(attr::RULE_EXPRESSIONS, |mut list| {
            for expression in expressions.iter().flat_map(|e| e.iter()) {
                list = list.nest(attr::LIST_ELEM, |m| expression.encode(m));
            }
            list
        })
    }

    fn message(&self, what: &str, kind: i32, object: &str, flags: u16) -> Message {
        let what = match object {
            "" => format!("{what}(inet {})", self.table),
            object => format!("{what}(inet {} {object})", self.table),
        };
        table_message(what, kind, flags, INET)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Add,
    Delete,
}

fn map_of(published: &Published) -> &'static str {
    if bound_address(&published.mapping).is_unspecified() {
        HOST_PORTS
    } else {
        HOST_ADDRESS_PORTS
    }
}

/// Components as registers hold them: 4 bytes each, the value first, zeros after it.
fn element_key(published: &Published) -> Vec<u8> {
    let mapping = &published.mapping;
    let address = bound_address(mapping);
    let mut key = Vec::with_capacity(12);
    if !address.is_unspecified() {
        key.extend_from_slice(&address.octets());
    }
    key.extend_from_slice(&[protocol_number(mapping.protocol), 0, 0, 0]);
    key.extend_from_slice(&port_register(mapping.host_port));
    key
}

fn element_data(published: &Published) -> Vec<u8> {
    let mut data = published.pod.octets().to_vec();
    data.extend_from_slice(&port_register(published.mapping.container_port));
    data
}

fn port_register(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

/// IPPROTO_….
pub fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

/// `enum nf_tables_msg_types`.
mod msg {
    pub const NEWTABLE: i32 = 0;
    pub const DELTABLE: i32 = 2;
    pub const NEWCHAIN: i32 = 3;
    pub const NEWRULE: i32 = 6;
    pub const NEWSET: i32 = 9;
    pub const NEWSETELEM: i32 = 12;
    pub const DELSETELEM: i32 = 14;
}

/// `NFTA_…`, grouped by the message that has them.
mod attr {
    pub const LIST_ELEM: u16 = 1;
    pub const TABLE_NAME: u16 = 1;

    pub const CHAIN_TABLE: u16 = 1;
    pub const CHAIN_NAME: u16 = 3;
    pub const CHAIN_HOOK: u16 = 4;
    pub const CHAIN_POLICY: u16 = 5;
    pub const CHAIN_TYPE: u16 = 7;
    pub const HOOK_NUMBER: u16 = 1;
    pub const HOOK_PRIORITY: u16 = 2;

    pub const RULE_TABLE: u16 = 1;
    pub const RULE_CHAIN: u16 = 2;
    pub const RULE_EXPRESSIONS: u16 = 4;

    pub const SET_TABLE: u16 = 1;
    pub const SET_NAME: u16 = 2;
    pub const SET_FLAGS: u16 = 3;
    pub const SET_KEY_TYPE: u16 = 4;
    pub const SET_KEY_LEN: u16 = 5;
    pub const SET_DATA_TYPE: u16 = 6;
    pub const SET_DATA_LEN: u16 = 7;
    pub const SET_ID: u16 = 10;
    pub const SET_FLAG_MAP: u32 = 8;

    pub const ELEM_LIST_TABLE: u16 = 1;
    pub const ELEM_LIST_SET: u16 = 2;
    pub const ELEM_LIST_ELEMENTS: u16 = 3;
    pub const ELEM_KEY: u16 = 1;
    pub const ELEM_DATA: u16 = 2;
    pub const DATA_VALUE: u16 = 1;
    pub const DATA_VERDICT: u16 = 2;
}

/// Where chains are hooked in: `enum nf_inet_hooks`.
mod hook {
    pub const PREROUTING: u32 = 0;
    pub const FORWARD: u32 = 2;
    pub const OUTPUT: u32 = 3;
    pub const POSTROUTING: u32 = 4;
}

/// `enum nf_ip_hook_priorities`.
mod priority {
    pub const RAW: i32 = -300;
    pub const DSTNAT: i32 = -100;
    pub const FILTER: i32 = 0;
    pub const SRCNAT: i32 = 100;
}

/// Type numbers of nft, the program: the kernel keeps them for it, so that it can print the maps.
mod data_type {
    pub const IPV4_ADDR: u32 = 7;
    pub const INET_PROTO: u32 = 12;
    pub const INET_SERVICE: u32 = 13;

    pub fn concatenation(types: &[u32]) -> u32 {
        types.iter().fold(0, |joined, kind| (joined << 6) | kind)
    }
}

mod libc_verdict {
    pub const GOTO: i32 = -4;
}

/// Expressions: what a rule is made of. Each function yields those that one phrase of the table above stands for.
mod expr {
    use super::*;

    pub const DROP: i32 = 0;
    pub const ACCEPT: i32 = 1;
    pub const EQUAL: u32 = 0;
    pub const NOT_EQUAL: u32 = 1;

    /// Registers of 4 bytes are numbered from 8: those for a key, and those that a look-up's result goes to.
    pub const KEY: u32 = 8;
    const RESULT: u32 = 12;
    /// The loopback is the first link of every net namespace.
    const LOOPBACK_INDEX: u32 = 1;
    const RTN_LOCAL: u32 = 2;
    const IPS_DST_NAT: u32 = 1 << 5;

    const META_IIF: u32 = 4;
    const META_IIFNAME: u32 = 6;
    const META_OIFNAME: u32 = 7;
    const META_NFPROTO: u32 = 15;
    const META_L4PROTO: u32 = 16;
    const CT_STATUS: u32 = 2;
    const FIB_RESULT_ADDRTYPE: u32 = 3;
    const FIB_FLAG_DADDR: u32 = 2;
    const NETWORK_HEADER: u32 = 1;
    const TRANSPORT_HEADER: u32 = 2;
    const IFNAMSIZ: usize = 16;

    pub type Expressions = Vec<Expression>;

    /// One expression: its name and its attributes.
    #[derive(Debug, Clone)]
    pub struct Expression {
        name: &'static str,
        values: Vec<(u16, Value)>,
    }

    #[derive(Debug, Clone)]
    enum Value {
        Number(u32),
        Text(String),
        Data(Vec<u8>),
        Verdict(i32, Option<String>),
    }

    impl Expression {
        pub fn encode(&self, message: Message) -> Message {
            const EXPR_NAME: u16 = 1;
            const EXPR_DATA: u16 = 2;
            message.attr_str(EXPR_NAME, self.name).nest(EXPR_DATA, |mut data| {
                for (kind, value) in &self.values {
                    data = match value {
                        Value::Number(number) => data.attr_be32(*kind, *number),
                        Value::Text(text) => data.attr_str(*kind, text),
                        Value::Data(bytes) => data.nest(*kind, |m| m.attr(attr::DATA_VALUE, bytes)),
                        Value::Verdict(code, chain) => data.nest(*kind, |m| {
                            m.nest(attr::DATA_VERDICT, |m| {
                                let m = m.attr_be32(1, code.cast_unsigned());
                                match chain {
                                    Some(chain) => m.attr_str(2, chain),
                                    None => m,
                                }
                            })
                        }),
                    };
                }
                data
            })
        }
    }

    fn expression<const N: usize>(name: &'static str, values: [(u16, Value); N]) -> Expression {
        Expression {
            name,
            values: values.into(),
        }
    }

    fn number(n: u32) -> Value {
        Value::Number(n)
    }

    fn meta(key: u32, register: u32) -> Expression {
        expression("meta", [(1, number(register)), (2, number(key))])
    }

    fn payload(header: u32, offset: u32, length: u32, register: u32) -> Expression {
        let values = [
            (1, number(register)),
            (2, number(header)),
            (3, number(offset)),
            (4, number(length)),
        ];
        expression("payload", values)
    }

    fn compare(operator: u32, value: &[u8]) -> Expression {
        expression(
            "cmp",
            [
                (1, number(KEY)),
                (2, number(operator)),
                (3, Value::Data(value.to_vec())),
            ],
        )
    }

    fn mask(mask: [u8; 4]) -> Expression {
        let values = [
            (1, number(KEY)),
            (2, number(KEY)),
            (3, number(4)),
            (4, Value::Data(mask.to_vec())),
            (5, Value::Data(vec![0; 4])),
        ];
        expression("bitwise", values)
    }

    pub fn ipv4() -> Expressions {
        vec![meta(META_NFPROTO, KEY), compare(EQUAL, &[IPV4])]
    }

    pub fn not_from_loopback() -> Expressions {
        vec![meta(META_IIF, KEY), compare(NOT_EQUAL, &LOOPBACK_INDEX.to_ne_bytes())]
    }

    fn address_in(offset: u32, operator: u32, (network, prefix): (Ipv4Addr, u8)) -> Expressions {
        let bits = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
        vec![
            payload(NETWORK_HEADER, offset, 4, KEY),
            mask(bits.to_be_bytes()),
            compare(operator, &network.octets()),
        ]
    }

    pub fn source(network: (Ipv4Addr, u8)) -> Expressions {
        address_in(12, EQUAL, network)
    }

    pub fn destination(network: (Ipv4Addr, u8)) -> Expressions {
        address_in(16, EQUAL, network)
    }

    pub fn not_destination(network: (Ipv4Addr, u8)) -> Expressions {
        address_in(16, NOT_EQUAL, network)
    }

    fn name_register(name: &str) -> Vec<u8> {
        let mut bytes = name.as_bytes().to_vec();
        bytes.resize(IFNAMSIZ, 0);
        bytes
    }

    pub fn leaves_through(link: &str, operator: u32) -> Expressions {
        vec![meta(META_OIFNAME, KEY), compare(operator, &name_register(link))]
    }

    pub fn came_through(link: &str) -> Expressions {
        vec![meta(META_IIFNAME, KEY), compare(EQUAL, &name_register(link))]
    }

    pub fn to_this_host() -> Expressions {
        let fib = [
            (1, number(KEY)),
            (2, number(FIB_RESULT_ADDRTYPE)),
            (3, number(FIB_FLAG_DADDR)),
        ];
        vec![expression("fib", fib), compare(EQUAL, &RTN_LOCAL.to_ne_bytes())]
    }

    pub fn was_translated() -> Expressions {
        vec![
            expression("ct", [(1, number(KEY)), (2, number(CT_STATUS))]),
            mask(IPS_DST_NAT.to_ne_bytes()),
            compare(NOT_EQUAL, &[0; 4]),
        ]
    }

    pub fn load_destination(register: u32) -> Expressions {
        vec![payload(NETWORK_HEADER, 16, 4, register)]
    }

    pub fn load_protocol(register: u32) -> Expressions {
        vec![meta(META_L4PROTO, register)]
    }

    pub fn load_port(register: u32) -> Expressions {
        vec![payload(TRANSPORT_HEADER, 2, 2, register)]
    }

    /// Looks the key up and puts what it leads to into the result's registers; the rule ends where there is nothing.
    pub fn lookup(map: &str) -> Expressions {
        vec![expression(
            "lookup",
            [(1, Value::Text(map.to_owned())), (2, number(KEY)), (3, number(RESULT))],
        )]
    }

    pub fn dnat() -> Expressions {
        let values = [
            (1, number(1)),
            (2, number(u32::from(IPV4))),
            (3, number(RESULT)),
            (5, number(RESULT + 1)),
        ];
        vec![expression("nat", values)]
    }

    pub fn masquerade() -> Expressions {
        vec![expression("masq", [])]
    }

    pub fn verdict(code: i32, chain: Option<&str>) -> Expressions {
        vec![expression(
            "immediate",
            [(1, number(0)), (2, Value::Verdict(code, chain.map(str::to_owned)))],
        )]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published(host_ip: Option<&str>) -> Published {
        let mapping = PortMapping {
            host_ip: host_ip.map(|a| a.parse().unwrap()),
            host_port: 8001,
            container_port: 80,
            protocol: Protocol::Tcp,
        };
        Published {
            mapping,
            pod: Ipv4Addr::new(10, 85, 0, 2),
        }
    }

    #[test]
    fn element_layout() {
        assert_eq!(element_key(&published(None)), [6, 0, 0, 0, 0x1f, 0x41, 0, 0]);
        assert_eq!(
            element_key(&published(Some("127.0.0.1"))),
            [127, 0, 0, 1, 6, 0, 0, 0, 0x1f, 0x41, 0, 0]
        );
        assert_eq!(element_data(&published(None)), [10, 85, 0, 2, 0, 80, 0, 0]);
    }

    #[test]
    fn the_kernel_accepts_it() {
        std::thread::spawn(|| {
            sys::netns::isolate_thread().unwrap();
            let firewall = Firewall::new("test0", Subnet::DEFAULT);
            let ports = [published(None), published(Some("127.0.0.1"))];
            firewall.rebuild(&ports[..1]).unwrap();
            firewall.publish(&ports[1..]).unwrap();
            firewall.withdraw(&ports).unwrap();
            let missing = firewall.withdraw(&ports[..1]).unwrap_err();
            assert_eq!(missing.errno, rustix::io::Errno::NOENT, "{missing}");
            firewall.rebuild(&ports).unwrap();
            let tables = sys::netfilter::tables().unwrap();
            assert_eq!(tables.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["test0"]);
            firewall.remove().unwrap();
            firewall.remove().unwrap();
            assert!(sys::netfilter::tables().unwrap().is_empty());
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_thousand_ports_in_one_transaction() {
        std::thread::spawn(|| {
            sys::netns::isolate_thread().unwrap();
            let firewall = Firewall::new("test0", Subnet::DEFAULT);
            let ports: Vec<_> = (1..=1200)
                .map(|port| {
                    let mut published = published(None);
                    published.mapping.host_port = port;
                    published
                })
                .collect();
            firewall.rebuild(&ports).unwrap();
            firewall.withdraw(&ports).unwrap();
        })
        .join()
        .unwrap();
    }
}
