//! The listener: tickets in, protocols out.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use axum::{
    Router,
    body::Body,
    extract::{Path, Request, State},
    response::{IntoResponse, Response},
    routing::any,
};
use cri::{
    ErrorKind,
    streaming::{StreamingRuntime, StreamingUrls},
    v1::{AttachRequest, ExecRequest, PortForwardRequest},
};
use http::{StatusCode, header};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    serve::serve,
    session::Command,
    spdy,
    tickets::{Error, Tickets, Work},
    websocket,
};

/// A streaming server; it stops when this is dropped. Sessions that run go on until their own end.
pub struct Server {
    address: SocketAddr,
    tickets: Arc<Mutex<Tickets>>,
    _stop: DropGuard,
}

#[derive(Clone)]
struct Shared {
    tickets: Arc<Mutex<Tickets>>,
    runtime: Arc<dyn StreamingRuntime>,
}

impl Server {
    /// Listens on `address` (port 0: any free port) and serves `runtime`'s streams.
    ///
    /// # Errors
    /// Those of `bind(2)`.
    pub async fn bind(address: SocketAddr, runtime: Arc<dyn StreamingRuntime>) -> std::io::Result<Server> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let tickets = Arc::new(Mutex::new(Tickets::default()));
        // GET and POST: SPDY clients post, WebSocket clients get.
        let router = Router::new()
            .route("/exec/{ticket}", any(connect))
            .route("/attach/{ticket}", any(connect))
            .route("/portforward/{ticket}", any(connect))
            .with_state(Shared {
                tickets: tickets.clone(),
                runtime,
            });
        let stop = CancellationToken::new();
        tokio::spawn(serve(listener, router, stop.clone()));
        Ok(Server {
            address,
            tickets,
            _stop: stop.drop_guard(),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn url(&self, verb: &str, work: Work) -> cri::Result<String> {
        let ticket = lock(&self.tickets)
            .issue(work, Instant::now())
            .map_err(|error| match error {
                Error::Full => cri::Error::new(ErrorKind::ResourceExhausted, error.to_string()),
                Error::Random(_) => cri::Error::internal(error.to_string()),
            })?;
        Ok(format!("http://{}/{verb}/{ticket}", self.address))
    }
}

impl StreamingUrls for Server {
    fn exec(&self, request: ExecRequest) -> cri::Result<String> {
        self.url("exec", Work::Command(Command::Exec(request)))
    }

    fn attach(&self, request: AttachRequest) -> cri::Result<String> {
        self.url("attach", Work::Command(Command::Attach(request)))
    }

    fn port_forward(&self, request: PortForwardRequest) -> cri::Result<String> {
        self.url("portforward", Work::PortForward(request))
    }
}

/// A client shows its ticket. The protocol is decided first: a request that can't be served leaves the ticket as it is.
async fn connect(State(shared): State<Shared>, Path(ticket): Path<String>, request: Request) -> Response {
    let Some(upgrade) = request
        .headers()
        .get(header::UPGRADE)
        .and_then(|value| value.to_str().ok())
    else {
        return refuse(
            StatusCode::BAD_REQUEST,
            "this URL is for clients that upgrade the connection to WebSocket",
        );
    };
    let verb = request.uri().path().split('/').nth(1).unwrap_or_default().to_owned();
    let handshake = if upgrade.eq_ignore_ascii_case(spdy::PROTOCOL) {
        spdy::Handshake::of(request, &verb).map(Handshake::Spdy)
    } else if upgrade.eq_ignore_ascii_case("websocket") {
        websocket::Handshake::of(request, &verb)
            .map(Handshake::WebSocket)
            .map_err(|why| Box::new(refuse(StatusCode::BAD_REQUEST, why)))
    } else {
        let message = format!(
            "unable to upgrade: {upgrade} is not served; WebSocket and {} are",
            spdy::PROTOCOL
        );
        return refuse(StatusCode::BAD_REQUEST, message);
    };
    let handshake = match handshake {
        Ok(handshake) => handshake,
        Err(refusal) => return *refusal,
    };
    // A ticket of one verb shown at another's path would not be found by anyone honest: no check is worth its lines.
    let Some(work) = lock(&shared.tickets).redeem(&ticket, Instant::now()) else {
        return refuse(
            StatusCode::NOT_FOUND,
            "this streaming URL was used already, or is older than a minute",
        );
    };
    match handshake {
        Handshake::Spdy(handshake) => handshake.accept(shared.runtime, work),
        Handshake::WebSocket(handshake) => handshake.accept(shared.runtime, work),
    }
}

/// A request that can be accepted, by its protocol.
enum Handshake {
    Spdy(spdy::Handshake),
    WebSocket(websocket::Handshake),
}

fn refuse(status: StatusCode, message: impl Into<Body>) -> Response {
    (status, Body::into_response(message.into())).into_response()
}

/// No code that holds the lock can panic half-way through a change.
fn lock(tickets: &Mutex<Tickets>) -> MutexGuard<'_, Tickets> {
    tickets.lock().unwrap_or_else(PoisonError::into_inner)
}
