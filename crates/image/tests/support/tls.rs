//! Certificates, and a listener that shows one.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::shell;

/// Makes `ca.pem`, and `server` and `client` (`.pem` and `.key` of each) that it signed. The server's names are this machine and
/// `registry.example`.
pub fn certificates(dir: &Path) {
    let new = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2";
    let issued = "-CA ca.pem -CAkey ca.key -addext basicConstraints=critical,CA:FALSE";
    shell(&format!(
        "cd {} && {new} -subj /CN=authority -keyout ca.key -out ca.pem && \
         {new} {issued} -subj /CN=server -addext subjectAltName=IP:127.0.0.1,DNS:registry.example \
            -keyout server.key -out server.pem && \
         {new} {issued} -subj /CN=client -keyout client.key -out client.pem",
        dir.display()
    ));
}

/// Connections with TLS.
pub struct Secured {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl Secured {
    /// With the certificates of `dir`; a client must show one as well if `asks_for_clients`.
    pub fn new(listener: TcpListener, dir: &Path, asks_for_clients: bool) -> Secured {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap();
        let config = if asks_for_clients {
            let mut roots = RootCertStore::empty();
            roots
                .add(CertificateDer::from_pem_file(dir.join("ca.pem")).unwrap())
                .unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            config.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            config.with_no_client_auth()
        };
        let certificate = CertificateDer::from_pem_file(dir.join("server.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(dir.join("server.key")).unwrap();
        let config = config.with_single_cert(vec![certificate], key).unwrap();
        Secured {
            listener,
            acceptor: TlsAcceptor::from(Arc::new(config)),
        }
    }
}

impl axum::serve::Listener for Secured {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let Ok((stream, address)) = self.listener.accept().await else {
                continue;
            };
            match self.acceptor.accept(stream).into_fallible().await {
                Ok(stream) => return (stream, address),
                // Who is refused reads why, and goes: closed with something unread, the connection would be reset.
                Err((_, mut stream)) => {
                    tokio::spawn(async move { tokio::io::copy(&mut stream, &mut tokio::io::sink()).await })
                }
            };
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}
