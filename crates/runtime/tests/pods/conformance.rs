//! The suite that any implementation of the CRI has to pass.

use std::sync::Arc;

use cri::conformance::{Subject, run};
use cri_grpc::{Client, Services};
use tokio::net::UnixListener;

use crate::host::{IMAGE, on_a_host};

#[test]
fn the_runtime_conforms() {
    on_a_host(|host| async move {
        let subject = Subject {
            runtime: host.runtime.clone(),
            images: host.runtime.clone(),
            image: IMAGE.into(),
            logs: host.dir.path().join("logs"),
        };
        assert_eq!(run(&subject).await, []);
    });
}

/// What kubelet calls: through the socket, without the sandboxes of the node's own engine.
#[test]
fn the_runtime_conforms_over_a_socket() {
    on_a_host(|host| async move {
        let guests = host.runtime.for_guests();
        let socket = host.dir.path().join("cri.sock");
        let services = Services {
            runtime: guests.clone(),
            images: guests,
        };
        let listener = UnixListener::bind(&socket).unwrap();
        let server = tokio::spawn(cri_grpc::serve(listener, services, std::future::pending()));
        let client = Arc::new(Client::connect(socket.to_str().unwrap()).await.unwrap());
        let subject = Subject {
            runtime: client.clone(),
            images: client,
            image: IMAGE.into(),
            logs: host.dir.path().join("logs"),
        };
        assert_eq!(run(&subject).await, []);
        server.abort();
        let _ = server.await;
    });
}
