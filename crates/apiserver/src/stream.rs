//! Exec, attach and port-forward: the CRI gives a URL, and the client's upgraded connection is joined with one to there,
//! as kubelet does it. No byte of what flows is looked at, so every protocol that the runtime serves works here.

use axum::{
    body::Body,
    extract::{Path, Request, State},
    response::Response,
};
use cri::v1::{
    AttachRequest, ExecRequest, ListPodSandboxRequest, PodSandboxFilter, PodSandboxState, PortForwardRequest,
};
use http::{HeaderMap, HeaderName, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use tokio::{io::copy_bidirectional, net::TcpStream};

use crate::{
    Api, Query,
    containers::{self, RunningContainer},
    failure::{Failure, Result},
};

/// The headers of an upgrade that are the client's business with the runtime.
const FORWARDED: [HeaderName; 7] = [
    header::CONNECTION,
    header::UPGRADE,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_VERSION,
    header::SEC_WEBSOCKET_PROTOCOL,
    header::SEC_WEBSOCKET_EXTENSIONS,
    HeaderName::from_static("x-stream-protocol-version"),
];

/// `…/pods/NAME/exec`.
pub async fn exec(
    State(api): State<Api>,
    RunningContainer(container_id): RunningContainer,
    query: Query,
    request: Request,
) -> Result<Response> {
    let cmd: Vec<String> = query.all("command").map(Into::into).collect();
    if cmd.is_empty() {
        return Err(Failure::bad_request(
            "you must specify at least one command for the container",
        ));
    }
    let wanted = Streams::of(&query)?;
    let response = api
        .runtime
        .exec(ExecRequest {
            container_id,
            cmd,
            tty: wanted.tty,
            stdin: wanted.stdin,
            stdout: wanted.stdout,
            stderr: wanted.stderr,
        })
        .await?;
    proxy(&response.url, request).await
}

/// `…/pods/NAME/attach`.
pub async fn attach(
    State(api): State<Api>,
    RunningContainer(container_id): RunningContainer,
    query: Query,
    request: Request,
) -> Result<Response> {
    let wanted = Streams::of(&query)?;
    let response = api
        .runtime
        .attach(AttachRequest {
            container_id,
            stdin: wanted.stdin,
            tty: wanted.tty,
            stdout: wanted.stdout,
            stderr: wanted.stderr,
        })
        .await?;
    proxy(&response.url, request).await
}

/// `…/pods/NAME/portforward`. SPDY clients name the ports in their streams, WebSocket clients in `ports`.
pub async fn port_forward(
    State(api): State<Api>,
    Path((namespace, name)): Path<(String, String)>,
    query: Query,
    request: Request,
) -> Result<Response> {
    let found = containers::find_pod(&api, &namespace, &name)?;
    let mut port = Vec::new();
    for text in query
        .all("ports")
        .flat_map(|list| list.split(','))
        .filter(|text| !text.is_empty())
    {
        let number: u16 = text
            .parse()
            .map_err(|_| Failure::bad_request(format!("ports={text}: want 1 to 65535")))?;
        port.push(i32::from(number));
    }
    let filter = PodSandboxFilter {
        label_selector: [("io.kubernetes.pod.uid".to_owned(), found.uid.clone())].into(),
        ..Default::default()
    };
    let sandboxes = api
        .runtime
        .list_pod_sandbox(ListPodSandboxRequest { filter: Some(filter) })
        .await?
        .items;
    let ready = sandboxes
        .into_iter()
        .find(|sandbox| sandbox.state() == PodSandboxState::SandboxReady);
    let ready = ready.ok_or_else(|| Failure::bad_request(format!("pod {name} is not running: it has no sandbox")))?;
    let response = api
        .runtime
        .port_forward(PortForwardRequest {
            pod_sandbox_id: ready.id,
            port,
        })
        .await?;
    proxy(&response.url, request).await
}

struct Streams {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Streams {
    /// A terminal has one output; kubectl asks for stderr all the same in some versions.
    fn of(query: &Query) -> Result<Streams> {
        let tty = query.flag("tty")?;
        let streams = Streams {
            stdin: query.flag("stdin")?,
            stdout: query.flag("stdout")?,
            stderr: query.flag("stderr")? && !tty,
            tty,
        };
        if !(streams.stdin || streams.stdout || streams.stderr) {
            return Err(Failure::bad_request(
                "you must specify at least one of stdin, stdout, stderr",
            ));
        }
        Ok(streams)
    }
}

/// Sends the client's upgrade to `url`; when that is accepted, joins the two connections.
async fn proxy(url: &str, mut request: Request) -> Result<Response> {
    let unreachable = |what: &str, error: &dyn std::fmt::Display| {
        Failure::with_code(
            StatusCode::BAD_GATEWAY,
            "InternalError",
            format!("{url}: {what}: {error}"),
        )
    };
    let uri: Uri = url
        .parse()
        .map_err(|error| unreachable("the runtime's streaming URL", &error))?;
    let authority = match (uri.scheme_str(), uri.authority()) {
        (Some("http"), Some(authority)) => authority.clone(),
        _ => {
            return Err(unreachable(
                "the runtime's streaming URL",
                &"only http://HOST:PORT/… is served",
            ));
        }
    };
    let address = (authority.host().to_owned(), authority.port_u16().unwrap_or(80));
    let connection = TcpStream::connect(address)
        .await
        .map_err(|error| unreachable("connect", &error))?;
    // Keystrokes and their echo are small.
    let _ = connection.set_nodelay(true);
    let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(connection))
        .await
        .map_err(|error| unreachable("handshake", &error))?;
    tokio::spawn(driver.with_upgrades());

    let mut upstream = http::Request::builder()
        .method(request.method().clone())
        .uri(uri.path_and_query().map_or("/", |path| path.as_str()))
        .header(header::HOST, authority.as_str())
        .body(Body::empty())
        .map_err(|error| unreachable("request", &error))?;
    copy_headers(request.headers(), upstream.headers_mut());
    let mut answer = sender
        .send_request(upstream)
        .await
        .map_err(|error| unreachable("request", &error))?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (parts, body) = answer.into_parts();
        let mut response = Response::new(Body::new(body));
        *response.status_mut() = parts.status;
        return Ok(response);
    }

    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = std::mem::take(answer.headers_mut());
    let (client, runtime) = (hyper::upgrade::on(&mut request), hyper::upgrade::on(answer));
    tokio::spawn(async move {
        match tokio::try_join!(client, runtime) {
            Ok((client, runtime)) => {
                // An error is one side's sudden end: both are closed, and that says it.
                let _ = copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(runtime)).await;
            }
            Err(error) => tracing::debug!(%error, "a streaming client left before its upgrade"),
        }
    });
    Ok(response)
}

fn copy_headers(from: &HeaderMap, to: &mut HeaderMap) {
    for name in FORWARDED {
        for value in from.get_all(&name) {
            to.append(name.clone(), value.clone());
        }
    }
}
