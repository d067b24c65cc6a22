//! Every local user reaches the streaming server: what those can do who have no ticket.

#![allow(clippy::unwrap_used)]

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use cri::{
    streaming::{Duplex, StreamIo, StreamingRuntime},
    v1::{AttachRequest, ExecRequest},
};
use streaming::{
    Server,
    serve::{CONNECTIONS_MAX, HEAD_MAX, HEAD_TIMEOUT},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Nobody without a ticket gets here.
struct Unreachable;

#[async_trait]
impl StreamingRuntime for Unreachable {
    async fn exec(&self, _: ExecRequest, _: StreamIo) -> cri::Result<i32> {
        panic!("an exec without a ticket")
    }
    async fn attach(&self, _: AttachRequest, _: StreamIo) -> cri::Result<()> {
        panic!("an attach without a ticket")
    }
    async fn port_forward(&self, _: &str, _: u16, _: Box<dyn Duplex>) -> cri::Result<()> {
        panic!("a port-forward without a ticket")
    }
}

async fn server() -> Server {
    Server::bind(([127, 0, 0, 1], 0).into(), Arc::new(Unreachable))
        .await
        .unwrap()
}

/// Sends bytes and reads what is answered, to the end of the connection.
async fn talk(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // A server that has heard enough hangs up; what it said before that counts.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = timeout(HEAD_TIMEOUT * 3, stream.read_to_end(&mut answer))
        .await
        .unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

fn upgrade(path: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n"
    )
    .into_bytes()
}

#[tokio::test]
async fn without_a_ticket_there_is_nothing() {
    let server = server().await;
    let guessed = "0123456789abcdef".repeat(2);
    for path in [
        format!("/exec/{guessed}"),
        format!("/attach/{guessed}"),
        format!("/portforward/{guessed}"),
        "/exec/".into(),
        "/exec/..%2f..%2fetc".into(),
        "/exec/%ff".into(),
        "/".into(),
    ] {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        stream.write_all(&upgrade(&path)).await.unwrap();
        let mut answer = [0; 12];
        timeout(HEAD_TIMEOUT, stream.read_exact(&mut answer))
            .await
            .unwrap()
            .unwrap();
        assert!(
            answer.starts_with(b"HTTP/1.1 4"),
            "{path}: {}",
            String::from_utf8_lossy(&answer)
        );
    }
}

#[tokio::test]
async fn a_head_has_a_limit() {
    let server = server().await;
    // One read may pass the limit before it is looked at.
    let large = format!(
        "GET /exec/x HTTP/1.1\r\nHost: x\r\nh: {}\r\n\r\n",
        "x".repeat(4 * HEAD_MAX)
    );
    let answer = talk(server.address(), large.as_bytes()).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
}

#[tokio::test]
async fn slow_clients_have_a_place_for_so_long_only() {
    let server = server().await;
    let mut slow = Vec::new();
    for _ in 0..CONNECTIONS_MAX + 20 {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        stream.write_all(b"GET /exec/").await.unwrap();
        slow.push(stream);
    }
    let begin = Instant::now();
    let answer = talk(
        server.address(),
        b"GET /exec/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    let took = begin.elapsed();
    assert!(took > HEAD_TIMEOUT / 2, "there was a place at once: {took:?}");
    assert!(took < HEAD_TIMEOUT + Duration::from_secs(20), "{took:?}");
}
