//! The host that a test has for itself.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use inspect::audit::{self, Remainder, Scope, Snapshot};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::{Pid, Signal};

use crate::instance::{self, Instance};
use crate::{binaries, running};

/// How long the kernel may take to collect what nobody waits for (links of a dead net namespace, a reaped process).
const SETTLE: Duration = Duration::from_secs(20);
/// How long a node may take to end once nothing runs.
const NODE_END: Duration = Duration::from_secs(60);

static HOSTS: AtomicU32 = AtomicU32::new(0);

/// A net and a mount namespace, a directory, and the nodes in it.
#[derive(Debug)]
pub struct Host {
    directory: tempfile::TempDir,
    number: u32,
    hove: PathBuf,
    nodes: Cell<u32>,
    scope: RefCell<Scope>,
    before: Snapshot,
}

/// Runs `test` on a host of its own and audits it; or says why it can't.
pub fn case(images: &[&str], test: impl FnOnce(&Host) -> Result<()> + Send) {
    let ready = (|| {
        if !rustix::process::geteuid().is_root() {
            return Err("not root".to_owned());
        }
        for image in images {
            binaries::image(image)?;
        }
        binaries::hove()
    })();
    let hove = match ready {
        Ok(hove) => hove,
        Err(reason) => {
            println!("SKIPPED: {reason}");
            return;
        }
    };
    if let Err(error) = on_a_host(hove, test) {
        panic!("{error:?}");
    }
}

/// Runs `test` on a host of its own and audits it.
pub fn on_a_host(hove: PathBuf, test: impl FnOnce(&Host) -> Result<()> + Send) -> Result<()> {
    let outcome = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let host = Host::new(hove)?;
            test(&host).map_err(|error| error.context(host.stories()))?;
            host.finish()
        });
        thread.join()
    });
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

impl Host {
    fn new(hove: PathBuf) -> Result<Host> {
        sys::netns::isolate_thread()?;
        loopback_up()?;
        let directory = tempfile::Builder::new().prefix("hove-e2e-").tempdir()?;
        let scope = Scope {
            command_words: vec![directory.path().display().to_string()],
            mounts_below: vec![directory.path().to_owned()],
            ..Scope::default()
        };
        let before = audit::snapshot(&scope)?;
        let number = HOSTS.fetch_add(1, Ordering::Relaxed);
        Ok(Host {
            directory,
            number,
            hove,
            nodes: Cell::new(0),
            scope: RefCell::new(scope),
            before,
        })
    }

    /// A directory that goes with the test.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Writes a manifest and returns its path.
    pub fn manifest(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.directory().join(name);
        std::fs::write(&path, text)?;
        Ok(path)
    }

    /// Sets a node up; its first command starts it. Nodes of one host differ in directories, bridge, subnet and cgroup parent.
    pub fn node(&self) -> Result<Instance> {
        let place = self.nodes.get();
        let network = format!(
            "[network]\nbridge = \"hove{place}\"\nsubnet = \"10.{}.0.0/16\"\n\n",
            85 + place
        );
        self.node_with(&network)
    }

    /// The same, its network as it is when nobody configures one.
    pub fn node_with_default_network(&self) -> Result<Instance> {
        self.node_with("")
    }

    fn node_with(&self, network: &str) -> Result<Instance> {
        let place = self.nodes.replace(self.nodes.get() + 1);
        let directory = self.directory().join(format!("node{place}"));
        let state = directory.join("state");
        std::fs::create_dir_all(&state)?;
        // As /run is: what dies with the boot is in memory.
        rustix::mount::mount(
            "tmpfs",
            &state,
            "tmpfs",
            MountFlags::NOSUID | MountFlags::NODEV,
            Some(c"mode=0711"),
        )
        .with_context(|| format!("mount tmpfs on {}", state.display()))?;
        let cgroup_parent = format!("/hove-e2e-{}-{}-{place}", std::process::id(), self.number);
        let config = format!("{network}[cgroup]\nparent = \"{cgroup_parent}\"\n");
        let config_path = directory.join("config.toml");
        std::fs::write(&config_path, config)?;
        let mut scope = self.scope.borrow_mut();
        scope.cgroup_parents.push(cgroup_parent);
        let node = Instance::new(self.hove.clone(), directory, config_path);
        // What a pod had goes; images stay, with their layers (see `Instance::import`).
        scope
            .files_below
            .extend([node.state(), node.log_dir(), node.root().join("pods")]);
        Ok(node)
    }

    /// Waits until the nodes have ended by themselves, as they do once nothing runs; then nothing of them may be left.
    pub fn finish(self) -> Result<()> {
        self.wait_for_nodes()?;
        // What the harness made is no remainder.
        self.check_against(
            &self.before,
            |r| matches!(r, Remainder::Mount { path, .. } if path.ends_with("state")),
        )
    }

    /// Waits until the nodes have ended by themselves.
    pub fn wait_for_nodes(&self) -> Result<()> {
        for node in self.node_pids()? {
            ensure!(
                running::wait_for_end(node, NODE_END)?,
                "node {node} did not end although nothing runs"
            );
        }
        Ok(())
    }

    /// What is there, for a later [`Host::check_against`].
    pub fn snapshot(&self) -> Result<Snapshot> {
        Ok(audit::snapshot(&self.scope.borrow())?)
    }

    /// Fails when more is there than before, but for what is `expected`, or a container's snapshot is left. The kernel has its
    /// time to collect.
    pub fn check_against(&self, before: &Snapshot, expected: impl Fn(&Remainder) -> bool) -> Result<()> {
        let deadline = Instant::now() + SETTLE;
        let left = loop {
            let left: Vec<_> = audit::diff(before, &self.snapshot()?)
                .into_iter()
                .filter(|remainder| !expected(remainder))
                .collect();
            if left.is_empty() || Instant::now() > deadline {
                break left;
            }
            // Nobody tells when the kernel has collected a namespace's links.
            std::thread::sleep(Duration::from_millis(20));
        };
        for place in 0..self.nodes.get() {
            let node = self.directory().join(format!("node{place}"));
            let (layers, now) = (Instance::layers_after_import(&node), Instance::layers(&node));
            let left: Vec<_> = now.difference(&layers).collect();
            ensure!(
                left.is_empty(),
                "snapshots of containers are left below {}: {left:?}",
                node.display()
            );
        }
        let list = left
            .iter()
            .map(|remainder| format!("  {remainder}\n"))
            .collect::<String>();
        ensure!(left.is_empty(), "left behind:\n{list}{}", self.stories());
        Ok(())
    }

    /// The daemons that are alive.
    fn node_pids(&self) -> Result<Vec<Pid>> {
        instance::daemons_of(self.directory())
    }

    /// What the nodes and shims said, for the report of a failure.
    fn stories(&self) -> String {
        let mut text = String::new();
        for place in 0..self.nodes.get() {
            let state = self.directory().join(format!("node{place}/state"));
            let mut logs = vec![state.join("node.log")];
            let sandboxes = std::fs::read_dir(state.join("sandboxes"))
                .into_iter()
                .flatten()
                .flatten();
            logs.extend(sandboxes.map(|sandbox| sandbox.path().join("shim.log")));
            for log in logs {
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                let lines: Vec<_> = said.lines().collect();
                let last = lines[lines.len().saturating_sub(40)..].join("\n");
                text.push_str(&format!("\n--- {} ---\n{last}\n", log.display()));
            }
        }
        text
    }
}

impl Drop for Host {
    /// After a failure: kills what the audit knows to be this test's, so that the next one finds the machine as it was.
    fn drop(&mut self) {
        let scope = self.scope.borrow().clone();
        for _ in 0..10 {
            let Ok(snapshot) = audit::snapshot(&scope) else { return };
            let mut alive = false;
            for remainder in audit::diff(&self.before, &snapshot) {
                if let Remainder::Process { pid, .. } = remainder
                    && let Some(pid) = Pid::from_raw(pid.cast_signed())
                {
                    alive = true;
                    let _ = rustix::process::kill_process(pid, Signal::KILL);
                    let _ = running::wait_for_end(pid, Duration::from_secs(1));
                }
            }
            if !alive {
                break;
            }
        }
        // The directory can't be removed with mounts in it. What the audit complained about is among them, on a failure.
        for mount in audit_mounts(&scope).into_iter().rev() {
            let _ = rustix::mount::unmount(mount, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
        }
        for parent in &scope.cgroup_parents {
            let mut cgroups = inspect::cgroup::below(parent).unwrap_or_default();
            cgroups.reverse();
            for cgroup in cgroups {
                let _ = std::fs::remove_dir(cgroup);
            }
        }
    }
}

fn audit_mounts(scope: &Scope) -> Vec<PathBuf> {
    let mounts = sys::mountinfo::mounts().unwrap_or_default();
    sys::mountinfo::below(&mounts, &scope.mounts_below)
        .map(|mount| mount.mount_point.clone())
        .collect()
}

fn loopback_up() -> Result<()> {
    const RTM_NEWLINK: u16 = 16;
    const LOOPBACK: u32 = 1;
    const IFF_UP: u32 = 1;
    // struct ifinfomsg: family, type, index, flags, change mask.
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&LOOPBACK.to_ne_bytes());
    header[8..12].copy_from_slice(&IFF_UP.to_ne_bytes());
    header[12..16].copy_from_slice(&IFF_UP.to_ne_bytes());
    let message = sys::netlink::Message::new("RTM_NEWLINK(lo, up)", RTM_NEWLINK, 0, &header);
    Ok(sys::netlink::Socket::route()?.request(&mut [message])?)
}
