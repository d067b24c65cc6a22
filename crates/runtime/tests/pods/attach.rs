//! Attach: clients at the streams of a container's first process.

use cri::ErrorKind;
use cri::streaming::{StreamIo, StreamingRuntime, TerminalSize};
use cri::v1::*;
use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::host::{Host, kill, on_a_host, shell};
use crate::streams::{Client, client, read_until};

fn request(id: &str, stdin: bool) -> AttachRequest {
    AttachRequest {
        container_id: id.into(),
        stdin,
        stdout: true,
        ..Default::default()
    }
}

/// A container with an input.
async fn started(
    host: &Host,
    sandbox: &str,
    name: &str,
    script: &str,
    change: impl Fn(&mut ContainerConfig),
) -> String {
    let mut config = shell(name, script);
    config.stdin = true;
    change(&mut config);
    let id = host.create(sandbox, config).await.unwrap();
    host.start(&id).await.unwrap();
    id
}

/// A client that only reads.
fn reader() -> (Client, StreamIo) {
    let (client, io) = client();
    (client, StreamIo { stdin: None, ..io })
}

async fn type_in(client: &mut Client, text: &str) {
    client.stdin.as_mut().unwrap().write_all(text.as_bytes()).await.unwrap();
}

const ECHO: &str = "while read x; do echo got $x; test $x != end || exit 3; done; echo over";

#[test]
fn clients_see_what_is_written_from_now_on_and_the_log_has_it_too() {
    on_a_host(|host| async move {
        let sandbox = host.run(host.pod("attach")).await.unwrap();
        let script = format!("echo before; read x; {ECHO}");
        let id = started(&host, &sandbox, "main", &script, |_| {}).await;
        while host.log(&id).await.is_empty() {
            tokio::task::yield_now().await;
        }
        let ((mut one, one_io), (mut two, two_io)) = (client(), reader());
        let runtime = &host.runtime;
        let talk = async {
            type_in(&mut one, "go\n").await;
            // Whoever hears an answer was attached before it.
            let (mut lines, mut heard, mut also) = (0, String::new(), String::new());
            while !heard.contains("got hello\n") || !also.contains("got hello\n") {
                type_in(&mut one, "hello\n").await;
                lines += 1;
                heard += &read_until(&mut one.stdout, "\n").await;
                let mut buffer = [0; 64];
                if let Some(read) = two.stdout.read(&mut buffer).now_or_never() {
                    also += &String::from_utf8_lossy(&buffer[..read.unwrap()]);
                }
            }
            assert!(!heard.contains("before") && !also.contains("before"), "{heard} {also}");
            type_in(&mut one, "end\n").await;
            read_until(&mut one.stdout, "got end\n").await;
            read_until(&mut two.stdout, "got end\n").await;
            lines
        };
        let (first, second, lines) = tokio::join!(
            runtime.attach(request(&id, true), one_io),
            runtime.attach(request(&id, false), two_io),
            talk
        );
        first.unwrap();
        second.unwrap();
        assert_eq!(host.ended(&id).await.exit_code, 3);
        assert_eq!(
            host.log(&id).await,
            format!("before\n{}got end\n", "got hello\n".repeat(lines))
        );
        let late = runtime.attach(request(&id, false), reader().1).await.unwrap_err();
        assert_eq!(late.kind, ErrorKind::FailedPrecondition, "{late}");
        host.remove(&sandbox).await.unwrap();
    });
}

#[test]
fn an_input_for_one_client_ends_with_the_client() {
    on_a_host(|host| async move {
        let sandbox = host.run(host.pod("once")).await.unwrap();
        // No log either: it is attached to all the same.
        let once = |config: &mut ContainerConfig| {
            config.stdin_once = true;
            config.log_path = String::new();
        };
        let id = started(&host, &sandbox, "once", ECHO, once).await;
        let (mut client, io) = client();
        let talk = async {
            type_in(&mut client, "hello\n").await;
            read_until(&mut client.stdout, "got hello\n").await;
            drop(client.stdin.take());
            read_until(&mut client.stdout, "over\n").await;
        };
        let (attached, ()) = tokio::join!(host.runtime.attach(request(&id, true), io), talk);
        attached.unwrap();
        assert_eq!(host.ended(&id).await.exit_code, 0);

        // One that goes without a word has gone as well; and the end is the input's only.
        let id = started(&host, &sandbox, "left", "cat >/dev/null; exec sleep 1000", once).await;
        let (client, io) = crate::streams::client();
        let attach = host.runtime.attach(request(&id, true), io);
        let soon = std::time::Duration::from_millis(300);
        assert!(tokio::time::timeout(soon, attach).await.is_err());
        drop(client);
        let refused = loop {
            let (_client, io) = crate::streams::client();
            match tokio::time::timeout(soon, host.runtime.attach(request(&id, true), io)).await {
                Ok(answer) => break answer.unwrap_err(),
                Err(_) => tokio::task::yield_now().await,
            }
        };
        assert!(refused.message.contains("stdinOnce"), "{refused}");

        // Without that, one comes after the other, and the container has no end of input.
        let id = started(&host, &sandbox, "many", ECHO, |_| {}).await;
        for _ in 0..3 {
            let (mut client, io) = crate::streams::client();
            let talk = async {
                type_in(&mut client, "hello\n").await;
                read_until(&mut client.stdout, "got hello\n").await;
            };
            tokio::select! {
                ended = host.runtime.attach(request(&id, true), io) => panic!("{ended:?}"),
                () = talk => {}
            }
        }
        assert_eq!(host.status(&id).await.state(), ContainerState::ContainerRunning);
        host.remove(&sandbox).await.unwrap();
    });
}

#[test]
fn a_client_that_does_not_read_holds_nobody_up() {
    const LINES: usize = 400_000;
    on_a_host(|host| async move {
        let sandbox = host.run(host.pod("slow")).await.unwrap();
        let script = format!("while read x && test $x != go; do echo got $x; done; seq 1 {LINES}");
        let id = started(&host, &sandbox, "main", &script, |_| {}).await;
        let ((mut fast, fast_io), (mut slow, slow_io)) = (client(), reader());
        let runtime = &host.runtime;
        let all = async {
            let mut buffer = [0; 1024];
            while slow.stdout.read(&mut buffer).now_or_never().is_none() {
                type_in(&mut fast, "hello\n").await;
                read_until(&mut fast.stdout, "\n").await;
            }
            type_in(&mut fast, "go\n").await;
            let mut said = String::new();
            fast.stdout.read_to_string(&mut said).await.unwrap();
            assert_eq!(host.ended(&id).await.exit_code, 0, "the container has not waited");
            let log = host.log(&id).await;
            let lines: String = (1..=LINES).map(|n| format!("{n}\n")).collect();
            assert!(log.ends_with(&lines), "nor has its log");
            // All of it, unless this machine is too busy to read.
            assert!(log.contains(&said));
            let mut kept = String::new();
            slow.stdout.read_to_string(&mut kept).await.unwrap();
            assert!(log.contains(&kept) && kept.len() < lines.len(), "{} bytes", kept.len());
        };
        let _ = tokio::join!(
            runtime.attach(request(&id, true), fast_io),
            runtime.attach(request(&id, false), slow_io),
            all
        );
        host.remove(&sandbox).await.unwrap();
    });
}

#[test]
fn a_terminal_is_attached_to() {
    on_a_host(|host| async move {
        let sandbox = host.run(host.pod("screen")).await.unwrap();
        let script = "while read x; do case $x in size) stty size;; end) exit 4;; esac; done";
        let id = started(&host, &sandbox, "main", script, |config| config.tty = true).await;
        let (mut client, io) = client();
        let talk = async {
            client
                .resize
                .send(TerminalSize { width: 91, height: 17 })
                .await
                .unwrap();
            let mut screen = String::new();
            while !screen.contains("17 91") {
                type_in(&mut client, "size\r").await;
                screen += &read_until(&mut client.stdout, "\n").await;
            }
            type_in(&mut client, "end\r").await;
        };
        let (attached, ()) = tokio::join!(host.runtime.attach(request(&id, true), io), talk);
        attached.unwrap();
        assert_eq!(host.ended(&id).await.exit_code, 4);
        host.remove(&sandbox).await.unwrap();
    });
}

/// The container's input is open all the while, and what it answers is heard from the next supervisor.
#[test]
fn a_client_stays_attached_when_the_supervisor_dies() {
    on_a_host(|host| async move {
        let sandbox = host.run(host.pod("stays")).await.unwrap();
        let id = started(&host, &sandbox, "main", ECHO, |_| {}).await;
        let (mut client, io) = client();
        let talk = async {
            for round in 0..3 {
                kill(host.sandbox_pid(&sandbox, "shimPid").await);
                let mut heard = String::new();
                let word = format!("got {round}\n");
                // What is written before the next one is there is in the log alone.
                while !heard.contains(&word) {
                    type_in(&mut client, &format!("{round}\n")).await;
                    let mut buffer = [0; 64];
                    let soon = std::time::Duration::from_millis(20);
                    if let Ok(read) = tokio::time::timeout(soon, client.stdout.read(&mut buffer)).await {
                        heard += &String::from_utf8_lossy(&buffer[..read.unwrap()]);
                    }
                }
            }
            type_in(&mut client, "end\n").await;
        };
        let attached = async {
            let attached = host.runtime.attach(request(&id, true), io).await;
            assert_eq!(attached, Ok(()));
        };
        tokio::join!(attached, talk);
        let status = host.ended(&id).await;
        assert!([3, 255].contains(&status.exit_code), "{status:?}");
        host.remove(&sandbox).await.unwrap();
    });
}
