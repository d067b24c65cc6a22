//! Server and client over a real socket: what is sent arrives, errors keep their kind, deadlines and limits hold, and
//! whoever does not speak the protocol harms nobody.
#![allow(clippy::unwrap_used)]

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use cri::{Error, ErrorKind, ImageService, Result, RuntimeService, v1::*};
use cri_grpc::{Client, MAX_MESSAGE_BYTES, Services, serve};
use futures_util::{StreamExt, stream::BoxStream};
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::{Notify, oneshot},
    task::JoinHandle,
};
use tonic::{Code, Status};

/// Answers with what it was asked.
#[derive(Default)]
struct Echo {
    /// Tells that a call that never ends was given up.
    given_up: Arc<Notify>,
}

#[async_trait]
impl RuntimeService for Echo {
    async fn version(&self, request: VersionRequest) -> Result<VersionResponse> {
        Ok(VersionResponse {
            version: request.version,
            runtime_name: "echo".to_owned(),
            ..Default::default()
        })
    }

    async fn container_status(&self, request: ContainerStatusRequest) -> Result<ContainerStatusResponse> {
        Err(Error::not_found(format_args!("container {}", request.container_id)))
    }

    async fn exec_sync(&self, request: ExecSyncRequest) -> Result<ExecSyncResponse> {
        let length = request.cmd[0].parse().unwrap();
        Ok(ExecSyncResponse {
            stdout: vec![b'x'; length],
            ..Default::default()
        })
    }

    async fn stop_container(&self, _request: StopContainerRequest) -> Result<StopContainerResponse> {
        struct GivenUp(Arc<Notify>);
        impl Drop for GivenUp {
            fn drop(&mut self) {
                self.0.notify_one();
            }
        }
        let _told = GivenUp(self.given_up.clone());
        std::future::pending().await
    }

    async fn stream_containers(
        &self,
        _request: StreamContainersRequest,
    ) -> Result<BoxStream<'static, Result<StreamContainersResponse>>> {
        let items = vec![
            Ok(Default::default()),
            Ok(Default::default()),
            Err(Error::invalid("third")),
        ];
        Ok(futures_util::stream::iter(items).boxed())
    }
}

#[async_trait]
impl ImageService for Echo {}

struct Served {
    directory: tempfile::TempDir,
    echo: Arc<Echo>,
    stop: oneshot::Sender<()>,
    server: JoinHandle<std::result::Result<(), tonic::transport::Error>>,
}

impl Served {
    fn start() -> Served {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("cri.sock")).unwrap();
        let echo = Arc::new(Echo::default());
        let services = Services {
            runtime: echo.clone(),
            images: echo.clone(),
        };
        let (stop, stopped) = oneshot::channel();
        let server = tokio::spawn(serve(listener, services, async move {
            let _ = stopped.await;
        }));
        Served {
            directory,
            echo,
            stop,
            server,
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("cri.sock")
    }

    async fn client(&self) -> Client {
        Client::connect(&format!("unix://{}", self.path().display()))
            .await
            .unwrap()
    }
}

fn version(text: &str) -> VersionRequest {
    VersionRequest {
        version: text.to_owned(),
    }
}

fn output(bytes: usize) -> ExecSyncRequest {
    ExecSyncRequest {
        cmd: vec![bytes.to_string()],
        ..Default::default()
    }
}

#[tokio::test]
async fn what_is_sent_arrives() {
    let served = Served::start();
    let client = served.client().await;
    let answer = client.version(version("v1")).await.unwrap();
    assert_eq!((answer.version.as_str(), answer.runtime_name.as_str()), ("v1", "echo"));

    let error = client
        .container_status(ContainerStatusRequest {
            container_id: "3f".to_owned(),
            ..Default::default()
        })
        .await
        .unwrap_err();
    assert_eq!(error, Error::not_found("container 3f"));

    let error = client.status(StatusRequest::default()).await.unwrap_err();
    assert_eq!(error, Error::unimplemented("Status"));
    let error = client.list_images(ListImagesRequest::default()).await.unwrap_err();
    assert_eq!(error, Error::unimplemented("ListImages"));

    let mut items = client
        .stream_containers(StreamContainersRequest::default())
        .await
        .unwrap();
    assert!(items.next().await.unwrap().is_ok());
    assert!(items.next().await.unwrap().is_ok());
    assert_eq!(items.next().await.unwrap().unwrap_err(), Error::invalid("third"));
    assert!(items.next().await.is_none());
}

#[tokio::test]
async fn sixteen_mebibytes_pass_and_no_more() {
    let served = Served::start();
    let client = served.client().await;
    let most = MAX_MESSAGE_BYTES - 64;
    assert_eq!(client.exec_sync(output(most)).await.unwrap().stdout.len(), most);
    assert!(client.exec_sync(output(MAX_MESSAGE_BYTES + 1)).await.is_err());
    assert!(
        client
            .version(version(&"v".repeat(MAX_MESSAGE_BYTES + 1)))
            .await
            .is_err()
    );
    assert!(
        client.version(version("v1")).await.is_ok(),
        "the connection is as good as before"
    );
}

#[tokio::test]
async fn a_deadline_is_the_clients_and_ends_the_call() {
    let served = Served::start();
    // By hand: tonic's client would keep the deadline itself.
    let stream = TokioIo::new(UnixStream::connect(served.path()).await.unwrap());
    let (mut connection, driver) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream)
        .await
        .unwrap();
    let driver = tokio::spawn(driver);
    let empty_message = Bytes::from_static(&[0; 5]);
    let request = http::Request::post("http://localhost/runtime.v1.RuntimeService/StopContainer")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", "50m")
        .body(Full::new(empty_message))
        .unwrap();
    let response = connection.send_request(request).await.unwrap();
    let status = Status::from_header_map(response.headers()).unwrap();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    driver.abort();
    served.echo.given_up.notified().await;
}

#[tokio::test]
async fn garbage_ends_its_own_connection_only() {
    let served = Served::start();
    let client = served.client().await;
    for garbage in [
        &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        &[0; 4096],
        b"",
    ] {
        let mut stream = UnixStream::connect(served.path()).await.unwrap();
        // Whoever ends the connection first: it does end.
        let _ = stream.write_all(garbage).await;
        let _ = stream.shutdown().await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
    assert!(client.version(version("v1")).await.is_ok());
}

#[tokio::test]
async fn an_endpoint_where_nobody_is_says_so() {
    let error = Client::connect("unix:///nowhere/cri.sock")
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("unix:///nowhere/cri.sock") && error.contains("No such file"),
        "{error}"
    );
    let error = Client::connect("tcp://127.0.0.1:1").await.unwrap_err().to_string();
    assert!(error.contains("absolute path"), "{error}");
}

#[tokio::test]
async fn a_server_that_stops_answers_what_it_was_asked() {
    let served = Served::start();
    let client = served.client().await;
    client.version(version("v1")).await.unwrap();
    served.stop.send(()).unwrap();
    drop(client);
    served.server.await.unwrap().unwrap();
    let error = Client::connect(&served.directory.path().join("cri.sock").display().to_string())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn a_client_finds_a_server_that_came_back() {
    let served = Served::start();
    let client = served.client().await;
    client.version(version("v1")).await.unwrap();
    served.server.abort();
    let _ = served.server.await;
    // The listener is gone; calls fail and say that it is not their fault.
    let error = loop {
        // A call that was under way on the old connection may end as that does.
        let error = client.version(version("v1")).await.unwrap_err();
        if error.kind == ErrorKind::Unavailable {
            break error;
        }
    };
    assert!(!error.message.is_empty());

    std::fs::remove_file(served.directory.path().join("cri.sock")).unwrap();
    let listener = UnixListener::bind(served.directory.path().join("cri.sock")).unwrap();
    let services = Services {
        runtime: served.echo.clone(),
        images: served.echo.clone(),
    };
    let again = tokio::spawn(serve(listener, services, std::future::pending()));
    assert!(client.version(version("v1")).await.is_ok());
    again.abort();
}
