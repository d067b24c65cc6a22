//! The subprotocols of the `channel.k8s.io` family and their frames.
//!
//! A message is one channel byte and the channel's bytes; in the base64 forms, a text message of one digit and base64.
//! Exec and attach use channels 0 to 4; port-forward uses two for each port, in the order of the request.
//!
//! | version | error channel | resize | half-close |
//! |---|---|---|---|
//! | 1 (`channel.k8s.io`, or none) | text, on failure alone | no | no |
//! | 4 | `Status` | yes | no |
//! | 5 | `Status` | yes | channel 255, payload: the channel that is closed |

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use cri::streaming::TerminalSize;
use serde::Deserialize;
use tokio_tungstenite::tungstenite::Message;

/// What the process reads.
pub const STDIN: u8 = 0;
/// What the process writes to standard output.
pub const STDOUT: u8 = 1;
/// What the process writes to standard error.
pub const STDERR: u8 = 2;
/// The outcome.
pub const ERROR: u8 = 3;
/// The terminal's size.
pub const RESIZE: u8 = 4;
/// A channel's end (version 5).
pub const CLOSE: u8 = 255;

/// The most bytes of output in one message.
pub const FRAME_MAX: usize = 16 * 1024;

/// One of the subprotocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dialect {
    version: u8,
    base64: bool,
    /// As the client named it; `None` when it named none, which is version 1.
    name: Option<&'static str>,
}

const DIALECTS: [Dialect; 5] = [
    Dialect {
        version: 5,
        base64: false,
        name: Some("v5.channel.k8s.io"),
    },
    Dialect {
        version: 4,
        base64: false,
        name: Some("v4.channel.k8s.io"),
    },
    Dialect {
        version: 4,
        base64: true,
        name: Some("v4.base64.channel.k8s.io"),
    },
    Dialect {
        version: 1,
        base64: false,
        name: Some("channel.k8s.io"),
    },
    Dialect {
        version: 1,
        base64: true,
        name: Some("base64.channel.k8s.io"),
    },
];

/// What a message says.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming {
    /// Bytes for a channel.
    Data(u8, Bytes),
    /// The client will send nothing more on a channel.
    Close(u8),
}

impl Dialect {
    /// The first of the client's that is served.
    pub fn choose(offered: Vec<&str>) -> Result<Dialect, String> {
        if offered.is_empty() {
            return Ok(Dialect {
                version: 1,
                base64: false,
                name: None,
            });
        }
        offered
            .iter()
            .find_map(|name| DIALECTS.into_iter().find(|dialect| dialect.name == Some(name)))
            .ok_or_else(|| {
                let served: Vec<_> = DIALECTS.iter().filter_map(|dialect| dialect.name).collect();
                format!(
                    "none of the subprotocols {} is served; these are: {}",
                    offered.join(", "),
                    served.join(", ")
                )
            })
    }

    /// The name to answer with.
    pub fn name(self) -> Option<&'static str> {
        self.name
    }

    /// Whether outcomes are `Status` objects.
    pub fn has_status(self) -> bool {
        self.version >= 4
    }

    /// The message that carries `payload` on `channel`.
    pub fn encode(self, channel: u8, payload: &[u8]) -> Message {
        if self.base64 {
            Message::text(format!("{channel}{}", STANDARD.encode(payload)))
        } else {
            let mut frame = Vec::with_capacity(payload.len() + 1);
            frame.push(channel);
            frame.extend_from_slice(payload);
            Message::binary(frame)
        }
    }

    /// Reads a message. `Ok(None)` is one without a channel, as some clients send to keep a connection open.
    pub fn decode(self, message: Message) -> Result<Option<Incoming>, String> {
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => text.into(),
            _ => return Ok(None),
        };
        let Some((&first, payload)) = bytes.split_first() else {
            return Ok(None);
        };
        if self.base64 {
            if !first.is_ascii_digit() {
                return Err(format!(
                    "a base64 message starts with its channel's digit, not with byte {first}"
                ));
            }
            let payload = STANDARD
                .decode(payload)
                .map_err(|error| format!("a message's base64: {error}"))?;
            return Ok(Some(Incoming::Data(first - b'0', payload.into())));
        }
        if first == CLOSE && self.version >= 5 {
            let channel = *payload.first().ok_or("a close message names no channel")?;
            return Ok(Some(Incoming::Close(channel)));
        }
        Ok(Some(Incoming::Data(first, bytes.slice(1..))))
    }
}

/// Reads the payload of a message on [`RESIZE`].
pub fn terminal_size(payload: &[u8]) -> Option<TerminalSize> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Size {
        width: u16,
        height: u16,
    }
    let Size { width, height } = serde_json::from_slice(payload).ok()?;
    Some(TerminalSize { width, height })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dialect(name: &str) -> Dialect {
        Dialect::choose(vec![name]).unwrap()
    }

    #[test]
    fn the_clients_order_decides() {
        let offered = vec!["v9.channel.k8s.io", "v4.channel.k8s.io", "v5.channel.k8s.io"];
        assert_eq!(Dialect::choose(offered).unwrap().name(), Some("v4.channel.k8s.io"));
        assert_eq!(Dialect::choose(vec![]).unwrap().name(), None);
        assert!(
            Dialect::choose(vec!["v9.channel.k8s.io"])
                .unwrap_err()
                .contains("v5.channel.k8s.io")
        );
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        for dialect in DIALECTS {
            let message = dialect.encode(STDOUT, b"hello\n\0");
            let expected = Incoming::Data(STDOUT, Bytes::from_static(b"hello\n\0"));
            assert_eq!(dialect.decode(message).unwrap(), Some(expected), "{dialect:?}");
        }
    }

    #[test]
    fn close_is_of_version_5() {
        let message = Message::binary(vec![CLOSE, STDIN]);
        assert_eq!(
            dialect("v5.channel.k8s.io").decode(message.clone()).unwrap(),
            Some(Incoming::Close(STDIN))
        );
        let data = Incoming::Data(CLOSE, Bytes::from_static(&[STDIN]));
        assert_eq!(dialect("v4.channel.k8s.io").decode(message).unwrap(), Some(data));
        assert!(
            dialect("v5.channel.k8s.io")
                .decode(Message::binary(vec![CLOSE]))
                .is_err()
        );
    }

    #[test]
    fn broken_messages_are_refused() {
        let base64 = dialect("v4.base64.channel.k8s.io");
        assert!(base64.decode(Message::text("0%%%")).is_err());
        assert!(base64.decode(Message::text("xAAAA")).is_err());
        assert_eq!(base64.decode(Message::text("")).unwrap(), None);
    }

    #[test]
    fn sizes() {
        assert_eq!(
            terminal_size(br#"{"Width":80,"Height":24}"#),
            Some(TerminalSize { width: 80, height: 24 })
        );
        assert_eq!(terminal_size(b"80x24"), None);
        assert_eq!(terminal_size(br#"{"Width":-1,"Height":24}"#), None);
    }
}
