//! A host for one test: mount, network and (by name) cgroups of its own, a runtime, an image, and the proof at the end that
//! nothing is left.

use std::collections::BTreeSet;
use std::fs;
use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use cri::v1::*;
use cri::{ImageService, RuntimeService};
use runtime::{Config, Handler, Runtime};
use tempfile::TempDir;

/// The image's name.
pub const IMAGE: &str = "localhost/library/busybox:test";

/// With this variable set to the name of an OCI runtime, every pod runs in containerd's shim with that runtime
/// (`cargo xtask handlers`).
const OCI_RUNTIME: &str = "HOVE_TEST_OCI_RUNTIME";

/// How long a test may take: seconds on a machine that is busy with other things.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(60);

static INSTANCES: AtomicU32 = AtomicU32::new(0);

/// Runs `test` on a thread in namespaces of its own. The threads of tokio's runtime, and the processes that they start,
/// are in them too, since they descend from this one.
pub fn on_a_host<F: Future<Output = ()>>(test: impl FnOnce(Host) -> F + Send) {
    std::thread::scope(|scope| {
        let body = || {
            sys::netns::isolate_thread().unwrap();
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let host = Host::new().await;
                let leftovers = host.leftovers();
                let sweeper = Sweeper(host.config.cgroup_parent.clone());
                tokio::time::timeout(LIMIT, test(host))
                    .await
                    .expect("the test takes too long");
                leftovers.check();
                drop(sweeper);
            });
        };
        scope
            .spawn(body)
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

/// Debian's shim, with an OCI runtime.
pub fn containerds_shim(oci_runtime: &str) -> Handler {
    Handler::Shim(shim_api::Handler {
        shim: "containerd-shim-runc-v2".into(),
        options: [("BinaryName".to_owned(), shim_api::Setting::Text(oci_runtime.into()))].into(),
    })
}

/// For what only Hove's own handler does; `why` the others don't.
pub fn on_a_native_host<F: Future<Output = ()>>(why: &str, test: impl FnOnce(Host) -> F + Send) {
    match std::env::var(OCI_RUNTIME) {
        Ok(oci_runtime) => println!("SKIPPED with {oci_runtime}: {why}"),
        Err(_) => on_a_host(test),
    }
}

/// The test's directory. `s` in it is a tmpfs, as /run is.
pub struct Scratch(TempDir);

impl Scratch {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("hv").tempdir().unwrap();
        let state = dir.path().join("s");
        fs::create_dir(&state).unwrap();
        let none = rustix::mount::MountFlags::empty();
        rustix::mount::mount("state", &state, "tmpfs", none, None::<&std::ffi::CStr>).unwrap();
        Scratch(dir)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.path().join("s"), rustix::mount::UnmountFlags::DETACH);
    }
}

/// Kills what a failed test leaves running: its supervisors are in a cgroup too.
struct Sweeper(String);

impl Drop for Sweeper {
    fn drop(&mut self) {
        let hierarchies = cgroup::Hierarchies::detect().unwrap();
        if let Ok(cgroup) = cgroup::Cgroup::open(&hierarchies, &self.0) {
            cgroup.kill().unwrap();
            cgroup.remove().unwrap();
        }
    }
}

pub struct Host {
    pub dir: Scratch,
    pub config: Config,
    pub images: Arc<image::Store>,
    pub network: Arc<network::Network>,
    pub runtime: Arc<Runtime>,
}

impl Host {
    async fn new() -> Host {
        let dir = Scratch::new();
        let state = dir.path().join("s");
        let images = Arc::new(image::Store::open(&dir.path().join("r")).unwrap());
        import_busybox(dir.path(), &images);
        let mut config = Config::below(&state, &shim());
        let instance = INSTANCES.fetch_add(1, Ordering::Relaxed);
        config.cgroup_parent = format!("/hove-runtime-test-{}-{instance}", std::process::id());
        if let Ok(oci_runtime) = std::env::var(OCI_RUNTIME) {
            config.handlers.insert("shim".into(), containerds_shim(&oci_runtime));
            config.default_handler = "shim".into();
        }
        let network = Arc::new(network::Network::open(network::Config::below(&state)).unwrap());
        let runtime = Runtime::open(config.clone(), images.clone(), network.clone())
            .await
            .unwrap();
        Host {
            dir,
            config,
            images,
            network,
            runtime,
        }
    }

    /// The daemon dies and is started again.
    pub async fn restart(mut self) -> Host {
        drop(self.runtime);
        self.runtime = Runtime::open(self.config.clone(), self.images.clone(), self.network.clone())
            .await
            .unwrap();
        self
    }

    pub fn pod(&self, name: &str) -> PodSandboxConfig {
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.into(),
                uid: format!("{name}-uid"),
                namespace: "default".into(),
                attempt: 0,
            }),
            hostname: name.into(),
            log_directory: self.dir.path().join("logs").join(name).to_string_lossy().into_owned(),
            labels: [("app".to_owned(), name.to_owned())].into(),
            ..Default::default()
        }
    }

    pub async fn run(&self, config: PodSandboxConfig) -> cri::Result<String> {
        let request = RunPodSandboxRequest {
            config: Some(config),
            runtime_handler: String::new(),
        };
        Ok(self.runtime.run_pod_sandbox(request).await?.pod_sandbox_id)
    }

    pub async fn create(&self, sandbox: &str, config: ContainerConfig) -> cri::Result<String> {
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.into(),
            config: Some(config),
            sandbox_config: None,
        };
        Ok(self.runtime.create_container(request).await?.container_id)
    }

    pub async fn start(&self, container: &str) -> cri::Result<()> {
        let request = StartContainerRequest {
            container_id: container.into(),
        };
        self.runtime.start_container(request).await.map(drop)
    }

    /// A container that runs `script`.
    pub async fn shell(&self, sandbox: &str, name: &str, script: &str) -> String {
        let id = self.create(sandbox, shell(name, script)).await.unwrap();
        self.start(&id).await.unwrap();
        id
    }

    pub async fn status(&self, container: &str) -> ContainerStatus {
        let request = ContainerStatusRequest {
            container_id: container.into(),
            verbose: false,
        };
        self.runtime.container_status(request).await.unwrap().status.unwrap()
    }

    /// The container's status once it has ended, as the stream of events tells.
    pub async fn ended(&self, container: &str) -> ContainerStatus {
        use futures_util::StreamExt;
        let mut events = self.runtime.get_container_events(GetEventsRequest {}).await.unwrap();
        loop {
            let status = self.status(container).await;
            if status.state() == ContainerState::ContainerExited {
                return status;
            }
            let next = tokio::time::timeout(std::time::Duration::from_secs(20), events.next()).await;
            next.unwrap_or_else(|_| panic!("the container does not end: {status:?}"))
                .unwrap()
                .unwrap();
        }
    }

    pub async fn sandbox_status(&self, sandbox: &str) -> cri::Result<PodSandboxStatusResponse> {
        let request = PodSandboxStatusRequest {
            pod_sandbox_id: sandbox.into(),
            verbose: true,
        };
        self.runtime.pod_sandbox_status(request).await
    }

    /// What `info` says under `key`, as a process id.
    pub async fn sandbox_pid(&self, sandbox: &str, key: &str) -> i32 {
        let info = self.sandbox_status(sandbox).await.unwrap().info.remove("info").unwrap();
        let info: serde_json::Value = serde_json::from_str(&info).unwrap();
        i32::try_from(info[key].as_i64().unwrap()).unwrap()
    }

    /// The number of a container's first process.
    pub async fn container_pid(&self, container: &str) -> i32 {
        let request = ContainerStatusRequest {
            container_id: container.into(),
            verbose: true,
        };
        let mut response = self.runtime.container_status(request).await.unwrap();
        let info: serde_json::Value = serde_json::from_str(&response.info.remove("info").unwrap()).unwrap();
        i32::try_from(info["pid"].as_i64().unwrap()).unwrap()
    }

    pub async fn exec(&self, container: &str, command: &[&str]) -> cri::Result<ExecSyncResponse> {
        self.exec_within(container, command, 20).await
    }

    pub async fn exec_within(&self, container: &str, command: &[&str], timeout: i64) -> cri::Result<ExecSyncResponse> {
        let cmd = command.iter().map(|c| (*c).to_owned()).collect();
        self.runtime
            .exec_sync(ExecSyncRequest {
                container_id: container.into(),
                cmd,
                timeout,
            })
            .await
    }

    pub async fn stop(&self, sandbox: &str) -> cri::Result<()> {
        let request = StopPodSandboxRequest {
            pod_sandbox_id: sandbox.into(),
        };
        self.runtime.stop_pod_sandbox(request).await.map(drop)
    }

    pub async fn remove(&self, sandbox: &str) -> cri::Result<()> {
        let request = RemovePodSandboxRequest {
            pod_sandbox_id: sandbox.into(),
        };
        self.runtime.remove_pod_sandbox(request).await.map(drop)
    }

    pub async fn stop_container(&self, container: &str, timeout: i64) -> cri::Result<()> {
        let request = StopContainerRequest {
            container_id: container.into(),
            timeout,
        };
        self.runtime.stop_container(request).await.map(drop)
    }

    pub async fn remove_container(&self, container: &str) -> cri::Result<()> {
        let request = RemoveContainerRequest {
            container_id: container.into(),
        };
        self.runtime.remove_container(request).await.map(drop)
    }

    /// The messages of a container's log, without time and stream.
    pub async fn log(&self, container: &str) -> String {
        let path = self.status(container).await.log_path;
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        let message = |entry: &str| {
            let [_time, _stream, tag, content] = entry.splitn(4, ' ').collect::<Vec<_>>().try_into().unwrap();
            // P: the line goes on in the next entry.
            content.to_owned() + if tag == "F" { "\n" } else { "" }
        };
        text.lines().map(message).collect()
    }

    pub fn sandbox_dir(&self, sandbox: &str) -> PathBuf {
        self.config.state.join("sandboxes").join(sandbox)
    }

    pub async fn image_id(&self) -> String {
        let image = Some(ImageSpec {
            image: IMAGE.into(),
            ..Default::default()
        });
        let request = ImageStatusRequest { image, verbose: false };
        self.runtime.image_status(request).await.unwrap().image.unwrap().id
    }

    fn leftovers(&self) -> Leftovers {
        let mut leftovers = Leftovers {
            state: self.config.state.clone(),
            cgroup: self.config.cgroup_parent.clone(),
            images: self.images.clone(),
            network: self.network.clone(),
            mounts: BTreeSet::new(),
        };
        leftovers.mounts = mounts();
        leftovers
    }
}

pub fn container(name: &str, command: &[&str]) -> ContainerConfig {
    ContainerConfig {
        metadata: Some(ContainerMetadata {
            name: name.into(),
            attempt: 0,
        }),
        image: Some(ImageSpec {
            image: IMAGE.into(),
            ..Default::default()
        }),
        command: command.iter().map(|c| (*c).to_owned()).collect(),
        log_path: format!("{name}/0.log"),
        labels: [("name".to_owned(), name.to_owned())].into(),
        linux: Some(LinuxContainerConfig {
            resources: Some(LinuxContainerResources::default()),
            security_context: Some(LinuxContainerSecurityContext::default()),
        }),
        ..Default::default()
    }
}

pub fn shell(name: &str, script: &str) -> ContainerConfig {
    container(name, &["/bin/sh", "-c", script])
}

/// What a test may not leave behind.
struct Leftovers {
    state: PathBuf,
    cgroup: String,
    images: Arc<image::Store>,
    network: Arc<network::Network>,
    mounts: BTreeSet<String>,
}

impl Leftovers {
    fn check(&self) {
        let names = |dir: &str| -> Vec<_> {
            fs::read_dir(self.state.join(dir))
                .into_iter()
                .flatten()
                .map(|e| e.unwrap().file_name())
                .collect()
        };
        let sandboxes: Vec<_> = names("sandboxes")
            .into_iter()
            .filter(|n| !n.to_string_lossy().contains("quarantined"))
            .collect();
        assert!(sandboxes.is_empty(), "sandbox directories are left: {sandboxes:?}");
        assert!(
            names("netns").is_empty(),
            "network namespaces are left: {:?}",
            names("netns")
        );
        assert_eq!(self.network.remaining(), [], "the network has remainders");
        assert_eq!(self.images.snapshots(), Vec::<String>::new(), "snapshots are left");
        let mounts: Vec<_> = mounts().difference(&self.mounts).cloned().collect();
        assert!(mounts.is_empty(), "mounts are left: {mounts:?}");
        let hierarchies = cgroup::Hierarchies::detect().unwrap();
        assert!(
            cgroup::Cgroup::open(&hierarchies, &self.cgroup).is_err(),
            "the cgroup {} is left",
            self.cgroup
        );
    }
}

fn mounts() -> BTreeSet<String> {
    let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    table.lines().map(|l| l.split(' ').nth(4).unwrap().to_owned()).collect()
}

fn shim() -> PathBuf {
    if let Some(path) = std::env::var_os("HOVE_SHIM") {
        return path.into();
    }
    // target/TRIPLE/PROFILE/deps/pods-HASH → target/TRIPLE/PROFILE/hove-shim
    let test = std::env::current_exe().unwrap();
    let shim = test.parent().and_then(Path::parent).unwrap().join("hove-shim");
    assert!(shim.exists(), "{} is missing: cargo build -p hove-shim", shim.display());
    shim
}

/// An image of the host's busybox, with the libraries that it needs.
fn import_busybox(dir: &Path, images: &image::Store) {
    let root = dir.join("rootfs");
    for sub in ["bin", "etc", "tmp", "proc", "sys", "dev", "lib64"] {
        fs::create_dir_all(root.join(sub)).unwrap();
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0::/root:/bin/sh\nworker:x:1000:50::/tmp:/bin/sh\n",
    )
    .unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\nstaff:x:50:\nextra:x:60:worker\n").unwrap();
    let busybox = Path::new("/bin/busybox");
    let inside = root.join("bin/busybox");
    fs::copy(busybox, &inside).unwrap_or_else(|e| panic!("{}: {e} (apt-get install busybox)", busybox.display()));
    for library in libraries(busybox) {
        let target = root.join(library.strip_prefix("/").unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(&library, target).unwrap();
    }
    let applets = Command::new(busybox).arg("--list").output().unwrap().stdout;
    for applet in String::from_utf8(applets).unwrap().lines().filter(|a| *a != "busybox") {
        fs::hard_link(&inside, root.join("bin").join(applet)).unwrap();
    }
    let config = image::ImageConfig {
        cmd: vec!["sh".into()],
        env: vec!["PATH=/bin".into(), "FROM_IMAGE=yes".into()],
        ..Default::default()
    };
    images.import_rootfs(&root, &IMAGE.parse().unwrap(), &config).unwrap();
    fs::remove_dir_all(root).unwrap();
}

/// The shared libraries that `program` loads; none for a static one.
pub fn libraries(program: &Path) -> Vec<PathBuf> {
    let output = Command::new("ldd").arg(program).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace()
        .filter(|word| word.starts_with('/') && !word.ends_with(':'))
        .map(PathBuf::from)
        .collect()
}

/// Whether a process of this number lives.
pub fn lives(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// A process that was killed leaves its cgroups a moment before it is gone.
pub async fn dies(pid: i32) -> bool {
    let gone = async {
        while lives(pid) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(5), gone)
        .await
        .is_ok()
}

/// Waits until a person is told of `reason`; what is said.
pub async fn told(notices: &mut tokio::sync::broadcast::Receiver<runtime::Notice>, reason: &str) -> String {
    let told = async {
        loop {
            let notice = notices.recv().await.unwrap();
            if notice.reason == reason {
                return notice.message;
            }
        }
    };
    let limit = std::time::Duration::from_secs(30);
    let told = tokio::time::timeout(limit, told).await;
    told.unwrap_or_else(|_| panic!("nobody is told of {reason}"))
}

pub fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}
