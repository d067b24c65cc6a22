//! What the runtime hands over to a shim that shall take over a pod: the socket to serve on, and the pidfds that it held
//! while there was no shim, each in a packet of its own that says what it is. The end of the packets is the end of the
//! connection.

use std::os::fd::{AsFd, OwnedFd};

use crate::adopt::Held;
use crate::failure::{Failure, Result};

/// The longest packet: "process " and a container's id.
const PACKET_MAX: usize = 256;

/// Receives everything. Waits until the other end is closed.
pub fn receive(connection: OwnedFd) -> Result<(OwnedFd, Held)> {
    let (mut socket, mut held) = (None, Held::new());
    let mut packet = [0; PACKET_MAX];
    loop {
        let (length, fd) = sys::scm::receive(connection.as_fd(), &mut packet, true)
            .map_err(|e| sys::Error::new("recvmsg(handover)", e))?;
        let Some(fd) = fd else { break };
        let name = std::str::from_utf8(&packet[..length]).unwrap_or_default();
        match name.split_once(' ') {
            Some(("process", id)) => drop(held.insert(id.to_string(), fd)),
            None if name == "socket" => socket = Some(fd),
            _ => {
                return Err(Failure::Invalid(format!("handover: {name:?} is not understood")));
            }
        }
    }
    match socket {
        Some(socket) => Ok((socket, held)),
        None => Err(Failure::Invalid("handover: no socket to serve on".to_string())),
    }
}
