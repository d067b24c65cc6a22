//! The shim's three services over its socket: containerd's Sandbox and Task, and Hove's Pod.

use std::path::Path;
use std::time::Duration;

use containerd_shim_protos::sandbox_api as sandbox;
use containerd_shim_protos::sandbox_async::SandboxClient;
use containerd_shim_protos::shim_async::TaskClient;
use containerd_shim_protos::{api, types::mount::Mount};
use oci_spec::runtime::{LinuxResources, Process};
use protobuf::{MessageField, well_known_types::any::Any};
use shim_api::shim;
use shim_api::shim_ttrpc::PodClient;
use ttrpc::context::{Context, with_duration};

use super::ShimError;

/// How long the shim may take for what the kernel does at once.
const QUICK: Duration = Duration::from_secs(10);

/// How long it may take to start a process: the kernel does it in a millisecond, a machine that swaps in seconds.
const START: Duration = Duration::from_secs(60);

/// The type under which an OCI process travels in a protobuf `Any`; containerd's name for it.
const PROCESS_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";

/// The same for resources.
const RESOURCES_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

type Result<T> = std::result::Result<T, ShimError>;

/// The stream of what happens in the pod.
pub(crate) type Events = ttrpc::r#async::ClientStreamReceiver<shim::Event>;

/// A connection with a shim. Clones share it.
#[derive(Clone)]
pub(crate) struct ShimClient {
    sandbox: SandboxClient,
    task: TaskClient,
    pod: PodClient,
}

/// One layer of a container's root, as mount(2) would take it.
pub(crate) struct RootMount {
    pub(crate) kind: String,
    pub(crate) source: String,
    pub(crate) options: Vec<String>,
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
        let stream = tokio::net::UnixStream::connect(socket)
            .await
            .map_err(|e| ShimError::Gone {
                call: "connect",
                reason: format!("{}: {e}", socket.display()),
            })?;
        let client = ttrpc::r#async::Client::new(ttrpc::r#async::transport::Socket::new(stream));
        Ok(ShimClient {
            sandbox: SandboxClient::new(client.clone()),
            task: TaskClient::new(client.clone()),
            pod: PodClient::new(client),
        })
    }

    pub(crate) async fn create_sandbox(&self, id: &str, bundle: &Path, netns: Option<&Path>) -> Result<()> {
        let request = sandbox::CreateSandboxRequest {
            sandbox_id: id.into(),
            bundle_path: text(bundle),
            netns_path: netns.map(text).unwrap_or_default(),
            ..Default::default()
        };
        let answer = self.sandbox.create_sandbox(with_duration(START), &request).await;
        answer.map(drop).map_err(ShimError::of("CreateSandbox"))
    }

    /// Starts pause; its process id.
    pub(crate) async fn start_sandbox(&self, id: &str) -> Result<u32> {
        let request = sandbox::StartSandboxRequest {
            sandbox_id: id.into(),
            ..Default::default()
        };
        let answer = self.sandbox.start_sandbox(with_duration(START), &request).await;
        answer.map(|a| a.pid).map_err(ShimError::of("StartSandbox"))
    }

    /// Kills all that runs in the pod.
    pub(crate) async fn stop_sandbox(&self, id: &str) -> Result<()> {
        let request = sandbox::StopSandboxRequest {
            sandbox_id: id.into(),
            ..Default::default()
        };
        let answer = self.sandbox.stop_sandbox(with_duration(QUICK), &request).await;
        answer.map(drop).map_err(ShimError::of("StopSandbox"))
    }

    /// Ends the shim.
    pub(crate) async fn shutdown_sandbox(&self, id: &str) -> Result<()> {
        let request = sandbox::ShutdownSandboxRequest {
            sandbox_id: id.into(),
            ..Default::default()
        };
        let answer = self.sandbox.shutdown_sandbox(with_duration(QUICK), &request).await;
        answer.map(drop).map_err(ShimError::of("ShutdownSandbox"))
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
        let answer = self.task.create(with_duration(START), &request).await;
        answer.map(|a| a.pid).map_err(ShimError::of("Create"))
    }

    /// Starts a container's first process, or the exec `exec_id`; its process id.
    pub(crate) async fn start(&self, id: &str, exec_id: &str) -> Result<u32> {
        let request = api::StartRequest {
            id: id.into(),
            exec_id: exec_id.into(),
            ..Default::default()
        };
        let answer = self.task.start(with_duration(START), &request).await;
        answer.map(|a| a.pid).map_err(ShimError::of("Start"))
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
        let answer = self.task.exec(with_duration(START), &request).await;
        answer.map(drop).map_err(ShimError::of("Exec"))
    }

    /// Waits for the end of a process, without limit; its exit status.
    pub(crate) async fn wait(&self, id: &str, exec_id: &str) -> Result<u32> {
        let request = api::WaitRequest {
            id: id.into(),
            exec_id: exec_id.into(),
            ..Default::default()
        };
        let answer = self.task.wait(Context::default(), &request).await;
        answer.map(|a| a.exit_status).map_err(ShimError::of("Wait"))
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
        let answer = self.task.kill(with_duration(QUICK), &request).await;
        answer.map(drop).map_err(ShimError::of("Kill"))
    }

    /// Forgets a process that has ended.
    pub(crate) async fn delete(&self, id: &str, exec_id: &str) -> Result<()> {
        let request = api::DeleteRequest {
            id: id.into(),
            exec_id: exec_id.into(),
            ..Default::default()
        };
        let answer = self.task.delete(with_duration(QUICK), &request).await;
        answer.map(drop).map_err(ShimError::of("Delete"))
    }

    pub(crate) async fn resize(&self, id: &str, exec_id: &str, width: u16, height: u16) -> Result<()> {
        let request = api::ResizePtyRequest {
            id: id.into(),
            exec_id: exec_id.into(),
            width: width.into(),
            height: height.into(),
            ..Default::default()
        };
        let answer = self.task.resize_pty(with_duration(QUICK), &request).await;
        answer.map(drop).map_err(ShimError::of("ResizePty"))
    }

    /// Tells a process that no more input will come.
    pub(crate) async fn close_stdin(&self, id: &str, exec_id: &str) -> Result<()> {
        let request = api::CloseIORequest {
            id: id.into(),
            exec_id: exec_id.into(),
            stdin: true,
            ..Default::default()
        };
        let answer = self.task.close_io(with_duration(QUICK), &request).await;
        answer.map(drop).map_err(ShimError::of("CloseIO"))
    }

    pub(crate) async fn update(&self, id: &str, resources: &LinuxResources) -> Result<()> {
        let request = api::UpdateTaskRequest {
            id: id.into(),
            resources: json(RESOURCES_TYPE, resources),
            ..Default::default()
        };
        let answer = self.task.update(with_duration(QUICK), &request).await;
        answer.map(drop).map_err(ShimError::of("Update"))
    }

    pub(crate) async fn state(&self) -> Result<shim::StateResponse> {
        self.pod
            .state(with_duration(QUICK), &shim::StateRequest::new())
            .await
            .map_err(ShimError::of("State"))
    }

    pub(crate) async fn watch(&self) -> Result<Events> {
        self.pod
            .watch(Context::default(), &shim::WatchRequest::new())
            .await
            .map_err(ShimError::of("Watch"))
    }

    pub(crate) async fn reopen_log(&self, id: &str) -> Result<()> {
        let request = shim::ReopenLogRequest {
            container_id: id.into(),
            ..Default::default()
        };
        let answer = self.pod.reopen_log(with_duration(QUICK), &request).await;
        answer.map(drop).map_err(ShimError::of("ReopenLog"))
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
