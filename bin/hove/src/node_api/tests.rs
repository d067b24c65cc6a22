//! The node's own group over a real socket, with real stores. Nothing syncs the pods: the tests are the engine.

use std::{net::TcpListener, sync::Arc, time::Duration};

use http::Method;
use objects::Key;
use serde_json::{Value, json};
use tokio::{net::UnixListener, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{BASE, Leases, Line, LineKind, NodeApi, router};
use crate::client::{Client, Error, Lines};

/// A runtime with nothing in it.
struct Empty;

impl cri::RuntimeService for Empty {}
impl cri::ImageService for Empty {}

struct Node {
    client: Client,
    api: NodeApi,
    objects: Arc<objects::Store>,
    directory: tempfile::TempDir,
}

impl Node {
    async fn start() -> Node {
        let directory = tempfile::tempdir().unwrap();
        let objects = Arc::new(objects::Store::open(&directory.path().join("objects.redb")).unwrap());
        let images = Arc::new(image::Store::open(directory.path()).unwrap());
        let network = Arc::new(network::Network::open(network::Config::below(directory.path())).unwrap());
        let api = NodeApi {
            leases: Leases::new(objects.clone(), CancellationToken::new()),
            objects,
            registries: image::registry::Registries::new(images.clone(), image::registry::Config::default()),
            images,
            retirement: None,
            network,
            pulls: Arc::new(Empty),
            runtime: Arc::new(Empty),
        };
        Node::serve(directory, api)
    }

    /// The next node of the same directories, and the same stores.
    fn succeeded(self) -> Node {
        std::fs::remove_file(self.directory.path().join("api.sock")).unwrap();
        let api = NodeApi {
            leases: Leases::new(self.objects.clone(), CancellationToken::new()),
            ..self.api
        };
        Node::serve(self.directory, api)
    }

    fn serve(directory: tempfile::TempDir, api: NodeApi) -> Node {
        let socket = directory.path().join("api.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let service = router(api.clone());
        tokio::spawn(async move { axum::serve(listener, service).await });
        Node {
            client: Client::new(socket),
            objects: api.objects.clone(),
            api,
            directory,
        }
    }

    /// Ends as a node does that is told to: its leases know.
    async fn end(self, mut lines: Lines) -> Node {
        self.api.leases.stop().cancel();
        while let Ok(Some(_)) = lines.next().await {}
        self.succeeded()
    }

    async fn import(&self, reference: &str) {
        let rootfs = self.directory.path().join("rootfs");
        std::fs::create_dir_all(rootfs.join("bin")).unwrap();
        let request = json!({"directory": rootfs, "reference": reference, "config": {"entrypoint": ["/bin/sh"]}});
        let _: Value = self
            .client
            .json(Method::POST, &format!("{BASE}/images:importRootfs"), Some(&request))
            .await
            .unwrap();
    }

    async fn run(&self, pod: &Value, query: &str) -> Result<Lines, Error> {
        let path = format!("{BASE}/namespaces/default/runs{query}");
        self.client.lines(Method::POST, &path, pod.to_string().into()).await
    }

    async fn until_deleted(&self) {
        let key = Key::pod("default", "web");
        let mut watch = self
            .objects
            .watch(objects::Scope::all(objects::Kind::Pod), None)
            .unwrap();
        while !self.objects.get(&key).unwrap().is_being_deleted() {
            timeout(Duration::from_secs(20), watch.next())
                .await
                .unwrap()
                .unwrap()
                .unwrap();
        }
    }
}

fn pod(ports: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"},
        "spec": {"containers": [{"name": "nginx", "image": "localhost/nginx:1", "ports": ports}]},
    })
}

async fn next(lines: &mut Lines) -> Line {
    loop {
        let line = timeout(Duration::from_secs(20), lines.next())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        if !line.is_empty() {
            return serde_json::from_slice(&line).unwrap();
        }
    }
}

fn refusal(result: Result<Lines, Error>) -> (String, String) {
    match result {
        Err(Error::Refused { reason, message }) => (reason, message),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was accepted"),
    }
}

#[tokio::test]
async fn a_run_without_its_image_makes_nothing() {
    let node = Node::start().await;
    let (reason, message) = refusal(node.run(&pod(json!([])), "").await);
    assert_eq!(reason, "ImageNotPresent");
    assert!(
        message.contains("localhost/nginx:1") && message.contains("hove image import"),
        "{message}"
    );
    assert!(node.objects.get(&Key::pod("default", "web")).is_err());
}

#[tokio::test]
async fn a_run_whose_port_is_in_use_makes_nothing() {
    let node = Node::start().await;
    node.import("localhost/nginx:1").await;
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port();
    let ports = json!([{"containerPort": 80, "hostPort": port, "hostIP": "127.0.0.1"}]);
    let (reason, message) = refusal(node.run(&pod(ports.clone()), "").await);
    assert_eq!(reason, "Conflict");
    assert!(
        message.contains(&format!("{port}/TCP")) && message.contains("in use"),
        "{message}"
    );
    assert!(node.objects.get(&Key::pod("default", "web")).is_err());
    drop(holder);
    assert!(node.run(&pod(ports), "").await.is_ok());
}

#[tokio::test]
async fn a_run_tells_the_pods_life_and_ends_with_it() {
    let node = Node::start().await;
    node.import("localhost/nginx:1").await;
    let mut lines = node.run(&pod(json!([])), "").await.unwrap();
    let first = next(&mut lines).await;
    assert_eq!(
        (first.kind, &first.object["metadata"]["name"]),
        (LineKind::Pod, &json!("web"))
    );
    let (reason, _) = refusal(node.run(&pod(json!([])), "").await);
    assert_eq!(reason, "AlreadyExists");

    let key = Key::pod("default", "web");
    let uid = first.object["metadata"]["uid"].as_str().unwrap().to_owned();
    let about = json!({"kind": "Pod", "namespace": "default", "name": "web", "uid": uid});
    let event =
        json!({"metadata": {"name": "e"}, "involvedObject": about, "reason": "Started", "message": "Started it"});
    node.objects.create(objects::Kind::Event, event).unwrap();
    let second = next(&mut lines).await;
    assert_eq!(
        (second.kind, &second.object["message"]),
        (LineKind::Event, &json!("Started it"))
    );

    node.objects
        .update_status(&key, &uid, json!({"phase": "Running"}))
        .unwrap();
    assert_eq!(next(&mut lines).await.object["status"]["phase"], "Running");
    node.objects.finalise(&key, &uid).unwrap();
    assert_eq!(next(&mut lines).await.kind, LineKind::Gone);
    assert!(lines.next().await.unwrap().is_none());
}

#[tokio::test]
async fn a_client_that_goes_takes_its_pod_with_it() {
    let node = Node::start().await;
    node.import("localhost/nginx:1").await;
    let mut lines = node.run(&pod(json!([])), "").await.unwrap();
    next(&mut lines).await;
    drop(lines);
    node.until_deleted().await;
}

#[tokio::test]
async fn a_lease_outlives_its_node_and_is_taken_again() {
    let node = Node::start().await;
    node.import("localhost/nginx:1").await;
    let mut lines = node.run(&pod(json!([])), "").await.unwrap();
    let first = next(&mut lines).await;
    assert_eq!(first.object["metadata"]["annotations"]["hove.dev/lease"], "run");
    let node = node.end(lines).await;
    node.api.leases.await_clients(Duration::from_secs(3600)).unwrap();
    let uid = first.object["metadata"]["uid"].as_str().unwrap();
    let path = |uid: &str| format!("{BASE}/namespaces/default/runs/web?uid={uid}");
    let other = node.client.lines(Method::POST, &path("other"), "".into()).await;
    assert_eq!(refusal(other).0, "NotFound");
    let mut lines = node.client.lines(Method::POST, &path(uid), "".into()).await.unwrap();
    let again = next(&mut lines).await;
    assert_eq!(
        (again.kind, &again.object["metadata"]["uid"]),
        (LineKind::Pod, &json!(uid))
    );
    assert!(
        again.object["metadata"]["deletionTimestamp"].is_null(),
        "the node's end took no pod down"
    );
    drop(lines);
    node.until_deleted().await;
}

#[tokio::test]
async fn a_leased_pod_whose_client_does_not_come_back_is_taken_down() {
    let node = Node::start().await;
    node.import("localhost/nginx:1").await;
    let mut lines = node.run(&pod(json!([])), "").await.unwrap();
    next(&mut lines).await;
    let node = node.end(lines).await;
    node.api.leases.await_clients(Duration::from_millis(10)).unwrap();
    node.until_deleted().await;
}

#[tokio::test]
async fn a_leased_pod_ends_with_the_boot_of_its_client() {
    let node = Node::start().await;
    node.import("localhost/nginx:1").await;
    let mut lines = node.run(&pod(json!([])), "").await.unwrap();
    let first = next(&mut lines).await.object;
    let node = node.end(lines).await;
    node.api.leases.end_those_of_other_boots().unwrap();
    let key = Key::pod("default", "web");
    assert!(
        !node.objects.get(&key).unwrap().is_being_deleted(),
        "it is of this boot"
    );
    assert!(first["metadata"]["annotations"]["hove.dev/lease-boot"].is_string());
    let move_to_another_boot = |pod: &mut Value| {
        pod["metadata"]["annotations"]["hove.dev/lease-boot"] = json!("00000000-0000-0000-0000-000000000000");
        Ok(())
    };
    node.objects.modify(&key, move_to_another_boot).unwrap();
    node.api.leases.end_those_of_other_boots().unwrap();
    node.until_deleted().await;
}

#[tokio::test]
async fn a_pod_without_a_lease_stays() {
    let node = Node::start().await;
    node.import("localhost/nginx:1").await;
    let mut lines = node.run(&pod(json!([])), "?lease=false").await.unwrap();
    next(&mut lines).await;
    drop(lines);
    // The next answer comes after the connection's end was seen, or it would not matter.
    let images: Value = node.client.get(&format!("{BASE}/images")).await.unwrap();
    assert_eq!(images["items"][0]["tags"][0], "localhost/nginx:1");
    assert!(
        !node
            .objects
            .get(&Key::pod("default", "web"))
            .unwrap()
            .is_being_deleted()
    );
}

#[tokio::test]
async fn images_are_listed_inspected_and_removed() {
    let node = Node::start().await;
    node.import("localhost/a/b:1").await;
    let image: Value = node
        .client
        .get(&format!("{BASE}/images/localhost/a/b:1"))
        .await
        .unwrap();
    assert_eq!(image["config"]["config"]["Entrypoint"][0], "/bin/sh");
    let path = format!("{BASE}/images/localhost/a/b:1");
    let removed: Value = node.client.json(Method::DELETE, &path, None).await.unwrap();
    assert_eq!(removed["deleted"], image["id"]);
    let missing = node.client.get::<Value>(&path).await.unwrap_err();
    assert!(missing.to_string().contains("hove image import"), "{missing}");
}

#[tokio::test]
async fn an_archive_that_is_none_is_refused_to_a_client_that_still_sends() {
    let node = Node::start().await;
    let garbage = vec![7u8; 3 << 20];
    let sent = node
        .client
        .send(
            Method::POST,
            &format!("{BASE}/images:import"),
            crate::client::full(garbage),
        )
        .await;
    match sent {
        Err(Error::Refused { .. }) => {}
        other => panic!("{other:?}"),
    }
}
