//! What parent and child say to each other: packets of a fixed size over a SOCK_SEQPACKET pair.
//!
//! ```text
//!  child                                  parent
//!    │ Notice(step, errno, detail) ─────────► kept for the caller to log       (any number of times)
//!    │ Heir(its pid) + its pidfd ───────────► from now on that process is the child (then this one ends)
//!    │ Clocks ──────────────────────────────► sets the clocks of the child's time namespace
//!    │ ◄──────────────────────────────── Go on
//!    │ Terminal + master fd ────────────────► kept for the caller              (if there is one)
//!    │ Rooted + root fd ────────────────────► resolves the user in that root   (if it has to be looked up)
//!    │ ◄──────────────────────────── Identity
//!    │ Created ─────────────────────────────► Progress::Created
//!    │ ◄──────────────────────────────── Start
//!    │ exec: the socket closes by itself ───► Progress::Running
//!
//!    │ Failed(step, errno, detail) ─────────► the plan turns the step into a sentence. The child ends.
//! ```
//!
//! The parent never waits: it reads what is there. The child waits twice (for Identity and Start); when the parent is
//! gone, both end with an end of file, and so does the child.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::identity::Identity;

/// How many supplementary groups a process can be given.
pub const MAX_GROUPS: usize = 1024;
/// How long a home directory's path can be.
pub const MAX_HOME: usize = 1024;

const REPORT_BYTES: usize = 20;
const ORDER_BYTES: usize = 20 + 4 * MAX_GROUPS + MAX_HOME;

/// What a report is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Kind {
    Failed = 1,
    Notice = 2,
    Terminal = 3,
    Rooted = 4,
    Created = 5,
    Heir = 6,
    Clocks = 7,
}

/// A packet from the child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Report {
    pub kind: Kind,
    /// Index of the step.
    pub step: u32,
    /// 0 if it has none.
    pub errno: i32,
    /// What errno cannot say; the step's `Display` knows.
    pub detail: u64,
}

impl Report {
    pub fn new(kind: Kind, step: usize, errno: i32, detail: u64) -> Self {
        Report {
            kind,
            step: step as u32,
            errno,
            detail,
        }
    }

    fn encode(&self) -> [u8; REPORT_BYTES] {
        let mut packet = [0; REPORT_BYTES];
        packet[0..4].copy_from_slice(&(self.kind as u32).to_ne_bytes());
        packet[4..8].copy_from_slice(&self.step.to_ne_bytes());
        packet[8..12].copy_from_slice(&self.errno.to_ne_bytes());
        packet[12..20].copy_from_slice(&self.detail.to_ne_bytes());
        packet
    }

    fn decode(packet: &[u8]) -> Option<Self> {
        let kind = match word(packet, 0)? {
            1 => Kind::Failed,
            2 => Kind::Notice,
            3 => Kind::Terminal,
            4 => Kind::Rooted,
            5 => Kind::Created,
            6 => Kind::Heir,
            7 => Kind::Clocks,
            _ => return None,
        };
        let detail = u64::from(word(packet, 12)?) | u64::from(word(packet, 16)?) << 32;
        Some(Report {
            kind,
            step: word(packet, 4)?,
            errno: word(packet, 8)? as i32,
            detail,
        })
    }
}

/// A process's identity in a fixed space, as it crosses the socket and as the child keeps it.
#[derive(Debug, Clone)]
pub(crate) struct Packed {
    pub uid: u32,
    pub gid: u32,
    group_count: usize,
    groups: [u32; MAX_GROUPS],
    home_length: usize,
    home: [u8; MAX_HOME],
}

impl Packed {
    /// Root, without groups, without a home.
    pub const NOBODY: Packed = Packed {
        uid: 0,
        gid: 0,
        group_count: 0,
        groups: [0; MAX_GROUPS],
        home_length: 0,
        home: [0; MAX_HOME],
    };

    /// `None`: more than fits (see [`MAX_GROUPS`], [`MAX_HOME`]).
    pub fn new(identity: &Identity) -> Option<Self> {
        let mut packed = Packed {
            uid: identity.uid,
            gid: identity.gid,
            ..Packed::NOBODY
        };
        packed.group_count = identity.groups.len();
        packed
            .groups
            .get_mut(..packed.group_count)?
            .copy_from_slice(&identity.groups);
        packed.home_length = identity.home.len();
        packed
            .home
            .get_mut(..packed.home_length)?
            .copy_from_slice(identity.home.as_bytes());
        Some(packed)
    }

    pub fn groups(&self) -> &[u32] {
        &self.groups[..self.group_count.min(MAX_GROUPS)]
    }

    pub fn home(&self) -> &[u8] {
        &self.home[..self.home_length.min(MAX_HOME)]
    }

    fn encode(&self) -> [u8; ORDER_BYTES] {
        let mut packet = [0; ORDER_BYTES];
        let words = [
            ORDER_IDENTITY,
            self.uid,
            self.gid,
            self.group_count as u32,
            self.home_length as u32,
        ];
        for (i, word) in words.iter().chain(&self.groups).enumerate() {
            packet[4 * i..4 * i + 4].copy_from_slice(&word.to_ne_bytes());
        }
        packet[ORDER_BYTES - MAX_HOME..].copy_from_slice(&self.home);
        packet
    }

    fn decode(packet: &[u8]) -> Option<Self> {
        let mut packed = Packed {
            uid: word(packet, 4)?,
            gid: word(packet, 8)?,
            ..Packed::NOBODY
        };
        packed.group_count = word(packet, 12)? as usize;
        packed.home_length = word(packet, 16)? as usize;
        for (i, group) in packed.groups.iter_mut().enumerate() {
            *group = word(packet, 20 + 4 * i)?;
        }
        packed
            .home
            .copy_from_slice(packet.get(ORDER_BYTES - MAX_HOME..ORDER_BYTES)?);
        Some(packed)
    }
}

const ORDER_IDENTITY: u32 = 1;
const ORDER_GO_ON: u32 = 2;

fn word(packet: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(packet.get(at..at + 4)?.try_into().ok()?))
}

/// Both ends.
pub(crate) fn pair() -> crate::Result<(ParentEnd, ChildEnd)> {
    let (parent, child) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|errno| sys::Error::new("socketpair(AF_UNIX, SOCK_SEQPACKET)", errno))?;
    Ok((ParentEnd(parent), ChildEnd(child)))
}

/// What the parent found on its end.
#[derive(Debug)]
pub(crate) enum Received {
    /// Nothing yet.
    Nothing,
    /// A report, with a descriptor if one came along.
    Report(Report, Option<OwnedFd>),
    /// The child has become another program, or has ended.
    Closed,
    /// The child has ended, and never read what it was sent.
    Reset,
}

/// The parent's end: never waits.
#[derive(Debug)]
pub(crate) struct ParentEnd(OwnedFd);

impl ParentEnd {
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    pub fn receive(&self) -> crate::Result<Received> {
        let mut packet = [0; REPORT_BYTES];
        match sys::scm::receive(self.0.as_fd(), &mut packet, false) {
            Err(Errno::AGAIN) => Ok(Received::Nothing),
            Ok((0, _)) => Ok(Received::Closed),
            Err(Errno::CONNRESET) => Ok(Received::Reset),
            Ok((length, fd)) => match Report::decode(&packet[..length]) {
                Some(report) => Ok(Received::Report(report, fd)),
                None => Err(sys::Error::new("recvmsg(handshake)", Errno::BADMSG).into()),
            },
            Err(errno) => Err(sys::Error::new("recvmsg(handshake)", errno).into()),
        }
    }

    /// Whether there was a child to send it to, as for [`go_on`](Self::go_on). If not, the next `receive` tells more.
    pub fn send_identity(&self, identity: &Packed) -> crate::Result<bool> {
        self.send(&identity.encode())
    }

    pub fn go_on(&self) -> crate::Result<bool> {
        self.send(&ORDER_GO_ON.to_ne_bytes())
    }

    fn send(&self, packet: &[u8]) -> crate::Result<bool> {
        match sys::scm::send(self.0.as_fd(), packet, None) {
            Ok(()) => Ok(true),
            Err(Errno::PIPE | Errno::CONNRESET) => Ok(false),
            Err(errno) => Err(sys::Error::new("sendmsg(handshake)", errno).into()),
        }
    }
}

/// The child's end: waits. Nothing here allocates.
#[derive(Debug)]
pub(crate) struct ChildEnd(OwnedFd);

impl AsFd for ChildEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl ChildEnd {
    pub fn report(&self, report: Report, fd: Option<BorrowedFd<'_>>) -> rustix::io::Result<()> {
        sys::scm::send(self.0.as_fd(), &report.encode(), fd)
    }

    pub fn await_identity(&self) -> rustix::io::Result<Packed> {
        let mut packet = [0; ORDER_BYTES];
        let (length, _) = sys::scm::receive(self.0.as_fd(), &mut packet, true)?;
        if length != ORDER_BYTES || word(&packet, 0) != Some(ORDER_IDENTITY) {
            return Err(if length == 0 { Errno::PIPE } else { Errno::BADMSG });
        }
        Packed::decode(&packet).ok_or(Errno::BADMSG)
    }

    pub fn await_go_on(&self) -> rustix::io::Result<()> {
        let mut packet = [0; 4];
        let (length, _) = sys::scm::receive(self.0.as_fd(), &mut packet, true)?;
        match (length, u32::from_ne_bytes(packet)) {
            (4, ORDER_GO_ON) => Ok(()),
            (0, _) => Err(Errno::PIPE),
            _ => Err(Errno::BADMSG),
        }
    }
}

/// One end of what connects the errand with the container's process: descriptors pass over it, numbered. Neither end
/// allocates.
#[derive(Debug)]
pub(crate) struct Link(OwnedFd);

/// The number of the root.
const ROOT: u32 = u32::MAX;

/// The errand's end, and the container's.
pub(crate) fn link() -> crate::Result<(Link, Link)> {
    let (errand, container) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|errno| sys::Error::new("socketpair(AF_UNIX, SOCK_SEQPACKET)", errno))?;
    Ok((Link(errand), Link(container)))
}

impl Link {
    /// `number`: of a source; none: the root.
    pub fn hand_over(&self, number: Option<usize>, fd: BorrowedFd<'_>) -> rustix::io::Result<()> {
        let number = number.map_or(ROOT, |n| n as u32);
        sys::scm::send(self.0.as_fd(), &number.to_ne_bytes(), Some(fd))
    }

    /// Waits. `EPIPE`: the errand has ended; if it failed it has said so itself.
    pub fn take_over(&self) -> rustix::io::Result<(Option<usize>, OwnedFd)> {
        let mut packet = [0; 4];
        match sys::scm::receive(self.0.as_fd(), &mut packet, true)? {
            (4, Some(fd)) => match u32::from_ne_bytes(packet) {
                ROOT => Ok((None, fd)),
                number => Ok((Some(number as usize), fd)),
            },
            (0, _) => Err(Errno::PIPE),
            _ => Err(Errno::BADMSG),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_and_identities_survive_the_socket() {
        let (parent, child) = pair().unwrap();
        assert!(matches!(parent.receive().unwrap(), Received::Nothing));
        let report = Report::new(Kind::Notice, 3, -1, u64::MAX - 5);
        child.report(report, None).unwrap();
        assert!(matches!(parent.receive().unwrap(), Received::Report(r, None) if r == report));

        let identity = Identity {
            uid: 5,
            gid: 6,
            groups: vec![7, 8],
            home: "/home/x".into(),
        };
        parent.send_identity(&Packed::new(&identity).unwrap()).unwrap();
        let packed = child.await_identity().unwrap();
        assert_eq!(
            (packed.uid, packed.gid, packed.groups(), packed.home()),
            (5, 6, &[7, 8][..], &b"/home/x"[..])
        );
        parent.go_on().unwrap();
        child.await_go_on().unwrap();
        drop(parent);
        assert_eq!(child.await_go_on(), Err(Errno::PIPE));
    }

    #[test]
    fn too_much_is_refused() {
        let identity = Identity {
            uid: 0,
            gid: 0,
            groups: vec![0; MAX_GROUPS + 1],
            home: String::new(),
        };
        assert!(Packed::new(&identity).is_none());
    }
}
