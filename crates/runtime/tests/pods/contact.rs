//! A supervisor that lives, and can't be talked with.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use cri::ErrorKind;
use cri::v1::*;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal, kill_process};

use crate::host::{Host, kill, on_a_host};

fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

/// The node's ends of its connections with the socket at `path`. (They are this process's.)
fn connections(path: &Path) -> Vec<OwnedFd> {
    let me = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).unwrap();
    let numbers = fs::read_dir("/proc/self/fd").unwrap();
    let numbers = numbers.filter_map(|entry| entry.unwrap().file_name().into_string().unwrap().parse().ok());
    numbers
        .filter_map(|number| rustix::process::pidfd_getfd(&me, number, PidfdGetfdFlags::empty()).ok())
        .filter(|fd| {
            let peer = rustix::net::getpeername(fd.as_fd()).ok().flatten();
            let peer = peer.and_then(|address| rustix::net::SocketAddrUnix::try_from(address).ok());
            peer.is_some_and(|address| address.path_bytes() == Some(path.as_os_str().as_encoded_bytes()))
        })
        .collect()
}

#[test]
fn a_broken_connection_is_made_anew() {
    on_a_host(|host| async move {
        let sandbox = host.run(host.pod("cut")).await.unwrap();
        let mut notices = host.runtime.notices();
        let shim = host.sandbox_pid(&sandbox, "shimPid").await;
        let socket = host.sandbox_dir(&sandbox).join("shim.sock");
        for round in 0..3 {
            let id = host.shell(&sandbox, &format!("c{round}"), "exec sleep 1000").await;
            let cut = connections(&socket);
            assert_eq!(cut.len(), 1);
            rustix::net::shutdown(&cut[0], rustix::net::Shutdown::Both).unwrap();
            // Who is told of nothing any more does not hear of this end.
            kill(host.container_pid(&id).await);
            assert_eq!(host.ended(&id).await.exit_code, 137);
        }
        let id = host.shell(&sandbox, "late", "exec sleep 1000").await;
        assert_eq!(host.exec(&id, &["echo", "hi"]).await.unwrap().stdout, b"hi\n");
        assert_eq!(host.sandbox_pid(&sandbox, "shimPid").await, shim, "it was not replaced");
        assert!(
            notices.try_recv().is_err(),
            "there is nothing that a person should know"
        );
        host.remove(&sandbox).await.unwrap();
    });
}

/// How long the node may take to say that a supervisor does not answer: longer than the limit of one call.
const SAID_WITHIN: Duration = Duration::from_secs(15);

async fn stopped(host: &Host, name: &str) -> (String, String, i32) {
    let sandbox = host.run(host.pod(name)).await.unwrap();
    let id = host.shell(&sandbox, "main", "exec sleep 1000").await;
    let shim = host.sandbox_pid(&sandbox, "shimPid").await;
    signal(shim, Signal::STOP);
    (sandbox, id, shim)
}

#[test]
fn a_stopped_supervisor_is_named_by_what_waits_for_it() {
    on_a_host(|host| async move {
        let (sandbox, id, shim) = stopped(&host, "still").await;
        let began = Instant::now();
        let (exec, stop) = tokio::join!(host.exec(&id, &["true"]), host.stop_container(&id, 0));
        assert!(began.elapsed() < SAID_WITHIN, "{:?}", began.elapsed());
        let socket = host.sandbox_dir(&sandbox).join("shim.sock");
        for error in [exec.map(drop).unwrap_err(), stop.unwrap_err()] {
            assert_eq!(error.kind, ErrorKind::DeadlineExceeded, "{error}");
            assert!(
                error.message.contains("does not answer") && error.message.contains(&*socket.to_string_lossy()),
                "{error}"
            );
        }
        // It goes on, and all is as before.
        signal(shim, Signal::CONT);
        host.stop_container(&id, 0).await.unwrap();
        assert_eq!(host.status(&id).await.state(), ContainerState::ContainerExited);
        host.remove(&sandbox).await.unwrap();
    });
}

#[test]
fn a_pod_with_a_stopped_supervisor_can_be_removed() {
    on_a_host(|host| async move {
        let (sandbox, ..) = stopped(&host, "stuck").await;
        host.remove(&sandbox).await.unwrap();
    });
}
