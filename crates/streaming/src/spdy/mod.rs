//! SPDY/3.1 clients: kubelet's and crictl's first choice. The client opens a stream for each thing it wants, and says by
//! headers what each is for.
//!
//! - [`frame`]: frames (pure but for reading them).
//! - [`headers`], [`dictionary`]: the streams' headers and their compression (pure).
//! - [`connection`]: the connection's two halves, and its streams.
//!
//! | version | error stream | resize |
//! |---|---|---|
//! | 1, 2 (`channel.k8s.io`, or none; `v2.…`) | text, on failure alone | no |
//! | 3 (`v3.channel.k8s.io`) | text, on failure alone | yes |
//! | 4 (`v4.channel.k8s.io`) | `Status` | yes |

mod connection;
mod dictionary;
mod frame;
mod headers;

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::{body::Body, extract::Request, response::Response};
use cri::streaming::{Input, Output, StreamIo, StreamingRuntime, TerminalSize};
use futures_util::{StreamExt, stream::FuturesUnordered};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
    time::timeout,
};

use self::connection::{Connection, Stream, Writer};
use crate::{
    session::{self, CommandStreams, ForwardedPort, Report, Wanted},
    status::Outcome,
    tickets::Work,
    websocket::dialect::terminal_size,
};

/// The protocol's name in `Upgrade`.
pub const PROTOCOL: &str = "SPDY/3.1";

const VERSION_HEADER: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_HEADER: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");

/// How long a client may take to open the streams of an exec or an attach, or the second one of a forwarded connection.
const STREAMS_TIMEOUT: Duration = Duration::from_secs(30);
/// Forwarded connections of which only one stream is open.
const HALF_OPEN_MAX: usize = 256;
/// The largest message on a resize stream, in bytes.
const RESIZE_MAX: usize = 1024;
/// Sizes that wait to be applied.
const RESIZES_MAX: usize = 16;

/// The versions of exec's and attach's protocol, the best first.
const COMMAND_VERSIONS: [(&str, u8); 4] = [
    ("v4.channel.k8s.io", 4),
    ("v3.channel.k8s.io", 3),
    ("v2.channel.k8s.io", 2),
    ("channel.k8s.io", 1),
];
/// Port-forward's only protocol.
const FORWARD_VERSIONS: [(&str, u8); 1] = [("portforward.k8s.io", 1)];

/// A client's opening request that can be accepted.
pub struct Handshake {
    /// As the client named it; `None` when it named none, which is version 1.
    version: Option<(&'static str, u8)>,
    on_upgrade: OnUpgrade,
}

impl Handshake {
    /// Checks the request for `verb`; the error is the answer to the client.
    pub fn of(mut request: Request, verb: &str) -> Result<Handshake, Box<Response>> {
        if request.method() != Method::POST && request.method() != Method::GET {
            return Err(Box::new(refuse(
                StatusCode::METHOD_NOT_ALLOWED,
                "SPDY is opened by POST or GET",
                &[],
            )));
        }
        let served: &'static [(&str, u8)] = match verb {
            "portforward" => &FORWARD_VERSIONS,
            _ => &COMMAND_VERSIONS,
        };
        let offered = offered(request.headers());
        let version = offered
            .iter()
            .find_map(|name| served.iter().find(|(known, _)| known == name));
        if version.is_none() && !offered.is_empty() {
            let message = format!("none of the versions {} is served", offered.join(", "));
            return Err(Box::new(refuse(StatusCode::FORBIDDEN, message, served)));
        }
        let version = version.copied();
        Ok(Handshake {
            version,
            on_upgrade: hyper::upgrade::on(&mut request),
        })
    }

    /// Answers 101, and starts `work` on the connection.
    pub fn accept(self, runtime: Arc<dyn StreamingRuntime>, work: Work) -> Response {
        let Handshake { version, on_upgrade } = self;
        tokio::spawn(async move {
            match on_upgrade.await {
                Ok(upgraded) => {
                    let version = version.map_or(1, |(_, version)| version);
                    serve(
                        runtime.as_ref(),
                        work,
                        version,
                        Connection::start(TokioIo::new(upgraded)),
                    )
                    .await;
                }
                Err(error) => tracing::debug!(%error, "a streaming client left before its upgrade"),
            }
        });
        let mut response = Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, PROTOCOL);
        if let Some((name, _)) = version {
            response = response.header(VERSION_HEADER, name);
        }
        response.body(Body::empty()).unwrap_or_default()
    }
}

/// A refusal that names what would be accepted.
fn refuse(status: StatusCode, message: impl Into<Body>, served: &[(&'static str, u8)]) -> Response {
    let mut response = Response::new(message.into());
    *response.status_mut() = status;
    for (name, _) in served {
        response
            .headers_mut()
            .append(ACCEPTED_HEADER, HeaderValue::from_static(name));
    }
    response
}

/// The versions that the client offers, in its order of preference.
fn offered(headers: &HeaderMap) -> Vec<&str> {
    let values = headers.get_all(VERSION_HEADER).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .collect()
}

/// Does `work`, a port-forward, over a connection that is already SPDY's.
pub async fn forward_over<S>(runtime: &dyn StreamingRuntime, work: Work, socket: S)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    serve(runtime, work, FORWARD_VERSIONS[0].1, Connection::start(socket)).await;
}

/// Does `work` over the streams of `connection`.
async fn serve(runtime: &dyn StreamingRuntime, work: Work, version: u8, mut connection: Connection) {
    match work {
        Work::Command(work) => {
            if let Some(streams) = command(&mut connection, work.wanted(), version).await {
                session::run(runtime, work, streams).await;
            }
        }
        Work::PortForward(request) => forward(runtime, &request.pod_sandbox_id, &mut connection).await,
    }
    connection.finish().await;
}

/// Waits for the client to open the streams of an exec or an attach.
async fn command(connection: &mut Connection, wanted: Wanted, version: u8) -> Option<CommandStreams> {
    let names = [
        ("error", true),
        ("stdin", wanted.stdin),
        ("stdout", wanted.stdout),
        ("stderr", wanted.stderr),
        ("resize", wanted.tty && version >= 3),
    ];
    let mut open: HashMap<&str, Stream> = HashMap::new();
    let all = async {
        while let Some((missing, _)) = names.iter().find(|(name, wanted)| *wanted && !open.contains_key(name)) {
            let Some(stream) = connection.next().await else {
                return Err(format!("the client opened no {missing} stream"));
            };
            let kind = stream.headers.get("streamType").unwrap_or_default();
            match names.iter().find(|(name, wanted)| *wanted && *name == kind) {
                Some((name, _)) => drop(open.insert(name, stream)),
                None => {
                    return Err(format!(
                        "the client opened a stream of type {kind:?}, which it did not ask for"
                    ));
                }
            }
        }
        Ok(())
    };
    match timeout(STREAMS_TIMEOUT, all).await {
        Ok(Ok(())) => {}
        Ok(Err(why)) => {
            tracing::debug!(why, "a streaming client");
            return None;
        }
        Err(_) => {
            tracing::debug!("a streaming client did not open its streams within {STREAMS_TIMEOUT:?}");
            return None;
        }
    }
    let (resize, sizes) = mpsc::channel(RESIZES_MAX);
    if let Some(stream) = open.remove("resize") {
        tokio::spawn(read_sizes(stream.split().0, resize));
    }
    let output = |stream: Stream| stream.split().1;
    let (stdout, stderr) = (open.remove("stdout").map(output), open.remove("stderr").map(output));
    let ends = [&stdout, &stderr].into_iter().flatten().map(Writer::another).collect();
    Some(CommandStreams {
        io: StreamIo {
            stdin: open.remove("stdin").map(|stream| Box::new(stream.split().0) as Input),
            stdout: stdout.map(|writer| Box::new(writer) as Output),
            stderr: stderr.map(|writer| Box::new(writer) as Output),
            resize: sizes,
        },
        report: Box::new(ErrorStream {
            writer: open.remove("error").map(output)?,
            version,
            ends,
        }),
        gone: connection.gone(),
    })
}

/// Reads a terminal's sizes: JSON objects, one after the other.
async fn read_sizes(mut stream: impl AsyncRead + Unpin, sizes: mpsc::Sender<TerminalSize>) {
    let mut message = Vec::new();
    while let Ok(byte) = stream.read_u8().await {
        message.push(byte);
        if byte == b'}' {
            if let Some(size) = terminal_size(message.trim_ascii()) {
                let _ = sizes.try_send(size);
            }
            message.clear();
        } else if message.len() >= RESIZE_MAX {
            return;
        }
    }
}

/// Forwards connections until the client closes its own. Each has a data and an error stream of one request.
async fn forward(runtime: &dyn StreamingRuntime, sandbox: &str, connection: &mut Connection) {
    let mut half_open: HashMap<String, (Stream, tokio::time::Instant)> = HashMap::new();
    let mut at_work = FuturesUnordered::new();
    let gone = connection.gone();
    loop {
        let stream = tokio::select! {
            stream = connection.next() => stream,
            Some(()) = at_work.next() => continue,
        };
        let Some(stream) = stream else { break };
        let request = request_of(&stream);
        half_open.retain(|_, (_, since)| since.elapsed() < STREAMS_TIMEOUT);
        let Some((other, _)) = half_open.remove(&request) else {
            if half_open.len() >= HALF_OPEN_MAX {
                tracing::debug!("a port-forward's client opens streams without their second halves");
                break;
            }
            half_open.insert(request, (stream, tokio::time::Instant::now()));
            continue;
        };
        let pair = match (kind(&stream), kind(&other)) {
            ("data", "error") => Some((stream, other)),
            ("error", "data") => Some((other, stream)),
            _ => None,
        };
        let port = pair
            .as_ref()
            .and_then(|(data, _)| data.headers.get("port")?.parse().ok());
        let (Some((data, error)), Some(port)) = (pair, port) else {
            tracing::debug!(request, "a port-forward's client opened streams that are no pair");
            break;
        };
        at_work.push(one_connection(runtime, sandbox, port, data, error));
    }
    // The client opens no more; what it has open goes on until its ends, or until the client itself is gone.
    let rest = async { while at_work.next().await.is_some() {} };
    gone.run_until_cancelled(rest).await;
}

async fn one_connection(runtime: &dyn StreamingRuntime, sandbox: &str, port: u16, data: Stream, error: Stream) {
    let (input, output) = data.split();
    let mut end = output.another();
    let report = ErrorStream {
        writer: error.split().1,
        version: 1,
        ends: Vec::new(),
    };
    let mut error_end = report.writer.another();
    let forwarded = ForwardedPort {
        port,
        stream: Box::new(tokio::io::join(input, output)),
        report: Box::new(report),
    };
    session::forward(runtime, sandbox, forwarded).await;
    let _ = error_end.shutdown().await;
    let _ = end.shutdown().await;
}

fn kind(stream: &Stream) -> &str {
    stream.headers.get("streamType").unwrap_or_default()
}

/// What a stream's other half is found by. Old clients give no id: their data stream follows its error stream.
fn request_of(stream: &Stream) -> String {
    match stream.headers.get("requestID") {
        Some(id) => id.to_owned(),
        None if kind(stream) == "data" => stream.number.saturating_sub(2).to_string(),
        None => stream.number.to_string(),
    }
}

/// The stream for the outcome. It ends last, after the outputs.
struct ErrorStream {
    writer: Writer,
    version: u8,
    ends: Vec<Writer>,
}

#[async_trait]
impl Report for ErrorStream {
    async fn report(mut self: Box<Self>, outcome: Outcome) {
        let text = if self.version >= 4 {
            Some(outcome.to_json())
        } else {
            outcome.to_text()
        };
        for mut output in self.ends.drain(..) {
            let _ = output.shutdown().await;
        }
        if let Some(text) = text {
            let _ = self.writer.write_all(text.as_bytes()).await;
        }
        let _ = self.writer.shutdown().await;
    }
}
