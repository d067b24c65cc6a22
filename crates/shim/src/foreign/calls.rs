//! The Task API's client: version 2 (`containerd.task.v2.Task`) and version 3 differ in the service's name.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use containerd_shim_protos::api;
use jiff::Timestamp;
use protobuf::MessageField;
use protobuf::well_known_types::any::Any;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use starter::RootfsMount;
use ttrpc::proto::{KeyValue, Request};

use super::NAMESPACE;
use crate::failure::{Failure, Result};
use crate::records::ProcessId;
use crate::stdio::Names;

/// How long a call may take that starts a process.
const START: Duration = Duration::from_secs(50);

/// How long any other may take.
const QUICK: Duration = Duration::from_secs(9);

/// How long it may take to forget a process: until its output has been carried away.
pub(super) const FORGET: Duration = Duration::from_secs(10);

/// The header in which containerd says whose container a call is about.
const NAMESPACE_HEADER: &str = "containerd-namespace-ttrpc";

/// Where a shim serves, as it has said: written down for the keeper's successor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The path of its unix socket.
    pub socket: PathBuf,
    /// Of the Task API.
    pub version: u32,
    /// Its process, once that is known.
    #[serde(default)]
    pub process: Option<ProcessId>,
}

impl record::Record for Address {
    const KIND: &'static str = "foreign";
    const VERSION: u32 = 1;
    const SURVIVES_BOOT: bool = false;
}

/// A connection with a shim.
#[derive(Clone)]
pub struct Shim {
    connection: ttrpc::r#async::Client,
    pub(super) address: Arc<Address>,
    /// Its process.
    pub(super) pidfd: Arc<OwnedFd>,
}

impl std::fmt::Debug for Shim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shim({:?})", self.address)
    }
}

/// A container, or an exec in it, as a shim knows it.
#[derive(Debug, Clone)]
pub struct Task {
    pub(super) shim: Shim,
    pub(super) id: String,
    pub(super) exec: String,
}

impl Shim {
    /// Connects, and asks which process it is.
    pub(super) async fn connect(mut address: Address, id: &str) -> Result<Shim> {
        let name = format!("unix://{}", address.socket.display());
        let gone = |e: ttrpc::Error| Failure::Precondition(format!("the shim on {name} does not answer: {e}"));
        let connection = ttrpc::r#async::Client::connect(&name).await.map_err(gone)?;
        let request = api::ConnectRequest {
            id: id.into(),
            ..Default::default()
        };
        let who: api::ConnectResponse = call(&connection, address.version, "Connect", &request, QUICK).await?;
        let process = i32::try_from(who.shim_pid)
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        let process =
            process.ok_or_else(|| Failure::Precondition(format!("the shim on {name} does not say who it is")))?;
        let pidfd = sys::pidfd::open(process)?;
        address.process = Some(ProcessId {
            pid: who.shim_pid,
            start_time_ticks: sys::spawn::start_time_ticks(process).unwrap_or(0),
        });
        Ok(Shim {
            connection,
            address: Arc::new(address),
            pidfd: Arc::new(pidfd),
        })
    }

    async fn call<A: protobuf::Message>(
        &self,
        method: &str,
        request: &impl protobuf::Message,
        limit: Duration,
    ) -> Result<A> {
        call(&self.connection, self.address.version, method, request, limit).await
    }

    /// Ends it, if it has nothing to look after.
    pub(super) async fn shut_down(&self, id: &str) -> Result<()> {
        let request = api::ShutdownRequest {
            id: id.into(),
            now: true,
            ..Default::default()
        };
        self.call::<api::Empty>("Shutdown", &request, QUICK).await.map(drop)
    }

    /// Kills it.
    pub(super) fn kill(&self) {
        // One that has ended needs no killing.
        let _ = sys::pidfd::send_signal(&*self.pidfd, Signal::KILL);
    }

    /// Returns once it has ended.
    pub(super) async fn ended(&self) -> Result<()> {
        let copy = crate::container::copy_of(&self.pidfd)?;
        // An error would mean that epoll is gone.
        let _ = crate::ready::registered(copy)?.readable().await;
        Ok(())
    }
}

impl Task {
    pub(super) async fn create(
        &self,
        bundle: String,
        rootfs: &[RootfsMount],
        stdio: Names,
        options: Any,
    ) -> Result<u32> {
        let request = api::CreateTaskRequest {
            id: self.id.clone(),
            bundle,
            rootfs: rootfs.iter().map(mount).collect(),
            terminal: stdio.terminal,
            stdin: stdio.stdin,
            stdout: stdio.stdout,
            stderr: stdio.stderr,
            options: MessageField::some(options),
            ..Default::default()
        };
        let answer: api::CreateTaskResponse = self.shim.call("Create", &request, START).await?;
        Ok(answer.pid)
    }

    pub(super) async fn start(&self) -> Result<u32> {
        let request = api::StartRequest {
            id: self.id.clone(),
            exec_id: self.exec.clone(),
            ..Default::default()
        };
        let answer: api::StartResponse = self.shim.call("Start", &request, START).await?;
        Ok(answer.pid)
    }

    pub(super) async fn exec(&self, process: Any, stdio: Names) -> Result<()> {
        let request = api::ExecProcessRequest {
            id: self.id.clone(),
            exec_id: self.exec.clone(),
            terminal: stdio.terminal,
            stdin: stdio.stdin,
            stdout: stdio.stdout,
            stderr: stdio.stderr,
            spec: MessageField::some(process),
            ..Default::default()
        };
        self.shim.call::<api::Empty>("Exec", &request, QUICK).await.map(drop)
    }

    /// Waits for its end: its code and when it was seen.
    pub(super) async fn wait(&self) -> Result<(u32, Timestamp)> {
        let request = api::WaitRequest {
            id: self.id.clone(),
            exec_id: self.exec.clone(),
            ..Default::default()
        };
        let answer: api::WaitResponse = self.shim.call("Wait", &request, Duration::ZERO).await?;
        let at = answer.exited_at.as_ref();
        let at = at.and_then(|at| Timestamp::new(at.seconds, at.nanos).ok());
        Ok((answer.exit_status, at.unwrap_or_else(Timestamp::now)))
    }

    pub(crate) async fn kill(&self, signal: u32, all: bool) -> Result<()> {
        let request = api::KillRequest {
            id: self.id.clone(),
            exec_id: self.exec.clone(),
            signal,
            all,
            ..Default::default()
        };
        self.shim.call::<api::Empty>("Kill", &request, QUICK).await.map(drop)
    }

    /// Sends a signal; nobody waits for it.
    pub(crate) fn send(&self, signal: Signal, all: bool) {
        let task = self.clone();
        tokio::task::spawn_local(async move {
            match task.kill(signal.as_raw().unsigned_abs(), all).await {
                // It has ended meanwhile.
                Ok(()) | Err(Failure::NotFound(_)) => {}
                Err(e) => crate::diary::note(format_args!("{}: signal {}: {e}", task.id, signal.as_raw())),
            }
        });
    }

    pub(super) async fn delete(&self) -> Result<()> {
        let request = api::DeleteRequest {
            id: self.id.clone(),
            exec_id: self.exec.clone(),
            ..Default::default()
        };
        self.shim
            .call::<api::DeleteResponse>("Delete", &request, FORGET)
            .await
            .map(drop)
    }

    pub(super) async fn close_input(&self) -> Result<()> {
        let request = api::CloseIORequest {
            id: self.id.clone(),
            exec_id: self.exec.clone(),
            stdin: true,
            ..Default::default()
        };
        self.shim.call::<api::Empty>("CloseIO", &request, QUICK).await.map(drop)
    }

    pub(super) async fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        let request = api::ResizePtyRequest {
            id: self.id.clone(),
            exec_id: self.exec.clone(),
            height: rows.into(),
            width: columns.into(),
            ..Default::default()
        };
        self.shim
            .call::<api::Empty>("ResizePty", &request, QUICK)
            .await
            .map(drop)
    }

    pub(super) async fn update(&self, resources: Any) -> Result<()> {
        let request = api::UpdateTaskRequest {
            id: self.id.clone(),
            resources: MessageField::some(resources),
            ..Default::default()
        };
        self.shim.call::<api::Empty>("Update", &request, QUICK).await.map(drop)
    }

    pub(super) async fn pause(&self) -> Result<()> {
        let request = api::PauseRequest {
            id: self.id.clone(),
            ..Default::default()
        };
        self.shim.call::<api::Empty>("Pause", &request, QUICK).await.map(drop)
    }

    pub(super) async fn resume(&self) -> Result<()> {
        let request = api::ResumeRequest {
            id: self.id.clone(),
            ..Default::default()
        };
        self.shim.call::<api::Empty>("Resume", &request, QUICK).await.map(drop)
    }

    pub(super) async fn pids(&self) -> Result<Vec<u32>> {
        let request = api::PidsRequest {
            id: self.id.clone(),
            ..Default::default()
        };
        let answer: api::PidsResponse = self.shim.call("Pids", &request, QUICK).await?;
        Ok(answer.processes.into_iter().map(|process| process.pid).collect())
    }

    pub(super) async fn stats(&self) -> Result<Any> {
        let request = api::StatsRequest {
            id: self.id.clone(),
            ..Default::default()
        };
        let answer: api::StatsResponse = self.shim.call("Stats", &request, QUICK).await?;
        Ok(answer.stats.unwrap_or_default())
    }
}

/// One call. No limit: it waits for as long as it takes.
async fn call<A: protobuf::Message>(
    connection: &ttrpc::r#async::Client,
    version: u32,
    method: &str,
    request: &impl protobuf::Message,
    limit: Duration,
) -> Result<A> {
    let broken = |e: protobuf::Error| Failure::Invalid(format!("{method} of another shim: {e}"));
    let request = Request {
        service: format!("containerd.task.v{version}.Task"),
        method: method.into(),
        timeout_nano: i64::try_from(limit.as_nanos()).unwrap_or(i64::MAX),
        payload: request.write_to_bytes().map_err(broken)?,
        metadata: vec![KeyValue {
            key: NAMESPACE_HEADER.into(),
            value: NAMESPACE.into(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let answer = connection.request(request).await.map_err(|e| said(method, e))?;
    A::parse_from_bytes(&answer.payload).map_err(broken)
}

/// What another shim has refused, in this one's terms.
fn said(method: &str, error: ttrpc::Error) -> Failure {
    use shim_api::Kind;
    let shim_api::Failure { kind, message, .. } = error.into();
    match kind {
        Kind::NotFound => Failure::NotFound(message),
        Kind::AlreadyExists => Failure::AlreadyExists(message),
        Kind::Precondition => Failure::Precondition(message),
        Kind::Invalid => Failure::Invalid(message),
        Kind::Unsupported => Failure::Unsupported(message),
        Kind::TimedOut => Failure::TimedOut(format!("{method}: {message}")),
        Kind::Gone | Kind::Failed => Failure::Foreign(message.trim_end().into()),
    }
}

fn mount(mount: &RootfsMount) -> api::Mount {
    api::Mount {
        type_: mount.kind.clone(),
        source: mount.source.clone(),
        target: mount.target.clone(),
        options: mount.options.clone(),
        ..Default::default()
    }
}
