//! Every kind of state file, spoilt in every way: it is set aside and named in the log, what it was about is taken down,
//! and all other pods work.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cri::v1::{ContainerState, PodSandboxState};
use rustix::event::{PollFd, PollFlags};
use rustix::process::Pid;

use crate::life::Client;
use crate::node::{Task, run};
use crate::place::{Node, Place, at_a_place, on_tokio};

/// How long a supervisor may take to find a spoilt record, and its node to hear of it.
const FATE_LIMIT: Duration = Duration::from_secs(20);

/// What happens to a file.
#[derive(Debug, Clone, Copy)]
enum Damage {
    Torn,
    Emptied,
    /// A record, but of another kind.
    Foreign,
    /// Written before the machine was started, it says.
    OtherBoot,
    /// Written by a Hove that is yet to come.
    Future,
}

impl Damage {
    const ALL: [Damage; 5] = [
        Damage::Torn,
        Damage::Emptied,
        Damage::Foreign,
        Damage::OtherBoot,
        Damage::Future,
    ];

    fn is_done_to(self, path: &Path) {
        let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let spoilt = match self {
            Damage::Torn => text[..text.len() / 2].to_owned(),
            Damage::Emptied => String::new(),
            Damage::Foreign => replaced(&text, "\"kind\":\"", "\"kind\":\"other-"),
            Damage::OtherBoot => replaced(&text, "\"boot_id\":\"", "\"boot_id\":\"0"),
            Damage::Future => replaced(&text, "\"version\":1", "\"version\":999"),
        };
        fs::write(path, spoilt).unwrap();
    }
}

fn replaced(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{text}");
    text.replacen(from, to, 1)
}

/// What becomes of the pod whose file is spoilt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Nobody knows it any more.
    Gone,
    /// It is stopped, to be made anew.
    Stopped,
    /// It runs, without the container.
    ContainerGone,
    /// It notices nothing.
    Unharmed,
}

/// A pod with one container.
struct Pod {
    sandbox: String,
    container: String,
}

const SOUND: &str = "sound";
const SPOILT: &str = "spoilt";

/// What the node does whose files are spoilt later.
pub async fn start_pods(place: &Place) {
    let node = place.open().await.unwrap();
    for name in [SOUND, SPOILT] {
        let client = Client::named(&node.runtime, place, name);
        let sandbox = client.run().await.unwrap();
        let container = client.running(&sandbox, "main", "exec sleep 1000").await.unwrap();
        println!("{name} {sandbox} {container}");
    }
}

fn files(place: &Place, pod: &Pod) -> Vec<(&'static str, PathBuf, Fate)> {
    let sandbox = place.state().join("sandboxes").join(&pod.sandbox);
    let container = sandbox.join("containers").join(&pod.container);
    let network = place.state().join("network");
    vec![
        ("sandbox", sandbox.join("sandbox.json"), Fate::Gone),
        ("container", container.join("container.json"), Fate::ContainerGone),
        (
            "attachment",
            network.join("attachments").join(format!("{}.json", pod.sandbox)),
            Fate::Stopped,
        ),
        ("pool", network.join("pool.json"), Fate::Unharmed),
    ]
}

#[test]
fn a_spoilt_state_file_harms_its_own_pod_alone() {
    at_a_place(|place| {
        for kind in 0..4 {
            for damage in Damage::ALL {
                case(place, kind, damage);
            }
        }
    });
}

/// Starts both pods. By a node that has died: else the supervisors would stay children of this process, and zombies when
/// they end.
fn started(place: &Place) -> [Pod; 2] {
    let output = run(place, Task::StartPods, "");
    let said = String::from_utf8_lossy(&output.stdout);
    [SOUND, SPOILT].map(|name| {
        let mut lines = said.lines().map(|l| l.split(' ').collect::<Vec<_>>());
        let ids = lines
            .find(|words| words.first() == Some(&name))
            .unwrap_or_else(|| panic!("{said}"));
        Pod {
            sandbox: ids[1].into(),
            container: ids[2].into(),
        }
    })
}

fn case(place: &Place, kind: usize, damage: Damage) {
    let [sound, spoilt] = started(place);
    let (name, file, fate) = files(place, &spoilt).swap_remove(kind);
    damage.is_done_to(&file);

    let output = run(place, Task::Recover, "");
    let log = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{name}, {damage:?}: {log}");
    // What the network knows of another boot is gone with it, as after every start of the machine.
    let is_of_no_account = matches!(damage, Damage::OtherBoot) && ["attachment", "pool"].contains(&name);
    assert!(
        is_of_no_account || (log.contains(&*file.to_string_lossy()) && (log.contains("ERROR") || log.contains("WARN"))),
        "{name}, {damage:?}: the log does not name {}:\n{log}",
        file.display()
    );

    on_tokio(async {
        let node = place.open().await.unwrap();
        let context = format!("{name}, {damage:?}: {log}");
        is_as_it_should_be(&node, place, &sound, &spoilt, fate)
            .await
            .unwrap_or_else(|e| panic!("{e}\n{context}"));
        lives_anew(&node, place, &sound, &context).await;
        // A container's goes with its sandbox.
        if fate != Fate::ContainerGone && !is_of_no_account {
            let about = if fate == Fate::Gone {
                file.parent().unwrap()
            } else {
                &file
            };
            assert!(set_aside(about).exists(), "{context}");
        }
    });
}

fn set_aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".quarantined-1");
    name.into()
}

/// The sound pod goes on, the other one has met its fate, and there are no more processes than the two have.
async fn is_as_it_should_be(node: &Node, place: &Place, sound: &Pod, spoilt: &Pod, fate: Fate) -> Result<(), String> {
    let client = Client::named(&node.runtime, place, SOUND);
    let (sandboxes, containers) = (client.sandboxes().await, client.containers().await);
    let state = |id: &str| sandboxes.iter().find(|s| s.id == id).map(|s| s.state());
    let runs = |id: &str| {
        let mut running = containers
            .iter()
            .filter(|c| c.state() == ContainerState::ContainerRunning);
        running.any(|c| c.id == id)
    };
    let expected = match fate {
        Fate::Gone => None,
        Fate::Stopped => Some(PodSandboxState::SandboxNotready),
        Fate::ContainerGone | Fate::Unharmed => Some(PodSandboxState::SandboxReady),
    };
    let found = (state(&spoilt.sandbox), runs(&spoilt.container));
    if found != (expected, fate == Fate::Unharmed) {
        return Err(format!("the spoilt pod: {found:?} of {sandboxes:?} {containers:?}"));
    }
    if (state(&sound.sandbox), runs(&sound.container)) != (Some(PodSandboxState::SandboxReady), true) {
        return Err(format!("the sound pod: {sandboxes:?} {containers:?}"));
    }
    assert_eq!(client.exec(&sound.container, &["/bin/true"]).await.unwrap(), 0);
    Ok(())
}

/// The spoilt pod's name is free, and it can be made again beside what was set aside. Then both are removed, and nothing is
/// left.
async fn lives_anew(node: &Node, place: &Place, sound: &Pod, context: &str) {
    let again = Client::named(&node.runtime, place, SPOILT);
    let sandbox = again.run().await.unwrap();
    again.running(&sandbox, "main", "exec sleep 1000").await.unwrap();
    // A supervisor, a pause and a program each: of what was spoilt nothing is left.
    assert_eq!(place.settled_processes(6), 6, "{context}");
    for sandbox in [&sandbox, &sound.sandbox] {
        again.stop(sandbox).await.unwrap();
        again.remove(sandbox).await.unwrap();
    }
    assert_eq!(node.network.remaining(), [], "{context}");
    assert_eq!(node.images.snapshots(), Vec::<String>::new(), "{context}");
    assert_eq!(place.settled_processes(0), 0, "{context}");
}

/// The supervisor's own records, which the next one reads: it has died with its node.
#[test]
fn a_spoilt_record_of_a_supervisor_harms_its_own_pod_alone() {
    at_a_place(|place| {
        for record in ["shim", "process", "exit"] {
            for damage in Damage::ALL {
                supervisors_case(place, record, damage);
            }
        }
    });
}

fn supervisors_case(place: &Place, record: &str, damage: Damage) {
    let [sound, spoilt] = started(place);
    let sandbox = place.state().join("sandboxes").join(&spoilt.sandbox);
    let container = sandbox.join("containers").join(&spoilt.container);
    let shim = pid_in(&sandbox.join("shim.json"), "/record/shim/pid");
    let (file, fate) = match record {
        "shim" => (sandbox.join("shim.json"), Fate::Stopped),
        "process" => (container.join("process.json"), Fate::ContainerGone),
        _ => (container.join("exit.json"), Fate::ContainerGone),
    };
    if record == "exit" {
        kill(pid_in(&container.join("process.json"), "/record/process/pid"));
        let began = Instant::now();
        while !file.exists() {
            assert!(began.elapsed() < FATE_LIMIT, "the end is not recorded");
            std::thread::yield_now();
        }
    }
    kill(shim);
    damage.is_done_to(&file);

    on_tokio(async {
        let node = place.open().await.unwrap();
        let context = format!("{record}, {damage:?}");
        let began = Instant::now();
        // The next supervisor tells what it finds in its own time.
        while let Err(why) = is_as_it_should_be(&node, place, &sound, &spoilt, fate).await {
            assert!(began.elapsed() < FATE_LIMIT, "{context}: {why}");
            tokio::task::yield_now().await;
        }
        assert!(set_aside(&file).exists(), "{context}");
        let log = fs::read_to_string(sandbox.join("shim.log")).unwrap();
        assert!(log.contains(&*file.to_string_lossy()), "{context}: {log}");
        lives_anew(&node, place, &sound, &context).await;
    });
}

/// The number of a process that a record names.
fn pid_in(record: &Path, pointer: &str) -> Pid {
    let text = fs::read(record).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let number = json.pointer(pointer).and_then(serde_json::Value::as_i64).unwrap();
    Pid::from_raw(i32::try_from(number).unwrap()).unwrap()
}

/// Kills a process and waits for its end.
fn kill(pid: Pid) {
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
    rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL).unwrap();
    let mut end = [PollFd::new(&pidfd, PollFlags::IN)];
    assert_eq!(rustix::event::poll(&mut end, None).unwrap(), 1);
}
