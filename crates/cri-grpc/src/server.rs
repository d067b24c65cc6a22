//! The server: a request's path names the call, the call's method answers.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use cri::{ImageService, RuntimeService, v1::*};
use futures_util::{
    FutureExt, Stream, StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use http::{HeaderMap, Request, Response};
use tokio::net::{UnixListener, UnixStream};
use tonic::{Status, body::Body, server::Grpc};
use tonic_prost::ProstCodec;

use crate::{
    MAX_CONCURRENT_CALLS, MAX_MESSAGE_BYTES,
    rpcs::{image_rpcs, runtime_rpcs},
    status::to_status,
};

/// Who answers.
#[derive(Clone)]
pub struct Services {
    /// `runtime.v1.RuntimeService`.
    pub runtime: Arc<dyn RuntimeService>,
    /// `runtime.v1.ImageService`.
    pub images: Arc<dyn ImageService>,
}

/// How long nobody is accepted after somebody could not be.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Answers everyone who connects to `listener` until `stop` is there, then the calls in flight, and returns.
///
/// # Errors
/// The listener's own failure.
pub async fn serve(
    listener: UnixListener,
    services: Services,
    stop: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    tonic::transport::Server::builder()
        .max_concurrent_streams(MAX_CONCURRENT_CALLS)
        .serve_with_incoming_shutdown(Calls(services), connections(listener), stop)
        .await
}

/// Who connects. Without a descriptor for the next one there is a pause, not the same error again and again.
fn connections(listener: UnixListener) -> impl Stream<Item = std::io::Result<UnixStream>> {
    stream::unfold(listener, |listener| async {
        loop {
            match listener.accept().await {
                Ok((connection, _)) => return Some((Ok(connection), listener)),
                Err(error) => {
                    tracing::warn!(%error, "a client has to wait");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    })
}

/// Both services as one HTTP service.
#[derive(Clone)]
struct Calls(Services);

impl tower::Service<Request<Body>> for Calls {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let services = self.0.clone();
        async move { Ok(answer(services, request).await) }.boxed()
    }
}

/// So much earlier than the client's deadline a call ends here, or by a tenth of what it was given: tonic ends it at the deadline, and
/// says that it was cancelled.
const AHEAD: Duration = Duration::from_millis(5);

/// One call, within the client's own deadline. What the deadline cuts off goes on where it must: a sandbox is made by
/// its owner, and the same request repeated finds it.
async fn answer(services: Services, request: Request<Body>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let deadline = deadline(request.headers());
    let began = Instant::now();
    let call = dispatch(services, &path, request);
    let response = match deadline {
        None => call.await,
        Some(limit) => match tokio::time::timeout(limit.saturating_sub(AHEAD.min(limit / 10)), call).await {
            Ok(response) => response,
            Err(_) => {
                Status::deadline_exceeded(format!("{path} took longer than the {limit:?} its caller gave")).into_http()
            }
        },
    };
    // A failed call has its code in the headers, since no message precedes it.
    let code = Status::from_header_map(response.headers()).map(|status| status.code());
    tracing::debug!(call = path, took = ?began.elapsed(), failed = ?code, "answered");
    response
}

async fn dispatch(services: Services, path: &str, request: Request<Body>) -> Response<Body> {
    type Runtime = Arc<dyn RuntimeService>;
    type Images = Arc<dyn ImageService>;
    match path.trim_start_matches('/').split_once('/') {
        Some((Runtime::NAME, rpc)) => services.runtime.dispatch(rpc, request).await,
        Some((Images::NAME, rpc)) => services.images.dispatch(rpc, request).await,
        _ => unknown(path),
    }
}

fn unknown(call: &str) -> Response<Body> {
    Status::unimplemented(format!("{call} is no call of runtime.v1 at the level of cri-api v0.36")).into_http()
}

/// How long the client waits for the answer, as it said in its `grpc-timeout`: up to eight digits and a unit.
fn deadline(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let amount = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(amount * 3600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

/// A service that answers calls by the last part of their path.
trait Dispatch {
    /// The first part of the path.
    const NAME: &'static str;

    fn dispatch(self, rpc: &str, request: Request<Body>) -> impl Future<Output = Response<Body>> + Send;
}

macro_rules! dispatch {
    ($service:ident $name:literal; $($kind:ident $rpc:literal $method:ident($request:ty) -> $response:ty;)*) => {
        impl Dispatch for Arc<dyn $service> {
            const NAME: &'static str = $name;

            async fn dispatch(self, rpc: &str, request: Request<Body>) -> Response<Body> {
                match rpc {
                    $($rpc => {
                        let method = move |message: $request| {
                            let service = self.clone();
                            async move { service.$method(message).await }
                        };
                        $kind(method, request).await
                    })*
                    _ => unknown(rpc),
                }
            }
        }
    };
}

runtime_rpcs!(dispatch);
image_rpcs!(dispatch);

/// A call with one answer.
async fn unary<Q, A, F>(method: impl Fn(Q) -> F + Send, request: Request<Body>) -> Response<Body>
where
    Q: prost::Message + Default + 'static,
    A: prost::Message + 'static,
    F: Future<Output = cri::Result<A>> + Send,
{
    let method = tower::service_fn(|message: tonic::Request<Q>| {
        let answer = method(message.into_inner());
        async move { answer.await.map(tonic::Response::new).map_err(to_status) }
    });
    codec::<Q, A>().unary(method, request).await
}

/// A call whose answer is a stream.
async fn stream<Q, A, F>(method: impl Fn(Q) -> F + Send, request: Request<Body>) -> Response<Body>
where
    Q: prost::Message + Default + 'static,
    A: prost::Message + 'static,
    F: Future<Output = cri::Result<BoxStream<'static, cri::Result<A>>>> + Send,
{
    let method = tower::service_fn(|message: tonic::Request<Q>| {
        let answer = method(message.into_inner());
        async move {
            let items = answer.await.map_err(to_status)?;
            Ok(tonic::Response::new(items.map(|item| item.map_err(to_status)).boxed()))
        }
    });
    codec::<Q, A>().server_streaming(method, request).await
}

fn codec<Q, A>() -> Grpc<ProstCodec<A, Q>>
where
    Q: prost::Message + Default + 'static,
    A: prost::Message + 'static,
{
    Grpc::new(ProstCodec::new())
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clients_deadline_is_read() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            deadline(&headers)
        };
        assert_eq!(read("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(read("90000m"), Some(Duration::from_secs(90)));
        assert_eq!(read("99999999n"), Some(Duration::from_nanos(99_999_999)));
        for wrong in ["", "S", "12", "123456789S", "-1S", "1é"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        assert_eq!(deadline(&HeaderMap::new()), None);
    }
}
