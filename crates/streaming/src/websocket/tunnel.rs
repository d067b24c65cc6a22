//! Another protocol's bytes in a WebSocket's binary messages, as kubectl carries SPDY through proxies that know it no more.

use std::io;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Error, Message},
};
use tokio_util::io::{CopyToBytes, SinkWriter, StreamReader};

/// The subprotocol's name.
pub const PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";

/// The bytes that `socket` carries. Its end is the client's close.
pub fn open<S>(socket: WebSocketStream<S>) -> impl AsyncRead + AsyncWrite + Send + Unpin + 'static
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sink, source) = socket.split();
    let bytes = source.filter_map(|message| {
        std::future::ready(match message {
            Ok(Message::Binary(bytes)) => Some(Ok(bytes)),
            Ok(_) => None,
            Err(Error::ConnectionClosed | Error::AlreadyClosed) => None,
            Err(error) => Some(Err(io::Error::other(error))),
        })
    });
    let sink = sink.with(|bytes: Bytes| std::future::ready(Ok::<_, Error>(Message::Binary(bytes))));
    tokio::io::join(
        StreamReader::new(bytes.boxed()),
        SinkWriter::new(CopyToBytes::new(sink.sink_map_err(io::Error::other))),
    )
}
