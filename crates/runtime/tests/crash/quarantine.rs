//! Every kind of state file, spoilt in every way: it is set aside and named in the log, what it was about is taken down,
//! and all other pods work.

use std::fs;
use std::path::{Path, PathBuf};

use cri::v1::{ContainerState, PodSandboxState};

use crate::life::Client;
use crate::node::{Task, run};
use crate::place::{Place, at_a_place, on_tokio};

/// What happens to a file.
#[derive(Debug, Clone, Copy)]
enum Damage {
    Torn,
    Emptied,
    /// A record, but of another kind.
    Foreign,
    /// Written by a Hove that is yet to come.
    Future,
}

impl Damage {
    const ALL: [Damage; 4] = [Damage::Torn, Damage::Emptied, Damage::Foreign, Damage::Future];

    fn is_done_to(self, path: &Path) {
        let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let spoilt = match self {
            Damage::Torn => text[..text.len() / 2].to_owned(),
            Damage::Emptied => String::new(),
            Damage::Foreign => replaced(&text, "\"kind\":\"", "\"kind\":\"other-"),
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

fn case(place: &Place, kind: usize, damage: Damage) {
    // By a node that has died: else the supervisors would stay children of this process, and zombies when they end.
    let output = run(place, Task::StartPods, "");
    let said = String::from_utf8_lossy(&output.stdout);
    let pod = |name: &str| {
        let mut lines = said.lines().map(|l| l.split(' ').collect::<Vec<_>>());
        let ids = lines
            .find(|words| words.first() == Some(&name))
            .unwrap_or_else(|| panic!("{said}"));
        Pod {
            sandbox: ids[1].into(),
            container: ids[2].into(),
        }
    };
    let (sound, spoilt) = (pod(SOUND), pod(SPOILT));
    let (name, file, fate) = files(place, &spoilt).swap_remove(kind);
    damage.is_done_to(&file);

    let output = run(place, Task::Recover, "");
    let log = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{name}, {damage:?}: {log}");
    assert!(
        log.contains(&*file.to_string_lossy()) && (log.contains("ERROR") || log.contains("WARN")),
        "{name}, {damage:?}: the log does not name {}:\n{log}",
        file.display()
    );

    on_tokio(async {
        let node = place.open().await.unwrap();
        let client = Client::named(&node.runtime, place, SOUND);
        let sandboxes = client.sandboxes().await;
        let state = |id: &str| sandboxes.iter().find(|s| s.id == id).map(|s| s.state());
        let containers = client.containers().await;
        let runs = |id: &str| {
            let mut running = containers
                .iter()
                .filter(|c| c.state() == ContainerState::ContainerRunning);
            running.any(|c| c.id == id)
        };
        let context = format!("{name}, {damage:?}: {sandboxes:?} {containers:?}\n{log}");
        assert_eq!(state(&sound.sandbox), Some(PodSandboxState::SandboxReady), "{context}");
        assert!(runs(&sound.container), "{context}");
        assert_eq!(
            client.exec(&sound.container, &["/bin/true"]).await.unwrap(),
            0,
            "{context}"
        );
        let expected = match fate {
            Fate::Gone => None,
            Fate::Stopped => Some(PodSandboxState::SandboxNotready),
            Fate::ContainerGone | Fate::Unharmed => Some(PodSandboxState::SandboxReady),
        };
        assert_eq!(state(&spoilt.sandbox), expected, "{context}");
        assert_eq!(runs(&spoilt.container), fate == Fate::Unharmed, "{context}");
        // Two for each pod that is ready, one for each container that runs.
        let ready = sandboxes.iter().filter(|s| s.state() == PodSandboxState::SandboxReady);
        let running = containers
            .iter()
            .filter(|c| c.state() == ContainerState::ContainerRunning);
        let processes = 2 * ready.count() + running.count();
        assert_eq!(place.settled_processes(processes), processes, "{context}");

        // The name is free, and the pod can be made again beside what was set aside.
        let again = Client::named(&node.runtime, place, SPOILT);
        let sandbox = again.run().await.unwrap();
        again.running(&sandbox, "main", "exec sleep 1000").await.unwrap();
        for sandbox in [sandbox, sound.sandbox] {
            client.stop(&sandbox).await.unwrap();
            client.remove(&sandbox).await.unwrap();
        }
        assert_eq!(node.network.remaining(), [], "{context}");
        assert_eq!(node.images.snapshots(), Vec::<String>::new(), "{context}");
        assert_eq!(place.settled_processes(0), 0, "{context}");
        // A container's goes with its sandbox.
        if fate != Fate::ContainerGone {
            let about = if fate == Fate::Gone {
                file.parent().unwrap()
            } else {
                &file
            };
            let mut set_aside = about.as_os_str().to_owned();
            set_aside.push(".quarantined-1");
            assert!(Path::new(&set_aside).exists(), "{context}");
        }
    });
}
