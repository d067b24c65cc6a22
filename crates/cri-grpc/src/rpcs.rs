//! The calls of both services: how each answers (once or by a stream), its name on the wire, its method, its messages.

/// The 35 calls of `runtime.v1.RuntimeService`, handed to the macro `$with`.
macro_rules! runtime_rpcs {
    ($with:ident) => {
        $with! {
            RuntimeService "runtime.v1.RuntimeService";
            unary "Version" version(VersionRequest) -> VersionResponse;
            unary "RunPodSandbox" run_pod_sandbox(RunPodSandboxRequest) -> RunPodSandboxResponse;
            unary "StopPodSandbox" stop_pod_sandbox(StopPodSandboxRequest) -> StopPodSandboxResponse;
            unary "RemovePodSandbox" remove_pod_sandbox(RemovePodSandboxRequest) -> RemovePodSandboxResponse;
            unary "PodSandboxStatus" pod_sandbox_status(PodSandboxStatusRequest) -> PodSandboxStatusResponse;
            unary "ListPodSandbox" list_pod_sandbox(ListPodSandboxRequest) -> ListPodSandboxResponse;
            stream "StreamPodSandboxes" stream_pod_sandboxes(StreamPodSandboxesRequest) -> StreamPodSandboxesResponse;
            unary "CreateContainer" create_container(CreateContainerRequest) -> CreateContainerResponse;
            unary "StartContainer" start_container(StartContainerRequest) -> StartContainerResponse;
            unary "StopContainer" stop_container(StopContainerRequest) -> StopContainerResponse;
            unary "RemoveContainer" remove_container(RemoveContainerRequest) -> RemoveContainerResponse;
            unary "ListContainers" list_containers(ListContainersRequest) -> ListContainersResponse;
            stream "StreamContainers" stream_containers(StreamContainersRequest) -> StreamContainersResponse;
            unary "ContainerStatus" container_status(ContainerStatusRequest) -> ContainerStatusResponse;
            unary "UpdateContainerResources" update_container_resources(UpdateContainerResourcesRequest) -> UpdateContainerResourcesResponse;
            unary "ReopenContainerLog" reopen_container_log(ReopenContainerLogRequest) -> ReopenContainerLogResponse;
            unary "ExecSync" exec_sync(ExecSyncRequest) -> ExecSyncResponse;
            unary "Exec" exec(ExecRequest) -> ExecResponse;
            unary "Attach" attach(AttachRequest) -> AttachResponse;
            unary "PortForward" port_forward(PortForwardRequest) -> PortForwardResponse;
            unary "ContainerStats" container_stats(ContainerStatsRequest) -> ContainerStatsResponse;
            unary "ListContainerStats" list_container_stats(ListContainerStatsRequest) -> ListContainerStatsResponse;
            stream "StreamContainerStats" stream_container_stats(StreamContainerStatsRequest) -> StreamContainerStatsResponse;
            unary "PodSandboxStats" pod_sandbox_stats(PodSandboxStatsRequest) -> PodSandboxStatsResponse;
            unary "ListPodSandboxStats" list_pod_sandbox_stats(ListPodSandboxStatsRequest) -> ListPodSandboxStatsResponse;
            stream "StreamPodSandboxStats" stream_pod_sandbox_stats(StreamPodSandboxStatsRequest) -> StreamPodSandboxStatsResponse;
            unary "UpdateRuntimeConfig" update_runtime_config(UpdateRuntimeConfigRequest) -> UpdateRuntimeConfigResponse;
            unary "Status" status(StatusRequest) -> StatusResponse;
            unary "CheckpointContainer" checkpoint_container(CheckpointContainerRequest) -> CheckpointContainerResponse;
            stream "GetContainerEvents" get_container_events(GetEventsRequest) -> ContainerEventResponse;
            unary "ListMetricDescriptors" list_metric_descriptors(ListMetricDescriptorsRequest) -> ListMetricDescriptorsResponse;
            unary "ListPodSandboxMetrics" list_pod_sandbox_metrics(ListPodSandboxMetricsRequest) -> ListPodSandboxMetricsResponse;
            stream "StreamPodSandboxMetrics" stream_pod_sandbox_metrics(StreamPodSandboxMetricsRequest) -> StreamPodSandboxMetricsResponse;
            unary "RuntimeConfig" runtime_config(RuntimeConfigRequest) -> RuntimeConfigResponse;
            unary "UpdatePodSandboxResources" update_pod_sandbox_resources(UpdatePodSandboxResourcesRequest) -> UpdatePodSandboxResourcesResponse;
        }
    };
}

/// The 6 calls of `runtime.v1.ImageService`, handed to the macro `$with`.
macro_rules! image_rpcs {
    ($with:ident) => {
        $with! {
            ImageService "runtime.v1.ImageService";
            unary "ListImages" list_images(ListImagesRequest) -> ListImagesResponse;
            stream "StreamImages" stream_images(StreamImagesRequest) -> StreamImagesResponse;
            unary "ImageStatus" image_status(ImageStatusRequest) -> ImageStatusResponse;
            unary "PullImage" pull_image(PullImageRequest) -> PullImageResponse;
            unary "RemoveImage" remove_image(RemoveImageRequest) -> RemoveImageResponse;
            unary "ImageFsInfo" image_fs_info(ImageFsInfoRequest) -> ImageFsInfoResponse;
        }
    };
}

pub(crate) use {image_rpcs, runtime_rpcs};

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::Path};

    /// Service, call, request, response, and whether the response is a stream.
    type Row = (String, String, String, String, bool);

    macro_rules! rows {
        ($service:ident $name:literal; $($kind:ident $rpc:literal $method:ident($request:ident) -> $response:ident;)*) => {
            [$(($name, $rpc, stringify!($request), stringify!($response), stringify!($kind) == "stream")),*]
        };
    }

    #[test]
    fn the_table_is_the_interface() {
        let ours: BTreeSet<Row> = [&runtime_rpcs!(rows)[..], &image_rpcs!(rows)[..]]
            .concat()
            .into_iter()
            .map(|(service, rpc, request, response, is_stream)| {
                (service.into(), rpc.into(), request.into(), response.into(), is_stream)
            })
            .collect();

        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cri/proto");
        let files = protox::compile([directory.join("api.proto")], [&directory]).unwrap();
        let bare = |name: &str| name.trim_start_matches(".runtime.v1.").to_owned();
        let published: BTreeSet<Row> = files
            .file
            .iter()
            .flat_map(|file| &file.service)
            .flat_map(|service| service.method.iter().map(move |method| (service, method)))
            .map(|(service, method)| {
                (
                    format!("runtime.v1.{}", service.name()),
                    method.name().to_owned(),
                    bare(method.input_type()),
                    bare(method.output_type()),
                    method.server_streaming(),
                )
            })
            .collect();
        assert_eq!(ours, published);
        assert_eq!(ours.len(), 41);
    }
}
