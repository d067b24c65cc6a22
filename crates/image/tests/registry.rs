//! Pulls from Debian's docker-registry, and from a server that behaves as badly as it is told to.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::stream;
use image::registry::{Config, Credentials, Error, Registries};
use image::{Digest, Image, ImageConfig, Reference, Store};
use tokio::net::TcpListener;

/// Long enough for a machine that is busy with other things.
const LIMIT: Duration = Duration::from_secs(60);

/// A store, and its way to registries.
struct Node {
    dir: tempfile::TempDir,
    store: Arc<Store>,
    registries: Arc<Registries>,
}

impl Node {
    fn new() -> Node {
        Node::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Config)) -> Node {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&dir.path().join("root")).unwrap());
        let mut config = Config {
            hosts_dirs: vec![dir.path().join("certs.d")],
            docker_config: Some(dir.path().join("config.json")),
            stall: LIMIT,
            ..Config::default()
        };
        change(&mut config);
        Node {
            registries: Registries::new(store.clone(), config),
            store,
            dir,
        }
    }

    async fn pull(&self, name: &str) -> Result<Arc<Image>, Error> {
        self.pull_as(name, None).await
    }

    async fn pull_as(&self, name: &str, credentials: Option<Credentials>) -> Result<Arc<Image>, Error> {
        let reference: Reference = name.parse().unwrap();
        let pull = self.registries.pull(&reference, credentials, |_| {});
        tokio::time::timeout(LIMIT, pull)
            .await
            .expect("the pull takes too long")
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

/// An image with two layers' worth of bytes: its store has the blobs that a registry would serve.
fn an_image(dir: &Path) -> (Store, Arc<Image>) {
    let files = dir.join("files");
    std::fs::create_dir(&files).unwrap();
    std::fs::write(files.join("hello"), "hello\n").unwrap();
    let noise: Vec<u8> = (0..600_000_u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    std::fs::write(files.join("noise"), noise).unwrap();
    // The same image each time.
    for path in ["hello", "noise", "."] {
        let file = std::fs::File::open(files.join(path)).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
    }
    let store = Store::open(&dir.join("source")).unwrap();
    let reference = "example.org/app:1".parse().unwrap();
    let image = store
        .import_rootfs(&files, &reference, &ImageConfig::default())
        .unwrap();
    (store, image)
}

/// How a server behaves.
#[derive(Default, Clone, Copy)]
struct Manners {
    /// A layer's connection breaks after so many bytes.
    breaks_after: Option<usize>,
    ignores_ranges: bool,
    /// A layer's bytes stop coming.
    stalls: bool,
    /// A layer is another one than was promised.
    lies: bool,
    /// Who asks must show a token of the name and the password `me`, `secret`.
    wants_token: bool,
}

/// A registry that serves one image.
struct Server {
    address: String,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    layers: AtomicUsize,
    ranges: AtomicUsize,
    authorizations: Mutex<Vec<String>>,
}

#[derive(Clone)]
struct Shelf {
    blobs: Arc<HashMap<String, Bytes>>,
    manifest: Digest,
    layer: Digest,
    manners: Manners,
    address: String,
    seen: Arc<Seen>,
}

impl Server {
    async fn start(manners: Manners) -> Server {
        let dir = tempfile::tempdir().unwrap();
        let (_store, image) = an_image(dir.path());
        let content = dir.path().join("source/images/content/sha256");
        let blobs = std::fs::read_dir(content).unwrap().map(|entry| {
            let entry = entry.unwrap();
            let digest = format!("sha256:{}", entry.file_name().into_string().unwrap());
            (digest, Bytes::from(std::fs::read(entry.path()).unwrap()))
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Seen::default());
        let shelf = Shelf {
            blobs: Arc::new(blobs.collect()),
            manifest: image.manifest.unwrap(),
            layer: image.layers[0].digest,
            manners,
            address: address.clone(),
            seen: seen.clone(),
        };
        let router = Router::new()
            .route("/token", get(token))
            .fallback(content_of)
            .with_state(shelf);
        tokio::spawn(async move { axum::serve(listener, router).await });
        Server { address, seen }
    }

    fn image(&self) -> String {
        format!("{}/app:1", self.address)
    }
}

async fn token(
    State(shelf): State<Shelf>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    let shown = headers
        .get(header::AUTHORIZATION)
        .map(|value| value.to_str().unwrap().to_owned());
    shelf.seen.authorizations.lock().unwrap().extend(shown.clone());
    // The base64 of me:secret.
    if shown.as_deref() != Some("Basic bWU6c2VjcmV0") || query["scope"] != "repository:app:pull" {
        let body = r#"{"errors": [{"code": "UNAUTHORIZED", "message": "who are you?"}]}"#;
        return (StatusCode::UNAUTHORIZED, body).into_response();
    }
    r#"{"token": "the-token"}"#.into_response()
}

async fn content_of(State(shelf): State<Shelf>, request: Request) -> Response {
    let header = |name| {
        request
            .headers()
            .get(name)
            .map(|value| value.to_str().unwrap().to_owned())
    };
    if shelf.manners.wants_token && header(header::AUTHORIZATION).as_deref() != Some("Bearer the-token") {
        let address = &shelf.address;
        let challenge = format!(r#"Bearer realm="http://{address}/token",service="here",scope="repository:app:pull""#);
        return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, challenge)]).into_response();
    }
    shelf
        .seen
        .authorizations
        .lock()
        .unwrap()
        .extend(header(header::AUTHORIZATION));
    let name = match request
        .uri()
        .path()
        .strip_prefix("/v2/app/")
        .unwrap_or_default()
        .split_once('/')
    {
        Some(("manifests", "1")) => shelf.manifest.to_string(),
        Some(("manifests" | "blobs", digest)) => digest.to_owned(),
        _ => String::new(),
    };
    let Some(bytes) = shelf.blobs.get(&name).cloned() else {
        let body = r#"{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown to this server"}]}"#;
        return (StatusCode::NOT_FOUND, body).into_response();
    };
    if name != shelf.layer.to_string() {
        return bytes.into_response();
    }
    shelf.seen.layers.fetch_add(1, Ordering::SeqCst);
    if shelf.manners.lies {
        return vec![7; bytes.len()].into_response();
    }
    let asked = header(header::RANGE);
    let from: usize = asked.as_deref().map_or(0, |range| {
        shelf.seen.ranges.fetch_add(1, Ordering::SeqCst);
        range
            .trim_start_matches("bytes=")
            .trim_end_matches('-')
            .parse()
            .unwrap()
    });
    let (status, from) = match shelf.manners.ignores_ranges {
        true => (StatusCode::OK, 0),
        false if from > 0 => (StatusCode::PARTIAL_CONTENT, from),
        false => (StatusCode::OK, 0),
    };
    // A later attempt gives more, so that a pull ends.
    let attempts = shelf.seen.layers.load(Ordering::SeqCst);
    let end = match shelf.manners.breaks_after {
        Some(part) => bytes.len().min(match shelf.manners.ignores_ranges {
            true => part * attempts,
            false => from + part,
        }),
        None => bytes.len(),
    };
    let parts = vec![Ok(bytes.slice(from..end))];
    let body = if shelf.manners.stalls {
        Body::from_stream(stream::iter(vec![Ok::<_, std::io::Error>(bytes.slice(..10))]).chain_pending())
    } else if end < bytes.len() {
        let broken = Err(std::io::Error::other("broken off"));
        Body::from_stream(stream::iter(parts.into_iter().chain([broken])))
    } else {
        Body::from_stream(stream::iter(parts))
    };
    (status, body).into_response()
}

/// A stream that never ends.
trait ChainPending: futures_util::Stream + Sized {
    fn chain_pending(self) -> impl futures_util::Stream<Item = Self::Item> {
        futures_util::StreamExt::chain(self, stream::pending())
    }
}

impl<S: futures_util::Stream> ChainPending for S {}

#[tokio::test]
async fn a_connection_that_breaks_is_taken_up_where_it_broke() {
    for ignores_ranges in [false, true] {
        let server = Server::start(Manners {
            breaks_after: Some(500_000),
            ignores_ranges,
            ..Manners::default()
        })
        .await;
        let node = Node::new();
        let image = node.pull(&server.image()).await.unwrap();
        assert_eq!(image.tags, [server.image()]);
        assert!(server.seen.ranges.load(Ordering::SeqCst) >= 4);
        let overlay = node.store.prepare("c", &image.id).unwrap();
        assert_eq!(std::fs::read(overlay.lower[0].join("hello")).unwrap(), b"hello\n");
    }
}

#[tokio::test]
async fn who_asks_for_an_image_that_is_being_pulled_waits_for_it() {
    let server = Server::start(Manners::default()).await;
    let node = Node::new();
    let name = server.image();
    let pulls = (0..8).map(|_| node.pull(&name));
    let images = futures_util::future::join_all(pulls).await;
    assert!(images.iter().all(|image| image.is_ok()));
    assert_eq!(server.seen.layers.load(Ordering::SeqCst), 1);
    // What is there is not fetched again.
    node.pull(&name).await.unwrap();
    assert_eq!(server.seen.layers.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_server_that_sends_nothing_is_given_up() {
    let server = Server::start(Manners {
        stalls: true,
        ..Manners::default()
    })
    .await;
    let node = Node::with(|config| config.stall = Duration::from_millis(300));
    let error = node.pull(&server.image()).await.unwrap_err().to_string();
    assert!(
        error.contains("no byte came for 300ms") && error.contains(&server.address),
        "{error}"
    );
    assert!(node.store.list().is_empty());
}

#[tokio::test]
async fn bytes_that_are_not_what_was_promised_are_not_used() {
    let server = Server::start(Manners {
        lies: true,
        ..Manners::default()
    })
    .await;
    let node = Node::new();
    let error = node.pull(&server.image()).await.unwrap_err().to_string();
    assert!(error.contains("was promised"), "{error}");
    assert!(node.store.list().is_empty());
}

#[tokio::test]
async fn tokens_are_had_by_name_and_password_and_go_nowhere_else() {
    let server = Server::start(Manners {
        wants_token: true,
        ..Manners::default()
    })
    .await;
    let node = Node::new();
    let denied = node.pull(&server.image()).await.unwrap_err();
    assert!(matches!(denied, Error::Denied { .. }), "{denied}");
    assert!(denied.to_string().contains("who are you?"), "{denied}");

    let me = Credentials::Password {
        name: "me".to_owned(),
        password: "secret".to_owned(),
    };
    node.pull_as(&server.image(), Some(me.clone())).await.unwrap();
    // Docker's own configuration does as well.
    let node = Node::new();
    let auths = format!(r#"{{"auths": {{"{}": {{"auth": "bWU6c2VjcmV0"}}}}}}"#, server.address);
    node.write("config.json", &auths);
    node.pull(&server.image()).await.unwrap();

    // A mirror is not shown what is the registry's, and what it lacks the registry has.
    let mirror = Server::start(Manners::default()).await;
    let node = Node::new();
    let hosts = format!(
        "server = \"http://{}\"\n[host.\"http://{}\"]\ncapabilities = [\"pull\"]\n",
        server.address, mirror.address
    );
    node.write("certs.d/example.org/hosts.toml", &hosts);
    let image = node.pull_as("example.org/app:1", Some(me)).await.unwrap();
    assert_eq!(
        image.tags,
        ["example.org/app:1"],
        "the name is the one that was asked for"
    );
    assert_eq!(mirror.seen.layers.load(Ordering::SeqCst), 1);
    assert!(mirror.seen.authorizations.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_is_not_there_is_said_in_the_servers_words() {
    let server = Server::start(Manners::default()).await;
    let node = Node::new();
    let missing = node.pull(&format!("{}/app:typo", server.address)).await.unwrap_err();
    assert!(matches!(missing, Error::NotFound { .. }), "{missing}");
    assert!(
        missing.to_string().contains("manifest unknown to this server"),
        "{missing}"
    );
    // Nobody listens on a port that was just given back.
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let nobody = node.pull(&format!("{free}/app:1")).await.unwrap_err();
    assert!(matches!(nobody, Error::Unavailable { .. }), "{nobody}");
    assert!(nobody.to_string().contains("refused"), "{nobody}");
}

/// Debian's docker-registry, on a port of its own; it ends with the test.
struct DockerRegistry {
    process: Child,
    address: String,
    _dir: tempfile::TempDir,
}

impl DockerRegistry {
    /// `None`, and a word about it, where it is not installed.
    async fn start(auth: &str) -> Option<DockerRegistry> {
        if !Path::new("/usr/bin/docker-registry").exists() || !Path::new("/usr/bin/skopeo").exists() {
            println!("SKIPPED: needs Debian's docker-registry and skopeo");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let address = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .to_string();
        let config = dir.path().join("config.yml");
        let storage = dir.path().join("registry");
        // bcrypt of “correct horse”.
        std::fs::write(
            dir.path().join("htpasswd"),
            "me:$2b$04$0vO6sMKduUFOqdwNK8twEuBpi507VTxA7iYNl/eNizT6apnpj5MqC\n",
        )
        .unwrap();
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{address}'}}\n{}",
            storage.display(),
            auth.replace("DIR", &dir.path().display().to_string())
        );
        std::fs::write(&config, text).unwrap();
        let process = Command::new("/usr/bin/docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let registry = DockerRegistry {
            process,
            address,
            _dir: dir,
        };
        let listens = async {
            while tokio::net::TcpStream::connect(&registry.address).await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LIMIT, listens)
            .await
            .expect("docker-registry does not listen");
        Some(registry)
    }

    fn push(&self, archive: &Path, name: &str, extra: &[&str]) {
        let pushed = Command::new("/usr/bin/skopeo")
            .args(["copy", "--quiet", "--dest-tls-verify=false", "--insecure-policy"])
            .args(extra)
            .arg(format!("docker-archive:{}", archive.display()))
            .arg(format!("docker://{}/{name}", self.address))
            .output()
            .unwrap();
        assert!(pushed.status.success(), "{pushed:?}");
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// An archive as `docker save` writes it.
fn archive(dir: &Path) -> PathBuf {
    let (store, image) = an_image(dir);
    let layer = std::fs::read(
        dir.join("source/images/content/sha256")
            .join(image.layers[0].digest.hex()),
    )
    .unwrap();
    drop(store);
    let files = dir.join("layer.tar");
    std::fs::write(&files, layer).unwrap();
    let path = dir.join("image.tar");
    let config = br#"{"architecture":"amd64","os":"linux","config":{"Cmd":["/hello"]},"rootfs":{"type":"layers","diff_ids":["DIFF"]}}"#;
    let config = String::from_utf8_lossy(config).replace("DIFF", &image.layers[0].diff_id.to_string());
    let manifest = r#"[{"Config":"config.json","RepoTags":["example.org/app:1"],"Layers":["layer.tar"]}]"#;
    let mut tar = tar::Builder::new(std::fs::File::create(&path).unwrap());
    for (name, bytes) in [
        ("config.json", config.as_bytes()),
        ("manifest.json", manifest.as_bytes()),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, bytes).unwrap();
    }
    tar.append_path_with_name(&files, "layer.tar").unwrap();
    tar.finish().unwrap();
    path
}

#[tokio::test]
async fn images_come_from_a_real_registry() {
    let Some(registry) = DockerRegistry::start("").await else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let archive = archive(dir.path());
    registry.push(
        &archive,
        "team/app:gzip",
        &["--format=oci", "--dest-compress-format=gzip"],
    );
    registry.push(
        &archive,
        "team/app:zstd",
        &["--format=oci", "--dest-compress-format=zstd"],
    );
    registry.push(&archive, "team/app:docker", &["--format=v2s2"]);
    let node = Node::new();
    let mut ids = Vec::new();
    for tag in ["gzip", "zstd", "docker"] {
        let image = node
            .pull(&format!("{}/team/app:{tag}", registry.address))
            .await
            .unwrap();
        let digest = image.digests.last().unwrap().clone();
        let again = node.pull(&digest).await.unwrap();
        assert_eq!(image.id, again.id, "{digest}");
        let overlay = node.store.prepare(&format!("of-{tag}"), &image.id).unwrap();
        assert_eq!(std::fs::read(overlay.lower[0].join("hello")).unwrap(), b"hello\n");
        ids.push(overlay.lower);
    }
    assert!(
        ids.windows(2).all(|pair| pair[0] == pair[1]),
        "the same files are unpacked once"
    );
    let error = node
        .pull(&format!("{}/team/app:typo", registry.address))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("manifest unknown"), "{error}");
}

#[tokio::test]
async fn a_real_registry_wants_a_password() {
    let auth = "auth: {htpasswd: {realm: here, path: DIR/htpasswd}}\n";
    let Some(registry) = DockerRegistry::start(auth).await else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    registry.push(&archive(dir.path()), "team/app:1", &["--dest-creds=me:correct horse"]);
    let node = Node::new();
    let name = format!("{}/team/app:1", registry.address);
    let with = |password: &str| {
        Some(Credentials::Password {
            name: "me".to_owned(),
            password: password.to_owned(),
        })
    };
    for wrong in [None, with("hunter2")] {
        let error = node.pull_as(&name, wrong).await.unwrap_err();
        assert!(matches!(error, Error::Denied { .. }), "{error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
    node.pull_as(&name, with("correct horse")).await.unwrap();
}
