//! A pod's namespaces, kind by kind: whose each one is, and who is in it.
//!
//! The caller says which processes the runtime's record names ([`Subject`]); all the rest is read from /proc. A process belongs to a
//! container if it has the container's mount namespace (each container has one of its own), or if its parent belongs to it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::namespace::{self, Kind};
use crate::process::{self, Process};
use crate::{Error, Result};

/// The name under which pause goes.
pub const PAUSE: &str = "pause";

/// A process that the runtime's record names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recorded {
    /// The container's name; `pause` for the sandbox's own process.
    pub name: String,
    /// Its number on the host.
    pub pid: u32,
    /// When the record says it started; to notice that the number has been given to another process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time_ticks: Option<u64>,
    /// Whose namespaces it should be in, by kind, as far as the record says.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub expected: BTreeMap<Kind, Owner>,
}

/// What to look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Subject {
    /// The pod, as it is to be called: `default/web`.
    pub pod: String,
    /// The sandbox's pause; a pod may be looked at while it has none.
    pub pause: Option<Recorded>,
    /// The containers that run.
    pub containers: Vec<Recorded>,
}

/// Whose a namespace is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Owner {
    /// The host's own.
    Host,
    /// Made for the sandbox; containers join it.
    Sandbox,
    /// Made for this container.
    Container(String),
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Owner::Host => f.write_str("host"),
            Owner::Sandbox => f.write_str("sandbox"),
            Owner::Container(name) => write!(f, "container {name}"),
        }
    }
}

/// A process in a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// Its number on the host.
    pub pid: u32,
    /// Its number in the innermost PID namespace that it is in.
    pub own_pid: u32,
    /// `pause`, or the container's name.
    pub part: String,
    /// Its command line.
    pub command: String,
}

/// One namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Namespace {
    /// Its inode number, as `readlink /proc/PID/ns/KIND` shows it.
    pub inode: u64,
    /// Whose it is.
    pub owner: Owner,
    /// Who of the pod shares it: `pause` and containers' names.
    pub shared_by: Vec<String>,
    /// The pod's processes in it.
    pub processes: Vec<Member>,
}

/// All namespaces of one kind that the pod's processes are in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KindView {
    /// The kind.
    pub kind: Kind,
    /// The namespaces: the sandbox's first, then in the containers' order.
    pub namespaces: Vec<Namespace>,
}

/// A pod's namespaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct View {
    /// The pod.
    pub pod: String,
    /// `pause` and the containers, in the order of the record: the columns of the picture.
    pub parts: Vec<String>,
    /// Kind by kind.
    pub kinds: Vec<KindView>,
    /// Where /proc and the record disagree.
    pub discrepancies: Vec<String>,
}

/// Looks at the pod.
pub fn look(subject: &Subject) -> Result<View> {
    // The daemon that asks is on the host, whatever "the host" is (a test's host is a namespace, too).
    let host = namespace::of(std::process::id())?;
    let mut seen = Vec::new();
    for process in process::processes()? {
        match namespace::of(process.pid) {
            Ok(namespaces) => seen.push(Seen { process, namespaces }),
            Err(Error::NoProcess { .. }) => {}
            // A process of somebody else's that may not be looked at is none of the pod's.
            Err(Error::Read { source, .. }) if source.kind() == std::io::ErrorKind::PermissionDenied => {}
            Err(error) => return Err(error),
        }
    }
    Ok(arrange(subject, &host, &seen))
}

/// A process and the namespaces it is in.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The process.
    pub process: Process,
    /// Its namespaces.
    pub namespaces: BTreeMap<Kind, u64>,
}

/// Makes the view from what was seen. Pure.
pub fn arrange(subject: &Subject, host: &BTreeMap<Kind, u64>, seen: &[Seen]) -> View {
    let mut discrepancies = Vec::new();
    let mut roots: Vec<(&Recorded, &Seen)> = Vec::new();
    for recorded in subject.pause.iter().chain(&subject.containers) {
        match seen.iter().find(|s| s.process.pid == recorded.pid) {
            Some(found)
                if recorded
                    .start_time_ticks
                    .is_none_or(|ticks| ticks == found.process.start_time_ticks) =>
            {
                roots.push((recorded, found));
            }
            Some(found) => discrepancies.push(format!(
                "{}: process {} is another one now ({}): the recorded one has ended",
                recorded.name, recorded.pid, found.process.command
            )),
            None => discrepancies.push(format!("{}: process {} does not exist", recorded.name, recorded.pid)),
        }
    }
    let members = members(&roots, host, seen);
    let parts: Vec<String> = roots.iter().map(|(recorded, _)| recorded.name.clone()).collect();
    let kinds = Kind::ALL
        .iter()
        .filter_map(|kind| kind_view(*kind, &roots, host, &members))
        .collect::<Vec<_>>();
    discrepancies.extend(unexpected(&roots, &kinds));
    View {
        pod: subject.pod.clone(),
        parts,
        kinds,
        discrepancies,
    }
}

/// Every process of the pod with the part it belongs to.
fn members<'a>(roots: &[(&Recorded, &Seen)], host: &BTreeMap<Kind, u64>, seen: &'a [Seen]) -> Vec<(&'a Seen, String)> {
    let by_mount: BTreeMap<u64, &str> = roots
        .iter()
        .filter_map(|(recorded, root)| Some((*root.namespaces.get(&Kind::Mnt)?, recorded.name.as_str())))
        .filter(|(inode, _)| host.get(&Kind::Mnt) != Some(inode))
        .collect();
    let by_pid: BTreeMap<u32, &Seen> = seen.iter().map(|s| (s.process.pid, s)).collect();
    let mut found = Vec::new();
    for candidate in seen {
        // Up through the parents until one is known: a process may have made a mount namespace of its own.
        let mut current = Some(candidate);
        let mut steps = 0;
        let part = loop {
            let Some(here) = current else { break None };
            if let Some((recorded, _)) = roots.iter().find(|(_, root)| root.process.pid == here.process.pid) {
                break Some(recorded.name.as_str());
            }
            if let Some(name) = here.namespaces.get(&Kind::Mnt).and_then(|inode| by_mount.get(inode)) {
                break Some(*name);
            }
            steps += 1;
            current = (steps < 1000)
                .then(|| by_pid.get(&here.process.ppid).copied())
                .flatten();
        };
        if let Some(part) = part {
            found.push((candidate, part.to_owned()));
        }
    }
    found
}

fn kind_view(
    kind: Kind,
    roots: &[(&Recorded, &Seen)],
    host: &BTreeMap<Kind, u64>,
    members: &[(&Seen, String)],
) -> Option<KindView> {
    let mut order: Vec<u64> = Vec::new();
    let inodes = roots
        .iter()
        .map(|(_, root)| root)
        .chain(members.iter().map(|(seen, _)| seen));
    for inode in inodes.filter_map(|seen| seen.namespaces.get(&kind)) {
        if !order.contains(inode) {
            order.push(*inode);
        }
    }
    let namespaces = order.iter().map(|inode| {
        let has = |seen: &Seen| seen.namespaces.get(&kind) == Some(inode);
        let shared_by: Vec<String> = roots
            .iter()
            .filter(|(_, root)| has(root))
            .map(|(recorded, _)| recorded.name.clone())
            .collect();
        let mut processes: Vec<Member> = members
            .iter()
            .filter(|(seen, _)| has(seen))
            .map(|(seen, part)| Member {
                pid: seen.process.pid,
                own_pid: seen.process.own_pid(),
                part: part.clone(),
                command: seen.process.command.clone(),
            })
            .collect();
        processes.sort_by_key(|member| member.pid);
        let owner = owner(kind, *inode, host, &shared_by, &processes);
        Namespace {
            inode: *inode,
            owner,
            shared_by,
            processes,
        }
    });
    let namespaces: Vec<Namespace> = namespaces.collect();
    (!namespaces.is_empty()).then_some(KindView { kind, namespaces })
}

/// The host's are known; what pause is in, or several containers share, is the sandbox's; the rest is one container's.
fn owner(kind: Kind, inode: u64, host: &BTreeMap<Kind, u64>, shared_by: &[String], processes: &[Member]) -> Owner {
    if host.get(&kind) == Some(&inode) {
        return Owner::Host;
    }
    match shared_by {
        [only] if only != PAUSE => Owner::Container(only.clone()),
        [] => processes
            .first()
            .map_or(Owner::Sandbox, |member| match member.part.as_str() {
                PAUSE => Owner::Sandbox,
                part => Owner::Container(part.to_owned()),
            }),
        _ => Owner::Sandbox,
    }
}

/// Where a process is in a namespace of another owner than the record expects.
fn unexpected(roots: &[(&Recorded, &Seen)], kinds: &[KindView]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (recorded, root) in roots {
        for (kind, expected) in &recorded.expected {
            let Some(inode) = root.namespaces.get(kind) else {
                continue;
            };
            let namespaces = kinds
                .iter()
                .find(|view| view.kind == *kind)
                .map(|view| view.namespaces.as_slice());
            let actual = namespaces
                .unwrap_or_default()
                .iter()
                .find(|n| n.inode == *inode)
                .map(|n| &n.owner);
            if let Some(actual) = actual.filter(|actual| *actual != expected) {
                found.insert(format!(
                    "{}: its {kind} namespace should be the {expected}'s and is the {actual}'s",
                    recorded.name
                ));
            }
        }
    }
    found
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn seen(pid: u32, ppid: u32, command: &str, namespaces: &[(Kind, u64)]) -> Seen {
        let process = Process {
            pid,
            ppid,
            start_time_ticks: u64::from(pid) * 10,
            state: 'S',
            command: command.to_owned(),
            namespaced_pids: vec![pid, pid % 100],
        };
        Seen {
            process,
            namespaces: namespaces.iter().copied().collect(),
        }
    }

    fn recorded(name: &str, pid: u32) -> Recorded {
        Recorded {
            name: name.to_owned(),
            pid,
            start_time_ticks: Some(u64::from(pid) * 10),
            expected: BTreeMap::new(),
        }
    }

    /// The two-containers pod: net and ipc are the sandbox's, pid is each one's own, user is the host's.
    pub(crate) fn example() -> View {
        use Kind::*;
        let host: BTreeMap<_, _> = [(Net, 1), (Ipc, 2), (Pid, 3), (Mnt, 4), (User, 5)].into();
        let everybody = [
            seen(1, 0, "init", &[(Net, 1), (Ipc, 2), (Pid, 3), (Mnt, 4), (User, 5)]),
            seen(
                101,
                1,
                "/pause",
                &[(Net, 11), (Ipc, 12), (Pid, 13), (Mnt, 14), (User, 5)],
            ),
            seen(
                202,
                1,
                "nginx: master process",
                &[(Net, 11), (Ipc, 12), (Pid, 23), (Mnt, 24), (User, 5)],
            ),
            seen(
                203,
                202,
                "nginx: worker process",
                &[(Net, 11), (Ipc, 12), (Pid, 23), (Mnt, 24), (User, 5)],
            ),
            seen(
                304,
                1,
                "/bin/sh -c write",
                &[(Net, 11), (Ipc, 12), (Pid, 33), (Mnt, 34), (User, 5)],
            ),
            seen(
                305,
                304,
                "nested",
                &[(Net, 11), (Ipc, 12), (Pid, 33), (Mnt, 99), (User, 5)],
            ),
        ];
        let subject = Subject {
            pod: "default/two-containers".into(),
            pause: Some(recorded(PAUSE, 101)),
            containers: vec![recorded("nginx", 202), recorded("debian", 304)],
        };
        arrange(&subject, &host, &everybody)
    }

    fn find(view: &View, kind: Kind, inode: u64) -> Namespace {
        let kind = view.kinds.iter().find(|k| k.kind == kind).unwrap();
        kind.namespaces.iter().find(|n| n.inode == inode).unwrap().clone()
    }

    #[test]
    fn owners() {
        let view = example();
        assert_eq!(view.parts, ["pause", "nginx", "debian"]);
        let net = find(&view, Kind::Net, 11);
        assert_eq!(
            (net.owner, net.shared_by.len(), net.processes.len()),
            (Owner::Sandbox, 3, 5)
        );
        assert_eq!(find(&view, Kind::Pid, 13).owner, Owner::Sandbox);
        assert_eq!(find(&view, Kind::Pid, 23).owner, Owner::Container("nginx".into()));
        assert_eq!(find(&view, Kind::User, 5).owner, Owner::Host);
        assert!(view.discrepancies.is_empty());
    }

    #[test]
    fn a_process_belongs_where_its_parent_belongs() {
        let nested = find(&example(), Kind::Mnt, 99);
        assert_eq!(nested.owner, Owner::Container("debian".into()));
        assert_eq!(nested.processes[0].part, "debian");
        assert!(nested.shared_by.is_empty());
        assert!(
            find(&example(), Kind::User, 5).processes.iter().all(|p| p.pid != 1),
            "init is none of the pod's"
        );
    }

    #[test]
    fn disagreements_with_the_record() {
        let host = BTreeMap::from([(Kind::Net, 1)]);
        let everybody = [
            seen(101, 1, "/pause", &[(Kind::Net, 11)]),
            seen(202, 1, "sh", &[(Kind::Net, 1)]),
        ];
        let mut reused = recorded("old", 202);
        reused.start_time_ticks = Some(7);
        let mut astray = recorded("web", 202);
        astray.expected.insert(Kind::Net, Owner::Sandbox);
        let subject = Subject {
            pod: "p".into(),
            pause: Some(recorded(PAUSE, 101)),
            containers: vec![reused, astray, recorded("gone", 404)],
        };
        let view = arrange(&subject, &host, &everybody);
        assert_eq!(view.discrepancies.len(), 3, "{:#?}", view.discrepancies);
        assert!(view.discrepancies[0].contains("another one now"));
        assert!(view.discrepancies[1].contains("404 does not exist"));
        assert!(view.discrepancies[2].contains("should be the sandbox's and is the host's"));
        assert_eq!(view.parts, ["pause", "web"]);
    }

    #[test]
    fn this_machine() {
        let subject = Subject {
            pod: "self".into(),
            pause: None,
            containers: vec![],
        };
        let mut subject = subject;
        let pid = std::process::id();
        let start_time_ticks = Some(process::process(pid).unwrap().start_time_ticks);
        subject.containers.push(Recorded {
            name: "test".into(),
            pid,
            start_time_ticks,
            expected: BTreeMap::new(),
        });
        let view = look(&subject).unwrap();
        assert!(view.discrepancies.is_empty());
        assert!(view.kinds.iter().all(|k| k.namespaces[0].owner == Owner::Host));
        let text = serde_json::to_string(&view).unwrap();
        assert_eq!(serde_json::from_str::<View>(&text).unwrap(), view);
    }
}
