//! hove.shim.v1.Pod, Hove's extension: see crates/shim-api/proto/shim.proto.

use async_trait::async_trait;
use shim_api::shim::{
    AttachRequest, AttachResponse, Event, ReopenLogRequest, ReopenLogResponse, StateRequest, StateResponse,
    WatchRequest,
};
use shim_api::shim_ttrpc::Pod;
use tokio::sync::mpsc;
use ttrpc::r#async::{ServerStreamSender, TtrpcContext};

use crate::door::Door;
use crate::event::{CHANGES_MAX, Request};

/// The service.
pub struct PodService(pub Door);

#[async_trait]
impl Pod for PodService {
    async fn state(&self, _: &TtrpcContext, _: StateRequest) -> ttrpc::Result<StateResponse> {
        let pod = self.0.ask(|reply| Request::Pod { reply }).await?;
        let mut response = StateResponse::new();
        response.sandbox_id = pod.sandbox.id;
        response.shim_pid = std::process::id();
        response.pause = Some(pod.sandbox.pause).into();
        response.containers = pod.containers;
        response.execs = pod.execs;
        Ok(response)
    }

    async fn watch(&self, _: &TtrpcContext, _: WatchRequest, stream: ServerStreamSender<Event>) -> ttrpc::Result<()> {
        let (changes, mut received) = mpsc::channel(CHANGES_MAX);
        self.0.ask(|reply| Request::Watch { changes, reply }).await?;
        // Ends when the pod does, when the watcher hangs up, or when it has fallen behind.
        while let Some(change) = received.recv().await {
            stream.send(&change).await?;
        }
        Ok(())
    }

    async fn reopen_log(&self, _: &TtrpcContext, request: ReopenLogRequest) -> ttrpc::Result<ReopenLogResponse> {
        self.0
            .ask(|reply| Request::ReopenLog {
                id: request.container_id,
                reply,
            })
            .await?;
        Ok(ReopenLogResponse::new())
    }

    async fn attach(&self, _: &TtrpcContext, request: AttachRequest) -> ttrpc::Result<AttachResponse> {
        self.0
            .ask(|reply| Request::Attach {
                id: request.container_id,
                stdout: request.stdout,
                stderr: request.stderr,
                reply,
            })
            .await?;
        Ok(AttachResponse::new())
    }
}
