//! SPDY/3.1's frames, as far as streams need them: what a client sends, read; what we send, written.
//!
//! ```text
//!  control  1 | version 15 bits | type 16 | flags 8 | length 24 | payload
//!  data     0 | stream 31 bits            | flags 8 | length 24 | payload
//! ```
//!
//! Flow control is not among them: the field's implementation knows no windows, so a window that we kept would never be
//! opened again. The connection's own back-pressure stands in for it.

use std::io;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt};

/// The largest frame that a client may send, in bytes.
pub const FRAME_MAX: usize = 1 << 20;

const VERSION: u16 = 3;
const FIN: u8 = 1;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;

/// What a client says.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A new stream: its number, its packed headers, and whether the client sends nothing on it.
    Open(u32, Bytes, bool),
    /// Bytes of a stream, and whether they are its last.
    Data(u32, Bytes, bool),
    /// The client wants no more of a stream.
    Reset(u32),
    /// To be answered by the same number.
    Ping(u32),
    /// The client opens no more streams.
    GoAway,
    /// A frame that changes nothing here.
    Other,
}

/// Reads a frame; `None` at the connection's orderly end.
///
/// # Errors
/// The connection's, and `InvalidData` for what is no SPDY/3 frame of at most [`FRAME_MAX`] bytes.
pub async fn read(connection: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Incoming>> {
    let mut head = [0; 8];
    match connection.read_exact(&mut head).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    };
    let word = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
    let flags = head[4];
    let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
    if length > FRAME_MAX {
        return Err(broken("a frame is too large"));
    }
    let mut payload = vec![0; length];
    connection.read_exact(&mut payload).await?;
    let payload = Bytes::from(payload);
    let is_last = flags & FIN != 0;
    if word >> 31 == 0 {
        return Ok(Some(Incoming::Data(word, payload, is_last)));
    }
    let [version_high, version_low, type_high, type_low] = word.to_be_bytes();
    if u16::from_be_bytes([version_high & 0x7f, version_low]) != VERSION {
        return Err(broken("a frame is not SPDY/3's"));
    }
    let number = |at: usize| {
        let bytes = payload.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes
            .map(u32::from_be_bytes)
            .ok_or_else(|| broken("a frame is too short"))
    };
    Ok(Some(match u16::from_be_bytes([type_high, type_low]) {
        // After the number: the stream that it belongs to, a priority, a slot.
        SYN_STREAM if payload.len() >= 10 => Incoming::Open(number(0)? & 0x7fff_ffff, payload.slice(10..), is_last),
        SYN_STREAM => return Err(broken("a frame is too short")),
        RST_STREAM => Incoming::Reset(number(0)? & 0x7fff_ffff),
        PING => Incoming::Ping(number(0)?),
        GOAWAY => Incoming::GoAway,
        _ => Incoming::Other,
    }))
}

fn broken(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// The answer to a new stream.
pub fn reply(stream: u32, headers: &[u8]) -> Vec<u8> {
    control(SYN_REPLY, &[&stream.to_be_bytes(), headers])
}

/// Bytes of a stream.
pub fn data(stream: u32, bytes: &[u8]) -> Vec<u8> {
    frame(stream, 0, &[bytes])
}

/// The end of what we send on a stream.
pub fn end(stream: u32) -> Vec<u8> {
    frame(stream, FIN, &[])
}

/// A ping, or the answer to one.
pub fn ping(number: u32) -> Vec<u8> {
    control(PING, &[&number.to_be_bytes()])
}

/// The orderly end of the connection; `last` is the last stream that was served.
pub fn go_away(last: u32) -> Vec<u8> {
    control(GOAWAY, &[&last.to_be_bytes(), &0_u32.to_be_bytes()])
}

fn control(kind: u16, payload: &[&[u8]]) -> Vec<u8> {
    frame(1 << 31 | u32::from(VERSION) << 16 | u32::from(kind), 0, payload)
}

fn frame(word: u32, flags: u8, payload: &[&[u8]]) -> Vec<u8> {
    let length = payload.iter().map(|part| part.len()).sum::<usize>();
    let mut bytes = Vec::with_capacity(8 + length);
    bytes.extend_from_slice(&word.to_be_bytes());
    // Ours are far below the 24 bits.
    let length = u32::try_from(length).unwrap_or_default() | u32::from(flags) << 24;
    bytes.extend_from_slice(&length.to_be_bytes());
    payload.iter().for_each(|part| bytes.extend_from_slice(part));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn one(bytes: &[u8]) -> io::Result<Option<Incoming>> {
        read(&mut &bytes[..]).await
    }

    #[tokio::test]
    async fn what_is_written_is_read() {
        assert_eq!(
            one(&data(3, b"hello")).await.unwrap(),
            Some(Incoming::Data(3, Bytes::from_static(b"hello"), false))
        );
        assert_eq!(one(&end(3)).await.unwrap(), Some(Incoming::Data(3, Bytes::new(), true)));
        assert_eq!(one(&ping(7)).await.unwrap(), Some(Incoming::Ping(7)));
        assert_eq!(one(&go_away(9)).await.unwrap(), Some(Incoming::GoAway));
        assert_eq!(one(&reply(1, b"x")).await.unwrap(), Some(Incoming::Other));
        assert_eq!(one(b"").await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_stream_is_opened() {
        let mut bytes = control(SYN_STREAM, &[&5_u32.to_be_bytes(), &[0; 6], b"headers"]);
        bytes[4] = FIN;
        assert_eq!(
            one(&bytes).await.unwrap(),
            Some(Incoming::Open(5, Bytes::from_static(b"headers"), true))
        );
    }

    #[tokio::test]
    async fn what_is_no_frame_is_refused() {
        for bytes in [
            &[0x80, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1][..],
            &[0, 0, 0, 1, 0, 255, 255, 255],
            &[0x80, 3, 0, 1, 0, 0, 0, 4, 0, 0, 0, 1],
            &[0x80, 3, 0, 3, 0, 0, 0, 0],
            &[0, 0, 0, 1, 0, 0, 0, 9, 1],
        ] {
            assert!(one(bytes).await.is_err(), "{bytes:?}");
        }
    }
}
