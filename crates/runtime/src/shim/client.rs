//! The shim's three services over its socket: containerd's Sandbox and Task, and Hove's Pod.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use oci_spec::runtime::{LinuxResources, Process};
use protobuf::{MessageField, well_known_types::any::Any};
use shim_api::task::{self as api, Mount};
use shim_api::{RootMount, forever, sandbox, shim};
use tokio::sync::watch;

use super::ShimError;

/// How long the shim may take for what the kernel does at once.
const QUICK: Duration = Duration::from_secs(10);

/// How long a process is waited for before its supervisor is asked whether it is there.
const PROBE: Duration = Duration::from_secs(30);

/// How long it may take to start a process: the kernel does it in a millisecond, a machine that swaps in seconds.
const START: Duration = Duration::from_secs(60);

/// The type under which an OCI process travels in a protobuf `Any`; containerd's name for it.
const PROCESS_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";

/// The same for resources.
const RESOURCES_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

type Result<T> = std::result::Result<T, ShimError>;

/// The stream of what happens in the pod.
pub(crate) type Events = ttrpc::r#async::ClientStreamReceiver<shim::Event>;

/// How long who waits for a process waits for the next shim, once the one that was asked has died.
const REPLACEMENT_LIMIT: Duration = Duration::from_secs(15);

/// A connection with a pod's shim, and after its death with the next one ([`ShimClient::replace`]). Clones share it.
#[derive(Clone)]
pub(crate) struct ShimClient {
    shim: Arc<watch::Sender<shim_api::Client>>,
    socket: Arc<Path>,
}

/// Where a container's first process reads and writes; an empty string: nowhere.
#[derive(Default)]
pub(crate) struct TaskStreams {
    pub(crate) terminal: bool,
    pub(crate) stdin: String,
    /// Standard output and error both: `cri:///path/of/the.log`.
    pub(crate) log: String,
}

/// Where an exec reads and writes: paths of FIFOs, or an empty string.
#[derive(Default)]
pub(crate) struct ExecStreams {
    pub(crate) terminal: bool,
    pub(crate) stdin: String,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl ShimClient {
    /// Connects with the shim that listens on `socket`.
    pub(crate) async fn connect(socket: &Path) -> Result<ShimClient> {
        shim_api::Client::connect(socket)
            .await
            .map(|client| ShimClient {
                shim: Arc::new(watch::Sender::new(client)),
                socket: socket.into(),
            })
            .map_err(ShimError::of("connect"))
    }

    /// From now on, all who hold this one talk with the shim of `other`.
    pub(crate) fn replace(&self, other: &ShimClient) {
        self.shim.send_replace(other.now());
    }

    fn now(&self) -> shim_api::Client {
        self.shim.borrow().clone()
    }

    /// The answer to a call, unless the shim takes too long for it: one that is stopped, or hangs in the kernel, is named.
    async fn within<T>(
        &self,
        limit: Duration,
        call: &'static str,
        answer: impl Future<Output = ttrpc::Result<T>>,
    ) -> Result<T> {
        match tokio::time::timeout(limit, answer).await {
            Ok(answer) => answer.map_err(ShimError::of(call)),
            Err(_) => Err(ShimError::Silent {
                call,
                socket: self.socket.clone(),
                limit,
            }),
        }
    }

    pub(crate) async fn create_sandbox(&self, id: &str, bundle: &Path, netns: Option<&Path>) -> Result<()> {
        let request = sandbox::CreateSandboxRequest {
            sandbox_id: id.into(),
            bundle_path: text(bundle),
            netns_path: netns.map(text).unwrap_or_default(),
            ..Default::default()
        };
        let shim = self.now();
        let answer = shim.sandbox.create_sandbox(forever(), &request);
        self.within(START, "CreateSandbox", answer).await.map(drop)
    }

    /// Starts pause; its process id.
    pub(crate) async fn start_sandbox(&self, id: &str) -> Result<u32> {
        let request = sandbox::StartSandboxRequest {
            sandbox_id: id.into(),
            ..Default::default()
        };
        let shim = self.now();
        let answer = shim.sandbox.start_sandbox(forever(), &request);
        self.within(START, "StartSandbox", answer).await.map(|a| a.pid)
    }

    /// Kills all that runs in the pod.
    pub(crate) async fn stop_sandbox(&self, id: &str) -> Result<()> {
        let request = sandbox::StopSandboxRequest {
            sandbox_id: id.into(),
            ..Default::default()
        };
        let shim = self.now();
        let answer = shim.sandbox.stop_sandbox(forever(), &request);
        self.within(QUICK, "StopSandbox", answer).await.map(drop)
    }

    /// Ends the shim.
    pub(crate) async fn shutdown_sandbox(&self, id: &str) -> Result<()> {
        let request = sandbox::ShutdownSandboxRequest {
            sandbox_id: id.into(),
            ..Default::default()
        };
        let shim = self.now();
        let answer = shim.sandbox.shutdown_sandbox(forever(), &request);
        self.within(QUICK, "ShutdownSandbox", answer).await.map(drop)
    }

    pub(crate) async fn create_task(
        &self,
        id: &str,
        bundle: &Path,
        rootfs: &[RootMount],
        streams: TaskStreams,
    ) -> Result<u32> {
        let request = api::CreateTaskRequest {
            id: id.into(),
            bundle: text(bundle),
            rootfs: rootfs.iter().map(mount).collect(),
            terminal: streams.terminal,
            stdin: streams.stdin,
            stderr: if streams.terminal {
                String::new()
            } else {
                streams.log.clone()
            },
            stdout: streams.log,
            ..Default::default()
        };
        let shim = self.now();
        let answer = shim.task.create(forever(), &request);
        self.within(START, "Create", answer).await.map(|a| a.pid)
    }

    /// Starts a container's first process, or the exec `exec_id`; its process id.
    pub(crate) async fn start(&self, id: &str, exec_id: &str) -> Result<u32> {
        let request = api::StartRequest {
            id: id.into(),
            exec_id: exec_id.into(),
            ..Default::default()
        };
        let shim = self.now();
        let answer = shim.task.start(forever(), &request);
        self.within(START, "Start", answer).await.map(|a| a.pid)
    }

    pub(crate) async fn exec(&self, id: &str, exec_id: &str, process: &Process, streams: ExecStreams) -> Result<()> {
        let request = api::ExecProcessRequest {
            id: id.into(),
            exec_id: exec_id.into(),
            terminal: streams.terminal,
            stdin: streams.stdin,
            stdout: streams.stdout,
            stderr: streams.stderr,
            spec: json(PROCESS_TYPE, process),
            ..Default::default()
        };
        let shim = self.now();
        let answer = shim.task.exec(forever(), &request);
        self.within(QUICK, "Exec", answer).await.map(drop)
    }

    /// Waits for the end of a process, without limit; its exit status. If the shim dies meanwhile, the next one is asked.
    pub(crate) async fn wait(&self, id: &str, exec_id: &str) -> Result<u32> {
        let request = api::WaitRequest {
            id: id.into(),
            exec_id: exec_id.into(),
            ..Default::default()
        };
        let mut shims = self.shim.subscribe();
        loop {
            let shim = shims.borrow_and_update().clone();
            let mut end = std::pin::pin!(shim.task.wait(forever(), &request));
            let answer = loop {
                match tokio::time::timeout(PROBE, &mut end).await {
                    Ok(answer) => break answer.map(|a| a.exit_status).map_err(ShimError::of("Wait")),
                    // A process may take as long as it likes, its supervisor may not.
                    Err(_) => drop(self.state().await?),
                }
            };
            let gone = answer.as_ref().is_err_and(ShimError::is_gone);
            if !gone || tokio::time::timeout(REPLACEMENT_LIMIT, shims.changed()).await.is_err() {
                return answer;
            }
        }
    }

    /// Signals one process, or all that belongs to it.
    pub(crate) async fn kill(&self, id: &str, exec_id: &str, signal: i32, all: bool) -> Result<()> {
        let request = api::KillRequest {
            id: id.into(),
            exec_id: exec_id.into(),
            signal: signal.unsigned_abs(),
            all,
            ..Default::default()
        };
        let shim = self.now();
        let answer = shim.task.kill(forever(), &request);
        self.within(QUICK, "Kill", answer).await.map(drop)
    }

    /// Forgets a process that has ended.
    pub(crate) async fn delete(&self, id: &str, exec_id: &str) -> Result<()> {
        let request = api::DeleteRequest {
            id: id.into(),
            exec_id: exec_id.into(),
            ..Default::default()
        };
        let shim = self.now();
        let answer = shim.task.delete(forever(), &request);
        self.within(QUICK, "Delete", answer).await.map(drop)
    }

    pub(crate) async fn resize(&self, id: &str, exec_id: &str, width: u16, height: u16) -> Result<()> {
        let request = api::ResizePtyRequest {
            id: id.into(),
            exec_id: exec_id.into(),
            width: width.into(),
            height: height.into(),
            ..Default::default()
        };
        let shim = self.now();
        let answer = shim.task.resize_pty(forever(), &request);
        self.within(QUICK, "ResizePty", answer).await.map(drop)
    }

    /// Tells a process that no more input will come.
    pub(crate) async fn close_stdin(&self, id: &str, exec_id: &str) -> Result<()> {
        let request = api::CloseIORequest {
            id: id.into(),
            exec_id: exec_id.into(),
            stdin: true,
            ..Default::default()
        };
        let shim = self.now();
        let answer = shim.task.close_io(forever(), &request);
        self.within(QUICK, "CloseIO", answer).await.map(drop)
    }

    pub(crate) async fn update(&self, id: &str, resources: &LinuxResources) -> Result<()> {
        let request = api::UpdateTaskRequest {
            id: id.into(),
            resources: json(RESOURCES_TYPE, resources),
            ..Default::default()
        };
        let shim = self.now();
        let answer = shim.task.update(forever(), &request);
        self.within(QUICK, "Update", answer).await.map(drop)
    }

    pub(crate) async fn state(&self) -> Result<shim::StateResponse> {
        let (shim, request) = (self.now(), shim::StateRequest::new());
        self.within(QUICK, "State", shim.pod.state(forever(), &request)).await
    }

    pub(crate) async fn watch(&self) -> Result<Events> {
        self.now()
            .pod
            .watch(forever(), &shim::WatchRequest::new())
            .await
            .map_err(ShimError::of("Watch"))
    }

    /// Has what a container writes from now on copied into FIFOs that are open for reading; no path: not wanted.
    pub(crate) async fn attach(&self, id: &str, stdout: &Path, stderr: &Path) -> Result<()> {
        let request = shim::AttachRequest {
            container_id: id.into(),
            stdout: text(stdout),
            stderr: text(stderr),
            ..Default::default()
        };
        let shim = self.now();
        let answer = shim.pod.attach(forever(), &request);
        self.within(QUICK, "Attach", answer).await.map(drop)
    }

    pub(crate) async fn reopen_log(&self, id: &str) -> Result<()> {
        let request = shim::ReopenLogRequest {
            container_id: id.into(),
            ..Default::default()
        };
        let shim = self.now();
        let answer = shim.pod.reopen_log(forever(), &request);
        self.within(QUICK, "ReopenLog", answer).await.map(drop)
    }
}

impl std::fmt::Debug for ShimClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ShimClient")
    }
}

fn mount(mount: &RootMount) -> Mount {
    Mount {
        type_: mount.kind.clone(),
        source: mount.source.clone(),
        options: mount.options.clone(),
        ..Default::default()
    }
}

fn json(kind: &str, value: &impl serde::Serialize) -> MessageField<Any> {
    // OCI's types are structs of strings, numbers and lists: they always have a JSON form.
    let value = serde_json::to_vec(value).expect("OCI types have a JSON form");
    MessageField::some(Any {
        type_url: kind.into(),
        value,
        ..Default::default()
    })
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
