//! The CRI's verbs, a file per group. Each is a function of the node and the request; this file only says which function
//! answers which verb.

mod checkpoint;
mod containers;
mod exec;
mod images;
mod info;
mod links;
mod metrics;
mod node;
mod sandboxes;
mod stats;
mod stream;

use async_trait::async_trait;
use cri::v1::*;
use cri::{ImageService, Result, RuntimeService};
use futures_util::stream::BoxStream;

use crate::Runtime;

type Stream<T> = BoxStream<'static, Result<T>>;

#[async_trait]
impl RuntimeService for Runtime {
    async fn version(&self, request: VersionRequest) -> Result<VersionResponse> {
        Ok(node::version(request))
    }
    async fn status(&self, request: StatusRequest) -> Result<StatusResponse> {
        node::status(&self.node, request).await
    }
    async fn runtime_config(&self, _: RuntimeConfigRequest) -> Result<RuntimeConfigResponse> {
        Ok(node::runtime_config())
    }
    async fn update_runtime_config(&self, request: UpdateRuntimeConfigRequest) -> Result<UpdateRuntimeConfigResponse> {
        Ok(node::update_runtime_config(request))
    }
    async fn get_container_events(&self, _: GetEventsRequest) -> Result<Stream<ContainerEventResponse>> {
        Ok(self.node.events.subscribe())
    }

    async fn run_pod_sandbox(&self, request: RunPodSandboxRequest) -> Result<RunPodSandboxResponse> {
        sandboxes::run(&self.node, request).await
    }
    async fn stop_pod_sandbox(&self, request: StopPodSandboxRequest) -> Result<StopPodSandboxResponse> {
        sandboxes::stop(&self.node, request).await
    }
    async fn remove_pod_sandbox(&self, request: RemovePodSandboxRequest) -> Result<RemovePodSandboxResponse> {
        sandboxes::remove(&self.node, request).await
    }
    async fn update_pod_sandbox_resources(
        &self,
        request: UpdatePodSandboxResourcesRequest,
    ) -> Result<UpdatePodSandboxResourcesResponse> {
        sandboxes::update_resources(&self.node, request).await
    }
    async fn pod_sandbox_status(&self, request: PodSandboxStatusRequest) -> Result<PodSandboxStatusResponse> {
        sandboxes::status(&self.node, request)
    }
    async fn list_pod_sandbox(&self, request: ListPodSandboxRequest) -> Result<ListPodSandboxResponse> {
        Ok(ListPodSandboxResponse {
            items: sandboxes::list(&self.node, request.filter),
        })
    }
    async fn stream_pod_sandboxes(
        &self,
        request: StreamPodSandboxesRequest,
    ) -> Result<Stream<StreamPodSandboxesResponse>> {
        let items = sandboxes::list(&self.node, request.filter);
        Ok(stream::batches(items, |pod_sandboxes| StreamPodSandboxesResponse {
            pod_sandboxes,
        }))
    }

    async fn create_container(&self, request: CreateContainerRequest) -> Result<CreateContainerResponse> {
        containers::create(&self.node, request).await
    }
    async fn start_container(&self, request: StartContainerRequest) -> Result<StartContainerResponse> {
        containers::start(&self.node, request).await
    }
    async fn stop_container(&self, request: StopContainerRequest) -> Result<StopContainerResponse> {
        containers::stop(&self.node, request).await
    }
    async fn remove_container(&self, request: RemoveContainerRequest) -> Result<RemoveContainerResponse> {
        containers::remove(&self.node, request).await
    }
    async fn container_status(&self, request: ContainerStatusRequest) -> Result<ContainerStatusResponse> {
        containers::status(&self.node, request)
    }
    async fn list_containers(&self, request: ListContainersRequest) -> Result<ListContainersResponse> {
        Ok(ListContainersResponse {
            containers: containers::list(&self.node, request.filter),
        })
    }
    async fn stream_containers(&self, request: StreamContainersRequest) -> Result<Stream<StreamContainersResponse>> {
        let items = containers::list(&self.node, request.filter);
        Ok(stream::batches(items, |containers| StreamContainersResponse {
            containers,
        }))
    }
    async fn update_container_resources(
        &self,
        request: UpdateContainerResourcesRequest,
    ) -> Result<UpdateContainerResourcesResponse> {
        containers::update_resources(&self.node, request).await
    }
    async fn checkpoint_container(&self, request: CheckpointContainerRequest) -> Result<CheckpointContainerResponse> {
        checkpoint::checkpoint(&self.node, request).await
    }
    async fn reopen_container_log(&self, request: ReopenContainerLogRequest) -> Result<ReopenContainerLogResponse> {
        containers::reopen_log(&self.node, request).await
    }

    async fn exec_sync(&self, request: ExecSyncRequest) -> Result<ExecSyncResponse> {
        exec::sync(&self.node, request).await
    }
    async fn exec(&self, request: ExecRequest) -> Result<ExecResponse> {
        exec::url(&self.node, request)
    }
    async fn attach(&self, request: AttachRequest) -> Result<AttachResponse> {
        exec::attach_url(&self.node, request)
    }
    async fn port_forward(&self, request: PortForwardRequest) -> Result<PortForwardResponse> {
        exec::port_forward_url(&self.node, request)
    }

    async fn container_stats(&self, request: ContainerStatsRequest) -> Result<ContainerStatsResponse> {
        stats::container(&self.node, request).await
    }
    async fn list_container_stats(&self, request: ListContainerStatsRequest) -> Result<ListContainerStatsResponse> {
        Ok(ListContainerStatsResponse {
            stats: stats::containers(&self.node, request.filter).await,
        })
    }
    async fn stream_container_stats(
        &self,
        request: StreamContainerStatsRequest,
    ) -> Result<Stream<StreamContainerStatsResponse>> {
        let items = stats::containers(&self.node, request.filter).await;
        Ok(stream::batches(items, |container_stats| StreamContainerStatsResponse {
            container_stats,
        }))
    }
    async fn pod_sandbox_stats(&self, request: PodSandboxStatsRequest) -> Result<PodSandboxStatsResponse> {
        stats::sandbox(&self.node, request).await
    }
    async fn list_pod_sandbox_stats(&self, request: ListPodSandboxStatsRequest) -> Result<ListPodSandboxStatsResponse> {
        Ok(ListPodSandboxStatsResponse {
            stats: stats::sandboxes(&self.node, request.filter).await,
        })
    }
    async fn stream_pod_sandbox_stats(
        &self,
        request: StreamPodSandboxStatsRequest,
    ) -> Result<Stream<StreamPodSandboxStatsResponse>> {
        let items = stats::sandboxes(&self.node, request.filter).await;
        Ok(stream::batches(items, |pod_sandbox_stats| {
            StreamPodSandboxStatsResponse { pod_sandbox_stats }
        }))
    }

    async fn list_metric_descriptors(&self, _: ListMetricDescriptorsRequest) -> Result<ListMetricDescriptorsResponse> {
        Ok(metrics::descriptors())
    }
    async fn list_pod_sandbox_metrics(&self, _: ListPodSandboxMetricsRequest) -> Result<ListPodSandboxMetricsResponse> {
        Ok(ListPodSandboxMetricsResponse {
            pod_metrics: metrics::sandboxes(&self.node).await,
        })
    }
    async fn stream_pod_sandbox_metrics(
        &self,
        _: StreamPodSandboxMetricsRequest,
    ) -> Result<Stream<StreamPodSandboxMetricsResponse>> {
        let items = metrics::sandboxes(&self.node).await;
        Ok(stream::batches(items, |pod_sandbox_metrics| {
            StreamPodSandboxMetricsResponse { pod_sandbox_metrics }
        }))
    }
}

#[async_trait]
impl ImageService for Runtime {
    async fn list_images(&self, request: ListImagesRequest) -> Result<ListImagesResponse> {
        Ok(ListImagesResponse {
            images: images::list(&self.node, request.filter),
        })
    }
    async fn stream_images(&self, request: StreamImagesRequest) -> Result<Stream<StreamImagesResponse>> {
        let items = images::list(&self.node, request.filter);
        Ok(stream::batches(items, |images| StreamImagesResponse { images }))
    }
    async fn image_status(&self, request: ImageStatusRequest) -> Result<ImageStatusResponse> {
        images::status(&self.node, request)
    }
    async fn pull_image(&self, request: PullImageRequest) -> Result<PullImageResponse> {
        images::pull(&self.node, request).await
    }
    async fn remove_image(&self, request: RemoveImageRequest) -> Result<RemoveImageResponse> {
        images::remove(&self.node, request).await
    }
    async fn image_fs_info(&self, _: ImageFsInfoRequest) -> Result<ImageFsInfoResponse> {
        images::fs_info(&self.node).await
    }
}
