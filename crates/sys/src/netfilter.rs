//! nfnetlink: what messages to nf_tables and conntrack have in common, transactions, and lists.
//!
//! nf_tables changes come in batches: the kernel carries out all of a [`Batch`] or nothing (`nfnetlink(7)` has the
//! framing, `linux/netfilter/nf_tables.h` the numbers).

use crate::netlink::{Message, Socket, attributes, string};
use crate::{Error, Result};

/// `NFPROTO_INET`: IPv4 and IPv6 in one table.
pub const INET: u8 = libc::NFPROTO_INET as u8;
/// `NFPROTO_IPV4`.
pub const IPV4: u8 = libc::NFPROTO_IPV4 as u8;

const TABLES: u16 = libc::NFNL_SUBSYS_NFTABLES as u16;
const CONNTRACK: u16 = libc::NFNL_SUBSYS_CTNETLINK as u16;
const BATCH_BEGIN: u16 = libc::NFNL_MSG_BATCH_BEGIN as u16;
const BATCH_END: u16 = libc::NFNL_MSG_BATCH_END as u16;
const NFTA_TABLE_NAME: u16 = 1;
/// Length of `struct nfgenmsg`.
pub const HEADER: usize = 4;

/// `struct nfgenmsg`: address family, version 0, and an identifier in network order.
fn header(family: u8, resource: u16) -> [u8; HEADER] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

/// A message to nf_tables; `kind` is one of `NFT_MSG_…`.
pub fn table_message(what: impl Into<String>, kind: i32, flags: u16, family: u8) -> Message {
    Message::new(what, (TABLES << 8) | kind as u16, flags, &header(family, 0))
}

/// A message to conntrack; `kind` is one of `IPCTNL_MSG_CT_…`.
pub fn conntrack_message(what: impl Into<String>, kind: u16, flags: u16, family: u8) -> Message {
    Message::new(what, (CONNTRACK << 8) | kind, flags, &header(family, 0))
}

/// A transaction on nf_tables.
#[derive(Debug, Default)]
pub struct Batch {
    messages: Vec<Message>,
}

impl Batch {
    /// An empty transaction.
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Appends a change.
    pub fn push(&mut self, message: Message) {
        self.messages.push(message);
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Carries out all changes, in order and at once, in the calling thread's net namespace; or none, and says which
    /// was refused.
    ///
    /// Closing a netfilter socket waits until the kernel has freed what was deleted (an RCU grace period, 10 ms):
    /// whoever can't wait keeps one open, for [`Batch::commit_on`].
    pub fn commit(self) -> Result<()> {
        if self.messages.is_empty() {
            return Ok(());
        }
        self.commit_on(&Socket::netfilter()?)
    }

    /// The same on `socket`, which must be used for nothing else, by nobody else meanwhile, and never again after an error.
    pub fn commit_on(self, socket: &Socket) -> Result<()> {
        if self.messages.is_empty() {
            return Ok(());
        }
        let mut framed = Vec::with_capacity(self.messages.len() + 2);
        framed.push(Message::new(
            "nf_tables transaction",
            BATCH_BEGIN,
            0,
            &header(0, TABLES),
        ));
        framed.extend(self.messages);
        framed.push(Message::new("nf_tables transaction", BATCH_END, 0, &header(0, TABLES)));
        socket.batch(&mut framed)
    }
}

/// An nf_tables table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Table {
    /// Address family: `inet`, `ip`, …
    pub family: &'static str,
    /// Its name.
    pub name: String,
}

/// The tables of the calling thread's net namespace.
pub fn tables() -> Result<Vec<Table>> {
    let socket = match Socket::netfilter() {
        Ok(socket) => socket,
        // A kernel without nfnetlink has no tables.
        Err(Error {
            errno: rustix::io::Errno::PROTONOSUPPORT,
            ..
        }) => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let listed = socket.dump(table_message("NFT_MSG_GETTABLE", libc::NFT_MSG_GETTABLE, 0, 0))?;
    let mut tables: Vec<Table> = listed
        .iter()
        .filter_map(|answer| {
            let family = family_name(*answer.payload.first()?);
            let name = attributes(answer.payload.get(HEADER..)?)
                .find(|(kind, _)| *kind == NFTA_TABLE_NAME)?
                .1;
            Some(Table {
                family,
                name: string(name),
            })
        })
        .collect();
    tables.sort();
    Ok(tables)
}

fn family_name(family: u8) -> &'static str {
    match i32::from(family) {
        libc::NFPROTO_INET => "inet",
        libc::NFPROTO_IPV4 => "ip",
        libc::NFPROTO_ARP => "arp",
        libc::NFPROTO_NETDEV => "netdev",
        libc::NFPROTO_BRIDGE => "bridge",
        libc::NFPROTO_IPV6 => "ip6",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::CREATE;

    fn new_table(name: &str) -> Message {
        table_message(
            format!("NFT_MSG_NEWTABLE({name})"),
            libc::NFT_MSG_NEWTABLE,
            CREATE,
            INET,
        )
        .attr_str(NFTA_TABLE_NAME, name)
    }

    #[test]
    fn batches_are_all_or_nothing() {
        std::thread::spawn(|| {
            crate::netns::isolate_thread().unwrap();
            let mut good = Batch::new();
            good.push(new_table("one"));
            good.push(new_table("two"));
            good.commit().unwrap();
            let names = |tables: Vec<Table>| tables.into_iter().map(|t| t.name).collect::<Vec<_>>();
            assert_eq!(names(tables().unwrap()), ["one", "two"]);

            let mut bad = Batch::new();
            bad.push(new_table("three"));
            bad.push(
                table_message("NFT_MSG_DELTABLE(none)", libc::NFT_MSG_DELTABLE, 0, INET)
                    .attr_str(NFTA_TABLE_NAME, "none"),
            );
            bad.push(new_table("four"));
            let error = bad.commit().unwrap_err();
            assert_eq!(error.errno, rustix::io::Errno::NOENT);
            assert!(error.call.contains("DELTABLE(none)"), "{error}");
            assert_eq!(names(tables().unwrap()), ["one", "two"]);
        })
        .join()
        .unwrap();
    }
}
