//! Images to and from registries and archives.

use std::io::{self, BufWriter, Write};

use apiserver::{Failure, Query};
use axum::{
    Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{StatusCode, header};
use image::{
    Reference,
    registry::{self, Credentials},
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Result, failure, lines, parse_reference};
use crate::node_api::NodeApi;

/// An archive goes out in pieces of so many bytes…
const CHUNK: usize = 128 << 10;
/// …of which so many wait for a slow reader.
const CHUNKS: usize = 2;

/// Which image, and who asks.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transfer {
    /// For a pull, its reference; for a push, any of its names.
    image: String,
    /// For a push: where to, under which name.
    destination: Option<String>,
    login: Option<Login>,
}

/// Who the caller is to the registry.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub enum Login {
    /// By name.
    Password {
        /// The name.
        username: String,
        /// Its password.
        password: String,
    },
    /// By a token for the registry's authorisation server.
    IdentityToken(String),
    /// By a token for the registry itself.
    RegistryToken(String),
}

impl From<Credentials> for Login {
    fn from(credentials: Credentials) -> Login {
        match credentials {
            Credentials::Password { name, password } => Login::Password {
                username: name,
                password,
            },
            Credentials::IdentityToken(token) => Login::IdentityToken(token),
            Credentials::RegistryToken(token) => Login::RegistryToken(token),
        }
    }
}

impl From<Login> for Credentials {
    fn from(login: Login) -> Credentials {
        match login {
            Login::Password { username, password } => Credentials::Password {
                name: username,
                password,
            },
            Login::IdentityToken(token) => Credentials::IdentityToken(token),
            Login::RegistryToken(token) => Credentials::RegistryToken(token),
        }
    }
}

/// `POST images:pull`: [`lines::ImageLine`]s.
pub async fn pull(State(api): State<NodeApi>, Json(mut transfer): Json<Transfer>) -> Result<Response> {
    let credentials = transfer.login.take().map(Credentials::from);
    let reference = parse_reference(&transfer.image)?;
    lines::answer(|mut reporter| async move {
        let pulled = api
            .registries
            .pull(&reference, credentials, |progress| reporter.report(progress));
        pulled.await.map_err(|error| refusal(&error))
    })
    .await
}

/// `POST images:push`: likewise.
pub async fn push(State(api): State<NodeApi>, Json(mut transfer): Json<Transfer>) -> Result<Response> {
    let credentials = transfer.login.take().map(Credentials::from);
    let image = api.images.get(&transfer.image).map_err(|error| failure(&error))?;
    let destination: Reference = parse_reference(transfer.destination.as_ref().unwrap_or(&transfer.image))?;
    lines::answer(|mut reporter| async move {
        let pushed = api
            .registries
            .push(&image, &destination, credentials, |progress| reporter.report(progress));
        pushed.await.map_err(|error| refusal(&error))?;
        Ok(image)
    })
    .await
}

/// `GET images:export?image=NAME&image=…`: an archive.
pub async fn export(State(api): State<NodeApi>, query: Query) -> Result<Response> {
    let mut images = Vec::new();
    for name in query.all("image") {
        let image = api.images.get(name).map_err(|error| failure(&error))?;
        images.push((name.parse().ok(), image));
    }
    if images.is_empty() {
        return Err(Failure::bad_request("image is missing"));
    }
    let (chunks, body) = mpsc::channel(CHUNKS);
    tokio::task::spawn_blocking(move || {
        let mut output = BufWriter::with_capacity(CHUNK, Chunks(chunks));
        let written = api.images.export(&images, &mut output);
        let flushed = written.map_err(io::Error::other).and_then(|()| output.flush());
        if let Err(error) = flushed {
            // The archive breaks off: its reader must not take it for a whole one.
            let _ = output.get_ref().0.blocking_send(Err(error));
        }
    });
    let body = Body::from_stream(ReceiverStream::new(body));
    Ok(([(header::CONTENT_TYPE, "application/x-tar")], body).into_response())
}

/// A body that a thread writes.
struct Chunks(mpsc::Sender<io::Result<Bytes>>);

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Why a registry's image did not come, or did not go, for a client.
fn refusal(error: &registry::Error) -> Failure {
    let message = error.to_string();
    match error {
        registry::Error::NotFound { .. } => Failure::not_found(message),
        registry::Error::Denied { .. } => Failure::with_code(StatusCode::FORBIDDEN, "Forbidden", message),
        registry::Error::Unavailable { .. } => {
            Failure::with_code(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", message)
        }
        registry::Error::Store { .. } => Failure::internal(message),
        _ => Failure::with_code(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_comes_as_it_was_sent() {
        let password = Credentials::Password {
            name: "me".into(),
            password: "secret".into(),
        };
        let token = |text: &str| text.to_owned();
        for credentials in [
            password,
            Credentials::IdentityToken(token("a")),
            Credentials::RegistryToken(token("b")),
        ] {
            let sent = serde_json::to_string(&Login::from(credentials.clone())).unwrap();
            let come: Login = serde_json::from_str(&sent).unwrap();
            assert_eq!(Credentials::from(come), credentials);
        }
    }
}
