//! containerd.runtime.sandbox.v1.Sandbox

use async_trait::async_trait;
use containerd_shim_protos::sandbox_api as api;
use containerd_shim_protos::sandbox_async::Sandbox;
use containerd_shim_protos::types::platform::Platform;
use shim_api::shim::ProcessState;
use ttrpc::r#async::TtrpcContext;

use crate::door::{Door, wire_time};
use crate::event::Request;

/// The service; one sandbox, so that the requests' ids are not looked at.
pub struct SandboxService(pub Door);

#[async_trait]
impl Sandbox for SandboxService {
    async fn create_sandbox(
        &self,
        _: &TtrpcContext,
        request: api::CreateSandboxRequest,
    ) -> ttrpc::Result<api::CreateSandboxResponse> {
        let bundle = request.bundle_path.into();
        self.0.ask(|reply| Request::CreateSandbox { bundle, reply }).await?;
        Ok(api::CreateSandboxResponse::new())
    }

    async fn start_sandbox(
        &self,
        _: &TtrpcContext,
        _: api::StartSandboxRequest,
    ) -> ttrpc::Result<api::StartSandboxResponse> {
        let sandbox = self.0.ask(|reply| Request::StartSandbox { reply }).await?;
        let mut response = api::StartSandboxResponse::new();
        response.pid = sandbox.pause.pid;
        response.created_at = wire_time(sandbox.pause.started_at_ns);
        Ok(response)
    }

    async fn platform(&self, _: &TtrpcContext, _: api::PlatformRequest) -> ttrpc::Result<api::PlatformResponse> {
        let mut platform = Platform::new();
        platform.os = "linux".to_string();
        platform.architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }
        .to_string();
        let mut response = api::PlatformResponse::new();
        response.platform = Some(platform).into();
        Ok(response)
    }

    async fn stop_sandbox(
        &self,
        _: &TtrpcContext,
        request: api::StopSandboxRequest,
    ) -> ttrpc::Result<api::StopSandboxResponse> {
        self.0
            .ask(|reply| Request::StopSandbox {
                grace_s: request.timeout_secs,
                reply,
            })
            .await?;
        Ok(api::StopSandboxResponse::new())
    }

    async fn wait_sandbox(
        &self,
        _: &TtrpcContext,
        _: api::WaitSandboxRequest,
    ) -> ttrpc::Result<api::WaitSandboxResponse> {
        let exit = self.0.ask(|reply| Request::WaitSandbox { reply }).await?;
        let mut response = api::WaitSandboxResponse::new();
        response.exit_status = exit.code.unsigned_abs();
        response.exited_at = wire_time(exit.at_ns);
        Ok(response)
    }

    async fn sandbox_status(
        &self,
        _: &TtrpcContext,
        request: api::SandboxStatusRequest,
    ) -> ttrpc::Result<api::SandboxStatusResponse> {
        let sandbox = self.0.ask(|reply| Request::SandboxStatus { reply }).await?;
        let mut response = api::SandboxStatusResponse::new();
        response.sandbox_id = sandbox.id;
        response.pid = sandbox.pause.pid;
        response.state = if sandbox.ready {
            "SANDBOX_READY"
        } else {
            "SANDBOX_NOTREADY"
        }
        .to_string();
        response.created_at = wire_time(sandbox.pause.started_at_ns);
        if sandbox.pause.state == ProcessState::PROCESS_STATE_EXITED.into() {
            response.exited_at = wire_time(sandbox.pause.finished_at_ns);
        }
        if request.verbose {
            response
                .info
                .insert("shimPid".to_string(), std::process::id().to_string());
        }
        Ok(response)
    }

    async fn ping_sandbox(&self, _: &TtrpcContext, _: api::PingRequest) -> ttrpc::Result<api::PingResponse> {
        self.0.ask(|reply| Request::SandboxStatus { reply }).await?;
        Ok(api::PingResponse::new())
    }

    async fn shutdown_sandbox(
        &self,
        _: &TtrpcContext,
        _: api::ShutdownSandboxRequest,
    ) -> ttrpc::Result<api::ShutdownSandboxResponse> {
        self.0.ask(|reply| Request::ShutdownSandbox { reply }).await?;
        Ok(api::ShutdownSandboxResponse::new())
    }
}
