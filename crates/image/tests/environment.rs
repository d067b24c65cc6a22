//! What the environment says: proxies, and the programs that keep docker's credentials. Each pull is a process of its own.

#![allow(clippy::unwrap_used)]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::Ordering;

use support::registry::{Manners, Node, Server};
use support::tls::{Secured, certificates};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

/// Set for a test that runs again as a child: `DIR IMAGE`, to be pulled by what DIR configures.
const CHILD: &str = "HOVE_IMAGE_TEST_ENVIRONMENT";

/// Not a test: what the child does.
#[tokio::test]
async fn child() {
    let Ok(task) = std::env::var(CHILD) else { return };
    let (dir, image) = task.split_once(' ').unwrap();
    let node = Node::with(|config| {
        config.hosts_dirs = vec![Path::new(dir).join("certs.d")];
        config.docker_config = Some(Path::new(dir).join("config.json"));
    });
    if let Err(error) = node.pull(image).await {
        panic!("{error}");
    }
}

/// Pulls `image` by what `dir` configures, in this environment. The error is all that was said.
async fn pull(dir: &Path, image: &str, environment: &[(&str, &str)]) -> Result<(), String> {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(CHILD, format!("{} {image}", dir.display()))
        .envs(environment.iter().copied())
        .output()
        .await
        .unwrap();
    match child.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&child.stderr).into_owned()),
    }
}

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

#[tokio::test]
async fn a_proxy_is_used_but_for_those_that_need_none() {
    let layers = |server: &Server| server.seen.layers.load(Ordering::SeqCst);
    let registry = Server::start(Manners::default()).await;
    // It has what it is asked for, as if it had fetched it.
    let proxy = Server::start(Manners::default()).await;
    let by = format!("http://{}", proxy.address);
    let dir = tempfile::tempdir().unwrap();
    // Another way to this machine, which is not known as one.
    let address = registry.address.replace("127.0.0.1", "0.0.0.0");
    let hosts = format!("server = \"http://{address}\"\n");
    write(&dir.path().join(format!("certs.d/{address}/hosts.toml")), &hosts);
    let image = format!("{address}/app:1");

    for name in ["HTTP_PROXY", "http_proxy"] {
        let before = layers(&proxy);
        pull(dir.path(), &image, &[(name, &by)]).await.unwrap();
        assert_eq!((layers(&proxy), layers(&registry)), (before + 1, 0), "{name}");
    }
    pull(dir.path(), &image, &[("HTTP_PROXY", &by), ("NO_PROXY", "0.0.0.0")])
        .await
        .unwrap();
    assert_eq!((layers(&proxy), layers(&registry)), (2, 1));
    // This machine needs none.
    pull(dir.path(), &registry.image(), &[("HTTP_PROXY", &by)])
        .await
        .unwrap();
    assert_eq!((layers(&proxy), layers(&registry)), (2, 2));
}

#[tokio::test]
async fn authorities_are_not_needed_where_there_is_no_tls() {
    let server = Server::start(Manners::default()).await;
    let dir = tempfile::tempdir().unwrap();
    let nothing = dir.path().display().to_string();
    let none = [("SSL_CERT_FILE", "/dev/null"), ("SSL_CERT_DIR", nothing.as_str())];
    pull(dir.path(), &server.image(), &none).await.unwrap();
}

/// A proxy that leads to `target` whoever wants to go to registry.example; answers where it listens.
async fn tunnel(target: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(lead(stream, target.clone()));
        }
    });
    address
}

async fn lead(stream: TcpStream, target: String) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    // An empty line is its end.
    while stream.read_line(&mut head).await? > 2 {}
    if head.starts_with("CONNECT registry.example:443 HTTP/1.1\r\n") {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
        let mut onward = TcpStream::connect(&target).await?;
        tokio::io::copy_bidirectional(&mut stream, &mut onward).await?;
    }
    Ok(())
}

#[tokio::test]
async fn through_a_proxy_tls_reaches_to_the_registry() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let server = Server::listen(Manners::default(), |tcp| Secured::new(tcp, dir.path(), false)).await;
    let hosts = format!("ca = \"{}\"\n", dir.path().join("ca.pem").display());
    write(&dir.path().join("certs.d/registry.example/hosts.toml"), &hosts);
    let by = format!("http://{}", tunnel(server.address.clone()).await);
    pull(dir.path(), "registry.example/app:1", &[("HTTPS_PROXY", &by)])
        .await
        .unwrap();
    assert_eq!(server.seen.layers.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_program_that_keeps_credentials_is_asked() {
    let server = Server::start(Manners {
        wants_token: true,
        ..Manners::default()
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    // It is told the registry's name on its standard input (docker-credential-helpers, README).
    let helper = |name: &str, answer: &str| {
        let path = dir.path().join(format!("bin/docker-credential-{name}"));
        let script = format!(
            "#!/bin/sh\n[ \"$1\" = get ] && [ \"$(cat)\" = \"{}\" ] && echo '{answer}'\n",
            server.address
        );
        write(&path, &script);
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    helper("ours", r#"{"ServerURL": "", "Username": "me", "Secret": "secret"}"#);
    helper(
        "token",
        r#"{"ServerURL": "", "Username": "<token>", "Secret": "me-for-ever"}"#,
    );
    helper("wrong", r#"{"ServerURL": "", "Username": "me", "Secret": "hunter2"}"#);
    let path = format!(
        "{}:{}",
        dir.path().join("bin").display(),
        std::env::var("PATH").unwrap()
    );
    let pull_with = async |config: String| {
        write(&dir.path().join("config.json"), &config);
        pull(dir.path(), &server.image(), &[("PATH", &path)]).await
    };
    let address = &server.address;
    pull_with(format!(r#"{{"credHelpers": {{"{address}": "ours"}}}}"#))
        .await
        .unwrap();
    pull_with(r#"{"credsStore": "ours"}"#.to_owned()).await.unwrap();
    assert_eq!(server.seen.exchanges.load(Ordering::SeqCst), 0);
    // An identity token is nothing for the registry: it is exchanged.
    pull_with(r#"{"credsStore": "token"}"#.to_owned()).await.unwrap();
    assert_eq!(server.seen.exchanges.load(Ordering::SeqCst), 1);

    let error = pull_with(r#"{"credsStore": "wrong"}"#.to_owned()).await.unwrap_err();
    assert!(error.contains("who are you?") && !error.contains("hunter2"), "{error}");
    let error = pull_with(r#"{"credsStore": "missing"}"#.to_owned()).await.unwrap_err();
    assert!(error.contains("docker-credential-missing"), "{error}");
}
