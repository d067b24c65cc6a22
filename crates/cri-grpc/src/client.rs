//! The client: the CRI's traits over somebody's socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use cri::{ImageService, RuntimeService, v1::*};
use futures_util::{StreamExt, TryStreamExt, stream::BoxStream};
use http::{Uri, uri::PathAndQuery};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::{
    client::Grpc,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use crate::{
    MAX_MESSAGE_BYTES,
    rpcs::{image_rpcs, runtime_rpcs},
    status::from_status,
};

/// A CRI runtime behind a unix socket. Clones share one connection, which is made again when it breaks.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
}

/// How long the head of a stream is waited for, in which a refusal would come. A server may send it with the first item only,
/// as containerd does, and of events the first may come much later.
const HEADERS_LIMIT: Duration = Duration::from_secs(1);

/// Nobody answers at an endpoint.
#[derive(Debug, thiserror::Error)]
#[error("no CRI runtime answers at {endpoint}: {reason}")]
pub struct ConnectError {
    endpoint: String,
    reason: String,
}

impl Client {
    /// Connects to `endpoint`: `unix:///run/hove/hove.sock`, as kubelet and crictl write it, or the bare path.
    ///
    /// # Errors
    /// The endpoint is no unix socket, or nobody accepts there.
    pub async fn connect(endpoint: &str) -> Result<Client, ConnectError> {
        let failed = |reason: String| ConnectError {
            endpoint: endpoint.to_owned(),
            reason,
        };
        let path = endpoint.strip_prefix("unix://").unwrap_or(endpoint);
        if !Path::new(path).is_absolute() {
            return Err(failed("an endpoint is unix:// and an absolute path".to_owned()));
        }
        let path = PathBuf::from(path);
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The authority that every client of the field sends; a socket's path is none.
        let channel = Endpoint::from_static("http://localhost")
            .connect_with_connector(connector)
            .await
            .map_err(|error| failed(innermost(&error)))?;
        Ok(Client { channel })
    }

    async fn unary<Q, A>(&self, path: &'static str, request: Q) -> cri::Result<A>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let mut grpc = self.ready().await?;
        let answer = grpc
            .unary(
                tonic::Request::new(request),
                PathAndQuery::from_static(path),
                ProstCodec::<Q, A>::new(),
            )
            .await;
        answer.map(tonic::Response::into_inner).map_err(from_status)
    }

    async fn stream<Q, A>(&self, path: &'static str, request: Q) -> cri::Result<BoxStream<'static, cri::Result<A>>>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let mut grpc = self.ready().await?;
        let mut call = Box::pin(async move {
            let answer = grpc.server_streaming(
                tonic::Request::new(request),
                PathAndQuery::from_static(path),
                ProstCodec::<Q, A>::new(),
            );
            let items = answer.await.map_err(from_status)?.into_inner();
            Ok(items.map(|item| item.map_err(from_status)).boxed())
        });
        match tokio::time::timeout(HEADERS_LIMIT, &mut call).await {
            Ok(begun) => begun,
            Err(_) => Ok(futures_util::stream::once(call).try_flatten().boxed()),
        }
    }

    async fn ready(&self) -> cri::Result<Grpc<Channel>> {
        let mut grpc = Grpc::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let ready = grpc.ready().await;
        ready.map_err(|error| cri::Error::new(cri::ErrorKind::Unavailable, innermost(&error)))?;
        Ok(grpc)
    }
}

macro_rules! answer {
    (unary $response:ty) => { cri::Result<$response> };
    (stream $response:ty) => { cri::Result<BoxStream<'static, cri::Result<$response>>> };
}

macro_rules! call {
    ($service:ident $name:literal; $($kind:ident $rpc:literal $method:ident($request:ty) -> $response:ty;)*) => {
        #[async_trait]
        impl $service for Client {
            $(async fn $method(&self, request: $request) -> answer!($kind $response) {
                self.$kind(concat!("/", $name, "/", $rpc), request).await
            })*
        }
    };
}

runtime_rpcs!(call);
image_rpcs!(call);

/// What the transport's error is about; its own words are “transport error”.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
