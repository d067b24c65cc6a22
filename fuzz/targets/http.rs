//! Bytes on the Pod API's socket. Nothing panics or hangs; each answer of the API's is one of success, or a `Status` with the
//! answer's code that puts the blame on the client; and no pod is kept that its own rules refuse.

#![no_main]

#[path = "shared/clockwork.rs"]
mod clockwork;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use apiserver::Api;
use axum::serve::Listener;
use libfuzzer_sys::fuzz_target;
use objects::{Kind, Scope, Store};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_util::sync::CancellationToken;

/// A runtime that has nothing and does nothing.
struct Nothing;

impl cri::RuntimeService for Nothing {}

/// One connection, and no other.
struct One(Option<DuplexStream>);

impl Listener for One {
    type Io = DuplexStream;
    type Addr = ();

    async fn accept(&mut self) -> (DuplexStream, ()) {
        match self.0.take() {
            Some(stream) => (stream, ()),
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

fuzz_target!(|bytes: &[u8]| {
    let objects = store();
    let before = objects.version();
    let api = Api {
        objects: Arc::clone(&objects),
        runtime: Arc::new(Nothing),
        log_root: PathBuf::from("/nonexistent/logs"),
        groups: Vec::new(),
    };
    let router = apiserver::with_status_refusals(apiserver::router(api));
    let answers = clockwork::run(async {
        let (client, socket) = tokio::io::duplex(4096);
        let (mut source, mut sink) = tokio::io::split(client);
        let stop = CancellationToken::new();
        let talk = async {
            let send = async {
                let _ = sink.write_all(bytes).await;
                let _ = sink.shutdown().await;
            };
            let mut answers = Vec::new();
            let (_, read) = tokio::join!(send, source.read_to_end(&mut answers));
            read.expect("a duplex has no errors");
            stop.cancel();
            answers
        };
        let serve = streaming::serve::serve(One(Some(socket)), router, stop.clone());
        let (answers, ()) = tokio::join!(talk, serve);
        answers
    });
    check(&answers);
    if objects.version() == before {
        return;
    }
    let (kept, _) = objects.list(&Scope::all(Kind::Pod)).expect("the store is whole");
    for object in kept {
        let text = object.json().to_string();
        if let Err(problems) = pod::load(&text, "kept.json") {
            panic!("{problems}\n{text}");
        }
    }
});

/// A store with one pod. There is one for each process, and it is only set up again after a change: both take longer than a
/// conversation.
fn store() -> Arc<Store> {
    static STORE: OnceLock<(tempfile::TempDir, Arc<Store>)> = OnceLock::new();
    static VERSION: AtomicU64 = AtomicU64::new(u64::MAX);
    let (_, store) = STORE.get_or_init(|| {
        let directory = tempfile::Builder::new()
            .prefix("hove-fuzz-http")
            .tempdir_in("/dev/shm")
            .expect("a tmpfs on /dev/shm");
        let store = Store::open(&directory.path().join("objects.redb")).expect("a store");
        (directory, Arc::new(store))
    });
    if store.version() != VERSION.load(Ordering::Relaxed) {
        let (kept, _) = store.list(&Scope::all(Kind::Pod)).expect("the store is whole");
        for object in kept {
            store.finalise(&object.key(), object.uid()).expect("it is there");
        }
        let pod = pod::load(include_str!("../seeds/manifest/two-containers.yaml"), "pod.yaml").expect("a pod");
        let pod = serde_json::to_value(&pod[0].pod).expect("a Pod is JSON");
        store.create(Kind::Pod, pod).expect("it is the first");
        VERSION.store(store.version(), Ordering::Relaxed);
    }
    Arc::clone(store)
}

/// The first answer; the others begin where its body ends, which only a client that knows its request can tell.
fn check(answers: &[u8]) {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let Ok(httparse::Status::Complete(head)) = response.parse(answers) else {
        assert!(answers.is_empty(), "no HTTP: {}", answers.escape_ascii());
        return;
    };
    let code = response.code.expect("it is complete");
    let header = |name: &str| {
        let found = response
            .headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case(name));
        found.and_then(|header| std::str::from_utf8(header.value).ok())
    };
    assert!(code < 500 || code == 501, "{}", answers.escape_ascii());
    let length = header("content-length").and_then(|length| length.parse::<usize>().ok());
    let is_json = header("content-type").is_some_and(|kind| kind.starts_with("application/json"));
    if code < 400 || !is_json {
        // What can't be read as HTTP at all is refused by the library, without a body.
        assert!(code < 400 || length == Some(0), "{}", answers.escape_ascii());
        return;
    }
    let body = length
        .and_then(|length| answers.get(head..head + length))
        .unwrap_or_default();
    // The answer to HEAD has none.
    if !body.is_empty() {
        let status: Value = serde_json::from_slice(body).unwrap_or_else(|_| panic!("{}", answers.escape_ascii()));
        assert_eq!(
            (&status["kind"], &status["code"]),
            (&"Status".into(), &code.into()),
            "{status}"
        );
        assert!(
            status["message"].as_str().is_some_and(|message| !message.is_empty()),
            "{status}"
        );
    }
}
