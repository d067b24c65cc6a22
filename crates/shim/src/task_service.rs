//! containerd.task.v3.Task, and the same under its older name, containerd.task.v2.Task.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use containerd_shim_protos::api;
use containerd_shim_protos::cgroups::metrics as v1;
use containerd_shim_protos::cgroups_v2::metrics as v2;
use containerd_shim_protos::shim_async::{Task, create_task};
use protobuf::well_known_types::any::Any;
use protobuf::{Message, MessageField};
use shim_api::shim::ProcessState;
use starter::RootfsMount;
use ttrpc::r#async::TtrpcContext;

use crate::door::{Door, wire_time};
use crate::event::{Create, Exec, Key, Request};
use crate::failure::Failure;
use crate::stdio::Names;

const SIGKILL: u32 = 9;

/// The service.
pub struct TaskService(pub Door);

/// The service's methods, under the names that containerd 2 and containerd 1 call them by.
pub fn create_task_services(door: &Door) -> HashMap<String, ttrpc::r#async::Service> {
    let service = || create_task(Arc::new(TaskService(door.clone())));
    let older = service()
        .into_iter()
        .map(|(name, methods)| (name.replace(".v3.", ".v2."), methods));
    service().into_iter().chain(older).collect()
}

#[async_trait]
impl Task for TaskService {
    async fn create(
        &self,
        _: &TtrpcContext,
        request: api::CreateTaskRequest,
    ) -> ttrpc::Result<api::CreateTaskResponse> {
        if !request.checkpoint.is_empty() || !request.parent_checkpoint.is_empty() {
            return Err(Failure::Unsupported("checkpoints are not supported".to_string()).into());
        }
        let mount = |m: api::Mount| RootfsMount {
            kind: m.type_,
            source: m.source,
            target: m.target,
            options: m.options,
        };
        let create = Create {
            id: request.id,
            bundle: request.bundle.into(),
            rootfs: request.rootfs.into_iter().map(mount).collect(),
            stdio: Names {
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
                terminal: request.terminal,
            },
        };
        let mut response = api::CreateTaskResponse::new();
        response.pid = self.0.ask(|reply| Request::Create { create, reply }).await?;
        Ok(response)
    }

    async fn start(&self, _: &TtrpcContext, request: api::StartRequest) -> ttrpc::Result<api::StartResponse> {
        let key = Key::of(&request.id, &request.exec_id);
        let mut response = api::StartResponse::new();
        response.pid = self.0.ask(|reply| Request::Start { key, reply }).await?;
        Ok(response)
    }

    async fn exec(&self, _: &TtrpcContext, request: api::ExecProcessRequest) -> ttrpc::Result<api::Empty> {
        let exec = Exec {
            container: request.id,
            id: request.exec_id,
            process: request.spec.unwrap_or_default().value,
            stdio: Names {
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
                terminal: request.terminal,
            },
        };
        self.0.ask(|reply| Request::Exec { exec, reply }).await?;
        Ok(api::Empty::new())
    }

    async fn kill(&self, _: &TtrpcContext, request: api::KillRequest) -> ttrpc::Result<api::Empty> {
        let key = Key::of(&request.id, &request.exec_id);
        let (signal, all) = (request.signal, request.all);
        self.0
            .ask(|reply| Request::Kill {
                key,
                signal,
                all,
                reply,
            })
            .await?;
        Ok(api::Empty::new())
    }

    async fn wait(&self, _: &TtrpcContext, request: api::WaitRequest) -> ttrpc::Result<api::WaitResponse> {
        let key = Key::of(&request.id, &request.exec_id);
        let exit = self.0.ask(|reply| Request::Wait { key, reply }).await?;
        let mut response = api::WaitResponse::new();
        response.exit_status = exit.code.unsigned_abs();
        response.exited_at = wire_time(exit.at_ns);
        Ok(response)
    }

    async fn delete(&self, _: &TtrpcContext, request: api::DeleteRequest) -> ttrpc::Result<api::DeleteResponse> {
        let key = Key::of(&request.id, &request.exec_id);
        let view = self
            .0
            .ask(|reply| Request::View {
                key: key.clone(),
                reply,
            })
            .await?;
        let created = view.process.state == ProcessState::PROCESS_STATE_CREATED.into();
        if created && view.process.pid != 0 {
            // containerd deletes what was created and never started without killing it first.
            let (kill, wait) = (key.clone(), key.clone());
            self.0
                .ask(|reply| Request::Kill {
                    key: kill,
                    signal: SIGKILL,
                    all: false,
                    reply,
                })
                .await?;
            self.0.ask(|reply| Request::Wait { key: wait, reply }).await?;
        }
        let (pid, exit) = self.0.ask(|reply| Request::Delete { key, reply }).await?;
        let mut response = api::DeleteResponse::new();
        response.pid = pid;
        response.exit_status = exit.code.unsigned_abs();
        response.exited_at = wire_time(exit.at_ns);
        Ok(response)
    }

    async fn state(&self, _: &TtrpcContext, request: api::StateRequest) -> ttrpc::Result<api::StateResponse> {
        let key = Key::of(&request.id, &request.exec_id);
        let view = self.0.ask(|reply| Request::View { key, reply }).await?;
        let mut response = api::StateResponse::new();
        response.id = request.id;
        response.exec_id = request.exec_id;
        response.bundle = view.bundle.to_string_lossy().into_owned();
        response.pid = view.process.pid;
        response.status = match view.process.state.enum_value_or_default() {
            ProcessState::PROCESS_STATE_UNSPECIFIED => api::Status::UNKNOWN,
            ProcessState::PROCESS_STATE_CREATED => api::Status::CREATED,
            ProcessState::PROCESS_STATE_RUNNING if view.paused => api::Status::PAUSED,
            ProcessState::PROCESS_STATE_RUNNING => api::Status::RUNNING,
            ProcessState::PROCESS_STATE_EXITED => api::Status::STOPPED,
        }
        .into();
        response.stdin = view.stdio.stdin;
        response.stdout = view.stdio.stdout;
        response.stderr = view.stdio.stderr;
        response.terminal = view.stdio.terminal;
        response.exit_status = view.process.exit_code.unsigned_abs();
        response.exited_at = wire_time(view.process.finished_at_ns);
        Ok(response)
    }

    async fn pids(&self, _: &TtrpcContext, request: api::PidsRequest) -> ttrpc::Result<api::PidsResponse> {
        let pids = self.0.ask(|reply| Request::Pids { id: request.id, reply }).await?;
        let info = |pid| api::ProcessInfo {
            pid,
            ..Default::default()
        };
        let mut response = api::PidsResponse::new();
        response.processes = pids.into_iter().map(info).collect();
        Ok(response)
    }

    async fn close_io(&self, _: &TtrpcContext, request: api::CloseIORequest) -> ttrpc::Result<api::Empty> {
        let key = Key::of(&request.id, &request.exec_id);
        if request.stdin {
            self.0.ask(|reply| Request::CloseInput { key, reply }).await?;
        }
        Ok(api::Empty::new())
    }

    async fn resize_pty(&self, _: &TtrpcContext, request: api::ResizePtyRequest) -> ttrpc::Result<api::Empty> {
        let key = Key::of(&request.id, &request.exec_id);
        let fit = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
        let (rows, columns) = (fit(request.height), fit(request.width));
        self.0
            .ask(|reply| Request::Resize {
                key,
                rows,
                columns,
                reply,
            })
            .await?;
        Ok(api::Empty::new())
    }

    async fn stats(&self, _: &TtrpcContext, request: api::StatsRequest) -> ttrpc::Result<api::StatsResponse> {
        let (stats, mode) = self.0.ask(|reply| Request::Stats { id: request.id, reply }).await?;
        let mut response = api::StatsResponse::new();
        response.stats = match mode {
            cgroup::Mode::V2 => any("io.containerd.cgroups.v2.Metrics", &metrics_v2(&stats))?,
            cgroup::Mode::V1 | cgroup::Mode::Hybrid => any("io.containerd.cgroups.v1.Metrics", &metrics_v1(&stats))?,
        };
        Ok(response)
    }

    async fn update(&self, _: &TtrpcContext, request: api::UpdateTaskRequest) -> ttrpc::Result<api::Empty> {
        let resources = request.resources.unwrap_or_default().value;
        self.0
            .ask(|reply| Request::Update {
                id: request.id,
                resources,
                reply,
            })
            .await?;
        Ok(api::Empty::new())
    }

    async fn pause(&self, _: &TtrpcContext, request: api::PauseRequest) -> ttrpc::Result<api::Empty> {
        self.0.ask(|reply| Request::Pause { id: request.id, reply }).await?;
        Ok(api::Empty::new())
    }

    async fn resume(&self, _: &TtrpcContext, request: api::ResumeRequest) -> ttrpc::Result<api::Empty> {
        self.0.ask(|reply| Request::Resume { id: request.id, reply }).await?;
        Ok(api::Empty::new())
    }

    async fn connect(&self, _: &TtrpcContext, request: api::ConnectRequest) -> ttrpc::Result<api::ConnectResponse> {
        let mut response = api::ConnectResponse::new();
        response.shim_pid = std::process::id();
        response.version = env!("CARGO_PKG_VERSION").to_string();
        if !request.id.is_empty() {
            let key = Key::Container(request.id);
            // containerd connects before it has made anything.
            if let Ok(view) = self.0.ask(|reply| Request::View { key, reply }).await {
                response.task_pid = view.process.pid;
            }
        }
        Ok(response)
    }

    async fn shutdown(&self, _: &TtrpcContext, _: api::ShutdownRequest) -> ttrpc::Result<api::Empty> {
        self.0.ask(|reply| Request::ShutdownTask { reply }).await?;
        Ok(api::Empty::new())
    }
}

fn any(type_url: &str, message: &impl Message) -> ttrpc::Result<MessageField<Any>> {
    let mut any = Any::new();
    any.type_url = type_url.to_string();
    any.value = message
        .write_to_bytes()
        .map_err(|e| ttrpc::Error::Others(e.to_string()))?;
    Ok(Some(any).into())
}

fn metrics_v1(stats: &cgroup::Stats) -> v1::Metrics {
    let mut metrics = v1::Metrics::new();
    if let Some(cpu) = &stats.cpu {
        let usage = metrics.cpu.mut_or_insert_default().usage.mut_or_insert_default();
        usage.total = cpu.usage_ns;
        usage.user = cpu.user_ns;
        usage.kernel = cpu.system_ns;
        let throttling = metrics.cpu.mut_or_insert_default().throttling.mut_or_insert_default();
        throttling.throttled_periods = cpu.throttled_periods;
        throttling.throttled_time = cpu.throttled_ns;
    }
    if let Some(memory) = &stats.memory {
        let wire = metrics.memory.mut_or_insert_default();
        wire.rss = memory.rss;
        wire.cache = memory.cache;
        wire.pg_fault = memory.page_faults;
        wire.pg_maj_fault = memory.major_page_faults;
        // Clients subtract the inactive file pages from the usage to get the working set.
        wire.total_inactive_file = memory.usage.saturating_sub(memory.working_set);
        let usage = wire.usage.mut_or_insert_default();
        usage.usage = memory.usage;
        usage.limit = memory.limit.unwrap_or(u64::MAX);
        wire.swap.mut_or_insert_default().usage = memory.usage + memory.swap;
    }
    if let Some(pids) = &stats.pids {
        let wire = metrics.pids.mut_or_insert_default();
        wire.current = pids.current;
        wire.limit = pids.limit.unwrap_or(0);
    }
    metrics
}

fn metrics_v2(stats: &cgroup::Stats) -> v2::Metrics {
    let mut metrics = v2::Metrics::new();
    if let Some(cpu) = &stats.cpu {
        let wire = metrics.cpu.mut_or_insert_default();
        wire.usage_usec = cpu.usage_ns / 1000;
        wire.user_usec = cpu.user_ns / 1000;
        wire.system_usec = cpu.system_ns / 1000;
        wire.nr_throttled = cpu.throttled_periods;
        wire.throttled_usec = cpu.throttled_ns / 1000;
    }
    if let Some(memory) = &stats.memory {
        let wire = metrics.memory.mut_or_insert_default();
        wire.anon = memory.rss;
        wire.file = memory.cache;
        wire.inactive_file = memory.usage.saturating_sub(memory.working_set);
        wire.usage = memory.usage;
        wire.usage_limit = memory.limit.unwrap_or(u64::MAX);
        wire.swap_usage = memory.swap;
        wire.pgfault = memory.page_faults;
        wire.pgmajfault = memory.major_page_faults;
    }
    if let Some(pids) = &stats.pids {
        let wire = metrics.pids.mut_or_insert_default();
        wire.current = pids.current;
        wire.limit = pids.limit.unwrap_or(0);
    }
    metrics
}
