//! Registries to pull from: Debian's docker-registry, and a server that behaves as badly as it is told to.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::stream;
use image::registry::{Config, Credentials, Error, Registries};
use image::{Digest, Image, ImageConfig, Reference, Store};
use tokio::net::TcpListener;

use super::shell;

/// Long enough for a machine that is busy with other things.
const LIMIT: Duration = Duration::from_secs(60);

/// A store, and its way to registries.
pub struct Node {
    pub dir: tempfile::TempDir,
    pub store: Arc<Store>,
    pub registries: Arc<Registries>,
}

impl Node {
    pub fn new() -> Node {
        Node::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut Config)) -> Node {
        Node::at(tempfile::tempdir().unwrap(), change)
    }

    /// With what an earlier one left in `dir`.
    pub fn at(dir: tempfile::TempDir, change: impl FnOnce(&mut Config)) -> Node {
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

    pub async fn pull(&self, name: &str) -> Result<Arc<Image>, Error> {
        self.pull_as(name, None).await
    }

    pub async fn pull_as(&self, name: &str, credentials: Option<Credentials>) -> Result<Arc<Image>, Error> {
        let reference: Reference = name.parse().unwrap();
        let pull = self.registries.pull(&reference, credentials, |_| {});
        tokio::time::timeout(LIMIT, pull)
            .await
            .expect("the pull takes too long")
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

/// An image with two layers' worth of bytes: its store has the blobs that a registry would serve.
pub fn an_image(dir: &Path) -> (Store, Arc<Image>) {
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
pub struct Manners {
    /// A layer's connection breaks after so many bytes.
    pub breaks_after: Option<usize>,
    pub ignores_ranges: bool,
    /// A layer's bytes stop coming.
    pub stalls: bool,
    /// It takes connections, and answers nothing.
    pub is_mute: bool,
    /// A layer is another one than was promised.
    pub lies: bool,
    /// A layer is at another server.
    pub redirects_to: Option<SocketAddr>,
    /// Who asks must show a token of the name and the password `me`, `secret`.
    pub wants_token: bool,
}

/// A registry that serves `app:1` and `app:2`, two images with the same layer.
pub struct Server {
    pub address: String,
    pub seen: Arc<Seen>,
    _dir: tempfile::TempDir,
}

#[derive(Default)]
pub struct Seen {
    pub requests: AtomicUsize,
    pub layers: AtomicUsize,
    pub ranges: AtomicUsize,
    pub exchanges: AtomicUsize,
    pub authorizations: Mutex<Vec<String>>,
}

#[derive(Clone)]
pub struct Shelf {
    blobs: Arc<HashMap<String, Bytes>>,
    /// By tag.
    manifests: [(&'static str, Digest); 2],
    layer: Digest,
    manners: Manners,
    pub address: String,
    pub seen: Arc<Seen>,
}

impl Server {
    pub async fn start(manners: Manners) -> Server {
        Server::listen(manners, |listener| listener).await
    }

    /// `secured` is what is done to the connections that come.
    pub async fn listen<L>(manners: Manners, secured: impl FnOnce(TcpListener) -> L) -> Server
    where
        L: axum::serve::Listener<Addr: std::fmt::Debug>,
    {
        let dir = tempfile::tempdir().unwrap();
        let (_store, image) = an_image(dir.path());
        let content = dir.path().join("source/images/content/sha256");
        let blobs = std::fs::read_dir(content).unwrap().map(|entry| {
            let entry = entry.unwrap();
            let digest = format!("sha256:{}", entry.file_name().into_string().unwrap());
            (digest, Bytes::from(std::fs::read(entry.path()).unwrap()))
        });
        let mut blobs: HashMap<_, _> = blobs.collect();
        let one = image.manifest.unwrap();
        let two = another_image(&mut blobs, &one, &image.id);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Seen::default());
        let shelf = Shelf {
            blobs: Arc::new(blobs),
            manifests: [("1", one), ("2", two)],
            layer: image.layers[0].digest,
            manners,
            address: address.clone(),
            seen: seen.clone(),
        };
        let router = Router::new()
            .route("/token", get(token).post(exchange))
            .fallback(content_of)
            .with_state(shelf);
        let listener = secured(listener);
        tokio::spawn(async move { axum::serve(listener, router).await });
        Server {
            address,
            seen,
            _dir: dir,
        }
    }

    pub fn image(&self) -> String {
        format!("{}/app:1", self.address)
    }
}

/// Adds an image that differs from the one of `manifest` in its configuration alone; answers its manifest's digest.
fn another_image(blobs: &mut HashMap<String, Bytes>, manifest: &Digest, config: &Digest) -> Digest {
    let text = |digest: &Digest| String::from_utf8(blobs[&digest.to_string()].to_vec()).unwrap();
    let (old_config, old_manifest) = (text(config), text(manifest));
    let new_config = old_config.replacen('{', r#"{"author":"another","#, 1);
    let new_id = Digest::of(new_config.as_bytes());
    let mut new_manifest: serde_json::Value = serde_json::from_str(&old_manifest).unwrap();
    new_manifest["config"]["digest"] = new_id.to_string().into();
    new_manifest["config"]["size"] = new_config.len().into();
    let new_manifest = new_manifest.to_string();
    let digest = Digest::of(new_manifest.as_bytes());
    blobs.insert(new_id.to_string(), new_config.into());
    blobs.insert(digest.to_string(), new_manifest.into());
    digest
}

/// For the identity token `me-for-ever`, a token for the registry.
pub async fn exchange(State(shelf): State<Shelf>, form: String) -> Response {
    let form: HashMap<_, _> = form_urlencoded::parse(form.as_bytes()).collect();
    let field = |name: &str| form.get(name).map(AsRef::as_ref);
    let is_right = field("grant_type") == Some("refresh_token")
        && field("refresh_token") == Some("me-for-ever")
        && field("service") == Some("here")
        && field("scope") == Some("repository:app:pull");
    if !is_right {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    shelf.seen.exchanges.fetch_add(1, Ordering::SeqCst);
    r#"{"access_token": "the-token"}"#.into_response()
}

/// An error as the distribution specification has it.
fn error(code: &str, message: &str) -> String {
    serde_json::json!({"errors": [{"code": code, "message": message}]}).to_string()
}

pub async fn token(
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
        let said = format!("who are you? You said: {}", shown.unwrap_or_default());
        return (StatusCode::UNAUTHORIZED, error("UNAUTHORIZED", &said)).into_response();
    }
    r#"{"token": "the-token"}"#.into_response()
}

pub async fn content_of(State(shelf): State<Shelf>, request: Request) -> Response {
    shelf.seen.requests.fetch_add(1, Ordering::SeqCst);
    if shelf.manners.is_mute {
        std::future::pending::<()>().await;
    }
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
    let secrets = [
        header(header::AUTHORIZATION),
        header(HeaderName::from_static("x-secret")),
    ];
    let told: Vec<String> = secrets.into_iter().flatten().collect();
    shelf.seen.authorizations.lock().unwrap().extend(told.clone());
    let name = match request
        .uri()
        .path()
        .strip_prefix("/v2/app/")
        .unwrap_or_default()
        .split_once('/')
    {
        Some(("manifests", name)) => {
            let tagged = shelf.manifests.iter().find(|(tag, _)| *tag == name);
            tagged.map_or(name.to_owned(), |(_, digest)| digest.to_string())
        }
        Some(("blobs", digest)) => digest.to_owned(),
        _ => String::new(),
    };
    let Some(bytes) = shelf.blobs.get(&name).cloned() else {
        let said = format!("manifest unknown to this server\n\x1b[31mYou said: {}", told.join(" "));
        return (StatusCode::NOT_FOUND, error("MANIFEST_UNKNOWN", &said)).into_response();
    };
    if name != shelf.layer.to_string() {
        return bytes.into_response();
    }
    shelf.seen.layers.fetch_add(1, Ordering::SeqCst);
    if let Some(other) = shelf.manners.redirects_to {
        let location = format!("http://{other}/v2/app/blobs/{name}");
        return (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, location)]).into_response();
    }
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
pub trait ChainPending: futures_util::Stream + Sized {
    fn chain_pending(self) -> impl futures_util::Stream<Item = Self::Item> {
        futures_util::StreamExt::chain(self, stream::pending())
    }
}

impl<S: futures_util::Stream> ChainPending for S {}

/// A real registry: Debian's docker-registry, or another, on a port of its own; it ends with the test.
pub struct DockerRegistry {
    process: Child,
    pub address: String,
    _dir: tempfile::TempDir,
}

impl DockerRegistry {
    /// `None`, and a word about it, where it is not installed.
    pub async fn start(auth: &str) -> Option<DockerRegistry> {
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
        Some(DockerRegistry::listening(process, address, dir).await)
    }

    /// go-containerregistry's, another implementation of the specification, where `HOVE_OTHER_REGISTRY` says it is: `cargo xtask
    /// registries` makes it.
    pub async fn other() -> Option<DockerRegistry> {
        let Some(program) = std::env::var_os("HOVE_OTHER_REGISTRY") else {
            println!("SKIPPED: HOVE_OTHER_REGISTRY names no program");
            return None;
        };
        let address = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let process = Command::new(program)
            .args(["-port", &address.port().to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let dir = tempfile::tempdir().unwrap();
        Some(DockerRegistry::listening(process, address.to_string(), dir).await)
    }

    /// Waits until it does.
    async fn listening(process: Child, address: String, dir: tempfile::TempDir) -> DockerRegistry {
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
            .expect("the registry does not listen");
        registry
    }

    pub fn push(&self, archive: &Path, name: &str, extra: &[&str]) {
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

impl DockerRegistry {
    /// Puts a blob there.
    pub fn put_blob(&self, repository: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        // Where a blob goes is told by a URL, or by a path, with or without a query.
        shell(&format!(
            "to=$(curl -sf -X POST -D - -o /dev/null http://{0}/v2/{repository}/blobs/uploads/ | tr -d '\\r' | sed -n 's/^Location: //p'); \
             case $to in /*) to=http://{0}$to;; esac; case $to in *\\?*) to=$to'&';; *) to=$to'?';; esac; \
             curl -sf -X PUT -H 'Content-Type: application/octet-stream' --data-binary @{1} \"$to\"digest={digest}",
            self.address,
            file.path().display()
        ));
        digest
    }

    /// Puts a manifest there whose parts it has.
    pub fn put_manifest(&self, repository: &str, name: &str, kind: &str, manifest: &[u8]) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), manifest).unwrap();
        let put = Command::new("curl")
            .args(["-sf", "-X", "PUT", "-H", &format!("Content-Type: {kind}")])
            .arg("--data-binary")
            .arg(format!("@{}", file.path().display()))
            .arg(format!("http://{}/v2/{repository}/manifests/{name}", self.address))
            .output()
            .unwrap();
        assert!(put.status.success(), "{put:?}");
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// An archive as `docker save` writes it.
pub fn archive(dir: &Path) -> PathBuf {
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
