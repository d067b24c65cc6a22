//! The two services of the CRI as traits, one method per RPC.
//!
//! A method that an implementation leaves out answers [`ErrorKind::Unimplemented`](crate::ErrorKind::Unimplemented),
//! by its RPC's name: this is what the interface asks of an optional call, and a client falls back on it.

use async_trait::async_trait;
use futures_util::stream::BoxStream;

use crate::{Error, Result, v1::*};

/// `runtime.v1.RuntimeService`.
#[async_trait]
pub trait RuntimeService: Send + Sync {
    /// `Version`.
    async fn version(&self, _request: VersionRequest) -> Result<VersionResponse> {
        Err(Error::unimplemented("Version"))
    }
    /// `RunPodSandbox`.
    async fn run_pod_sandbox(&self, _request: RunPodSandboxRequest) -> Result<RunPodSandboxResponse> {
        Err(Error::unimplemented("RunPodSandbox"))
    }
    /// `StopPodSandbox`.
    async fn stop_pod_sandbox(&self, _request: StopPodSandboxRequest) -> Result<StopPodSandboxResponse> {
        Err(Error::unimplemented("StopPodSandbox"))
    }
    /// `RemovePodSandbox`.
    async fn remove_pod_sandbox(&self, _request: RemovePodSandboxRequest) -> Result<RemovePodSandboxResponse> {
        Err(Error::unimplemented("RemovePodSandbox"))
    }
    /// `PodSandboxStatus`.
    async fn pod_sandbox_status(&self, _request: PodSandboxStatusRequest) -> Result<PodSandboxStatusResponse> {
        Err(Error::unimplemented("PodSandboxStatus"))
    }
    /// `ListPodSandbox`.
    async fn list_pod_sandbox(&self, _request: ListPodSandboxRequest) -> Result<ListPodSandboxResponse> {
        Err(Error::unimplemented("ListPodSandbox"))
    }
    /// `StreamPodSandboxes`.
    async fn stream_pod_sandboxes(
        &self,
        _request: StreamPodSandboxesRequest,
    ) -> Result<BoxStream<'static, Result<StreamPodSandboxesResponse>>> {
        Err(Error::unimplemented("StreamPodSandboxes"))
    }
    /// `CreateContainer`.
    async fn create_container(&self, _request: CreateContainerRequest) -> Result<CreateContainerResponse> {
        Err(Error::unimplemented("CreateContainer"))
    }
    /// `StartContainer`.
    async fn start_container(&self, _request: StartContainerRequest) -> Result<StartContainerResponse> {
        Err(Error::unimplemented("StartContainer"))
    }
    /// `StopContainer`.
    async fn stop_container(&self, _request: StopContainerRequest) -> Result<StopContainerResponse> {
        Err(Error::unimplemented("StopContainer"))
    }
    /// `RemoveContainer`.
    async fn remove_container(&self, _request: RemoveContainerRequest) -> Result<RemoveContainerResponse> {
        Err(Error::unimplemented("RemoveContainer"))
    }
    /// `ListContainers`.
    async fn list_containers(&self, _request: ListContainersRequest) -> Result<ListContainersResponse> {
        Err(Error::unimplemented("ListContainers"))
    }
    /// `StreamContainers`.
    async fn stream_containers(
        &self,
        _request: StreamContainersRequest,
    ) -> Result<BoxStream<'static, Result<StreamContainersResponse>>> {
        Err(Error::unimplemented("StreamContainers"))
    }
    /// `ContainerStatus`.
    async fn container_status(&self, _request: ContainerStatusRequest) -> Result<ContainerStatusResponse> {
        Err(Error::unimplemented("ContainerStatus"))
    }
    /// `UpdateContainerResources`.
    async fn update_container_resources(
        &self,
        _request: UpdateContainerResourcesRequest,
    ) -> Result<UpdateContainerResourcesResponse> {
        Err(Error::unimplemented("UpdateContainerResources"))
    }
    /// `ReopenContainerLog`.
    async fn reopen_container_log(&self, _request: ReopenContainerLogRequest) -> Result<ReopenContainerLogResponse> {
        Err(Error::unimplemented("ReopenContainerLog"))
    }
    /// `ExecSync`.
    async fn exec_sync(&self, _request: ExecSyncRequest) -> Result<ExecSyncResponse> {
        Err(Error::unimplemented("ExecSync"))
    }
    /// `Exec`.
    async fn exec(&self, _request: ExecRequest) -> Result<ExecResponse> {
        Err(Error::unimplemented("Exec"))
    }
    /// `Attach`.
    async fn attach(&self, _request: AttachRequest) -> Result<AttachResponse> {
        Err(Error::unimplemented("Attach"))
    }
    /// `PortForward`.
    async fn port_forward(&self, _request: PortForwardRequest) -> Result<PortForwardResponse> {
        Err(Error::unimplemented("PortForward"))
    }
    /// `ContainerStats`.
    async fn container_stats(&self, _request: ContainerStatsRequest) -> Result<ContainerStatsResponse> {
        Err(Error::unimplemented("ContainerStats"))
    }
    /// `ListContainerStats`.
    async fn list_container_stats(&self, _request: ListContainerStatsRequest) -> Result<ListContainerStatsResponse> {
        Err(Error::unimplemented("ListContainerStats"))
    }
    /// `StreamContainerStats`.
    async fn stream_container_stats(
        &self,
        _request: StreamContainerStatsRequest,
    ) -> Result<BoxStream<'static, Result<StreamContainerStatsResponse>>> {
        Err(Error::unimplemented("StreamContainerStats"))
    }
    /// `PodSandboxStats`.
    async fn pod_sandbox_stats(&self, _request: PodSandboxStatsRequest) -> Result<PodSandboxStatsResponse> {
        Err(Error::unimplemented("PodSandboxStats"))
    }
    /// `ListPodSandboxStats`.
    async fn list_pod_sandbox_stats(
        &self,
        _request: ListPodSandboxStatsRequest,
    ) -> Result<ListPodSandboxStatsResponse> {
        Err(Error::unimplemented("ListPodSandboxStats"))
    }
    /// `StreamPodSandboxStats`.
    async fn stream_pod_sandbox_stats(
        &self,
        _request: StreamPodSandboxStatsRequest,
    ) -> Result<BoxStream<'static, Result<StreamPodSandboxStatsResponse>>> {
        Err(Error::unimplemented("StreamPodSandboxStats"))
    }
    /// `UpdateRuntimeConfig`.
    async fn update_runtime_config(&self, _request: UpdateRuntimeConfigRequest) -> Result<UpdateRuntimeConfigResponse> {
        Err(Error::unimplemented("UpdateRuntimeConfig"))
    }
    /// `Status`.
    async fn status(&self, _request: StatusRequest) -> Result<StatusResponse> {
        Err(Error::unimplemented("Status"))
    }
    /// `CheckpointContainer`.
    async fn checkpoint_container(&self, _request: CheckpointContainerRequest) -> Result<CheckpointContainerResponse> {
        Err(Error::unimplemented("CheckpointContainer"))
    }
    /// `GetContainerEvents`.
    async fn get_container_events(
        &self,
        _request: GetEventsRequest,
    ) -> Result<BoxStream<'static, Result<ContainerEventResponse>>> {
        Err(Error::unimplemented("GetContainerEvents"))
    }
    /// `ListMetricDescriptors`.
    async fn list_metric_descriptors(
        &self,
        _request: ListMetricDescriptorsRequest,
    ) -> Result<ListMetricDescriptorsResponse> {
        Err(Error::unimplemented("ListMetricDescriptors"))
    }
    /// `ListPodSandboxMetrics`.
    async fn list_pod_sandbox_metrics(
        &self,
        _request: ListPodSandboxMetricsRequest,
    ) -> Result<ListPodSandboxMetricsResponse> {
        Err(Error::unimplemented("ListPodSandboxMetrics"))
    }
    /// `StreamPodSandboxMetrics`.
    async fn stream_pod_sandbox_metrics(
        &self,
        _request: StreamPodSandboxMetricsRequest,
    ) -> Result<BoxStream<'static, Result<StreamPodSandboxMetricsResponse>>> {
        Err(Error::unimplemented("StreamPodSandboxMetrics"))
    }
    /// `RuntimeConfig`.
    async fn runtime_config(&self, _request: RuntimeConfigRequest) -> Result<RuntimeConfigResponse> {
        Err(Error::unimplemented("RuntimeConfig"))
    }
    /// `UpdatePodSandboxResources`.
    async fn update_pod_sandbox_resources(
        &self,
        _request: UpdatePodSandboxResourcesRequest,
    ) -> Result<UpdatePodSandboxResourcesResponse> {
        Err(Error::unimplemented("UpdatePodSandboxResources"))
    }
}

/// `runtime.v1.ImageService`.
#[async_trait]
pub trait ImageService: Send + Sync {
    /// `ListImages`.
    async fn list_images(&self, _request: ListImagesRequest) -> Result<ListImagesResponse> {
        Err(Error::unimplemented("ListImages"))
    }
    /// `StreamImages`.
    async fn stream_images(
        &self,
        _request: StreamImagesRequest,
    ) -> Result<BoxStream<'static, Result<StreamImagesResponse>>> {
        Err(Error::unimplemented("StreamImages"))
    }
    /// `ImageStatus`.
    async fn image_status(&self, _request: ImageStatusRequest) -> Result<ImageStatusResponse> {
        Err(Error::unimplemented("ImageStatus"))
    }
    /// `PullImage`.
    async fn pull_image(&self, _request: PullImageRequest) -> Result<PullImageResponse> {
        Err(Error::unimplemented("PullImage"))
    }
    /// `RemoveImage`.
    async fn remove_image(&self, _request: RemoveImageRequest) -> Result<RemoveImageResponse> {
        Err(Error::unimplemented("RemoveImage"))
    }
    /// `ImageFsInfo`.
    async fn image_fs_info(&self, _request: ImageFsInfoRequest) -> Result<ImageFsInfoResponse> {
        Err(Error::unimplemented("ImageFsInfo"))
    }
}
