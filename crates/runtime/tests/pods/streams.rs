//! Exec, in its three ways, and forwarded ports.

use cri::ErrorKind;
use cri::streaming::{StreamIo, StreamingRuntime, TerminalSize};
use cri::v1::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;

use crate::host::{Host, on_a_host, on_a_native_host};

#[test]
fn exec_sync() {
    on_a_host(|host| async move {
        let sandbox = host.run(host.pod("exec")).await.unwrap();
        let id = host.shell(&sandbox, "main", "exec sleep 1000").await;

        let done = host
            .exec(&id, &["/bin/sh", "-c", "echo out; echo err >&2; exit 5"])
            .await
            .unwrap();
        assert_eq!(
            (done.exit_code, done.stdout, done.stderr),
            (5, b"out\n".to_vec(), b"err\n".to_vec())
        );
        let large = host
            .exec(&id, &["/bin/sh", "-c", "dd if=/dev/zero bs=1M count=18 2>/dev/null"])
            .await
            .unwrap();
        assert_eq!(
            large.stdout.len(),
            (16 << 20) - 1024,
            "what fits into a message; the rest is discarded"
        );
        let background = host
            .exec(&id, &["/bin/sh", "-c", "sleep 1000 & echo started"])
            .await
            .unwrap();
        assert_eq!(background.stdout, b"started\n", "a background child delays no answer");

        let missing = host.exec(&id, &["/no/such/program"]).await.unwrap_err();
        assert!(missing.message.contains("/no/such/program"), "{missing}");
        assert_eq!(host.exec(&id, &[]).await.unwrap_err().kind, ErrorKind::InvalidArgument);
        host.stop_container(&id, 0).await.unwrap();
        assert_eq!(
            host.exec(&id, &["true"]).await.unwrap_err().kind,
            ErrorKind::FailedPrecondition
        );
        let execs = host.sandbox_dir(&sandbox).join("containers").join(&id).join("execs");
        // The directory goes with the container's end, or stays empty.
        assert_eq!(std::fs::read_dir(execs).map_or(0, Iterator::count), 0);
        host.remove(&sandbox).await.unwrap();
    });
}

/// The tree: a child, one in a session of its own, one whose parent has ended, one that hears no signal, and the shell.
#[test]
fn a_command_that_takes_too_long_dies_with_all_that_it_started() {
    const TREE: &str = "sleep 54321 & setsid sleep 54321 & (setsid sleep 54321 &) ; \
                        setsid sh -c 'trap \"\" TERM HUP INT; sleep 54321 & sleep 54321' & \
                        echo $(ps -o args | grep -c '^sleep 5432[1]'); exec sleep 54321";
    on_a_native_host(
        "an OCI runtime's exec has no cgroup of its own, and who leaves its session is not found",
        |host| async move {
            let sandbox = host.run(host.pod("late")).await.unwrap();
            let id = host.shell(&sandbox, "main", "sleep 98765 & exec sleep 98765").await;
            let count = async |what: &str| {
                let count = format!("ps -o args | grep -c '^sleep {what}'");
                let said = host.exec(&id, &["/bin/sh", "-c", &count]).await.unwrap();
                String::from_utf8(said.stdout).unwrap().trim().to_owned()
            };
            let began = std::time::Instant::now();
            let (late, ()) = tokio::join!(host.exec_within(&id, &["/bin/sh", "-c", TREE], 2), async {
                while count("54321").await != "6" {
                    assert!(
                        began.elapsed() < std::time::Duration::from_secs(2),
                        "the tree does not grow"
                    );
                }
            });
            let late = late.unwrap_err();
            assert_eq!(late.kind, ErrorKind::DeadlineExceeded, "{late}");
            assert!(late.message.contains("was killed"), "{late}");
            assert_eq!(count("54321").await, "0", "the whole tree is killed");
            assert_eq!(count("98765").await, "2", "and nothing else");
            host.remove(&sandbox).await.unwrap();
        },
    );
}

/// The client's side of a streamed exec.
pub struct Client {
    pub stdin: Option<DuplexStream>,
    pub stdout: DuplexStream,
    pub resize: mpsc::Sender<TerminalSize>,
}

pub fn client() -> (Client, StreamIo) {
    let (stdin, from_client) = tokio::io::duplex(1 << 16);
    let (stdout, to_client) = tokio::io::duplex(1 << 20);
    let (resize, sizes) = mpsc::channel(4);
    let io = StreamIo {
        stdin: Some(Box::new(from_client)),
        stdout: Some(Box::new(to_client)),
        stderr: None,
        resize: sizes,
    };
    (
        Client {
            stdin: Some(stdin),
            stdout,
            resize,
        },
        io,
    )
}

fn request(id: &str, tty: bool, command: &[&str]) -> ExecRequest {
    ExecRequest {
        container_id: id.into(),
        cmd: command.iter().map(|c| (*c).to_owned()).collect(),
        tty,
        stdin: true,
        stdout: true,
        stderr: false,
    }
}

pub async fn read_until(stream: &mut DuplexStream, end: &str) -> String {
    let mut text = String::new();
    while !text.contains(end) {
        let mut buffer = [0; 1024];
        let read = tokio::time::timeout(std::time::Duration::from_secs(20), stream.read(&mut buffer)).await;
        let read = read
            .unwrap_or_else(|_| panic!("{end:?} does not come: {text:?}"))
            .unwrap();
        assert!(read > 0, "the stream ended before {end:?}: {text:?}");
        text.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
    text
}

#[test]
fn exec_with_streams() {
    on_a_host(|host| async move {
        let sandbox = host.run(host.pod("streams")).await.unwrap();
        let id = host.shell(&sandbox, "main", "exec sleep 1000").await;

        let (mut client, io) = client();
        let conversation = async {
            client.stdin.as_mut().unwrap().write_all(b"one\ntwo\n").await.unwrap();
            read_until(&mut client.stdout, "two\n").await;
            client.stdin = None;
        };
        let exec = host
            .runtime
            .exec(request(&id, false, &["/bin/sh", "-c", "cat; exit 4"]), io);
        let (code, ()) = tokio::join!(exec, conversation);
        assert_eq!(code.unwrap(), 4, "the end of the input ended cat");

        terminal(&host, &id).await;
        host.remove(&sandbox).await.unwrap();
    });
}

/// As in a shell: a line that names the program, and 127 or 126.
#[test]
fn an_exec_of_what_is_no_program_ends_as_in_a_shell() {
    on_a_native_host(
        "OCI runtimes say it in words of their own, and crun does not fail",
        |host| async move {
            let sandbox = host.run(host.pod("programs")).await.unwrap();
            let id = host.shell(&sandbox, "main", "exec sleep 1000").await;
            for (program, tty, wanted) in [("nosuch", false, 127), ("/no/such", true, 127), ("/etc", false, 126)] {
                let (mut client, io) = client();
                let exec = host.runtime.exec(request(&id, tty, &[program]), io);
                let (code, text) = tokio::join!(exec, read_until(&mut client.stdout, "\n"));
                assert_eq!(code.unwrap(), wanted, "{text}");
                assert_eq!(text.matches(program).count(), 1, "{text}");
                assert_eq!(text.ends_with("\r\n"), tty, "{text:?}");
            }
            host.remove(&sandbox).await.unwrap();
        },
    );
}

async fn terminal(host: &Host, id: &str) {
    let (mut client, io) = client();
    let conversation = async {
        client
            .resize
            .send(TerminalSize { width: 91, height: 37 })
            .await
            .unwrap();
        let stdin = client.stdin.as_mut().unwrap();
        // The size arrives beside the input, in its own time.
        let script = "until [ \"$(stty size)\" = '37 91' ]; do sleep 0.05; done; echo size:$(stty size); tty; exit 6\n";
        stdin.write_all(script.as_bytes()).await.unwrap();
        read_until(&mut client.stdout, "/dev/pts/").await
    };
    let exec = host.runtime.exec(request(id, true, &["/bin/sh"]), io);
    let (code, text) = tokio::join!(exec, conversation);
    assert!(text.contains("size:37 91"), "{text}");
    assert_eq!(code.unwrap(), 6);
}

#[test]
fn a_client_that_goes_takes_its_exec_with_it() {
    on_a_host(|host| async move {
        let sandbox = host.run(host.pod("gone")).await.unwrap();
        let id = host.shell(&sandbox, "main", "exec sleep 1000").await;
        let (mut client, io) = client();
        let mut exec = Box::pin(
            host.runtime
                .exec(request(&id, false, &["/bin/sh", "-c", "echo up; exec sleep 54321"]), io),
        );
        tokio::select! {
            code = &mut exec => panic!("{code:?}"),
            _ = read_until(&mut client.stdout, "up\n") => {}
        }
        drop(exec);
        let count = async || {
            let done = host
                .exec(&id, &["/bin/sh", "-c", "ps | grep -c '[5]4321'"])
                .await
                .unwrap();
            String::from_utf8(done.stdout).unwrap().trim().to_owned()
        };
        // The kill is on its way when the future has been dropped.
        while count().await != "0" {
            tokio::task::yield_now().await;
        }
        host.remove(&sandbox).await.unwrap();
    });
}

#[test]
fn ports_are_forwarded_to_the_pods_loopback() {
    on_a_host(|host| async move {
        let sandbox = host.run(host.pod("ports")).await.unwrap();
        let id = host.shell(&sandbox, "server", "exec nc -l -p 8080 -e /bin/cat").await;
        // It listens as soon as the kernel's tables have the port.
        let tables = async || {
            let done = host
                .exec(&id, &["cat", "/proc/net/tcp", "/proc/net/tcp6"])
                .await
                .unwrap();
            String::from_utf8(done.stdout).unwrap()
        };
        while !tables().await.contains(":1F90") {
            tokio::task::yield_now().await;
        }
        let (mut near, far) = tokio::io::duplex(1 << 16);
        let forward = host.runtime.port_forward(&sandbox, 8080, Box::new(far));
        let conversation = async {
            near.write_all(b"through\n").await.unwrap();
            assert_eq!(read_until(&mut near, "through\n").await, "through\n");
            near.shutdown().await.unwrap();
        };
        let (forwarded, ()) = tokio::join!(forward, conversation);
        forwarded.unwrap();

        let (_near, far) = tokio::io::duplex(16);
        let closed = host.runtime.port_forward(&sandbox, 9, Box::new(far)).await.unwrap_err();
        assert!(closed.message.starts_with("nothing answers on port 9"), "{closed}");
        host.remove(&sandbox).await.unwrap();
    });
}
