//! A pod from its sandbox to its end, over the shim's real socket.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;

use shim_api::Kind;
use shim_api::shim::{Kind as Event, ProcessState};
use support::{Pod, cgroups_named, eventually, read_log, sh};

#[tokio::test]
async fn a_container_runs_logs_and_ends() {
    let pod = Pod::start(false).await;
    let mut watch = pod.watch().await;
    let pid = pod
        .run("a", sh("hostname; echo to stderr >&2; printf unfinished; exit 7"))
        .await;
    assert_eq!(pod.wait("a", "").await, 7);
    let log = pod.bundle("a").join("0.log");
    assert_eq!(
        read_log(
            &log,
            &logs::Query {
                stream: Some(logs::Stream::Stdout),
                ..Default::default()
            }
        ),
        "the-pod\nunfinished"
    );
    assert_eq!(
        read_log(
            &log,
            &logs::Query {
                stream: Some(logs::Stream::Stderr),
                ..Default::default()
            }
        ),
        "to stderr\n"
    );

    for kind in [Event::KIND_CREATED, Event::KIND_STARTED, Event::KIND_EXITED] {
        let event = watch.until(|e| e.process.container_id == "a").await;
        assert_eq!((event.kind, event.process.pid), (kind.into(), pid));
        if kind == Event::KIND_EXITED {
            assert_eq!(event.process.exit_code, 7);
            assert!(event.process.finished_at_ns > event.process.started_at_ns);
        }
    }
    let record = fs::read_to_string(pod.bundle("a").join("exit.json")).unwrap();
    assert!(record.contains("\"code\":7"), "{record}");

    let deleted = pod.delete("a", "").await.unwrap();
    assert_eq!((deleted.pid, deleted.exit_status), (pid, 7));
    assert_eq!(pod.delete("a", "").await.unwrap_err().kind, Kind::NotFound);
    let mut left: Vec<_> = fs::read_dir(pod.bundle("a"))
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["0.log", "config.json"]);

    pod.stop(0).await.unwrap();
    assert_eq!(pod.shut_down().await, 0);
}

#[tokio::test]
async fn what_ends_at_once_has_ended_after_it_was_started() {
    let pod = Pod::start(false).await;
    for n in 0..20 {
        let id = format!("a{n}");
        pod.run(&id, sh("true")).await;
        pod.wait(&id, "").await;
    }
    for process in pod.state().await.containers {
        assert!(process.created_at_ns < process.started_at_ns, "{process:?}");
        assert!(process.started_at_ns < process.finished_at_ns, "{process:?}");
    }
    assert_eq!(pod.shut_down().await, 0);
}

#[tokio::test]
async fn an_exit_is_known_to_all_who_wait_and_stays_known_until_deletion() {
    let pod = Pod::start(false).await;
    pod.run("a", sh("exec sleep 1000")).await;
    pod.kill("a", "", 9, false).await.unwrap();
    let (one, two) = tokio::join!(pod.wait("a", ""), pod.wait("a", ""));
    assert_eq!((one, two), (137, 137));
    assert_eq!(pod.wait("a", "").await, 137);
    let gone = pod.kill("a", "", 15, false).await.unwrap_err();
    assert_eq!(gone.kind, Kind::NotFound);
    assert!(gone.message.contains("already finished"), "{gone}");
    let state = pod.state().await;
    assert_eq!(state.containers[0].state, ProcessState::PROCESS_STATE_EXITED.into());
    assert_eq!(pod.shut_down().await, 0);
}

#[tokio::test]
async fn what_cannot_start_says_why_and_leaves_nothing() {
    let pod = Pod::start(false).await;
    let program = sh("").with(|config| config["process"]["args"] = serde_json::json!(["no-such-program"]));
    pod.create("a", program).await.unwrap();
    let why = pod.start_process("a", "").await.unwrap_err();
    assert!(why.message.contains("no-such-program"), "{why}");
    assert_ne!(pod.wait("a", "").await, 0);
    pod.delete("a", "").await.unwrap();

    let mount = sh("true").with(|config| {
        config["mounts"][0] = serde_json::json!({"destination": "/x", "type": "bind", "source": "/no/such/source", "options": ["bind"]});
    });
    let why = pod.create("b", mount).await.unwrap_err();
    assert!(why.message.contains("/no/such/source"), "{why}");
    assert_eq!(pod.delete("b", "").await.unwrap_err().kind, Kind::NotFound);
    assert_eq!(
        cgroups_named(&pod.id)
            .iter()
            .filter(|path| !path.ends_with("sandbox"))
            .count(),
        0
    );

    // The name is free again, and another can't take it.
    pod.run("b", sh("sleep 1000")).await;
    assert_eq!(pod.create("b", sh("true")).await.unwrap_err().kind, Kind::AlreadyExists);
    assert_eq!(pod.start_process("b", "").await.unwrap_err().kind, Kind::Precondition);
    assert_eq!(pod.delete("b", "").await.unwrap_err().kind, Kind::Precondition);
    assert_eq!(pod.create("../b", sh("true")).await.unwrap_err().kind, Kind::Invalid);
    assert_eq!(pod.shut_down().await, 0);
}

/// A successor kills what no record tells it of: on a full disk nothing runs that could be lost so.
#[tokio::test]
async fn what_cannot_be_recorded_does_not_run() {
    let pod = Pod::start(false).await;
    let in_the_way = pod.bundle("a").join("process.json.new");
    fs::create_dir_all(&in_the_way).unwrap();
    let error = pod.create("a", sh("exec sleep 1000")).await.unwrap_err();
    assert!(error.message.contains("process.json"), "{error:?}");
    assert!(pod.state().await.containers.is_empty());

    fs::remove_dir(&in_the_way).unwrap();
    let pid = pod.create("a", sh("exec sleep 1000")).await.unwrap();
    fs::create_dir(&in_the_way).unwrap();
    let error = pod.start_process("a", "").await.unwrap_err();
    assert!(error.message.contains("process.json"), "{error:?}");
    assert_eq!(pod.wait("a", "").await, 255);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    pod.delete("a", "").await.unwrap();
    fs::remove_dir(&in_the_way).unwrap();
    pod.run("a", sh("true")).await;
    assert_eq!(pod.wait("a", "").await, 0);
    assert_eq!(pod.shut_down().await, 0);
}

#[tokio::test]
async fn a_container_that_was_never_started_is_deleted_at_once() {
    let pod = Pod::start(false).await;
    pod.create("a", sh("true")).await.unwrap();
    pod.delete("a", "").await.unwrap();
    pod.create("a", sh("true")).await.unwrap();
    pod.kill("a", "", 15, false).await.unwrap();
    assert_eq!(pod.wait("a", "").await, 137);
    assert_eq!(pod.shut_down().await, 0);
}

#[tokio::test]
async fn what_a_container_leaves_behind_is_killed_and_its_output_kept() {
    let pod = Pod::start(true).await;
    // In a shared PID namespace nobody but the shim kills what outlives the first process.
    let helper = "setsid sh -c 'while :; do echo x; done' & sleep 0.2; echo end; exit 3";
    pod.run("a", sh(helper)).await;
    assert_eq!(pod.wait("a", "").await, 3);
    let log = read_log(&pod.bundle("a").join("0.log"), &Default::default());
    assert!(log.lines().all(|line| line == "x" || line == "end"), "torn lines");
    assert_eq!(log.lines().filter(|line| *line == "end").count(), 1);
    assert_eq!(
        pod.state().await.pause.state,
        ProcessState::PROCESS_STATE_RUNNING.into()
    );
    assert_eq!(pod.shut_down().await, 0);
}

#[tokio::test]
async fn no_byte_of_a_burst_is_lost() {
    let pod = Pod::start(false).await;
    pod.run("a", sh("seq 1 200000; seq 1 1000 >&2")).await;
    assert_eq!(pod.wait("a", "").await, 0);
    let log = pod.bundle("a").join("0.log");
    let out = read_log(
        &log,
        &logs::Query {
            stream: Some(logs::Stream::Stdout),
            ..Default::default()
        },
    );
    let expected: String = (1..=200_000).map(|n| format!("{n}\n")).collect();
    assert!(out == expected);
    let err = read_log(
        &log,
        &logs::Query {
            stream: Some(logs::Stream::Stderr),
            ..Default::default()
        },
    );
    assert_eq!(err.lines().count(), 1000);
    assert_eq!(pod.shut_down().await, 0);
}

#[tokio::test]
async fn a_log_is_reopened_and_goes_on() {
    let pod = Pod::start(false).await;
    pod.run("a", sh("read line; echo $line; read line; echo $line").with_stdin())
        .await;
    let stdin = sys::fifo::open_writer(&pod.bundle("a").join("stdin"), true).unwrap();
    let log = pod.bundle("a").join("0.log");
    rustix::io::write(&stdin, b"one\n").unwrap();
    eventually("the first line", || read_log(&log, &Default::default()) == "one\n").await;
    let old = pod.bundle("a").join("0.log.old");
    fs::rename(&log, &old).unwrap();
    let mut request = shim_api::shim::ReopenLogRequest::new();
    request.container_id = "a".to_string();
    pod.client
        .pod
        .reopen_log(shim_api::deadline(support::LIMIT), &request)
        .await
        .unwrap();
    rustix::io::write(&stdin, b"two\n").unwrap();
    assert_eq!(pod.wait("a", "").await, 0);
    assert_eq!(
        (read_log(&old, &Default::default()), read_log(&log, &Default::default())),
        ("one\n".into(), "two\n".into())
    );

    // Of a container that does not run, no empty file is made.
    fs::remove_file(&log).unwrap();
    let refused = pod
        .client
        .pod
        .reopen_log(shim_api::deadline(support::LIMIT), &request)
        .await
        .unwrap_err();
    assert_eq!(shim_api::Failure::from(refused).kind, Kind::Precondition);
    assert!(!log.exists());
    assert_eq!(pod.shut_down().await, 0);
}

#[tokio::test]
async fn a_user_that_is_not_root_opens_its_own_output() {
    let pod = Pod::start(false).await;
    let spec = sh("echo again >/proc/self/fd/1; id -u").with(|config| {
        config["process"]["user"] = serde_json::json!({"uid": 33, "gid": 34});
    });
    pod.run("a", spec).await;
    assert_eq!(pod.wait("a", "").await, 0);
    assert_eq!(
        read_log(&pod.bundle("a").join("0.log"), &Default::default()),
        "again\n33\n"
    );
    assert_eq!(pod.state().await.containers[0].uid, 33);
    assert_eq!(pod.shut_down().await, 0);
}

#[tokio::test]
async fn stopping_is_polite_then_firm() {
    let pod = Pod::start(false).await;
    pod.run(
        "polite",
        sh("trap 'echo bye; exit 0' TERM; while :; do sleep 0.01; done"),
    )
    .await;
    pod.run("stubborn", sh("trap '' TERM; while :; do sleep 0.01; done"))
        .await;
    eventually("both traps are set", || {
        ["polite", "stubborn"].iter().all(|c| {
            let pid = fs::read_to_string(pod.bundle(c).join("process.json")).unwrap();
            let pid: serde_json::Value = serde_json::from_str(&pid).unwrap();
            let status = fs::read_to_string(format!("/proc/{}/status", pid["record"]["process"]["pid"])).unwrap();
            let mask = |name: &str| {
                let line = status.lines().find(|l| l.starts_with(name)).unwrap();
                u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap()
            };
            (mask("SigCgt:") | mask("SigIgn:")) & (1 << 14) != 0
        })
    })
    .await;
    pod.stop(1).await.unwrap();
    assert_eq!((pod.wait("polite", "").await, pod.wait("stubborn", "").await), (0, 137));
    let state = pod.state().await;
    assert_eq!(state.pause.state, ProcessState::PROCESS_STATE_EXITED.into());
    assert_eq!(pod.create("c", sh("true")).await.unwrap_err().kind, Kind::Precondition);
    pod.stop(0).await.unwrap();
    assert_eq!(pod.shut_down().await, 0);
}

#[tokio::test]
async fn a_shutdown_takes_what_still_runs_with_it() {
    let pod = Pod::start(false).await;
    let pid = pod.run("a", sh("sleep 1000")).await;
    let pause = pod.state().await.pause.pid;
    assert_eq!(pod.shut_down().await, 0);
    for pid in [pid, pause] {
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }
}

#[tokio::test]
async fn a_process_that_was_not_started_yet_dies_with_its_shim() {
    let mut pod = Pod::start(false).await;
    // Ready but for its start, as well as on its way there: whichever they are, they wait for the shim.
    let waiting = pod.create("a", sh("exec sleep 1000")).await.unwrap();
    let running = pod.run("b", sh("exec sleep 1000")).await;
    pod.kill_shim();
    let alive = |pid: u32| {
        let state = fs::read_to_string(format!("/proc/{pid}/stat"));
        // A zombie is whoever adopts it's to reap.
        state.is_ok_and(|stat| !stat.contains(") Z "))
    };
    eventually("its end", || !alive(waiting)).await;
    assert!(alive(running), "what runs outlives the shim");
}
