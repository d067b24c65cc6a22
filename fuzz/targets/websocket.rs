//! A client's bytes → WebSocket's channels. Nothing panics or hangs; what is encoded is decoded, and a process's standard input
//! has what a second reader of the same messages finds for it.
//!
//! The input's first byte says which of the subprotocols is spoken, and whether what follows is the connection's bytes or a list
//! of messages.

#![no_main]

// As the files' own crate has them.
#[path = "../../crates/streaming/src/session.rs"]
#[allow(dead_code)]
mod session;
#[path = "../../crates/streaming/src/status.rs"]
#[allow(dead_code)]
mod status;
#[path = "../../crates/streaming/src/websocket"]
#[allow(dead_code)]
mod websocket {
    pub mod dialect;
    pub mod pump;
}
#[path = "shared/clockwork.rs"]
mod clockwork;

use futures_util::{SinkExt, StreamExt};
use libfuzzer_sys::arbitrary::{self, Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use websocket::dialect::{CLOSE, Dialect, ERROR, FRAME_MAX, Incoming, STDIN, STDOUT};
use websocket::pump::Connection;

const NAMES: [&str; 5] = [
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
];

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Sent<'a> {
    Channel(u8, &'a [u8]),
    Binary(&'a [u8]),
    Text(&'a str),
    Ping(&'a [u8]),
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&choice, rest)) = bytes.split_first() else {
        return;
    };
    let choice = usize::from(choice);
    let dialect = Dialect::choose(vec![NAMES[choice % NAMES.len()]]).expect("it is served");
    if choice < NAMES.len() {
        let (client, socket) = tokio::io::duplex(4096);
        clockwork::run(async { tokio::join!(shout(client, rest), serve(socket, dialect)) });
    } else if let Ok(messages) = Vec::arbitrary_take_rest(Unstructured::new(rest)) {
        converse(dialect, &messages);
    }
});

async fn shout(mut client: DuplexStream, bytes: &[u8]) {
    let _ = client.write_all(bytes).await;
    let _ = client.shutdown().await;
    let _ = tokio::io::copy(&mut client, &mut tokio::io::sink()).await;
}

/// The server's side: a process that reads its standard input, which is returned, and then repeats it.
async fn serve(socket: DuplexStream, dialect: Dialect) -> Vec<u8> {
    let config = WebSocketConfig::default()
        .read_buffer_size(FRAME_MAX)
        .write_buffer_size(0)
        .max_message_size(Some(1 << 20))
        .max_frame_size(Some(1 << 20));
    let socket = WebSocketStream::from_raw_socket(socket, Role::Server, Some(config)).await;
    let mut connection = Connection::new(socket, dialect);
    let streams = connection.command(session::Wanted {
        stdin: true,
        stdout: true,
        stderr: false,
        tty: false,
    });
    let running = connection.run();
    let (stdin, stdout) = (streams.io.stdin, streams.io.stdout);
    let (mut stdin, mut stdout) = (stdin.expect("asked for"), stdout.expect("asked for"));
    let mut input = Vec::new();
    stdin.read_to_end(&mut input).await.expect("a channel has no errors");
    // The client may be gone.
    let _ = stdout.write_all(&input).await;
    drop((stdin, stdout));
    streams.report.report(status::Outcome::Success).await;
    running.finish().await;
    input
}

fn converse(dialect: Dialect, messages: &[Sent]) {
    let wire: Vec<Message> = messages.iter().map(|message| message.encode(dialect)).collect();
    let expected = reference(dialect, &wire);
    let (input, said) = clockwork::run(async {
        let (client, socket) = tokio::io::duplex(4096);
        let client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        let (mut questions, mut answers) = client.split();
        let send = async {
            for message in wire {
                if questions.send(message).await.is_err() {
                    return;
                }
            }
            let _ = questions.send(Message::Close(None)).await;
        };
        let hear = async {
            let mut said = Vec::new();
            while let Some(Ok(message)) = answers.next().await {
                match dialect.decode(message).expect("the server keeps to its protocol") {
                    Some(Incoming::Data(STDOUT, bytes)) => said.extend(bytes),
                    Some(Incoming::Data(ERROR, _)) | None => {}
                    Some(other) => panic!("the server said {other:?}"),
                }
            }
            said
        };
        let (_, said, input) = tokio::join!(send, hear, serve(socket, dialect));
        (input, said)
    });
    assert_eq!(input, expected);
    // A client that has closed the connection may hear no more.
    assert!(expected.starts_with(&said), "{said:?} is no beginning of {expected:?}");
}

impl Sent<'_> {
    fn encode(self, dialect: Dialect) -> Message {
        match self {
            Sent::Channel(channel, payload) => {
                let base64 = dialect.name().is_some_and(|name| name.contains("base64"));
                let channel = if base64 { channel % 10 } else { channel };
                let message = dialect.encode(channel, payload);
                let closes = channel == CLOSE && dialect.name() == Some("v5.channel.k8s.io");
                let expected = match payload.first() {
                    Some(closed) if closes => Ok(Some(Incoming::Close(*closed))),
                    None if closes => Err(()),
                    _ => Ok(Some(Incoming::Data(channel, payload.to_vec().into()))),
                };
                assert_eq!(dialect.decode(message.clone()).map_err(drop), expected);
                message
            }
            Sent::Binary(bytes) => Message::binary(bytes.to_vec()),
            Sent::Text(text) => Message::text(text),
            Sent::Ping(bytes) => Message::Ping(bytes[..bytes.len().min(125)].to_vec().into()),
        }
    }
}

/// What comes on standard input.
fn reference(dialect: Dialect, messages: &[Message]) -> Vec<u8> {
    let mut input = Vec::new();
    for message in messages {
        match dialect.decode(message.clone()) {
            Ok(Some(Incoming::Data(STDIN, bytes))) => input.extend(bytes),
            Ok(Some(Incoming::Close(STDIN))) | Err(_) => break,
            _ => {}
        }
    }
    input
}
