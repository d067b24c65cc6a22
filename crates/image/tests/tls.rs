//! Servers with TLS, as `hosts.toml` says how they are known.

#![allow(clippy::unwrap_used)]

mod support;

use image::registry::Error;
use support::registry::{Manners, Node, Server};
use support::tls::{Secured, certificates};

/// What a node says about a server with TLS on this machine, and its image's name.
fn trusting(node: &Node, server: &Server, settings: &str) -> String {
    let hosts = format!("server = \"https://{}\"\n{settings}\n", server.address);
    node.write(&format!("certs.d/{}/hosts.toml", server.address), &hosts);
    server.image()
}

#[tokio::test]
async fn an_authority_of_ones_own_is_trusted_where_hosts_toml_names_it() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let server = Server::listen(Manners::default(), |tcp| Secured::new(tcp, dir.path(), false)).await;
    let authority = format!("ca = \"{}\"", dir.path().join("ca.pem").display());

    let node = Node::new();
    node.pull(&trusting(&node, &server, &authority)).await.unwrap();
    let node = Node::new();
    node.pull(&trusting(&node, &server, "skip_verify = true"))
        .await
        .unwrap();

    // Nobody's, and another one's.
    let others = tempfile::tempdir().unwrap();
    certificates(others.path());
    let other = format!("ca = \"{}\"", others.path().join("ca.pem").display());
    for settings in ["", &other] {
        let node = Node::new();
        let error = node.pull(&trusting(&node, &server, settings)).await.unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }), "{error}");
        let error = error.to_string();
        assert!(
            error.contains("certificate") && error.contains("ca = ") && error.contains("hosts.toml"),
            "{error}"
        );
        assert!(node.store.list().is_empty());
    }
    // The right authority, but another server's name.
    let node = Node::new();
    let port = server.address.rsplit_once(':').unwrap().1;
    let hosts = format!("server = \"https://localhost:{port}\"\n{authority}\n");
    node.write(&format!("certs.d/localhost:{port}/hosts.toml"), &hosts);
    let error = node.pull(&format!("localhost:{port}/app:1")).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("does not hold"), "{error}");
}

#[tokio::test]
async fn a_server_that_asks_who_comes_is_shown_our_certificate() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let server = Server::listen(Manners::default(), |tcp| Secured::new(tcp, dir.path(), true)).await;
    let file = |name: &str| dir.path().join(name).display().to_string();
    let authority = format!("ca = \"{}\"", file("ca.pem"));
    let ours = format!(
        "{authority}\nclient = [[\"{}\", \"{}\"]]",
        file("client.pem"),
        file("client.key")
    );
    let node = Node::new();
    node.pull(&trusting(&node, &server, &ours)).await.unwrap();
    let node = Node::new();
    let error = node.pull(&trusting(&node, &server, &authority)).await.unwrap_err();
    assert!(error.to_string().contains("client = "), "{error}");
}
