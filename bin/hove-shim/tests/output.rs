//! Where a container's output can go besides a log that can be written: a caller's FIFO, a file, a full disk.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::io::Write;
use std::path::Path;

use shim_api::Kind;
use shim_api::shim::Kind as Event;
use shim_api::task;
use support::{Pod, eventually, read_log, sh};

#[tokio::test]
async fn a_callers_fifo_gets_every_byte_and_then_the_end() {
    let pod = Pod::start(false).await;
    let path = pod.dir().join("callers-fifo");
    sys::fifo::make(&path).unwrap();
    let reader = path.clone();
    let read = tokio::task::spawn_blocking(move || {
        // Waits for the shim to open the other end.
        let reader = sys::fifo::open_reader(&reader, false).unwrap();
        std::io::read_to_string(fs::File::from(reader))
    });
    pod.run(
        "a",
        sh("seq 1 50000; echo lost >&2").writing_to(&path.display().to_string(), ""),
    )
    .await;
    assert_eq!(pod.wait("a", "").await, 0);
    let all = tokio::time::timeout(support::LIMIT, read)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(all == (1..=50_000).map(|n| format!("{n}\n")).collect::<String>());
    assert_eq!(pod.shut_down().await, 0);
}

#[tokio::test]
async fn a_file_is_appended_to() {
    let pod = Pod::start(false).await;
    let (out, err) = (pod.dir().join("out"), pod.dir().join("err"));
    fs::write(&out, "before\n").unwrap();
    let url = |path: &Path| format!("file://{}", path.display());
    pod.run(
        "a",
        sh("seq 1 30000; echo error >&2").writing_to(&url(&out), &url(&err)),
    )
    .await;
    assert_eq!(pod.wait("a", "").await, 0);
    let expected: String = (1..=30_000).map(|n| format!("{n}\n")).collect();
    assert!(fs::read_to_string(&out).unwrap() == format!("before\n{expected}"));
    assert_eq!(fs::read_to_string(&err).unwrap(), "error\n");

    let refused = pod.create("b", sh("true").writing_to("binary:///bin/true", "")).await;
    assert_eq!(refused.unwrap_err().kind, Kind::Invalid);
    assert_eq!(pod.shut_down().await, 0);
}

#[tokio::test]
async fn a_full_disk_holds_a_container_up_and_loses_nothing() {
    let pod = Pod::spawn_after("mkdir small && mount -t tmpfs -o size=4m tmpfs small", false).await;
    pod.start_sandbox().await.unwrap();
    let mut watch = pod.watch().await;
    // As the shim sees it: the file system is in its mount namespace only.
    let disk = Path::new("/proc")
        .join(pod.shim.id().to_string())
        .join("root")
        .join(pod.dir().join("small").strip_prefix("/").unwrap());
    let log = |name: &str| format!("cri://{}", pod.dir().join("small").join(name).display());
    pod.create("long", sh("seq 1 40000").writing_to(&log("long"), &log("long")))
        .await
        .unwrap();
    pod.create("short", sh("echo held").writing_to(&log("short"), &log("short")))
        .await
        .unwrap();
    let mut filler = fs::File::create(disk.join("filler")).unwrap();
    while filler.write(&[0; 4096]).is_ok_and(|length| length > 0) {}

    pod.start_process("short", "").await.unwrap();
    pod.start_process("long", "").await.unwrap();
    for _ in ["short", "long"] {
        let notice = watch.until(|event| event.kind == Event::KIND_NOTICE.into()).await;
        assert!(notice.process.message.contains("can't be written"), "{notice}");
    }
    // What fits no pipe waits; what has ended has its output held.
    assert_eq!(pod.wait("short", "").await, 0);
    assert_eq!(pod.status("long", "").await, task::Status::RUNNING);

    fs::remove_file(disk.join("filler")).unwrap();
    drop(filler);
    assert_eq!(pod.wait("long", "").await, 0);
    let expected: String = (1..=40_000).map(|n| format!("{n}\n")).collect();
    assert!(read_log(&disk.join("long"), &Default::default()) == expected);
    eventually("what was held is written", || {
        read_log(&disk.join("short"), &Default::default()) == "held\n"
    })
    .await;
    assert_eq!(pod.shut_down().await, 0);
}
