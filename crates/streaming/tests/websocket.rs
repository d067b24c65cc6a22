//! A real WebSocket client against the server, with processes of this machine behind it.

#![allow(clippy::unwrap_used)]

mod local;

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use cri::{
    streaming::StreamingUrls,
    v1::{AttachRequest, PortForwardRequest},
};
use futures_util::{SinkExt, StreamExt};
use local::{request, server};
use streaming::Server;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async_with_config,
    tungstenite::{Message, client::IntoClientRequest, protocol::frame::coding::CloseCode},
};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn connect(url: &str, protocol: &str) -> Socket {
    let mut request = url.replace("http://", "ws://").into_client_request().unwrap();
    request
        .headers_mut()
        .insert("sec-websocket-protocol", protocol.parse().unwrap());
    let (socket, response) = connect_async_with_config(request, None, true).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], protocol);
    socket
}

/// Everything that came on each channel until the server closed, with the code that Kubernetes' client wants to see.
async fn collect(mut socket: Socket) -> [Vec<u8>; 4] {
    let mut channels = [const { Vec::new() }; 4];
    let mut close = None;
    while let Some(message) = timeout(Duration::from_secs(10), socket.next()).await.unwrap() {
        match message.unwrap() {
            Message::Binary(bytes) => channels[usize::from(bytes[0])].extend_from_slice(&bytes[1..]),
            Message::Close(frame) => close = frame,
            _ => {}
        }
    }
    assert_eq!(close.map(|frame| frame.code), Some(CloseCode::Normal));
    channels
}

fn status(channel: &[u8]) -> serde_json::Value {
    serde_json::from_slice(channel).unwrap()
}

#[tokio::test]
async fn exec_separates_the_streams_and_tells_the_exit_code() {
    let (server, _) = server().await;
    let url = server
        .exec(request(&["sh", "-c", "echo out; echo err >&2; exit 7"], false))
        .unwrap();
    let [_, out, err, outcome] = collect(connect(&url, "v5.channel.k8s.io").await).await;
    assert_eq!(out, b"out\n");
    assert_eq!(err, b"err\n");
    assert_eq!(status(&outcome)["details"]["causes"][0]["message"], "7");
}

#[tokio::test]
async fn success_is_a_status_too() {
    let (server, _) = server().await;
    let url = server.exec(request(&["true"], false)).unwrap();
    let [_, _, _, outcome] = collect(connect(&url, "v4.channel.k8s.io").await).await;
    assert_eq!(status(&outcome)["status"], "Success");
}

#[tokio::test]
async fn a_process_that_can_not_be_started_is_a_failure() {
    let (server, _) = server().await;
    let url = server.exec(request(&["/no/such/program"], false)).unwrap();
    let [_, _, _, outcome] = collect(connect(&url, "v5.channel.k8s.io").await).await;
    assert_eq!(status(&outcome)["reason"], "InternalError");
    assert!(
        status(&outcome)["message"]
            .as_str()
            .unwrap()
            .contains("/no/such/program")
    );
}

#[tokio::test]
async fn stdin_ends_by_half_close() {
    let (server, _) = server().await;
    let url = server.exec(request(&["sh", "-c", "wc -c; exit 3"], true)).unwrap();
    let mut socket = connect(&url, "v5.channel.k8s.io").await;
    let mut message = vec![0u8];
    message.extend_from_slice(&[b'x'; 10_000]);
    for _ in 0..100 {
        socket.send(Message::binary(message.clone())).await.unwrap();
    }
    socket.send(Message::binary(vec![255, 0])).await.unwrap();
    let [_, out, _, outcome] = collect(socket).await;
    assert_eq!(String::from_utf8(out).unwrap().trim(), "1000000");
    assert_eq!(status(&outcome)["details"]["causes"][0]["message"], "3");
}

#[tokio::test]
async fn the_outcome_arrives_though_stdin_was_not_read() {
    let (server, _) = server().await;
    let url = server.exec(request(&["sh", "-c", "exit 9"], true)).unwrap();
    let mut socket = connect(&url, "v5.channel.k8s.io").await;
    for _ in 0..50 {
        if socket.send(Message::binary(vec![0u8; 30_000])).await.is_err() {
            break;
        }
    }
    let [_, _, _, outcome] = collect(socket).await;
    assert_eq!(status(&outcome)["details"]["causes"][0]["message"], "9");
}

#[tokio::test]
async fn a_megabyte_of_output_arrives_whole_and_before_the_outcome() {
    let (server, _) = server().await;
    let url = server
        .exec(request(&["head", "-c", "5000000", "/dev/zero"], false))
        .unwrap();
    let mut socket = connect(&url, "v5.channel.k8s.io").await;
    let (mut bytes, mut done) = (0, false);
    while let Some(message) = socket.next().await {
        if let Message::Binary(message) = message.unwrap() {
            match message[0] {
                1 => {
                    assert!(!done, "output after the outcome");
                    bytes += message.len() - 1;
                }
                3 => done = true,
                other => panic!("channel {other}"),
            }
        }
    }
    assert_eq!((bytes, done), (5_000_000, true));
}

#[tokio::test]
async fn sizes_reach_the_process() {
    let (server, _) = server().await;
    let url = server.exec(request(&["wait-for-size"], false)).unwrap();
    let mut socket = connect(&url, "v5.channel.k8s.io").await;
    socket
        .send(Message::binary([&[4][..], br#"{"Width":132,"Height":43}"#].concat()))
        .await
        .unwrap();
    let [_, out, _, _] = collect(socket).await;
    assert_eq!(out, b"132x43");
}

#[tokio::test]
async fn base64_clients_are_served() {
    let (server, _) = server().await;
    let url = server.exec(request(&["cat"], true)).unwrap();
    let mut socket = connect(&url, "v4.base64.channel.k8s.io").await;
    socket
        .send(Message::text(format!("0{}", STANDARD.encode("hello"))))
        .await
        .unwrap();
    loop {
        let text = socket.next().await.unwrap().unwrap().into_text().unwrap();
        if text.starts_with('1') && text.len() > 1 {
            assert_eq!(STANDARD.decode(&text.as_str()[1..]).unwrap(), b"hello");
            break;
        }
    }
}

#[tokio::test]
async fn an_exec_whose_client_is_gone_is_dropped() {
    let (server, mut drops) = server().await;
    let url = server.exec(request(&["sleep", "1000"], true)).unwrap();
    let socket = connect(&url, "v5.channel.k8s.io").await;
    drop(socket);
    timeout(Duration::from_secs(10), drops.recv()).await.unwrap().unwrap();
}

#[tokio::test]
async fn attach_ends_with_success() {
    let (server, _) = server().await;
    let request = AttachRequest {
        container_id: "c".into(),
        stdout: true,
        ..Default::default()
    };
    let [_, out, _, outcome] = collect(connect(&server.attach(request).unwrap(), "v5.channel.k8s.io").await).await;
    assert_eq!(out, b"attached");
    assert_eq!(status(&outcome)["status"], "Success");
}

#[tokio::test]
async fn ports_are_forwarded() {
    let (server, _) = server().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut connection, _) = listener.accept().await.unwrap();
        let mut question = [0u8; 4];
        connection.read_exact(&mut question).await.unwrap();
        connection.write_all(&[&question[..], b"pong"].concat()).await.unwrap();
    });
    let request = PortForwardRequest {
        pod_sandbox_id: "s".into(),
        port: vec![i32::from(port)],
    };
    let mut socket = connect(&server.port_forward(request).unwrap(), "v4.channel.k8s.io").await;
    for channel in [0, 1] {
        let opened = socket.next().await.unwrap().unwrap().into_data();
        assert_eq!((opened[0], &opened[1..]), (channel, &port.to_le_bytes()[..]));
    }
    socket.send(Message::binary(b"\0ping".to_vec())).await.unwrap();
    let [data, ..] = collect(socket).await;
    assert_eq!(data, b"pingpong");
}

#[tokio::test]
async fn a_refused_port_is_told() {
    let (server, _) = server().await;
    let request = PortForwardRequest {
        pod_sandbox_id: "s".into(),
        port: vec![1],
    };
    let socket = connect(&server.port_forward(request).unwrap(), "v4.channel.k8s.io").await;
    let [_, error, ..] = collect(socket).await;
    assert!(
        String::from_utf8_lossy(&error[2..]).contains("connect to port 1"),
        "{error:?}"
    );
}

/// What the server answers to a request that it refuses.
async fn refused(server: &Server, path: &str, headers: &str) -> String {
    let mut connection = TcpStream::connect(server.address()).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n");
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn bad_requests_are_refused_and_leave_the_ticket() {
    let (server, _) = server().await;
    let url = server.exec(request(&["true"], false)).unwrap();
    let path = format!("/exec/{}", url.rsplit('/').next().unwrap());
    let websocket = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";

    assert!(refused(&server, &path, "").await.starts_with("HTTP/1.1 400"));
    let other = refused(&server, &path, "Connection: Upgrade\r\nUpgrade: h2c\r\n").await;
    assert!(
        other.starts_with("HTTP/1.1 400") && other.contains("SPDY/3.1"),
        "{other}"
    );
    let unknown = format!("{websocket}Sec-WebSocket-Protocol: v9.channel.k8s.io\r\n");
    assert!(refused(&server, &path, &unknown).await.starts_with("HTTP/1.1 400"));
    assert!(
        refused(&server, "/exec/00000000000000000000000000000000", websocket)
            .await
            .starts_with("HTTP/1.1 404")
    );

    let [_, _, _, outcome] = collect(connect(&url, "v5.channel.k8s.io").await).await;
    assert_eq!(status(&outcome)["status"], "Success");
    assert!(
        refused(&server, &path, websocket).await.starts_with("HTTP/1.1 404"),
        "the ticket was used"
    );
}
