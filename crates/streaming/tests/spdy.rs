//! A SPDY client, written here frame by frame, against the server, with processes of this machine behind it.

#![allow(clippy::unwrap_used)]

mod local;

use std::{collections::HashMap, time::Duration};

use cri::{
    streaming::StreamingUrls,
    v1::{ExecRequest, PortForwardRequest},
};
use flate2::{Compress, Compression, FlushCompress};
use futures_util::{SinkExt, StreamExt};
use local::{request, server};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_tungstenite::{
    connect_async_with_config,
    tungstenite::{Message, client::IntoClientRequest},
};

const LIMIT: Duration = Duration::from_secs(10);
const FIN: u8 = 1;

/// A connection's client side.
struct Client<S> {
    socket: S,
    headers: Compress,
    next: u32,
}

impl Client<TcpStream> {
    /// Upgrades a connection to `url`, whose answer must name `version`.
    async fn upgrade(url: &str, version: &str) -> Client<TcpStream> {
        let (socket, head) = post(url, version).await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        let named = format!("x-stream-protocol-version: {version}");
        assert!(head.to_lowercase().contains(&named), "{head}");
        Client::over(socket)
    }
}

/// Asks for an upgrade and returns the answer's head.
async fn post(url: &str, version: &str) -> (TcpStream, String) {
    let (address, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut socket = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
         X-Stream-Protocol-Version: {version}\r\nContent-Length: 0\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(timeout(LIMIT, socket.read_u8()).await.unwrap().unwrap());
    }
    (socket, String::from_utf8(answer).unwrap())
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    fn over(socket: S) -> Client<S> {
        Client {
            socket,
            // A zlib stream needs no dictionary to be a valid one.
            headers: Compress::new(Compression::fast(), true),
            next: 1,
        }
    }

    /// Opens a stream and returns its number.
    async fn open(&mut self, headers: &[(&str, &str)]) -> u32 {
        let number = self.next;
        self.next += 2;
        let mut block = u32::try_from(headers.len()).unwrap().to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            block.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
            block.extend(text.as_bytes());
        }
        let mut payload = [&number.to_be_bytes()[..], &[0; 6]].concat();
        payload.reserve(1024);
        self.headers
            .compress_vec(&block, &mut payload, FlushCompress::Sync)
            .unwrap();
        self.frame(0x8003_0001, 0, &payload).await;
        number
    }

    async fn frame(&mut self, word: u32, flags: u8, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [&word.to_be_bytes()[..], &[flags], &length[1..]].concat();
        self.socket.write_all(&[&head, payload].concat()).await.unwrap();
        self.socket.flush().await.unwrap();
    }

    /// The next frame: its first word, its flags, its payload. `None` when the server closed.
    async fn next(&mut self) -> Option<(u32, u8, Vec<u8>)> {
        let mut head = [0; 8];
        timeout(LIMIT, self.socket.read_exact(&mut head)).await.unwrap().ok()?;
        let length = u32::from_be_bytes([0, head[5], head[6], head[7]]);
        let mut payload = vec![0; length as usize];
        self.socket.read_exact(&mut payload).await.unwrap();
        Some((
            u32::from_be_bytes([head[0], head[1], head[2], head[3]]),
            head[4],
            payload,
        ))
    }

    /// What came on each stream until all of `streams` have ended.
    async fn collect(&mut self, streams: &[u32]) -> HashMap<u32, Vec<u8>> {
        let mut open = streams.to_vec();
        let mut all: HashMap<u32, Vec<u8>> = HashMap::new();
        while !open.is_empty() {
            let (word, flags, payload) = self.next().await.unwrap();
            if word >> 31 == 0 {
                all.entry(word).or_default().extend(payload);
                if flags & FIN != 0 {
                    open.retain(|stream| *stream != word);
                }
            }
        }
        all
    }
}

#[tokio::test]
async fn exec_separates_the_streams_and_tells_the_exit_code() {
    let (server, _) = server().await;
    let url = server
        .exec(request(&["sh", "-c", "cat; echo err >&2; exit 7"], true))
        .unwrap();
    let mut client = Client::upgrade(&url, "v4.channel.k8s.io").await;
    let mut streams = HashMap::new();
    for kind in ["error", "stdin", "stdout", "stderr"] {
        streams.insert(kind, client.open(&[("streamtype", kind)]).await);
    }
    client.frame(streams["stdin"], 0, b"through ").await;
    client.frame(streams["stdin"], FIN, b"cat").await;
    let came = client
        .collect(&[streams["error"], streams["stdout"], streams["stderr"]])
        .await;
    assert_eq!(came[&streams["stdout"]], b"through cat");
    assert_eq!(came[&streams["stderr"]], b"err\n");
    let status: serde_json::Value = serde_json::from_slice(&came[&streams["error"]]).unwrap();
    assert_eq!(status["details"]["causes"][0]["message"], "7");
    // The server says goodbye and closes.
    while client.next().await.is_some() {}
}

#[tokio::test]
async fn large_output_arrives_whole() {
    let (server, _) = server().await;
    let url = server
        .exec(request(&["head", "-c", "1000000", "/dev/zero"], false))
        .unwrap();
    let mut client = Client::upgrade(&url, "channel.k8s.io").await;
    let error = client.open(&[("streamType", "error")]).await;
    let stdout = client.open(&[("streamType", "stdout")]).await;
    let stderr = client.open(&[("streamType", "stderr")]).await;
    let came = client.collect(&[error, stdout, stderr]).await;
    assert_eq!(came[&stdout].len(), 1_000_000);
    assert_eq!(came[&error], b"", "version 1 is silent about success");
}

#[tokio::test]
async fn a_terminals_size_arrives() {
    let (server, _) = server().await;
    let url = server
        .exec(ExecRequest {
            tty: true,
            stderr: false,
            ..request(&["wait-for-size"], false)
        })
        .unwrap();
    let mut client = Client::upgrade(&url, "v4.channel.k8s.io").await;
    let error = client.open(&[("streamType", "error")]).await;
    let resize = client.open(&[("streamType", "resize")]).await;
    let stdout = client.open(&[("streamType", "stdout")]).await;
    // Wherever the client's writes are cut.
    client.frame(resize, 0, b"{\"Width\":80,\"He").await;
    client.frame(resize, 0, b"ight\":24}\n").await;
    let came = client.collect(&[error, stdout]).await;
    assert_eq!(came[&stdout], b"80x24");
}

#[tokio::test]
async fn pings_are_answered_and_unknown_frames_are_not() {
    let (server, _) = server().await;
    let url = server.exec(request(&["cat"], true)).unwrap();
    let mut client = Client::upgrade(&url, "v4.channel.k8s.io").await;
    client.frame(0x8003_0004, 0, &[0; 4]).await;
    client.frame(0x8003_0006, 0, &9_u32.to_be_bytes()).await;
    assert_eq!(
        client.next().await.unwrap(),
        (0x8003_0006, 0, 9_u32.to_be_bytes().to_vec())
    );
}

#[tokio::test]
async fn the_process_ends_with_its_client() {
    let (server, mut drops) = server().await;
    let url = server.exec(request(&["sleep", "1000"], false)).unwrap();
    let mut client = Client::upgrade(&url, "v4.channel.k8s.io").await;
    for kind in ["error", "stdout", "stderr"] {
        client.open(&[("streamType", kind)]).await;
    }
    drop(client);
    timeout(LIMIT, drops.recv()).await.unwrap().unwrap();
}

#[tokio::test]
async fn garbage_ends_the_connection() {
    let (server, _) = server().await;
    for garbage in [
        &b"GET / HTTP/1.1\r\n"[..],
        &[0xff; 64],
        &[0x80, 3, 0, 1, 0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 9, 9],
    ] {
        let url = server.exec(request(&["cat"], true)).unwrap();
        let mut client = Client::upgrade(&url, "v4.channel.k8s.io").await;
        client.socket.write_all(garbage).await.unwrap();
        while client.next().await.is_some() {}
    }
}

/// A client's streams have odd numbers, each larger than those before it (SPDY/3.1, 2.3.2).
#[tokio::test]
async fn a_streams_number_is_a_new_odd_one() {
    let (server, _) = server().await;
    for numbers in [&[2][..], &[1, 1], &[3, 1]] {
        let url = server.exec(request(&["cat"], true)).unwrap();
        let mut client = Client::upgrade(&url, "v4.channel.k8s.io").await;
        for (number, kind) in numbers.iter().zip(["error", "stdin"]) {
            client.next = *number;
            client.open(&[("streamtype", kind)]).await;
        }
        while client.next().await.is_some() {}
    }
}

#[tokio::test]
async fn a_version_that_is_not_served_is_refused_with_those_that_are() {
    let (server, _) = server().await;
    let url = server.exec(request(&["true"], false)).unwrap();
    let (_, head) = post(&url, "v9.channel.k8s.io").await;
    assert!(head.starts_with("HTTP/1.1 403"), "{head}");
    assert!(
        head.contains("x-accepted-stream-protocol-versions: v4.channel.k8s.io"),
        "{head}"
    );
    // The ticket is as good as before.
    Client::upgrade(&url, "v4.channel.k8s.io").await;
}

/// A port on this machine that answers each line in capitals.
async fn echo_port() -> i32 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut bytes = Vec::new();
                connection.read_to_end(&mut bytes).await.unwrap();
                connection.write_all(&bytes.to_ascii_uppercase()).await.unwrap();
            });
        }
    });
    i32::from(port)
}

/// Two connections side by side, whose half-closes pass, and one to a port where nobody listens.
async fn forwards<S: AsyncRead + AsyncWrite + Unpin>(mut client: Client<S>, port: i32) {
    let port = port.to_string();
    let mut pairs = Vec::new();
    for id in ["0", "1"] {
        let headers = |kind| [("streamtype", kind), ("port", port.as_str()), ("requestid", id)];
        let error = client.open(&headers("error")).await;
        let data = client.open(&headers("data")).await;
        pairs.push((error, data));
    }
    client.frame(pairs[1].1, FIN, b"second").await;
    client.frame(pairs[0].1, 0, b"fir").await;
    client.frame(pairs[0].1, FIN, b"st").await;
    let came = client.collect(&[pairs[0].0, pairs[0].1, pairs[1].0, pairs[1].1]).await;
    assert_eq!(came[&pairs[0].1], b"FIRST");
    assert_eq!(came[&pairs[1].1], b"SECOND");

    let headers = |kind| [("streamtype", kind), ("port", "1"), ("requestid", "2")];
    let error = client.open(&headers("error")).await;
    let data = client.open(&headers("data")).await;
    let came = client.collect(&[error, data]).await;
    assert!(String::from_utf8_lossy(&came[&error]).contains("port 1"));
}

#[tokio::test]
async fn ports_are_forwarded() {
    let (server, _) = server().await;
    let port = echo_port().await;
    let url = server.port_forward(PortForwardRequest::default()).unwrap();
    forwards(Client::upgrade(&url, "portforward.k8s.io").await, port).await;
}

#[tokio::test]
async fn ports_are_forwarded_through_a_websocket() {
    let (server, _) = server().await;
    let port = echo_port().await;
    let url = server.port_forward(PortForwardRequest::default()).unwrap();
    let mut request = url.replace("http://", "ws://").into_client_request().unwrap();
    let protocol = "SPDY/3.1+portforward.k8s.io";
    request
        .headers_mut()
        .insert("sec-websocket-protocol", protocol.parse().unwrap());
    let (socket, response) = connect_async_with_config(request, None, true).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], protocol);
    // The client's bytes in messages, cut wherever.
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let (mut sink, mut source) = socket.split();
    let (mut from, mut to) = tokio::io::split(theirs);
    tokio::spawn(async move {
        let mut bytes = [0; 7];
        while let Ok(count @ 1..) = from.read(&mut bytes).await {
            sink.send(Message::binary(bytes[..count].to_vec())).await.unwrap();
        }
    });
    tokio::spawn(async move {
        while let Some(Ok(Message::Binary(bytes))) = source.next().await {
            to.write_all(&bytes).await.unwrap();
        }
    });
    forwards(Client::over(ours), port).await;
}
