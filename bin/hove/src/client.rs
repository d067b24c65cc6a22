//! A node's client: HTTP and WebSocket over its socket, a connection per request.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{self, client::IntoClientRequest},
};

/// The largest answer that is not a stream.
const ANSWER_MAX: usize = 64 << 20;

/// A body of a request.
pub type Body = BoxBody<Bytes, std::io::Error>;

/// A request's failure.
#[derive(Debug)]
pub enum Error {
    /// Nobody answers on the socket.
    NoNode(std::io::Error),
    /// The node refused, and said why in a `Status`.
    Refused {
        /// For programs.
        reason: String,
        /// For people.
        message: String,
    },
    /// The connection broke, or the answer is not one.
    Broken(String),
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NoNode(error) => write!(formatter, "no node answers: {error}"),
            Error::Refused { message, .. } => formatter.write_str(message),
            Error::Broken(what) => write!(
                formatter,
                "the node's answer broke off or can't be read ({what}): if it has ended, the next command starts one"
            ),
        }
    }
}

impl std::error::Error for Error {}

/// The result of a request.
pub type Result<T> = std::result::Result<T, Error>;

/// Where a node is to be found.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client of the node that owns `socket`.
    pub fn new(socket: impl Into<PathBuf>) -> Client {
        Client { socket: socket.into() }
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Sends a request and answers with its response, whose body is still to come. A refusal is an error.
    pub async fn send(&self, method: Method, path: &str, body: Body) -> Result<Response<Incoming>> {
        let connection = self.connect().await?;
        let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(connection))
            .await
            .map_err(broken)?;
        tokio::spawn(driver);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .body(body)
            .map_err(broken)?;
        let response = sender.send_request(request).await.map_err(broken)?;
        if response.status().is_success() {
            return Ok(response);
        }
        let code = response.status();
        Err(refusal(code, &collect(response.into_body()).await?))
    }

    /// Sends a request with a JSON body, or none, and reads the JSON answer.
    pub async fn json<T: DeserializeOwned>(&self, method: Method, path: &str, body: Option<&Value>) -> Result<T> {
        let bytes = body.map(|value| Bytes::from(value.to_string())).unwrap_or_default();
        let response = self.send(method, path, full(bytes)).await?;
        serde_json::from_slice(&collect(response.into_body()).await?).map_err(broken)
    }

    /// Reads an object or a list.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.json(Method::GET, path, None).await
    }

    /// Opens a streamed answer to be read by lines.
    pub async fn lines(&self, method: Method, path: &str, body: Bytes) -> Result<Lines> {
        let response = self.send(method, path, full(body)).await?;
        Ok(Lines {
            body: response.into_body(),
            buffer: Vec::new(),
        })
    }

    /// Opens a WebSocket with the subprotocol `protocol`.
    pub async fn websocket(&self, path: &str, protocol: &'static str) -> Result<WebSocketStream<UnixStream>> {
        let mut request = format!("ws://localhost{path}").into_client_request().map_err(broken)?;
        request.headers_mut().insert(
            header::SEC_WEBSOCKET_PROTOCOL,
            header::HeaderValue::from_static(protocol),
        );
        let connection = self.connect().await?;
        match tokio_tungstenite::client_async(request, connection).await {
            Ok((socket, _)) => Ok(socket),
            Err(tungstenite::Error::Http(response)) => {
                let code = StatusCode::from_u16(response.status().as_u16()).unwrap_or_default();
                Err(refusal(code, response.body().as_deref().unwrap_or_default()))
            }
            Err(error) => Err(broken(error)),
        }
    }

    async fn connect(&self) -> Result<UnixStream> {
        UnixStream::connect(&self.socket).await.map_err(Error::NoNode)
    }
}

/// An answer that comes line by line.
pub struct Lines {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Lines {
    /// The next line without its end, or `None` at the answer's end. A last line may lack its end. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.buffer.drain(..=end).collect();
                line.pop();
                return Ok(Some(line));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self
                    .buffer
                    .extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
                Some(Err(error)) => return Err(broken(error)),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Ok(Some(std::mem::take(&mut self.buffer))),
            }
        }
    }

    /// The next line as JSON.
    pub async fn json<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        match self.next().await? {
            Some(line) => serde_json::from_slice(&line).map(Some).map_err(broken),
            None => Ok(None),
        }
    }

    /// The next bytes as they come, or `None` at the end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        if !self.buffer.is_empty() {
            return Ok(Some(std::mem::take(&mut self.buffer).into()));
        }
        match self.body.frame().await {
            Some(Ok(frame)) => Ok(Some(frame.into_data().unwrap_or_default())),
            Some(Err(error)) => Err(broken(error)),
            None => Ok(None),
        }
    }
}

/// A body that is at hand.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// A path with its query.
pub fn path(base: &str, query: &[(&str, String)]) -> String {
    if query.is_empty() {
        return base.to_owned();
    }
    let query = form_urlencoded::Serializer::new(String::new())
        .extend_pairs(query)
        .finish();
    format!("{base}?{query}")
}

/// Where a pod is.
pub fn pod_path(namespace: &str, name: &str) -> String {
    format!("/api/v1/namespaces/{}/pods/{}", segment(namespace), segment(name))
}

/// A name as one segment of a path.
pub fn segment(name: &str) -> String {
    form_urlencoded::byte_serialize(name.as_bytes())
        .collect::<String>()
        .replace('+', "%20")
}

async fn collect(body: Incoming) -> Result<Bytes> {
    let limited = http_body_util::Limited::new(body, ANSWER_MAX);
    Ok(limited
        .collect()
        .await
        .map_err(|error| Error::Broken(error.to_string()))?
        .to_bytes())
}

fn refusal(code: StatusCode, body: &[u8]) -> Error {
    let status: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |field: &str| status[field].as_str().map(str::to_owned);
    let message = text("message").unwrap_or_else(|| {
        let body = String::from_utf8_lossy(body);
        if body.trim().is_empty() {
            code.to_string()
        } else {
            body.trim().to_owned()
        }
    });
    Error::Refused {
        reason: text("reason").unwrap_or_default(),
        message,
    }
}

fn broken(error: impl fmt::Display) -> Error {
    Error::Broken(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let query = [("command", "a b&c".to_owned()), ("command", "-l".to_owned())];
        assert_eq!(path("/x", &query), "/x?command=a+b%26c&command=-l");
        assert_eq!(pod_path("default", "a/b"), "/api/v1/namespaces/default/pods/a%2Fb");
    }

    #[test]
    fn refusals_speak_for_themselves() {
        let status = br#"{"kind":"Status","reason":"NotFound","message":"pods \"x\" not found"}"#;
        assert_eq!(
            refusal(StatusCode::NOT_FOUND, status).to_string(),
            "pods \"x\" not found"
        );
        assert_eq!(refusal(StatusCode::BAD_GATEWAY, b"").to_string(), "502 Bad Gateway");
        assert_eq!(refusal(StatusCode::BAD_REQUEST, b"no\n").to_string(), "no");
    }
}
