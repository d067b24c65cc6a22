//! What a shim is told over its socket. Nothing panics or hangs: each call is answered once, whatever its message; what is no
//! frame ends its own connection at most, and the next one is served.
//!
//! The services are the shim's own, without a pod behind them: what a call means is read, and the answer is that nobody does it.

#![no_main]

#[path = "shared/clockwork.rs"]
mod clockwork;

use std::collections::BTreeSet;

use futures_util::{FutureExt, StreamExt, stream};
use libfuzzer_sys::arbitrary::{self, Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use protobuf::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use ttrpc::asynchronous::transport::Listener;
use ttrpc::proto::{
    FLAG_NO_DATA, FLAG_REMOTE_CLOSED, MESSAGE_HEADER_LENGTH, MESSAGE_TYPE_DATA, MESSAGE_TYPE_RESPONSE, MessageHeader,
    Request, Response,
};

/// All that a shim is asked, and what it is not.
const METHODS: [(&str, &str); 32] = [
    ("containerd.runtime.sandbox.v1.Sandbox", "CreateSandbox"),
    ("containerd.runtime.sandbox.v1.Sandbox", "StartSandbox"),
    ("containerd.runtime.sandbox.v1.Sandbox", "Platform"),
    ("containerd.runtime.sandbox.v1.Sandbox", "StopSandbox"),
    ("containerd.runtime.sandbox.v1.Sandbox", "WaitSandbox"),
    ("containerd.runtime.sandbox.v1.Sandbox", "SandboxStatus"),
    ("containerd.runtime.sandbox.v1.Sandbox", "PingSandbox"),
    ("containerd.runtime.sandbox.v1.Sandbox", "ShutdownSandbox"),
    ("containerd.runtime.sandbox.v1.Sandbox", "SandboxMetrics"),
    ("containerd.task.v3.Task", "State"),
    ("containerd.task.v3.Task", "Create"),
    ("containerd.task.v3.Task", "Start"),
    ("containerd.task.v3.Task", "Delete"),
    ("containerd.task.v3.Task", "Pids"),
    ("containerd.task.v3.Task", "Pause"),
    ("containerd.task.v3.Task", "Resume"),
    ("containerd.task.v3.Task", "Checkpoint"),
    ("containerd.task.v3.Task", "Kill"),
    ("containerd.task.v3.Task", "Exec"),
    ("containerd.task.v3.Task", "ResizePty"),
    ("containerd.task.v3.Task", "CloseIO"),
    ("containerd.task.v3.Task", "Update"),
    ("containerd.task.v3.Task", "Wait"),
    ("containerd.task.v2.Task", "Stats"),
    ("containerd.task.v2.Task", "Connect"),
    ("containerd.task.v2.Task", "Shutdown"),
    ("hove.shim.v1.Pod", "State"),
    ("hove.shim.v1.Pod", "ReopenLog"),
    ("hove.shim.v1.Pod", "Attach"),
    ("hove.shim.v1.Pod", "Watch"),
    ("hove.shim.v1.Pod", "Nothing"),
    ("", ""),
];

#[derive(Debug, Arbitrary)]
struct Call<'a> {
    method: u8,
    flags: u8,
    timeout_ns: i64,
    metadata: Option<(&'a str, &'a str)>,
    payload: &'a [u8],
}

fuzz_target!(|bytes: &[u8]| {
    // The first byte says what follows: a connection's bytes, or calls and then such bytes.
    let (calls, rest) = match bytes.split_first() {
        None => return,
        Some((0, wire)) => (Vec::new(), wire),
        Some((_, rest)) => match <(Vec<Call>, &[u8])>::arbitrary_take_rest(Unstructured::new(rest)) {
            Ok(input) => input,
            Err(_) => return,
        },
    };
    clockwork::run(async {
        let (mut first, socket) = tokio::io::duplex(1 << 16);
        let (mut second, other_socket) = tokio::io::duplex(1 << 16);
        let sockets = stream::iter([Ok(socket), Ok(other_socket)]).chain(stream::pending());
        let mut server = shim::orphaned_services().add_listener(Listener::new(sockets));
        server.start().await.expect("it has a listener");

        ask(&mut first, &calls).await;
        let _ = first.write_all(rest).await;
        let _ = first.shutdown().await;
        let _ = tokio::io::copy(&mut first, &mut tokio::io::sink()).await;

        let last = Call {
            method: 24,
            flags: 0,
            timeout_ns: 0,
            metadata: None,
            payload: &[],
        };
        ask(&mut second, &[last]).await;
    });
});

/// Makes all calls at once; each must be answered, once.
async fn ask(connection: &mut DuplexStream, calls: &[Call<'_>]) {
    let (mut answers, mut questions) = tokio::io::split(connection);
    let mut open = BTreeSet::new();
    let mut wire = Vec::new();
    for (number, call) in (1..).step_by(2).zip(calls) {
        open.insert(number);
        wire.extend(call.encode(number));
    }
    let send = async { questions.write_all(&wire).await.expect("the connection lasts") };
    let hear = async {
        while !open.is_empty() {
            let mut header = [0; MESSAGE_HEADER_LENGTH];
            answers.read_exact(&mut header).await.expect("the connection lasts");
            let header = MessageHeader::from(header);
            let mut payload = vec![0; header.length as usize];
            answers.read_exact(&mut payload).await.expect("the connection lasts");
            assert!(open.contains(&header.stream_id), "{header:?} answers nothing");
            match header.type_ {
                MESSAGE_TYPE_RESPONSE => {
                    Response::parse_from_bytes(&payload).expect("it is one");
                    open.remove(&header.stream_id);
                }
                MESSAGE_TYPE_DATA if header.flags & FLAG_REMOTE_CLOSED != 0 => drop(open.remove(&header.stream_id)),
                MESSAGE_TYPE_DATA => {}
                kind => panic!("an answer of kind {kind}"),
            }
        }
    };
    tokio::join!(send, hear);
    // None comes twice.
    let mut more = [0];
    assert!(answers.read(&mut more).now_or_never().is_none(), "one more word");
}

impl Call<'_> {
    fn encode(&self, number: u32) -> Vec<u8> {
        let (service, method) = METHODS[usize::from(self.method) % METHODS.len()];
        let mut request = Request::new();
        request.service = service.to_owned();
        request.method = method.to_owned();
        request.payload = self.payload.to_vec();
        request.timeout_nano = self.timeout_ns;
        if let Some((key, value)) = self.metadata {
            let mut pair = ttrpc::proto::KeyValue::new();
            pair.key = key.to_owned();
            pair.value = value.to_owned();
            request.metadata.push(pair);
        }
        let payload = request.write_to_bytes().expect("it has no required fields");
        let mut header = MessageHeader::new_request(number, u32::try_from(payload.len()).expect("small"));
        // A caller who says that the request comes later is waited for.
        header.set_flags(self.flags & !FLAG_NO_DATA);
        [Vec::<u8>::from(header), payload].concat()
    }
}
