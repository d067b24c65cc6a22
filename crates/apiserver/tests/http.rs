//! The API over a real socket: objects in a real store, containers that are files and processes of this machine.

#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use apiserver::Api;
use async_trait::async_trait;
use bytes::Bytes;
use cri::{
    RuntimeService,
    streaming::{Duplex, StreamIo, StreamingRuntime, StreamingUrls},
    v1::*,
};
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use k8s_openapi::jiff::Timestamp;
use objects::{Key, Kind};
use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::Mutex,
    time::timeout,
};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

/// A runtime whose containers are entries of a map.
#[derive(Default)]
struct Containers {
    all: Mutex<Vec<ContainerStatus>>,
    urls: std::sync::OnceLock<streaming::Server>,
}

impl Containers {
    async fn set(&self, status: ContainerStatus) {
        let mut all = self.all.lock().await;
        all.retain(|other| other.id != status.id);
        all.push(status);
    }
}

#[async_trait]
impl RuntimeService for Containers {
    async fn list_containers(&self, request: ListContainersRequest) -> cri::Result<ListContainersResponse> {
        let wanted = request.filter.unwrap_or_default().label_selector;
        let all = self.all.lock().await;
        let matching = all
            .iter()
            .filter(|status| wanted.iter().all(|(key, value)| status.labels.get(key) == Some(value)));
        let containers = matching
            .map(|status| Container {
                id: status.id.clone(),
                metadata: status.metadata.clone(),
                state: status.state,
                ..Default::default()
            })
            .collect();
        Ok(ListContainersResponse { containers })
    }

    async fn container_status(&self, request: ContainerStatusRequest) -> cri::Result<ContainerStatusResponse> {
        let all = self.all.lock().await;
        let status = all.iter().find(|status| status.id == request.container_id).cloned();
        let status = status.ok_or_else(|| cri::Error::not_found(format!("container {}", request.container_id)))?;
        Ok(ContainerStatusResponse {
            status: Some(status),
            ..Default::default()
        })
    }

    async fn exec(&self, request: ExecRequest) -> cri::Result<ExecResponse> {
        Ok(ExecResponse {
            url: self.urls.get().unwrap().exec(request)?,
        })
    }
}

/// Answers an exec with what was asked for.
struct Echo;

#[async_trait]
impl StreamingRuntime for Echo {
    async fn exec(&self, request: ExecRequest, io: StreamIo) -> cri::Result<i32> {
        let mut stdin = io.stdin.unwrap();
        let mut stdout = io.stdout.unwrap();
        let line = format!("{} {:?}\n", request.container_id, request.cmd);
        stdout.write_all(line.as_bytes()).await.unwrap();
        let _ = tokio::io::copy(&mut stdin, &mut stdout).await;
        Ok(5)
    }
    async fn attach(&self, _: AttachRequest, _: StreamIo) -> cri::Result<()> {
        Err(cri::Error::unimplemented("Attach"))
    }
    async fn port_forward(&self, _: &str, _: u16, _: Box<dyn Duplex>) -> cri::Result<()> {
        Err(cri::Error::unimplemented("PortForward"))
    }
}

struct Node {
    address: SocketAddr,
    objects: Arc<objects::Store>,
    runtime: Arc<Containers>,
    directory: tempfile::TempDir,
}

impl Node {
    async fn start() -> Node {
        let directory = tempfile::tempdir().unwrap();
        let objects = Arc::new(objects::Store::open(&directory.path().join("objects.redb")).unwrap());
        let runtime = Arc::new(Containers::default());
        let urls = streaming::Server::bind("127.0.0.1:0".parse().unwrap(), Arc::new(Echo))
            .await
            .unwrap();
        assert!(runtime.urls.set(urls).is_ok());
        let api = Api {
            objects: objects.clone(),
            runtime: runtime.clone(),
            log_root: directory.path().join("logs"),
            groups: vec![("hove.dev", "v1")],
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, apiserver::router(api)).await });
        Node {
            address,
            objects,
            runtime,
            directory,
        }
    }

    async fn send(&self, method: &str, path: &str, body: impl Into<Bytes>) -> http::Response<hyper::body::Incoming> {
        let connection = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(connection))
            .await
            .unwrap();
        tokio::spawn(driver);
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost");
        sender
            .send_request(request.body(Full::new(body.into())).unwrap())
            .await
            .unwrap()
    }

    async fn json(&self, method: &str, path: &str, body: impl Into<Bytes>) -> (u16, Value) {
        let response = self.send(method, path, body).await;
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (
            code,
            serde_json::from_slice(&bytes).unwrap_or(Value::String(String::from_utf8(bytes.into()).unwrap())),
        )
    }

    async fn create(&self, name: &str, labels: Value) -> Value {
        let (code, pod) = self
            .json("POST", "/api/v1/namespaces/default/pods", pod(name, labels).to_string())
            .await;
        assert_eq!(code, 201, "{pod}");
        pod
    }

    /// The pod's container `web`, attempt 0, with its log file.
    async fn container(&self, uid: &str, state: ContainerState) -> std::path::PathBuf {
        let log = self.directory.path().join(format!("{uid}.log"));
        let labels: BTreeMap<String, String> = [
            ("io.kubernetes.pod.uid".to_owned(), uid.to_owned()),
            ("io.kubernetes.container.name".to_owned(), "web".to_owned()),
        ]
        .into();
        let metadata = Some(ContainerMetadata {
            name: "web".into(),
            attempt: 0,
        });
        let log_path = log.to_str().unwrap().to_owned();
        let id = format!("container-of-{uid}");
        self.runtime
            .set(ContainerStatus {
                id,
                metadata,
                state: state.into(),
                labels,
                log_path,
                ..Default::default()
            })
            .await;
        log
    }
}

fn pod(name: &str, labels: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": labels},
        "spec": {"containers": [{"name": "web", "image": "example.com/web:1"}]},
    })
}

fn uid(pod: &Value) -> &str {
    pod["metadata"]["uid"].as_str().unwrap()
}

fn entry(text: &str) -> String {
    format!("{:.9} stdout F {text}\n", Timestamp::now())
}

/// Reads a streamed answer line by line.
struct Lines {
    body: hyper::body::Incoming,
    buffer: Vec<u8>,
}

impl Lines {
    fn of(response: http::Response<hyper::body::Incoming>) -> Lines {
        assert_eq!(response.status(), 200);
        Lines {
            body: response.into_body(),
            buffer: Vec::new(),
        }
    }

    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(String::from_utf8(line).unwrap().trim_end().to_owned());
            }
            let frame = timeout(Duration::from_secs(10), self.body.frame()).await.unwrap()?;
            self.buffer.extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
    }

    async fn change(&mut self) -> (String, String) {
        let change: Value = serde_json::from_str(&self.next().await.unwrap()).unwrap();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (text(&change["type"]), text(&change["object"]["metadata"]["name"]))
    }
}

fn change(type_name: &str, name: &str) -> (String, String) {
    (type_name.into(), name.into())
}

#[tokio::test]
async fn a_pod_is_created_read_listed_and_deleted() {
    let node = Node::start().await;
    let made = node.create("web", json!({"app": "web"})).await;
    assert_eq!(made["metadata"]["namespace"], "default");
    node.create("db", json!({"app": "db"})).await;

    let (code, read) = node.json("GET", "/api/v1/namespaces/default/pods/web", "").await;
    assert_eq!((code, &read), (200, &made));

    let names = |list: Value| {
        let items = list["items"].as_array().unwrap().clone();
        items
            .iter()
            .map(|item| item["metadata"]["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let (_, all) = node.json("GET", "/api/v1/pods", "").await;
    assert_eq!(
        (&all["kind"], names(all.clone())),
        (&json!("PodList"), vec!["db".into(), "web".into()])
    );
    let (_, some) = node.json("GET", "/api/v1/pods?labelSelector=app%3Ddb", "").await;
    assert_eq!(names(some), ["db"]);
    let (_, one) = node
        .json(
            "GET",
            "/api/v1/namespaces/default/pods?fieldSelector=metadata.name%3Dweb",
            "",
        )
        .await;
    assert_eq!(names(one), ["web"]);
    let (_, none) = node.json("GET", "/api/v1/namespaces/other/pods", "").await;
    assert!(names(none).is_empty());

    let path = "/api/v1/namespaces/default/pods/web?gracePeriodSeconds=7";
    let (code, deleted) = node.json("DELETE", path, "").await;
    assert_eq!(
        (code, &deleted["metadata"]["deletionGracePeriodSeconds"]),
        (200, &json!(7))
    );
    let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0}).to_string();
    let (code, deleted) = node
        .json("DELETE", "/api/v1/namespaces/default/pods/web", options)
        .await;
    assert_eq!(
        (code, &deleted["metadata"]["deletionGracePeriodSeconds"]),
        (200, &json!(0))
    );
}

#[tokio::test]
async fn failures_are_status_objects() {
    let node = Node::start().await;
    node.create("web", json!({})).await;
    let stale = json!({"preconditions": {"uid": "another"}}).to_string();
    let twice = pod("web", json!({})).to_string();
    let pods = "/api/v1/namespaces/default/pods";
    for (method, path, body, code, reason) in [
        ("GET", format!("{pods}/none"), String::new(), 404, "NotFound"),
        ("DELETE", format!("{pods}/none"), String::new(), 404, "NotFound"),
        ("POST", pods.to_owned(), twice, 409, "AlreadyExists"),
        ("POST", pods.to_owned(), "{".to_owned(), 400, "BadRequest"),
        ("DELETE", format!("{pods}/web"), stale, 409, "Conflict"),
        ("DELETE", format!("{pods}/web"), "[1]".to_owned(), 400, "BadRequest"),
        (
            "GET",
            "/api/v1/pods?labelSelector=a%20b".to_owned(),
            String::new(),
            400,
            "BadRequest",
        ),
        (
            "GET",
            format!("{pods}/web/exec?command=sh"),
            String::new(),
            400,
            "BadRequest",
        ),
        ("GET", "/api/v1/nodes".to_owned(), String::new(), 404, "NotFound"),
        ("PUT", "/version".to_owned(), String::new(), 405, "MethodNotAllowed"),
    ] {
        let (got, status) = node.json(method, &path, body).await;
        assert_eq!(
            (got, &status["reason"]),
            (code, &json!(reason)),
            "{method} {path}: {status}"
        );
        assert_eq!(
            (&status["kind"], &status["status"]),
            (&json!("Status"), &json!("Failure"))
        );
    }
}

#[tokio::test]
async fn discovery_says_what_there_is() {
    let node = Node::start().await;
    assert_eq!(node.json("GET", "/healthz", "").await, (200, json!("ok")));
    assert_eq!(node.json("GET", "/version", "").await.1["major"], "1");
    let (_, resources) = node.json("GET", "/api/v1", "").await;
    assert!(
        resources["resources"]
            .as_array()
            .unwrap()
            .iter()
            .any(|resource| resource["name"] == "pods/exec")
    );
    assert_eq!(node.json("GET", "/apis", "").await.1["groups"][0]["name"], "hove.dev");
    assert_eq!(
        node.json("GET", "/api/v1/namespaces", "").await.1["items"][0]["metadata"]["name"],
        "default"
    );
}

#[tokio::test]
async fn a_watch_sees_every_change() {
    let node = Node::start().await;
    let made = node.create("web", json!({})).await;
    let mut lines = Lines::of(node.send("GET", "/api/v1/pods?watch=true", "").await);
    assert_eq!(lines.change().await, change("ADDED", "web"));
    let key = Key::pod("default", "web");
    node.objects
        .update_status(&key, uid(&made), json!({"phase": "Running"}))
        .unwrap();
    assert_eq!(lines.change().await, change("MODIFIED", "web"));
    node.objects.finalise(&key, uid(&made)).unwrap();
    assert_eq!(lines.change().await, change("DELETED", "web"));
}

#[tokio::test]
async fn a_watch_goes_on_from_a_list() {
    let node = Node::start().await;
    node.create("web", json!({})).await;
    let (_, list) = node.json("GET", "/api/v1/pods", "").await;
    let version = list["metadata"]["resourceVersion"].as_str().unwrap();
    let path = format!("/api/v1/pods?watch=true&resourceVersion={version}&timeoutSeconds=2");
    let mut lines = Lines::of(node.send("GET", &path, "").await);
    node.create("db", json!({})).await;
    assert_eq!(lines.change().await, change("ADDED", "db"));
    assert_eq!(lines.next().await, None, "the time is over");
}

#[tokio::test]
async fn a_watch_with_a_selector_sees_objects_come_into_view() {
    let node = Node::start().await;
    let made = node.create("web", json!({})).await;
    let mut lines = Lines::of(
        node.send("GET", "/api/v1/pods?watch=1&fieldSelector=status.phase%3DRunning", "")
            .await,
    );
    let key = Key::pod("default", "web");
    for phase in ["Pending", "Running", "Succeeded"] {
        node.objects
            .update_status(&key, uid(&made), json!({"phase": phase}))
            .unwrap();
    }
    assert_eq!(lines.change().await, change("ADDED", "web"));
    assert_eq!(lines.change().await, change("DELETED", "web"));
}

#[tokio::test]
async fn events_are_listed_by_what_they_are_about() {
    let node = Node::start().await;
    for name in ["web", "db"] {
        let about = json!({"kind": "Pod", "namespace": "default", "name": name});
        let event = json!({"metadata": {"generateName": name}, "involvedObject": about, "reason": "Started"});
        node.objects.create(Kind::Event, event).unwrap();
    }
    let (_, list) = node
        .json(
            "GET",
            "/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3Ddb",
            "",
        )
        .await;
    assert_eq!(list["kind"], "EventList");
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_log_is_read_and_followed_to_the_containers_end() {
    let node = Node::start().await;
    let made = node.create("web", json!({})).await;
    let path = "/api/v1/namespaces/default/pods/web/log";
    let (code, status) = node.json("GET", path, "").await;
    assert_eq!(code, 400);
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .contains("waiting to start: ContainerCreating"),
        "{status}"
    );

    let log = node.container(uid(&made), ContainerState::ContainerRunning).await;
    std::fs::write(&log, entry("one") + &entry("two")).unwrap();
    assert_eq!(node.json("GET", path, "").await.1, "one\ntwo\n");
    assert_eq!(node.json("GET", &format!("{path}?tailLines=1"), "").await.1, "two\n");

    let mut lines = Lines::of(node.send("GET", &format!("{path}?follow=true"), "").await);
    assert_eq!(lines.next().await.as_deref(), Some("one"));
    assert_eq!(lines.next().await.as_deref(), Some("two"));
    let append = |text: &str| {
        use std::io::Write;
        std::fs::OpenOptions::new()
            .append(true)
            .open(&log)
            .unwrap()
            .write_all(entry(text).as_bytes())
            .unwrap();
    };
    append("three");
    assert_eq!(lines.next().await.as_deref(), Some("three"));
    append("last");
    node.container(uid(&made), ContainerState::ContainerExited).await;
    node.objects
        .update_status(&Key::pod("default", "web"), uid(&made), json!({"phase": "Succeeded"}))
        .unwrap();
    assert_eq!(lines.next().await.as_deref(), Some("last"));
    assert_eq!(lines.next().await, None);
}

#[tokio::test]
async fn a_log_outlives_its_container() {
    let node = Node::start().await;
    let made = node.create("web", json!({})).await;
    let directory = node
        .directory
        .path()
        .join(format!("logs/default_web_{}/web", uid(&made)));
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("9.log"), entry("older")).unwrap();
    std::fs::write(directory.join("10.log"), entry("newest")).unwrap();
    let path = "/api/v1/namespaces/default/pods/web/log";
    assert_eq!(node.json("GET", path, "").await.1, "newest\n");
    assert_eq!(
        node.json("GET", &format!("{path}?previous=true"), "").await.1,
        "older\n"
    );
    let (code, status) = node.json("GET", &format!("{path}?container=other"), "").await;
    assert_eq!(code, 400, "{status}");
}

#[tokio::test]
async fn exec_is_joined_with_the_runtimes_url() {
    let node = Node::start().await;
    let made = node.create("web", json!({})).await;
    let path = "/api/v1/namespaces/default/pods/web/exec?command=cat&command=-&stdin=true&stdout=true";
    let (code, status) = node.json("GET", path, "").await;
    assert_eq!(code, 400);
    assert!(
        status["message"].as_str().unwrap().contains("not been created"),
        "{status}"
    );

    node.container(uid(&made), ContainerState::ContainerRunning).await;
    let (code, _) = node.json("GET", path, "").await;
    assert_eq!(code, 400, "not an upgrade");

    let mut request = format!("ws://{}{path}", node.address).into_client_request().unwrap();
    request
        .headers_mut()
        .insert("sec-websocket-protocol", "v5.channel.k8s.io".parse().unwrap());
    let connection = TcpStream::connect(node.address).await.unwrap();
    let (mut socket, response) = tokio_tungstenite::client_async(request, connection).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "v5.channel.k8s.io");
    socket.send(Message::binary(b"\0hello".to_vec())).await.unwrap();
    socket.send(Message::binary(vec![255, 0])).await.unwrap();
    let mut channels: [Vec<u8>; 4] = Default::default();
    while let Some(message) = timeout(Duration::from_secs(10), socket.next()).await.unwrap() {
        if let Message::Binary(bytes) = message.unwrap() {
            channels[usize::from(bytes[0])].extend_from_slice(&bytes[1..]);
        }
    }
    let out = String::from_utf8(channels[1].clone()).unwrap();
    assert_eq!(out, format!("container-of-{} [\"cat\", \"-\"]\nhello", uid(&made)));
    let status: Value = serde_json::from_slice(&channels[3]).unwrap();
    assert_eq!(status["details"]["causes"][0]["message"], "5");
}
