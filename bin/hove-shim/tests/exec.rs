//! What is started in a container that runs.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;

use shim_api::{Kind, deadline, task};
use support::{Pod, eventually, sh};

#[tokio::test]
async fn an_exec_has_the_callers_fifos() {
    let pod = Pod::start(false).await;
    pod.run("a", sh("exec sleep 1000")).await;
    let said = pod
        .exec("a", "e1", "cat; hostname; echo error >&2; exit 9", "typed\n")
        .await;
    assert_eq!(
        (said.stdout.as_str(), said.stderr.as_str(), said.code),
        ("typed\nthe-pod\n", "error\n", 9)
    );

    // One after the other leaves nothing behind.
    for n in 0..10 {
        let said = pod
            .exec("a", &format!("many-{n}"), &format!("read x; echo $x {n}"), "hello\n")
            .await;
        assert_eq!((said.stdout, said.code), (format!("hello {n}\n"), 0));
    }
    assert!(pod.state().await.execs.is_empty());
    assert_eq!(pod.shut_down().await, 0);
}

/// containerd asks for the end before the beginning.
#[tokio::test]
async fn an_exec_is_waited_for_before_it_is_started() {
    let pod = Pod::start(false).await;
    pod.run("a", sh("exec sleep 1000")).await;
    let mut request = task::ExecProcessRequest::new();
    request.id = "a".into();
    request.exec_id = "e".into();
    let mut spec = protobuf::well_known_types::any::Any::new();
    spec.value =
        br#"{"cwd": "/", "user": {"uid": 0, "gid": 0}, "args": ["sh", "-c", "exit 7"], "env": ["PATH=/bin"]}"#.to_vec();
    request.spec = Some(spec).into();
    pod.client.task.exec(deadline(support::LIMIT), &request).await.unwrap();
    let start = async {
        // Let the question be on its way.
        tokio::task::yield_now().await;
        pod.start_process("a", "e").await.unwrap()
    };
    let (code, _) = tokio::join!(pod.wait("a", "e"), start);
    assert_eq!(code, 7);
    pod.delete("a", "e").await.unwrap();
    assert_eq!(pod.shut_down().await, 0);
}

#[tokio::test]
async fn an_exec_that_can_not_start_says_why() {
    let pod = Pod::start(false).await;
    pod.run("a", sh("exec sleep 1000")).await;
    let exec = pod.begin_exec("a", "e", "exit 5", false).await.unwrap();
    drop(exec);
    assert_eq!(pod.wait("a", "e").await, 5);
    let record = fs::read_to_string(pod.bundle("a").join("execs/e/exit.json")).unwrap();
    assert!(record.contains("\"code\":5"), "{record}");
    let again = pod.start_process("a", "e").await.unwrap_err();
    assert_eq!(again.kind, Kind::Precondition);

    let mut request = task::ExecProcessRequest::new();
    request.id = "a".into();
    request.exec_id = "f".into();
    let mut spec = protobuf::well_known_types::any::Any::new();
    spec.value =
        br#"{"cwd": "/", "user": {"uid": 0, "gid": 0}, "args": ["no-such-program"], "env": ["PATH=/bin"]}"#.to_vec();
    request.spec = Some(spec).into();
    pod.client.task.exec(deadline(support::LIMIT), &request).await.unwrap();
    let why = pod.start_process("a", "f").await.unwrap_err();
    assert!(why.message.contains("no-such-program"), "{why}");
    pod.wait("a", "f").await;
    pod.delete("a", "f").await.unwrap();

    request.exec_id = "g".into();
    request.spec = Some(protobuf::well_known_types::any::Any::new()).into();
    let why = pod
        .client
        .task
        .exec(deadline(support::LIMIT), &request)
        .await
        .unwrap_err();
    assert_eq!(shim_api::Failure::from(why).kind, Kind::Invalid);
    assert_eq!(pod.shut_down().await, 0);
}

#[tokio::test]
async fn a_whole_exec_is_killed_and_nothing_else() {
    let pod = Pod::start(true).await;
    pod.run("a", sh("exec sleep 1000")).await;
    let tree = "for i in 1 2 3; do setsid sh -c 'trap \"\" TERM; sleep 1001 & sleep 1001' & done; echo started; wait";
    let exec = pod.begin_exec("a", "e", tree, false).await.unwrap();
    let sleepers = || {
        fs::read_dir("/proc")
            .unwrap()
            .filter_map(|e| fs::read(e.unwrap().path().join("cmdline")).ok())
            .filter(|cmdline| cmdline.starts_with(b"sleep\x001001\0"))
            .count()
    };
    eventually("six sleepers", || sleepers() == 6).await;
    pod.kill("a", "e", 9, true).await.unwrap();
    assert_eq!(pod.wait("a", "e").await, 137);
    eventually("no sleeper", || sleepers() == 0).await;
    assert_eq!(pod.kill("a", "e", 9, true).await.unwrap_err().kind, Kind::NotFound);
    // Its reader meets the end of its output, which only happens when nobody holds the FIFO.
    let mut out = String::new();
    fs::File::from(exec.stdout).read_to_string(&mut out).unwrap();
    assert_eq!(out, "started\n");
    pod.delete("a", "e").await.unwrap();
    let said = pod.exec("a", "after", "echo alive", "").await;
    assert_eq!(said.stdout, "alive\n");
    assert_eq!(pod.shut_down().await, 0);
}

#[tokio::test]
async fn an_exec_ends_with_its_container() {
    let pod = Pod::start(false).await;
    pod.run("a", sh("exec sleep 1000")).await;
    let exec = pod.begin_exec("a", "e", "exec sleep 1000", false).await.unwrap();
    pod.kill("a", "", 9, false).await.unwrap();
    assert_eq!((pod.wait("a", "").await, pod.wait("a", "e").await), (137, 137));
    drop(exec);
    pod.delete("a", "").await.unwrap();
    assert_eq!(pod.shut_down().await, 0);
}

#[tokio::test]
async fn an_exec_on_a_terminal() {
    let pod = Pod::start(false).await;
    pod.run("a", sh("exec sleep 1000")).await;
    let script =
        "test -t 0 && test -t 1 && test -t 2 && echo a terminal; read line; echo got $line; read line; stty size";
    let exec = pod.begin_exec("a", "e", script, true).await.unwrap();
    let mut screen = Screen::new(exec.stdout);
    screen.shows("a terminal").await;
    rustix::io::write(&exec.stdin, b"hello\r").unwrap();
    screen.shows("got hello").await;
    let mut request = task::ResizePtyRequest::new();
    request.id = "a".into();
    request.exec_id = "e".into();
    (request.width, request.height) = (123, 45);
    pod.client
        .task
        .resize_pty(deadline(support::LIMIT), &request)
        .await
        .unwrap();
    rustix::io::write(&exec.stdin, b"\r").unwrap();
    screen.shows("45 123").await;
    assert_eq!(pod.wait("a", "e").await, 0);
    screen.ends().await;

    // A signal from the keyboard.
    let exec = pod.begin_exec("a", "f", "echo ready; sleep 1000", true).await.unwrap();
    let mut screen = Screen::new(exec.stdout);
    screen.shows("ready").await;
    rustix::io::write(&exec.stdin, b"\x03").unwrap();
    assert_eq!(pod.wait("a", "f").await, 130);

    // Nobody looks any more: the process is not held up.
    let exec = pod.begin_exec("a", "g", "seq 1 100000; exit 4", true).await.unwrap();
    drop(exec.stdout);
    assert_eq!(pod.wait("a", "g").await, 4);
    assert_eq!(pod.shut_down().await, 0);
}

#[tokio::test]
async fn a_container_on_a_terminal_writes_its_log() {
    let pod = Pod::start(false).await;
    pod.run("a", sh("tty; read line; echo got $line").on_a_terminal().with_stdin())
        .await;
    let stdin = sys::fifo::open_writer(&pod.bundle("a").join("stdin"), true).unwrap();
    rustix::io::write(&stdin, b"hello\r").unwrap();
    assert_eq!(pod.wait("a", "").await, 0);
    let log = support::read_log(&pod.bundle("a").join("0.log"), &Default::default());
    let lines: Vec<_> = log.lines().map(|line| line.trim_end_matches('\r')).collect();
    // Beside the terminal's own echo, which comes before or after it.
    assert!(lines.contains(&"/dev/pts/0"), "{log}");
    assert_eq!(lines.last(), Some(&"got hello"), "{log}");
    assert_eq!(pod.shut_down().await, 0);
}

/// What a terminal has shown so far.
struct Screen {
    from: Option<fs::File>,
    shown: String,
}

impl Screen {
    fn new(from: OwnedFd) -> Screen {
        Screen {
            from: Some(from.into()),
            shown: String::new(),
        }
    }

    /// Reads on until `text` has been shown.
    async fn shows(&mut self, text: &str) {
        while !self.shown.contains(text) {
            assert!(self.read().await, "{text:?} not in {:?}", self.shown);
        }
    }

    async fn ends(&mut self) {
        while self.read().await {}
    }

    async fn read(&mut self) -> bool {
        let mut from = self.from.take().unwrap();
        let read = tokio::task::spawn_blocking(move || {
            let mut buffer = [0; 4096];
            let length = from.read(&mut buffer).unwrap();
            (from, buffer[..length].to_vec())
        });
        let (from, bytes) = tokio::time::timeout(support::LIMIT, read).await.unwrap().unwrap();
        self.from = Some(from);
        self.shown.push_str(&String::from_utf8_lossy(&bytes));
        !bytes.is_empty()
    }
}
