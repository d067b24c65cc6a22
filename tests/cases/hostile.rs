//! Documents that are made to hurt, and clients that are: refused in words, within limits of time and memory, and everybody
//! else is served as before.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use end_to_end::instance::{PATIENT, QUICK, condition};
use end_to_end::{Host, Instance, case, http};

/// The address space that reading any document may take, in KiB: the parser's limits, and an idle program's own.
const DOCUMENT_MEMORY_KIB: u32 = 768 << 10;
/// The most that a node may ever have had in memory after all of it, in KiB.
const NODE_MEMORY_KIB: u64 = 256 << 10;
/// `streaming::serve::CONNECTIONS_MAX`.
const CONNECTIONS_MAX: usize = 512;
/// `streaming::serve::HEAD_TIMEOUT`, and time for an unoptimised node on a busy machine.
const HEAD_PATIENCE: Duration = Duration::from_secs(10 + 30);

/// What hurts parsers, by name.
fn bombs() -> Vec<(&'static str, Vec<u8>)> {
    let mut aliases = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let list = vec![format!("*a{}", level - 1); 10].join(", ");
        aliases.push_str(&format!("a{level}: &a{level} [{list}]\n"));
    }
    let long = format!("- &a {}\n{}", "x".repeat(2 << 20), "- *a\n".repeat(20_000));
    let json = format!(
        "{{\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"spec\": {{\"containers\": [{}{{}}]}}}}",
        "{}, ".repeat(500_000)
    );
    let wrong =
        "---\napiVersion: v1\nkind: Pod\nmetadata: {name: A_B}\nspec: {containers: [{}, {}, {x: 1}]}\n".repeat(5_000);
    vec![
        ("aliases", aliases.into_bytes()),
        ("long-alias", long.into_bytes()),
        ("deep", "[".repeat(1 << 20).into_bytes()),
        ("deep-json", "{\"a\":".repeat(400_000).into_bytes()),
        ("many", "- a\n".repeat(600_000).into_bytes()),
        ("many-json", json.into_bytes()),
        ("documents", "---\n{}\n".repeat(400_000).into_bytes()),
        ("wrong", wrong.into_bytes()),
        ("latin1", b"apiVersion: v1\nkind: Pod # \xe9\xff\xfe\n".to_vec()),
        ("zeros", vec![0; 1 << 20]),
        ("twice", b"apiVersion: v1\nkind: Pod\nkind: Pod\n".to_vec()),
    ]
}

#[test]
fn documents_are_refused_by_the_command_line() {
    case(&[], |host: &Host| -> Result<()> {
        let node = host.node()?;
        let refused = |file: &std::path::Path, words: &str| {
            let begin = Instant::now();
            let args = ["run".as_ref(), file.as_os_str()];
            let ended = node
                .spawn_after(&format!("ulimit -v {DOCUMENT_MEMORY_KIB}"), args)?
                .wait(QUICK)?;
            ensure!(ended.code() == 1, "{}: {ended:?}", file.display());
            ensure!(
                ended.stderr.starts_with("error: ") && ended.stderr.contains(words),
                "{ended:?}"
            );
            ensure!(ended.stderr.len() < 64 << 10, "{} bytes are said", ended.stderr.len());
            println!("{}: {:?}", file.display(), begin.elapsed());
            Ok(())
        };
        for (name, bytes) in bombs() {
            let file = host.directory().join(format!("{name}.yaml"));
            std::fs::write(&file, bytes)?;
            refused(&file, &format!("{name}.yaml"))?;
        }
        let large = host.directory().join("large.yaml");
        std::fs::File::create(&large)?.set_len(1 << 40)?;
        refused(&large, "bytes")?;
        refused("/dev/zero".as_ref(), "bytes")?;
        refused(host.directory(), "directory")?;
        Ok(())
    });
}

#[test]
fn documents_are_refused_by_the_node() {
    case(&[], |host: &Host| -> Result<()> {
        let node = host.node()?;
        node.output(["get", "pods"])?;
        for path in [
            "/api/v1/namespaces/default/pods",
            "/apis/hove.dev/v1/namespaces/default/runs",
        ] {
            for (name, bytes) in bombs() {
                let begin = Instant::now();
                let answer = post(&node, path, &bytes).with_context(|| name.to_owned())?;
                let is_status = answer.contains("\"kind\":\"Status\"") && answer.contains("\"status\":\"Failure\"");
                ensure!(answer.starts_with("HTTP/1.1 4") && is_status, "{name}: {answer}");
                println!("{name}: {:?}", begin.elapsed());
            }
            let large = post(&node, path, &vec![b'#'; (3 << 20) + 1])?;
            ensure!(
                large.starts_with("HTTP/1.1 413") && large.contains("RequestEntityTooLarge"),
                "{large}"
            );
        }
        let memory = node.node_memory_kib()?;
        println!("the node has had {memory} KiB at most");
        ensure!(memory < NODE_MEMORY_KIB, "the node has had {memory} KiB");
        serves(&node)
    });
}

fn post(node: &Instance, path: &str, body: &[u8]) -> Result<String> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    talk(node, &[head.as_bytes(), body].concat())
}

/// Sends bytes, and reads what is answered to its end, which must come.
fn talk(node: &Instance, bytes: &[u8]) -> Result<String> {
    let mut stream = UnixStream::connect(node.api_socket())?;
    stream.set_read_timeout(Some(HEAD_PATIENCE))?;
    stream.set_write_timeout(Some(HEAD_PATIENCE))?;
    // A server that has heard enough hangs up: what it said until then is what counts.
    let hung_up = |error: &std::io::Error| matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset);
    match stream.write_all(bytes) {
        Err(error) if !hung_up(&error) => return Err(error).context("write"),
        _ => {}
    }
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if !hung_up(&error) => return Err(error).context("the server neither answers nor hangs up"),
        _ => {}
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn serves(node: &Instance) -> Result<()> {
    let answer = http::get_unix(&node.api_socket(), "/healthz", HEAD_PATIENCE)?.response()?;
    ensure!(answer.status == 200, "{answer:?}");
    Ok(())
}

#[test]
fn garbage_is_not_http() {
    case(&[], |host: &Host| -> Result<()> {
        let node = host.node()?;
        node.output(["get", "pods"])?;
        let name = "x".repeat(100_000);
        let headers: String = (0..5_000).map(|n| format!("h{n}: v\r\n")).collect();
        let requests: Vec<(&str, Vec<u8>)> = vec![
            ("noise", (0..100_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()),
            ("zeros", vec![0; 100_000]),
            ("lines", b"\r\n".repeat(50_000)),
            ("http2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
            ("tls", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec()),
            ("version", b"GET / HTTP/9.9\r\nHost: x\r\n\r\n".to_vec()),
            ("method", format!("{name} / HTTP/1.1\r\nHost: x\r\n\r\n").into_bytes()),
            ("path", format!("GET /{name} HTTP/1.1\r\nHost: x\r\n\r\n").into_bytes()),
            ("header", format!("GET / HTTP/1.1\r\nHost: x\r\nh: {name}\r\n\r\n").into_bytes()),
            ("headers", format!("GET / HTTP/1.1\r\nHost: x\r\n{headers}\r\n").into_bytes()),
            ("length", b"POST /api/v1/namespaces/default/pods HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n".to_vec()),
            ("lengths", b"POST /api/v1/namespaces/default/pods HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef".to_vec()),
            ("chunk", b"POST /api/v1/namespaces/default/pods HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nabc".to_vec()),
            ("chunks", [&b"POST /api/v1/namespaces/default/pods HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"[..], &b"1;x=y\r\na\r\n".repeat(200_000)].concat()),
            ("both", b"POST /api/v1/namespaces/default/pods HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\n\r\n".to_vec()),
        ];
        for (name, request) in requests {
            let mut closing = request.clone();
            if name == "chunks" {
                closing.extend(b"0\r\n\r\n");
            }
            let answer = talk_and_close(&node, &closing).with_context(|| name.to_owned())?;
            ensure!(
                answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
                "{name}: {answer}"
            );
            serves(&node).with_context(|| format!("after {name}"))?;
        }
        // A client that dies in the middle of its document.
        let mut half = UnixStream::connect(node.api_socket())?;
        half.write_all(b"POST /api/v1/namespaces/default/pods HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc")?;
        drop(half);
        serves(&node)
    });
}

/// Sends the head of a request, and reads that of its answer.
fn open(node: &Instance, head: &str) -> Result<(UnixStream, String)> {
    let mut stream = UnixStream::connect(node.api_socket())?;
    stream.set_read_timeout(Some(HEAD_PATIENCE))?;
    stream.write_all(head.as_bytes())?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream
            .read_exact(&mut byte)
            .with_context(|| String::from_utf8_lossy(&answer).into_owned())?;
        answer.extend(byte);
    }
    Ok((stream, String::from_utf8_lossy(&answer).into_owned()))
}

/// The same as [`talk`], saying that nothing more will come.
fn talk_and_close(node: &Instance, bytes: &[u8]) -> Result<String> {
    let stream = UnixStream::connect(node.api_socket())?;
    stream.set_read_timeout(Some(HEAD_PATIENCE))?;
    send_and_close(stream, bytes.to_vec())
}

fn send_and_close(stream: UnixStream, bytes: Vec<u8>) -> Result<String> {
    let mut writer = stream.try_clone()?;
    // A server that answers before it has read all is still read from.
    let sender = std::thread::spawn(move || {
        let _ = writer.write_all(&bytes);
        let _ = writer.shutdown(std::net::Shutdown::Write);
    });
    let mut answer = Vec::new();
    let read = (&stream).read_to_end(&mut answer);
    drop(stream);
    let _ = sender.join();
    match read {
        Err(error) if error.kind() == ErrorKind::WouldBlock => bail!("the server neither answers nor hangs up"),
        _ => Ok(String::from_utf8_lossy(&answer).into_owned()),
    }
}

/// More clients than there are places, none of whom ever finishes a request: who comes after them is served once they have had
/// their time.
#[test]
fn slow_clients_do_not_keep_others_out() {
    case(&[], |host: &Host| -> Result<()> {
        let node = host.node()?;
        node.output(["get", "pods"])?;
        let mut slow = Vec::new();
        for n in 0..CONNECTIONS_MAX + 100 {
            let mut stream = UnixStream::connect(node.api_socket()).with_context(|| format!("connection {n}"))?;
            stream.write_all(b"GET /healthz HTTP/1.1\r\nHost")?;
            slow.push(stream);
        }
        let begin = Instant::now();
        serves(&node)?;
        println!("served after {:?}", begin.elapsed());
        ensure!(begin.elapsed() < HEAD_PATIENCE, "{:?}", begin.elapsed());
        // They were told, or hung up on.
        let mut first = slow.swap_remove(0);
        first.set_read_timeout(Some(HEAD_PATIENCE))?;
        let mut answer = Vec::new();
        first.read_to_end(&mut answer)?;
        ensure!(
            answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"),
            "{}",
            String::from_utf8_lossy(&answer)
        );
        Ok(())
    });
}

const BOX: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: box}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers:\n  \
    - {name: c, image: 'localhost/hove/busybox:1', imagePullPolicy: Never, command: [sleep, '1000']}\n";

fn start_box(host: &Host) -> Result<Instance> {
    let node = host.node()?;
    node.import(&["busybox"])?;
    let manifest = host.manifest("box.yaml", BOX)?;
    node.output(["run".as_ref(), "-d".as_ref(), manifest.as_os_str()])?;
    node.wait_for_pod("box", |pod| {
        condition(pod, "Ready").is_some_and(|c| c["status"] == "True")
    })?;
    Ok(node)
}

/// A path leads to objects, never to files.
#[test]
fn paths_lead_nowhere_else() {
    case(&["busybox"], |host: &Host| -> Result<()> {
        let node = start_box(host)?;
        const PODS: &str = "/api/v1/namespaces/default/pods";
        for path in [
            "/../../../../etc/passwd",
            "/%2e%2e/%2e%2e/etc/passwd",
            "//",
            "/%00",
            "/%ff%fe",
            &format!("{PODS}/..%2f..%2f..%2fetc%2fpasswd"),
            &format!("{PODS}/..%2f..%2fetc/log"),
            &format!("{PODS}/%ff"),
            &format!("{PODS}/box%00"),
            &format!("{PODS}/box%0d%0aSet-Cookie:x"),
            &format!("{PODS}/box/log?container=..%2f..%2f..%2fetc"),
            &format!("{PODS}/box/log?container=c%00&tailLines=-1"),
            &format!("{PODS}/box/log?tailLines=99999999999999999999"),
            &format!("{PODS}/box/exec?command=id"),
            &format!("{PODS}/box/exec?container=..%2fc&command=id&stdout=1"),
            &format!("{PODS}/box/portforward?ports=99999"),
            &format!("{PODS}?watch=true&resourceVersion=minus"),
            &format!("{PODS}?labelSelector=((("),
            "/api/v1/namespaces/..%2f../pods/box",
            "/apis/hove.dev/v1/images/..%2f..%2f..%2fetc%2fpasswd",
            "/apis/hove.dev/v1/images/../../../../etc/passwd",
            "/apis/hove.dev/v1/namespaces/..%2fdefault/pods/box/namespaces",
            "http://elsewhere.example/api/v1/nowhere",
        ] {
            for method in ["GET", "POST", "DELETE", "PUT", "BREW"] {
                if method == "DELETE" && path.contains("box/") {
                    continue;
                }
                let request =
                    format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
                let answer = talk(&node, request.as_bytes()).with_context(|| format!("{method} {path}"))?;
                let is_refused = answer.starts_with("HTTP/1.1 4") && answer.contains("\"kind\":\"Status\"");
                ensure!(
                    is_refused || answer.starts_with("HTTP/1.1 4") && answer.ends_with("\r\n\r\n"),
                    "{method} {path}: {answer}"
                );
                ensure!(
                    !answer.contains("root:") && !answer.contains("\nSet-Cookie"),
                    "{method} {path}: {answer}"
                );
            }
        }
        node.output(["delete", "pod", "box"])?;
        Ok(())
    });
}

/// Bytes of one frame as a client sends it, masked with zeros.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..126 => bytes.push(0x80 | length as u8),
        length => {
            bytes.push(0x80 | 126);
            bytes.extend((length as u16).to_be_bytes());
        }
    }
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}

#[test]
fn garbage_on_a_websocket() {
    case(&["busybox"], |host: &Host| -> Result<()> {
        let node = start_box(host)?;
        let exec = "/api/v1/namespaces/default/pods/box/exec?command=cat&stdin=1&stdout=1";
        let upgrade = |key: &str, version: &str, protocol: &str| {
            format!(
                "GET {exec} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{key}\
                 Sec-WebSocket-Version: {version}\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n"
            )
        };
        let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        for wrong in [
            upgrade("", "13", "v5.channel.k8s.io"),
            upgrade(key, "12", "v5.channel.k8s.io"),
            upgrade(key, "13", "v9.channel.k8s.io, evil"),
        ] {
            let (_, answer) = open(&node, &wrong)?;
            ensure!(answer.starts_with("HTTP/1.1 4"), "{wrong}{answer}");
        }
        let huge = [&[0x82, 0x80 | 127][..], &u64::MAX.to_be_bytes(), &[0; 4], &[0; 1000]].concat();
        let large = [
            &[0x82, 0x80 | 127][..],
            &(1u64 << 30).to_be_bytes(),
            &[0; 4],
            &[0; 100_000],
        ]
        .concat();
        for (name, bytes) in [
            ("no mask", vec![0x82, 0x02, 0, b'x']),
            ("reserved opcode", frame(0x83, b"\0x")),
            ("reserved bits", frame(0xf2, b"\0x")),
            ("text", frame(0x81, b"\0x")),
            ("not UTF-8", frame(0x81, b"\xff\xfe")),
            ("empty", frame(0x82, b"")),
            ("unknown channel", frame(0x82, b"\xc8x")),
            ("output channel", frame(0x82, b"\x01x")),
            ("size", frame(0x82, b"\x04{\"Width\": -1, \"Height\": \"x\"}")),
            ("not a size", frame(0x82, b"\x04\xff\xff")),
            ("close of nothing", frame(0x82, b"\xff\x09")),
            ("continuation", frame(0x80, b"\0x")),
            ("unfinished", frame(0x02, b"\0x").repeat(1000)),
            ("long ping", frame(0x89, &[0; 1000])),
            ("pings", frame(0x89, b"x").repeat(20_000)),
            ("close", frame(0x88, b"\x00")),
            ("huge", huge),
            ("large", large),
            (
                "noise",
                (0..100_000u32)
                    .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
                    .collect(),
            ),
        ] {
            let (stream, answer) = open(&node, &upgrade(key, "13", "v5.channel.k8s.io"))?;
            ensure!(answer.starts_with("HTTP/1.1 101"), "{name}: {answer}");
            send_and_close(stream, bytes).with_context(|| name.to_owned())?;
            serves(&node).with_context(|| format!("after {name}"))?;
        }
        // None of them has left its program behind.
        let deadline = Instant::now() + PATIENT;
        loop {
            let processes = node.output(["exec", "box", "--", "ps", "-o", "args"])?;
            if !processes.lines().any(|line| line.trim() == "cat") {
                break;
            }
            ensure!(Instant::now() < deadline, "programs are left:\n{processes}");
        }
        let memory = node.node_memory_kib()?;
        ensure!(memory < NODE_MEMORY_KIB, "the node has had {memory} KiB");
        node.output(["delete", "pod", "box"])?;
        Ok(())
    });
}
