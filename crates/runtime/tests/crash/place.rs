//! Where a case takes place: a machine for one test, and what may not be left on it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use inspect::audit::{self, Remainder, Scope, Snapshot};
use runtime::{Config, Runtime};
use tempfile::TempDir;

pub const IMAGE: &str = "docker.io/library/busybox:test";

/// How long what was killed may take to be collected by the kernel.
const PATIENCE: Duration = Duration::from_secs(2);

static INSTANCES: AtomicU32 = AtomicU32::new(0);

/// The directories and the cgroup of a machine's node. A process that is started with them in its environment means the
/// same node.
#[derive(Debug, Clone)]
pub struct Place {
    pub dir: PathBuf,
    pub cgroup_parent: String,
}

/// A node that is up.
pub struct Node {
    pub images: Arc<image::Store>,
    pub network: Arc<network::Network>,
    pub runtime: Arc<Runtime>,
}

impl Place {
    pub fn state(&self) -> PathBuf {
        self.dir.join("s")
    }

    pub fn root(&self) -> PathBuf {
        self.dir.join("r")
    }

    pub fn config(&self) -> Config {
        let mut config = Config::below(&self.state(), &shim());
        config.cgroup_parent = self.cgroup_parent.clone();
        config.sandbox_image = self.has_sandbox_image().then(|| IMAGE.to_owned());
        config
    }

    /// From now on, every node of this place starts its sandboxes from the image.
    pub fn use_sandbox_image(&self) {
        fs::write(self.mark(), "").unwrap();
    }

    pub fn has_sandbox_image(&self) -> bool {
        self.mark().exists()
    }

    fn mark(&self) -> PathBuf {
        self.dir.join("sandbox-image")
    }

    /// Starts a node, as `hove daemon` does.
    pub async fn open(&self) -> Result<Node, String> {
        self.open_on(network::Config::below(&self.state())).await
    }

    /// The same, on another network than the usual.
    pub async fn open_on(&self, network: network::Config) -> Result<Node, String> {
        let said = |e: &dyn std::fmt::Display| e.to_string();
        let images = Arc::new(image::Store::open(&self.root()).map_err(|e| said(&e))?);
        let network = Arc::new(network::Network::open(network).map_err(|e| said(&e))?);
        let runtime = Runtime::open(self.config(), images.clone(), network.clone())
            .await
            .map_err(|e| said(&e))?;
        Ok(Node {
            images,
            network,
            runtime,
        })
    }

    fn scope(&self) -> Scope {
        Scope {
            command_words: vec![self.dir.to_string_lossy().into_owned()],
            cgroup_parents: vec![self.cgroup_parent.clone()],
            mounts_below: vec![self.dir.clone()],
            files_below: vec![self.state(), self.root()],
        }
    }

    pub fn look(&self) -> Snapshot {
        audit::snapshot(&self.scope()).unwrap()
    }

    /// How many processes there are, once those that were killed are collected.
    pub fn settled_processes(&self, expected: usize) -> usize {
        let began = Instant::now();
        loop {
            let count = self.processes();
            if count == expected || began.elapsed() > PATIENCE {
                return count;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn processes(&self) -> usize {
        let scope = Scope {
            mounts_below: Vec::new(),
            files_below: Vec::new(),
            ..self.scope()
        };
        let found = audit::diff(&Snapshot::default(), &audit::snapshot(&scope).unwrap());
        found
            .iter()
            .filter(|r| matches!(r, Remainder::Process { .. }) && !is_for_init(r))
            .count()
    }

    /// What is there now and was not `before`, once the kernel has collected what was killed.
    pub fn leftovers(&self, before: &Snapshot) -> Vec<String> {
        let began = Instant::now();
        loop {
            let found = audit::diff(before, &self.look());
            let found: Vec<_> = found.iter().filter(|r| !is_for_init(r)).collect();
            if found.is_empty() || began.elapsed() > PATIENCE {
                return found.iter().map(ToString::to_string).collect();
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Whether this has ended, and init has yet to wait for it: some take a second or two over that.
fn is_for_init(remainder: &Remainder) -> bool {
    let Remainder::Process { pid, .. } = remainder else {
        return false;
    };
    // PID (COMMAND) STATE PARENT …
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with("Z 1 "))
}

/// Runs `test` at a place of its own: on a thread in namespaces of its own, whose children are in them too.
pub fn at_a_place(test: impl FnOnce(&Place) + Send) {
    at_a_place_with("", test);
}

/// The same; `options` are those of the tmpfs that everything is on.
pub fn at_a_place_with(options: &str, test: impl FnOnce(&Place) + Send) {
    std::thread::scope(|scope| {
        let body = || {
            sys::netns::isolate_thread().unwrap();
            let scratch = Scratch::new(options);
            let place = Place {
                dir: scratch.0.path().into(),
                cgroup_parent: format!(
                    "/hove-crash-test-{}-{}",
                    std::process::id(),
                    INSTANCES.fetch_add(1, Ordering::Relaxed)
                ),
            };
            let _sweeper = Sweeper(place.cgroup_parent.clone());
            import_busybox(&place);
            test(&place);
        };
        scope
            .spawn(body)
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

/// Runs `work` on tokio, on this thread and others that are in its namespaces.
pub fn on_tokio<F: Future>(work: F) -> F::Output {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

struct Scratch(TempDir);

impl Scratch {
    fn new(options: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("hc").tempdir().unwrap();
        let none = rustix::mount::MountFlags::empty();
        let options = std::ffi::CString::new(options).unwrap();
        rustix::mount::mount("place", dir.path(), "tmpfs", none, Some(options.as_c_str())).unwrap();
        Scratch(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

/// Kills what a failed test leaves running: its supervisors are in a cgroup too.
struct Sweeper(String);

impl Drop for Sweeper {
    fn drop(&mut self) {
        let hierarchies = cgroup::Hierarchies::detect().unwrap();
        if let Ok(cgroup) = cgroup::Cgroup::open(&hierarchies, &self.0) {
            let _ = cgroup.kill().and_then(|()| cgroup.remove());
        }
    }
}

pub fn shim() -> PathBuf {
    if let Some(path) = std::env::var_os("HOVE_SHIM") {
        return path.into();
    }
    // target/TRIPLE/PROFILE/deps/crash-HASH → target/TRIPLE/PROFILE/hove-shim
    let test = std::env::current_exe().unwrap();
    let shim = test.parent().and_then(Path::parent).unwrap().join("hove-shim");
    assert!(shim.exists(), "{} is missing: cargo build -p hove-shim", shim.display());
    shim
}

/// An image of the host's busybox, with the libraries that it needs and the programs that these tests use.
fn import_busybox(place: &Place) {
    let root = place.dir.join("rootfs");
    for sub in ["bin", "tmp", "proc", "sys", "dev"] {
        fs::create_dir_all(root.join(sub)).unwrap();
    }
    let busybox = Path::new("/bin/busybox");
    fs::copy(busybox, root.join("bin/busybox"))
        .unwrap_or_else(|e| panic!("{}: {e} (apt-get install busybox)", busybox.display()));
    let libraries = Command::new("ldd").arg(busybox).output().unwrap().stdout;
    let libraries = String::from_utf8_lossy(&libraries).into_owned();
    for library in libraries
        .split_whitespace()
        .filter(|w| w.starts_with('/') && !w.ends_with(':'))
    {
        let target = root.join(library.strip_prefix('/').unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(library, target).unwrap();
    }
    for program in ["sh", "sleep", "true", "dd", "echo"] {
        fs::hard_link(root.join("bin/busybox"), root.join("bin").join(program)).unwrap();
    }
    let config = image::ImageConfig {
        env: vec!["PATH=/bin".into()],
        // What a sandbox of it does; containers say what they run.
        entrypoint: vec!["sleep".into(), "100000".into()],
        ..Default::default()
    };
    let images = image::Store::open(&place.root()).unwrap();
    images.import_rootfs(&root, &IMAGE.parse().unwrap(), &config).unwrap();
    fs::remove_dir_all(root).unwrap();
}
