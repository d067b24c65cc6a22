//! Packets over a unix socket, with a file descriptor beside them (SCM_RIGHTS).
//!
//! Everything here may be called between clone and exec: no allocation, no lock; errors are a bare errno.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::{Errno, Result};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};

/// Sends one packet, and a descriptor with it if given.
pub fn send(socket: BorrowedFd<'_>, packet: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds;
    if let Some(fd) = fd {
        fds = [fd];
        if !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(Errno::NOBUFS);
        }
    }
    loop {
        let sent = rustix::net::sendmsg(socket, &[IoSlice::new(packet)], &mut ancillary, SendFlags::NOSIGNAL);
        match sent {
            Err(Errno::INTR) => {}
            other => return other.map(drop),
        }
    }
}

/// Receives one packet: its length (0: the other end is closed) and the descriptor that came with it, close-on-exec.
/// `wait` false: EAGAIN instead of waiting.
pub fn receive(socket: BorrowedFd<'_>, packet: &mut [u8], wait: bool) -> Result<(usize, Option<OwnedFd>)> {
    let mut flags = RecvFlags::CMSG_CLOEXEC;
    if !wait {
        flags |= RecvFlags::DONTWAIT;
    }
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        match rustix::net::recvmsg(socket, &mut [IoSliceMut::new(packet)], &mut ancillary, flags) {
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
            Ok(message) => {
                let mut received = None;
                for part in ancillary.drain() {
                    if let RecvAncillaryMessage::ScmRights(fds) = part {
                        for fd in fds {
                            received = Some(fd);
                        }
                    }
                }
                return Ok((message.bytes, received));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use std::os::fd::AsFd;

    #[test]
    fn a_packet_and_a_descriptor_arrive_together() {
        let (a, b) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("pair");
        let mut packet = [0; 8];
        assert_eq!(receive(b.as_fd(), &mut packet, false).map(|r| r.0), Err(Errno::AGAIN));
        let file = std::fs::File::open("/dev/null").expect("open");
        send(a.as_fd(), b"one", Some(file.as_fd())).expect("send");
        send(a.as_fd(), b"two", None).expect("send");
        let (length, fd) = receive(b.as_fd(), &mut packet, true).expect("receive");
        assert_eq!((&packet[..length], fd.is_some()), (&b"one"[..], true));
        let (length, fd) = receive(b.as_fd(), &mut packet, true).expect("receive");
        assert_eq!((&packet[..length], fd.is_some()), (&b"two"[..], false));
        drop(a);
        assert_eq!(receive(b.as_fd(), &mut packet, true).map(|r| r.0), Ok(0));
    }
}
