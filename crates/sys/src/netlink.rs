//! Netlink, synchronously: requests go out in one datagram, the kernel's answers are read back, and what it says about
//! a failure (extended acknowledgements, Linux 4.12) ends up in the error.
//!
//! A socket belongs to the net namespace of the thread that opened it, for ever, wherever it is used later.
//! Messages are built with [`Message`] (or come ready-made from an encoder, [`Message::from_bytes`]); their
//! sequence numbers and lengths are filled in here.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::{Error, Result};

/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// One datagram of a dump: the kernel fills up to 32 KiB when the reader offers that much.
const RECEIVE_BYTES: usize = 32 * 1024;
/// Dumps are restarted when what they list changes meanwhile (NLM_F_DUMP_INTR); this often, then the last one is taken.
const DUMP_ATTEMPTS: usize = 5;

/// `NLM_F_REQUEST`.
pub const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
/// `NLM_F_ACK`: answer even when all is well.
pub const ACK: u16 = libc::NLM_F_ACK as u16;
/// `NLM_F_CREATE`.
pub const CREATE: u16 = libc::NLM_F_CREATE as u16;
/// `NLM_F_EXCL`.
pub const EXCL: u16 = libc::NLM_F_EXCL as u16;
/// `NLM_F_REPLACE`.
pub const REPLACE: u16 = libc::NLM_F_REPLACE as u16;
/// `NLM_F_APPEND`.
pub const APPEND: u16 = libc::NLM_F_APPEND as u16;
/// `NLM_F_DUMP`.
pub const DUMP: u16 = libc::NLM_F_DUMP as u16;

/// `NLA_F_NESTED`: marks an attribute that holds attributes.
pub const NESTED: u16 = 0x8000;

const NLMSG_ERROR: u16 = libc::NLMSG_ERROR as u16;
const NLMSG_DONE: u16 = libc::NLMSG_DONE as u16;
/// Attributes follow the error (linux/netlink.h; not in libc for every target).
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;
const NLA_TYPE_MASK: u16 = 0x3fff;

/// A netlink message under construction: `nlmsghdr`, the protocol's own header, attributes.
#[derive(Debug, Clone)]
pub struct Message {
    bytes: Vec<u8>,
    what: String,
}

impl Message {
    /// A message of type `kind`. `what` names it in errors, as in `RTM_NEWLINK(hove0)`; `header` is the protocol's
    /// fixed part (`ifinfomsg`, `nfgenmsg`, …).
    pub fn new(what: impl Into<String>, kind: u16, flags: u16, header: &[u8]) -> Message {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | REQUEST).to_ne_bytes());
        bytes.extend_from_slice(header);
        Message {
            bytes,
            what: what.into(),
        }
    }

    /// A message that another encoder wrote, header included.
    pub fn from_bytes(what: impl Into<String>, bytes: Vec<u8>) -> Message {
        Message {
            bytes,
            what: what.into(),
        }
    }

    /// Appends an attribute.
    pub fn attr(mut self, kind: u16, value: &[u8]) -> Message {
        let length = (4 + value.len()) as u16; // Attributes are small: the callers' are below 4 KiB.
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    /// Appends a string attribute, NUL included.
    pub fn attr_str(self, kind: u16, value: &str) -> Message {
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.attr(kind, &bytes)
    }

    /// Appends a 32-bit attribute in network order, as nfnetlink wants them.
    pub fn attr_be32(self, kind: u16, value: u32) -> Message {
        self.attr(kind, &value.to_be_bytes())
    }

    /// Appends a nested attribute whose content `build` appends.
    pub fn nest(mut self, kind: u16, build: impl FnOnce(Message) -> Message) -> Message {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        self = build(self);
        let length = (self.bytes.len() - start) as u16; // At most a rule's expressions or a chunk of a set.
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    /// Length so far, in bytes.
    pub fn length(&self) -> usize {
        self.bytes.len()
    }

    fn flags(&self) -> u16 {
        u16_at(&self.bytes, 6)
    }

    /// Sets flags beside those given at the start.
    pub fn add_flags(&mut self, flags: u16) {
        let flags = self.flags() | flags;
        self.bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
    }
}

/// One message that the kernel sent: its type and what follows `nlmsghdr`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// `nlmsg_type`.
    pub kind: u16,
    /// The protocol's header and the attributes.
    pub payload: Vec<u8>,
}

/// A netlink socket in one net namespace.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Socket {
    /// `NETLINK_ROUTE` of the calling thread's net namespace: links, addresses, routes, neighbours.
    pub fn route() -> Result<Socket> {
        Socket::open("NETLINK_ROUTE", None)
    }

    /// `NETLINK_NETFILTER` of the calling thread's net namespace: nf_tables, conntrack.
    pub fn netfilter() -> Result<Socket> {
        Socket::open("NETLINK_NETFILTER", Some(NETFILTER))
    }

    fn open(name: &str, protocol: Option<rustix::net::Protocol>) -> Result<Socket> {
        let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)
            .map_err(|e| Error::new(format_args!("socket(AF_NETLINK, SOCK_RAW, {name})"), e))?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, 0))
            .map_err(|e| Error::new(format_args!("bind({name})"), e))?;
        // Both only improve what an error says: kernels without them still answer.
        let _ = set_option(fd.as_fd(), libc::SOL_NETLINK, libc::NETLINK_CAP_ACK, 1);
        let _ = set_option(fd.as_fd(), libc::SOL_NETLINK, libc::NETLINK_EXT_ACK, 1);
        Ok(Socket { fd })
    }

    /// Sends `messages` in one datagram and waits until the kernel has carried out each. They are carried out in order; the
    /// first failure is returned, later messages are attempted all the same (the kernel does not stop).
    pub fn request(&self, messages: &mut [Message]) -> Result<()> {
        for message in messages.iter_mut() {
            message.add_flags(ACK);
        }
        self.send(messages)?;
        let mut first_error = None;
        let mut waiting = messages.len();
        while waiting > 0 {
            for (sequence, outcome) in self.acknowledgements()? {
                waiting = waiting.saturating_sub(1);
                if let (Err(refusal), None) = (outcome, &first_error) {
                    first_error = Some(refusal.about(what(messages, sequence)));
                }
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    /// Sends a batch: the kernel carries out all of `messages` or none, and answers to the first, to the last and to
    /// whatever failed. The socket must not be used again after an error.
    pub(crate) fn batch(&self, messages: &mut [Message]) -> Result<()> {
        let Some(last) = messages.len().checked_sub(2) else {
            return Ok(());
        };
        messages[last].add_flags(ACK);
        self.send(messages)?;
        loop {
            for (sequence, outcome) in self.acknowledgements()? {
                if let Err(refusal) = outcome {
                    return Err(refusal.about(what(messages, sequence)));
                }
                if sequence as usize == last {
                    return Ok(());
                }
            }
        }
    }

    /// Asks for a list and collects it.
    pub fn dump(&self, mut message: Message) -> Result<Vec<Answer>> {
        message.add_flags(DUMP);
        let mut answers = Vec::new();
        for _ in 0..DUMP_ATTEMPTS {
            self.send(std::slice::from_mut(&mut message))?;
            let (listed, interrupted) = self.collect(&message)?;
            answers = listed;
            if !interrupted {
                break;
            }
        }
        Ok(answers)
    }

    /// Asks for one object; `None` when there is no such thing (ENOENT, ENODEV).
    pub fn get(&self, mut message: Message) -> Result<Option<Answer>> {
        self.send(std::slice::from_mut(&mut message))?;
        let mut buffer = vec![0; RECEIVE_BYTES];
        let length = self.receive(&mut buffer)?;
        let Some((header, payload)) = Datagram(&buffer[..length]).next() else {
            return Ok(None);
        };
        if header.kind != NLMSG_ERROR {
            return Ok(Some(Answer {
                kind: header.kind,
                payload: payload.to_vec(),
            }));
        }
        match parse_error(header, payload) {
            Err(refusal) if !matches!(refusal.errno, Errno::NOENT | Errno::NODEV) => Err(refusal.about(&message.what)),
            _ => Ok(None),
        }
    }

    fn collect(&self, message: &Message) -> Result<(Vec<Answer>, bool)> {
        let mut answers = Vec::new();
        let mut interrupted = false;
        let mut buffer = vec![0; RECEIVE_BYTES];
        loop {
            let length = self.receive(&mut buffer)?;
            for (header, payload) in Datagram(&buffer[..length]) {
                interrupted |= header.flags & libc::NLM_F_DUMP_INTR as u16 != 0;
                match header.kind {
                    NLMSG_DONE => return Ok((answers, interrupted)),
                    NLMSG_ERROR => {
                        return match parse_error(header, payload) {
                            Ok(()) => Ok((answers, interrupted)),
                            Err(refusal) => Err(refusal.about(&message.what)),
                        };
                    }
                    kind => answers.push(Answer {
                        kind,
                        payload: payload.to_vec(),
                    }),
                }
            }
        }
    }

    /// The sequence number of a message is its place in the datagram.
    fn send(&self, messages: &mut [Message]) -> Result<()> {
        let mut datagram = Vec::with_capacity(messages.iter().map(|m| m.bytes.len() + 3).sum());
        for (place, message) in messages.iter_mut().enumerate() {
            let length = message.bytes.len() as u32; // A message of 4 GiB can't be built from attributes of 64 KiB.
            message.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
            message.bytes[8..12].copy_from_slice(&(place as u32).to_ne_bytes());
            datagram.extend_from_slice(&message.bytes);
            datagram.resize(datagram.len().next_multiple_of(4), 0);
        }
        if datagram.len() > 64 * 1024 {
            // A datagram must fit the send buffer (212,992 bytes by default, the kernel counts overhead too).
            let wanted = i32::try_from(datagram.len() * 2).unwrap_or(i32::MAX);
            set_option(self.fd.as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, wanted)?;
        }
        let first = messages.first().map_or("nothing", |m| m.what.as_str());
        loop {
            match rustix::net::send(&self.fd, &datagram, SendFlags::empty()) {
                Err(Errno::INTR) => {}
                Err(e) => return Err(Error::new(format_args!("send({first})"), e)),
                Ok(_) => return Ok(()),
            }
        }
    }

    fn receive(&self, buffer: &mut [u8]) -> Result<usize> {
        loop {
            match rustix::net::recv(&self.fd, &mut *buffer, RecvFlags::empty()) {
                Err(Errno::INTR) => {}
                Err(e) => return Err(Error::new("recv(netlink)", e)),
                Ok((_, length)) => return Ok(length.min(buffer.len())),
            }
        }
    }

    fn acknowledgements(&self) -> Result<Vec<(u32, std::result::Result<(), Refusal>)>> {
        let mut buffer = [0; 8 * 1024];
        let length = self.receive(&mut buffer)?;
        Ok(Datagram(&buffer[..length])
            .filter(|(header, _)| header.kind == NLMSG_ERROR)
            .map(|(header, payload)| (header.sequence, parse_error(header, payload)))
            .collect())
    }
}

fn what(messages: &[Message], sequence: u32) -> &str {
    messages.get(sequence as usize).map_or("netlink", |m| m.what.as_str())
}

/// errno and the kernel's own words.
#[derive(Debug)]
struct Refusal {
    errno: Errno,
    words: Option<String>,
}

impl Refusal {
    fn about(self, what: &str) -> Error {
        match self.words {
            Some(words) => Error::new(format_args!("{what} (kernel: {words})"), self.errno),
            None => Error::new(what, self.errno),
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Header {
    kind: u16,
    flags: u16,
    sequence: u32,
}

/// The messages of one received datagram. Ends at the first that is cut short.
struct Datagram<'a>(&'a [u8]);

impl<'a> Iterator for Datagram<'a> {
    type Item = (Header, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = u32::from_ne_bytes(self.0.get(0..4)?.try_into().ok()?) as usize;
        let payload = self.0.get(HEADER..length)?;
        let header = Header {
            kind: u16_at(self.0, 4),
            flags: u16_at(self.0, 6),
            sequence: u32::from_ne_bytes(self.0.get(8..12)?.try_into().ok()?),
        };
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((header, payload))
    }
}

fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    match bytes.get(offset..offset + 2) {
        Some(&[a, b]) => u16::from_ne_bytes([a, b]),
        _ => 0,
    }
}

fn parse_error(header: Header, payload: &[u8]) -> std::result::Result<(), Refusal> {
    let code = payload
        .get(0..4)
        .and_then(|b| b.try_into().ok())
        .map_or(-libc::EBADMSG, i32::from_ne_bytes);
    if code == 0 {
        return Ok(());
    }
    let words = (header.flags & NLM_F_ACK_TLVS != 0)
        .then(|| kernel_words(header, payload))
        .flatten();
    Err(Refusal {
        errno: Errno::from_raw_os_error(-code),
        words,
    })
}

fn kernel_words(header: Header, payload: &[u8]) -> Option<String> {
    // The request's header follows the code, and its payload too unless the answer says that it was capped.
    let original = u32::from_ne_bytes(payload.get(4..8)?.try_into().ok()?) as usize;
    let skipped = if header.flags & NLM_F_CAPPED != 0 {
        HEADER
    } else {
        original.next_multiple_of(4)
    };
    let text = attributes(payload.get(4 + skipped..)?)
        .find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG)?
        .1;
    Some(string(text))
}

/// Iterates over the attributes in `bytes`: their type without flag bits, and their value. Ends at the first that is cut short.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.len() < 4 {
            return None;
        }
        let length = usize::from(u16_at(rest, 0));
        let kind = u16_at(rest, 2) & NLA_TYPE_MASK;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    })
}

/// The text of a string attribute, without its NUL.
pub fn string(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|b| *b == 0).next().unwrap_or(&[])).into_owned()
}

fn set_option(fd: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> Result<()> {
    use std::os::fd::AsRawFd;
    let length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the descriptor is borrowed for the call, and the kernel reads `length` bytes of `value`, which outlives it.
    let answer = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), length) };
    if answer < 0 {
        return Err(Error::last(format_args!("setsockopt({level}, {name}, {value})")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_nest_and_are_padded() {
        let message = Message::new("m", 1, 0, &[7; 4])
            .attr_str(1, "ab")
            .nest(2, |m| m.attr_be32(3, 5));
        let payload = &message.bytes[HEADER + 4..];
        let found: Vec<_> = attributes(payload).collect();
        assert_eq!(found.len(), 2);
        assert_eq!(string(found[0].1), "ab");
        assert_eq!(attributes(found[1].1).next(), Some((3, &[0u8, 0, 0, 5][..])));
    }

    #[test]
    fn cut_short_attributes_end_the_walk() {
        assert_eq!(attributes(&[8, 0, 1, 0, 9]).count(), 0);
        assert_eq!(attributes(&[0, 0, 1, 0, 9, 9, 9, 9]).count(), 0);
        assert_eq!(attributes(&[]).count(), 0);
    }

    #[test]
    fn the_kernels_own_words_are_in_the_error() {
        let socket = Socket::route().unwrap();
        // A new link of a kind that does not exist: IFLA_LINKINFO { IFLA_INFO_KIND }.
        let message = Message::new("RTM_NEWLINK(x)", libc::RTM_NEWLINK, CREATE, &[0; 16])
            .nest(libc::IFLA_LINKINFO, |m| {
                m.attr_str(libc::IFLA_INFO_KIND, "no-such-kind")
            });
        let error = socket.request(&mut [message]).unwrap_err();
        assert!(error.call.starts_with("RTM_NEWLINK(x)"), "{error}");
        assert!(error.errno == Errno::OPNOTSUPP || error.errno == Errno::PERM, "{error}");
    }

    #[test]
    fn lists_links() {
        let socket = Socket::route().unwrap();
        let links = socket
            .dump(Message::new("RTM_GETLINK", libc::RTM_GETLINK, 0, &[0; 16]))
            .unwrap();
        let names: Vec<_> = links
            .iter()
            .flat_map(|l| {
                attributes(&l.payload[16..])
                    .filter(|a| a.0 == libc::IFLA_IFNAME)
                    .map(|a| string(a.1))
                    .collect::<Vec<_>>()
            })
            .collect();
        assert!(names.iter().any(|n| n == "lo"), "{names:?}");
    }
}
