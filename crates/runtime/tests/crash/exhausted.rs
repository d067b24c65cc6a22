//! A machine that has no more of something: the error says of what, everything is given back, and the node goes on when
//! there is more.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use inspect::audit::Snapshot;
use rustix::mount::MountFlags;

use crate::life::{Client, HOST_PORT, Manner};
use crate::node::{Task, run};
use crate::place::{Node, Place, at_a_place, at_a_place_with, on_tokio};

/// How long a node may take to give back what it could not at once: it tries again after 1, 2, 4 … seconds.
const GIVEN_BACK_WITHIN: Duration = Duration::from_secs(8);

/// One life as far as it goes, and its end, which must come whatever is lacking. The errors on the way.
async fn try_to_live(client: &Client<'_>) -> Vec<String> {
    let mut errors = Vec::new();
    let mut note = |error: cri::Error| errors.push(error.to_string());
    match client.run_once().await {
        Err(e) => note(e),
        Ok(sandbox) => match client.start_once(&sandbox, "main", "exec sleep 1000").await {
            Err(e) => note(e),
            Ok(container) => drop(client.exec(&container, &["/bin/true"]).await.map_err(note)),
        },
    }
    errors
}

async fn take_down(client: &Client<'_>) -> cri::Result<()> {
    for sandbox in client.sandboxes().await {
        client.stop(&sandbox.id).await?;
        client.remove(&sandbox.id).await?;
    }
    Ok(())
}

/// The node goes on: a whole life, and nothing left of before.
async fn recovers(place: &Place, node: &Node, clean: &Snapshot, context: &str) {
    let client = Client::new(&node.runtime, place, Manner::Patient);
    client.lead().await.unwrap_or_else(|e| panic!("{context}: {e}"));
    let began = Instant::now();
    loop {
        let left = place.leftovers(clean);
        if left.is_empty() {
            return;
        }
        assert!(began.elapsed() < GIVEN_BACK_WITHIN, "{context}: left: {left:#?}");
    }
}

/// A node that has led a pod through its life, and what its machine is like then.
async fn settled(place: &Place) -> (Node, Snapshot) {
    let node = place.open().await.unwrap();
    Client::new(&node.runtime, place, Manner::Patient).lead().await.unwrap();
    assert_eq!(place.settled_processes(0), 0);
    let clean = place.look();
    (node, clean)
}

/// A file that takes all of a file system but so many pages.
struct Filler {
    file: File,
    path: std::path::PathBuf,
}

impl Filler {
    fn leaving(pages: u64, place: &Place) -> Filler {
        let path = place.dir.join("filler");
        let file = File::create(&path).unwrap();
        let statistics = rustix::fs::statvfs(&place.dir).unwrap();
        let take = statistics.f_bavail.saturating_sub(pages) * statistics.f_frsize;
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, take.max(1)).unwrap();
        Filler { file, path }
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        let _ = self.file.set_len(0);
        let _ = fs::remove_file(&self.path);
    }
}

/// A disk that is full after the first write, the second, … until there is room for all of them.
#[test]
fn no_space_at_any_write() {
    at_a_place_with("size=64m", |place| {
        on_tokio(async {
            let (node, clean) = settled(place).await;
            let client = Client::new(&node.runtime, place, Manner::Patient);
            let (mut pages, mut lacking) = (0, 0);
            loop {
                let errors = {
                    let _filler = Filler::leaving(pages, place);
                    let errors = try_to_live(&client).await;
                    let down = take_down(&client).await;
                    down.unwrap_or_else(|e| panic!("{pages} pages: a pod can't be removed from a full disk: {e}"));
                    errors
                };
                for error in &errors {
                    assert!(
                        error.contains("No space left on device") || error.contains("os error 28"),
                        "{pages} pages: {error}"
                    );
                }
                recovers(place, &node, &clean, &format!("{pages} pages")).await;
                if errors.is_empty() {
                    break;
                }
                (pages, lacking) = (pages + 1, lacking + 1);
                assert!(pages < 500, "a pod does not need so much: {errors:?}");
            }
            println!("a pod and a container need {pages} pages; {lacking} times there was too little");
            assert!(lacking > 5);
        });
    });
}

/// The same, for files' names.
#[test]
fn no_inode_at_any_file() {
    at_a_place_with("size=64m,nr_inodes=4k", |place| {
        on_tokio(async {
            let (node, clean) = settled(place).await;
            let client = Client::new(&node.runtime, place, Manner::Patient);
            let mut inodes = 0;
            loop {
                let filler = place.dir.join("names");
                fs::create_dir(&filler).unwrap();
                let free = rustix::fs::statvfs(&place.dir).unwrap().f_ffree;
                for number in inodes..free {
                    File::create(filler.join(number.to_string())).unwrap();
                }
                let errors = try_to_live(&client).await;
                let down = take_down(&client).await;
                down.unwrap_or_else(|e| panic!("{inodes} inodes: a pod can't be removed: {e}"));
                fs::remove_dir_all(filler).unwrap();
                for error in &errors {
                    // overlayfs mounts itself read-only where it can't make its work directory.
                    let told = ["No space left on device", "Read-only file system"];
                    assert!(told.iter().any(|t| error.contains(t)), "{inodes} inodes: {error}");
                }
                recovers(place, &node, &clean, &format!("{inodes} inodes")).await;
                if errors.is_empty() {
                    break;
                }
                inodes += 1;
                assert!(inodes < 200, "a pod does not need so many: {errors:?}");
            }
            assert!(inodes > 5);
        });
    });
}

/// All that a node keeps for good on a file system that has become read-only, as ext4 does after an error.
#[test]
fn a_root_that_becomes_read_only() {
    at_a_place(|place| {
        on_tokio(async {
            let (node, clean) = settled(place).await;
            let client = Client::new(&node.runtime, place, Manner::Patient);
            let sandbox = client.run_once().await.unwrap();
            let before = client.start_once(&sandbox, "before", "exec sleep 1000").await.unwrap();
            // (What has files open for writing can't be remounted: so it is covered.)
            let root = place.root();
            rustix::mount::mount_bind(&root, &root).unwrap();
            rustix::mount::mount_remount(&root, MountFlags::BIND | MountFlags::RDONLY, c"").unwrap();
            let error = client
                .start_once(&sandbox, "main", "exec sleep 1000")
                .await
                .unwrap_err();
            assert!(
                error.message.contains("Read-only file system") && error.message.contains("/r/snapshots"),
                "{error}"
            );
            // What runs goes on, and what needs no root is done.
            assert_eq!(client.exec(&before, &["/bin/true"]).await.unwrap(), 0);
            client.stop(&sandbox).await.unwrap();
            let error = client.remove(&sandbox).await.unwrap_err();
            assert!(error.message.contains("Read-only file system"), "{error}");
            // A pod needs the state directory alone.
            let other = Client::named(&node.runtime, place, "other");
            let sandbox_alone = other.run_once().await.unwrap();
            other.remove(&sandbox_alone).await.unwrap();
            rustix::mount::unmount(&root, rustix::mount::UnmountFlags::DETACH).unwrap();
            client.remove(&sandbox).await.unwrap();
            recovers(place, &node, &clean, "writable again").await;
        });
    });
}

#[test]
fn a_node_that_starts_on_a_read_only_root() {
    at_a_place(|place| {
        on_tokio(async {
            let (node, clean) = settled(place).await;
            drop(node);
            let root = place.root();
            rustix::mount::mount_bind(&root, &root).unwrap();
            rustix::mount::mount_remount(&root, MountFlags::BIND | MountFlags::RDONLY, c"").unwrap();
            let error = place.open().await.err().unwrap();
            assert!(
                error.contains("Read-only file system") && error.contains(&*root.to_string_lossy()),
                "{error}"
            );
            rustix::mount::unmount(&root, rustix::mount::UnmountFlags::DETACH).unwrap();
            let node = place.open().await.unwrap();
            recovers(place, &node, &clean, "writable again").await;
        });
    });
}

#[test]
fn no_free_address() {
    at_a_place(|place| {
        on_tokio(async {
            let mut config = network::Config::below(&place.state());
            // The gateway's and one more.
            config.subnet = "10.85.0.0/30".parse().unwrap();
            let node = place.open_on(config).await.unwrap();
            let first = Client::named(&node.runtime, place, "first");
            let second = Client::named(&node.runtime, place, "second");
            let sandbox = first.run_once().await.unwrap();
            let error = second.run_once().await.unwrap_err();
            assert_eq!(error.kind, cri::ErrorKind::ResourceExhausted, "{error}");
            assert!(error.message.contains("10.85.0.0/30"), "{error}");
            first.remove(&sandbox).await.unwrap();
            let sandbox = second.run_once().await.unwrap();
            second.remove(&sandbox).await.unwrap();
        });
    });
}

#[test]
fn no_free_port() {
    at_a_place(|place| {
        on_tokio(async {
            let (node, clean) = settled(place).await;
            let client = Client::new(&node.runtime, place, Manner::Patient);
            let taken = std::net::TcpListener::bind(("0.0.0.0", u16::try_from(HOST_PORT).unwrap())).unwrap();
            let error = client.run_once().await.unwrap_err();
            assert_eq!(error.kind, cri::ErrorKind::FailedPrecondition, "{error}");
            assert!(error.message.contains(&HOST_PORT.to_string()), "{error}");
            assert!(client.sandboxes().await.is_empty());
            drop(taken);
            recovers(place, &node, &clean, "the port is free again").await;
        });
    });
}

/// A limit for the supervisors' memory that none of them can live within.
#[test]
fn no_memory_for_the_supervisor() {
    at_a_place(|place| {
        on_tokio(async {
            let (node, clean) = settled(place).await;
            let client = Client::new(&node.runtime, place, Manner::Patient);
            let hierarchies = cgroup::Hierarchies::detect().unwrap();
            let shims = format!("{}/shims", place.cgroup_parent);
            let group = cgroup::Cgroup::create(&hierarchies, &shims).unwrap();
            let limited = |bytes: i64| {
                let mut memory = oci_spec::runtime::LinuxMemory::default();
                memory.set_limit(Some(bytes));
                let mut resources = oci_spec::runtime::LinuxResources::default();
                resources.set_memory(Some(memory));
                group.apply(&resources).unwrap();
            };
            limited(64 << 10);
            let error = client.run_once().await.unwrap_err();
            assert!(error.message.contains("supervisor"), "{error}");
            assert!(client.sandboxes().await.is_empty());
            limited(-1);
            let _ = group.remove();
            let _ = cgroup::remove::remove_if_empty(&hierarchies, &place.cgroup_parent);
            recovers(place, &node, &clean, "memory again").await;
        });
    });
}

/// Descriptors and processes are a process's: the node that lacks them is another one ([`descriptors`], [`processes`]).
#[test]
fn no_descriptors() {
    at_a_place(|place| {
        let output = run(place, Task::LackDescriptors, "");
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
    });
}

#[test]
fn no_processes() {
    at_a_place(|place| {
        let output = run(place, Task::LackProcesses, "");
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
    });
}

/// What the node does that has too few descriptors: none, then one, then two, … until a pod needs no more.
pub async fn descriptors(place: &Place) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let (node, clean) = settled(place).await;
    let client = Client::new(&node.runtime, place, Manner::Patient);
    let usual = getrlimit(Resource::Nofile);
    let in_use = || fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    let (mut spare, mut lacking) = (0, 0);
    loop {
        let limit = Rlimit {
            current: Some(in_use() + spare),
            ..usual
        };
        setrlimit(Resource::Nofile, limit).unwrap();
        let errors = try_to_live(&client).await;
        setrlimit(Resource::Nofile, usual).unwrap();
        for error in &errors {
            assert!(
                error.contains("Too many open files") || error.contains("supervisor"),
                "{spare} descriptors: {error}"
            );
        }
        let down = take_down(&client).await;
        down.unwrap_or_else(|e| panic!("{spare} descriptors: {e}"));
        recovers(place, &node, &clean, &format!("{spare} descriptors")).await;
        if errors.is_empty() {
            break;
        }
        (spare, lacking) = (spare + 1, lacking + 1);
        assert!(spare < 100, "a pod does not need so many: {errors:?}");
    }
    println!("{lacking} times there were too few");
    assert!(lacking > 3);
}

/// What the node does that may have no more processes and threads.
pub async fn processes(place: &Place) {
    let (node, clean) = settled(place).await;
    let client = Client::new(&node.runtime, place, Manner::Patient);
    let hierarchies = cgroup::Hierarchies::detect().unwrap();
    let name = format!("{}-pids", place.cgroup_parent);
    let group = cgroup::Cgroup::create(&hierarchies, &name).unwrap();
    let pids_dir = Path::new("/sys/fs/cgroup/pids").join(name.trim_start_matches('/'));
    if !pids_dir.join("pids.max").exists() {
        println!("SKIPPED: no pids controller of cgroup v1 here");
        group.remove().unwrap();
        return;
    }
    let write = |file: &str, text: &str| {
        let file = File::options().write(true).open(pids_dir.join(file)).unwrap();
        file.write_all_at(text.as_bytes(), 0).unwrap();
    };
    let back = fs::read_to_string("/proc/self/cgroup").unwrap();
    let back = back.lines().find(|l| l.split(':').nth(1) == Some("pids")).unwrap();
    let back = Path::new("/sys/fs/cgroup/pids").join(back.rsplit(':').next().unwrap().trim_start_matches('/'));
    write("cgroup.procs", &std::process::id().to_string());
    let mut lacking = 0;
    for spare in 0..12 {
        let current: u64 = fs::read_to_string(pids_dir.join("pids.current"))
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        write("pids.max", &(current + spare).to_string());
        let errors = try_to_live(&client).await;
        write("pids.max", "max");
        for error in &errors {
            assert!(
                error.contains("Resource temporarily unavailable") || error.contains("supervisor"),
                "{spare} processes: {error}"
            );
        }
        lacking += usize::from(!errors.is_empty());
        let down = take_down(&client).await;
        down.unwrap_or_else(|e| panic!("{spare} processes: {e}"));
        recovers(place, &node, &clean, &format!("{spare} processes")).await;
    }
    File::options()
        .write(true)
        .open(back.join("cgroup.procs"))
        .unwrap()
        .write_all(std::process::id().to_string().as_bytes())
        .unwrap();
    group.remove().unwrap();
    println!("{lacking} times there were too few");
    assert!(lacking > 0);
}
