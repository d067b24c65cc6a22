//! WebSocket clients: RFC 6455's handshake, then one of the `channel.k8s.io` subprotocols.
//!
//! - [`dialect`]: the subprotocols and their frames (pure).
//! - [`tunnel`]: SPDY inside a WebSocket, for port-forward.
//! - [`pump`]: the connection's two halves, and the streams made of them.

pub(crate) mod dialect;
mod pump;
mod tunnel;

use std::sync::Arc;

use axum::{body::Body, extract::Request, response::Response};
use cri::streaming::StreamingRuntime;
use http::{HeaderMap, Method, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        handshake::derive_accept_key,
        protocol::{Role, WebSocketConfig},
    },
};

use self::{
    dialect::{Dialect, FRAME_MAX},
    pump::Connection,
};
use crate::{session, spdy, tickets::Work};

/// The largest message that a client may send. kubectl's are at most 32 KiB.
const MESSAGE_MAX: usize = 1 << 20;

/// A client's opening request that can be accepted.
pub struct Handshake {
    accept_key: String,
    subprotocol: Subprotocol,
    on_upgrade: OnUpgrade,
}

/// What the messages carry.
enum Subprotocol {
    Channels(Dialect),
    Spdy,
}

impl Handshake {
    /// Checks the request; the error is a sentence for the client.
    pub fn of(mut request: Request, verb: &str) -> Result<Handshake, String> {
        if request.method() != Method::GET {
            return Err("a WebSocket is opened by GET".into());
        }
        let headers = request.headers();
        if headers
            .get(header::SEC_WEBSOCKET_VERSION)
            .is_none_or(|version| version != "13")
        {
            return Err("Sec-WebSocket-Version must be 13".into());
        }
        let key = headers
            .get(header::SEC_WEBSOCKET_KEY)
            .ok_or("Sec-WebSocket-Key is missing")?;
        let accept_key = derive_accept_key(key.as_bytes());
        let offered = offered(headers);
        let subprotocol = match verb {
            "portforward" if offered.contains(&tunnel::PROTOCOL) => Subprotocol::Spdy,
            _ => Subprotocol::Channels(Dialect::choose(offered)?),
        };
        Ok(Handshake {
            accept_key,
            subprotocol,
            on_upgrade: hyper::upgrade::on(&mut request),
        })
    }

    /// Answers 101, and starts `work` on the connection.
    pub fn accept(self, runtime: Arc<dyn StreamingRuntime>, work: Work) -> Response {
        let Handshake {
            accept_key,
            subprotocol,
            on_upgrade,
        } = self;
        let name = match &subprotocol {
            Subprotocol::Channels(dialect) => dialect.name(),
            Subprotocol::Spdy => Some(tunnel::PROTOCOL),
        };
        tokio::spawn(async move {
            let upgraded = match on_upgrade.await {
                Ok(upgraded) => TokioIo::new(upgraded),
                Err(error) => return tracing::debug!(%error, "a streaming client left before its upgrade"),
            };
            let config = WebSocketConfig::default()
                .read_buffer_size(FRAME_MAX)
                .write_buffer_size(0)
                .max_message_size(Some(MESSAGE_MAX))
                .max_frame_size(Some(MESSAGE_MAX));
            let socket = WebSocketStream::from_raw_socket(upgraded, Role::Server, Some(config)).await;
            match subprotocol {
                Subprotocol::Channels(dialect) => serve(runtime.as_ref(), work, Connection::new(socket, dialect)).await,
                Subprotocol::Spdy => spdy::forward_over(runtime.as_ref(), work, tunnel::open(socket)).await,
            }
        });
        let mut response = Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_ACCEPT, accept_key);
        if let Some(name) = name {
            response = response.header(header::SEC_WEBSOCKET_PROTOCOL, name);
        }
        response.body(Body::empty()).unwrap_or_default()
    }
}

async fn serve<S>(runtime: &dyn StreamingRuntime, work: Work, mut connection: Connection<S>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    match work {
        Work::Command(command) => {
            let streams = connection.command(command.wanted());
            let running = connection.run();
            session::run(runtime, command, streams).await;
            running.finish().await;
        }
        Work::PortForward(request) => {
            let forwarded: Vec<_> = request
                .port
                .iter()
                .filter_map(|port| u16::try_from(*port).ok())
                .map(|port| connection.forward(port))
                .collect();
            let running = connection.run();
            let work = forwarded
                .into_iter()
                .map(|one| session::forward(runtime, &request.pod_sandbox_id, one));
            futures_util::future::join_all(work).await;
            running.finish().await;
        }
    }
}

/// The subprotocols that the client offers, in its order of preference.
fn offered(headers: &HeaderMap) -> Vec<&str> {
    headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .collect()
}
