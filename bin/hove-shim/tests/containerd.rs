//! As containerd starts a shim: `start` in the bundle, the Task service under its older name, `delete` after its death.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use protobuf::Message;
use serde_json::json;
use shim_api::{Client, deadline, forever, task};
use support::{LIMIT, eventually, image};

fn shim(dir: &Path, id: &str, rest: &[&str]) -> Output {
    let namespace = format!("test-{}", std::process::id());
    Command::new(env!("CARGO_BIN_EXE_hove-shim"))
        .args(["-namespace", &namespace, "-address", "/run/no/containerd.sock"])
        .args(["-publish-binary", "/bin/true", "-id", id])
        .args(rest)
        .current_dir(dir)
        .output()
        .unwrap()
}

fn bundle(dir: &Path, id: &str, sandbox: &str) -> std::path::PathBuf {
    let bundle = dir.join(id);
    fs::create_dir(&bundle).unwrap();
    let config = json!({
        "ociVersion": "1.2.0",
        "root": {"path": image::busybox()},
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["sh", "-c", "echo up; exec sleep 1000"], "cwd": "/",
                    "env": ["PATH=/bin"]},
        "annotations": {"io.kubernetes.cri.sandbox-id": sandbox},
        "linux": {
            "namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "network"}],
            "cgroupsPath": format!("/hove-test-shim/containerd{}/{id}", std::process::id()),
        },
    });
    fs::write(bundle.join("config.json"), config.to_string()).unwrap();
    bundle
}

#[tokio::test]
async fn containerd_starts_a_shim_for_a_sandbox_and_cleans_up_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = bundle(dir.path(), "sandbox", "sandbox");
    let container = bundle(dir.path(), "container", "sandbox");
    let early = shim(&container, "container", &["start"]);
    assert!(!early.status.success(), "no shim of its sandbox's yet");

    let started = shim(&sandbox, "sandbox", &["start"]);
    assert!(started.status.success(), "{started:?}");
    let address = String::from_utf8(started.stdout).unwrap();
    let second = shim(&container, "container", &["-debug", "start"]);
    assert_eq!(String::from_utf8(second.stdout).unwrap(), address);

    let socket = Path::new(address.strip_prefix("unix://").unwrap());
    let client = Client::connect(socket).await.unwrap();
    let mut create = task::CreateTaskRequest::new();
    create.id = "container".to_string();
    create.bundle = container.display().to_string();
    create.stdout = format!("file://{}", dir.path().join("out").display());
    client.task.create(deadline(LIMIT), &create).await.unwrap();
    let mut start = task::StartRequest::new();
    start.id = create.id.clone();
    let pid = client.task.start(deadline(LIMIT), &start).await.unwrap().pid;
    eventually("its output", || {
        fs::read_to_string(dir.path().join("out")).is_ok_and(|out| out == "up\n")
    })
    .await;

    // The shim dies; the container goes on until it is deleted.
    let connected = client.task.connect(forever(), &Default::default()).await.unwrap();
    let shim_pid = rustix::process::Pid::from_raw(connected.shim_pid.cast_signed()).unwrap();
    rustix::process::kill_process(shim_pid, rustix::process::Signal::KILL).unwrap();
    eventually("the shim's end", || {
        std::os::unix::net::UnixStream::connect(socket).is_err()
    })
    .await;
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    for (id, bundle, known) in [("container", &container, pid), ("sandbox", &sandbox, 0)] {
        let deleted = shim(dir.path(), id, &["-bundle", &bundle.display().to_string(), "delete"]);
        assert!(deleted.status.success(), "{deleted:?}");
        let response = task::DeleteResponse::parse_from_bytes(&deleted.stdout).unwrap();
        assert_eq!((response.pid, response.exit_status), (known, 137));
    }
    let ended = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.map_or(true, |stat| stat.contains(") Z "))
    };
    eventually("the container's end", || ended(pid)).await;
    assert!(!socket.exists());

    // A shim that is told to end takes its socket with it.
    let started = shim(&sandbox, "sandbox", &["start"]);
    assert_eq!(String::from_utf8(started.stdout).unwrap(), address);
    let client = Client::connect(socket).await.unwrap();
    client
        .task
        .shutdown(deadline(LIMIT), &Default::default())
        .await
        .unwrap();
    eventually("the socket's end", || !socket.exists()).await;
    let _ = fs::remove_dir(socket.parent().unwrap());
    let id = format!("containerd{}", std::process::id());
    assert_eq!(support::cgroups_named(&id), Vec::<std::path::PathBuf>::new());
    support::remove_parents(&id);
}
