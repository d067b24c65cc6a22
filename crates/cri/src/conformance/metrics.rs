//! The metrics that take cAdvisor's place (KEP-2371).

use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt;

use super::{Outcome, Subject, said};
use crate::v1::*;

/// What cAdvisor tells of a container or its pod, by Linux and Kubernetes alone: without the prefix `container_`.
const NAMES: [&str; 56] = [
    "blkio_device_usage_total",
    "cpu_cfs_periods_total",
    "cpu_cfs_throttled_periods_total",
    "cpu_cfs_throttled_seconds_total",
    "cpu_system_seconds_total",
    "cpu_usage_seconds_total",
    "cpu_user_seconds_total",
    "file_descriptors",
    "fs_inodes_free",
    "fs_inodes_total",
    "fs_limit_bytes",
    "fs_reads_bytes_total",
    "fs_reads_total",
    "fs_usage_bytes",
    "fs_writes_bytes_total",
    "fs_writes_total",
    "hugetlb_max_usage_bytes",
    "hugetlb_usage_bytes",
    "last_seen",
    "memory_cache",
    "memory_failcnt",
    "memory_failures_total",
    "memory_kernel_usage",
    "memory_mapped_file",
    "memory_max_usage_bytes",
    "memory_rss",
    "memory_swap",
    "memory_usage_bytes",
    "memory_working_set_bytes",
    "network_receive_bytes_total",
    "network_receive_errors_total",
    "network_receive_packets_dropped_total",
    "network_receive_packets_total",
    "network_transmit_bytes_total",
    "network_transmit_errors_total",
    "network_transmit_packets_dropped_total",
    "network_transmit_packets_total",
    "oom_events_total",
    "pressure_cpu_stalled_seconds_total",
    "pressure_cpu_waiting_seconds_total",
    "pressure_io_stalled_seconds_total",
    "pressure_io_waiting_seconds_total",
    "pressure_memory_stalled_seconds_total",
    "pressure_memory_waiting_seconds_total",
    "processes",
    "sockets",
    "spec_cpu_period",
    "spec_cpu_quota",
    "spec_cpu_shares",
    "spec_memory_limit_bytes",
    "spec_memory_reservation_limit_bytes",
    "spec_memory_swap_limit_bytes",
    "start_time_seconds",
    "threads",
    "threads_max",
    "ulimits_soft",
];

/// Of these a value can't be expected: a device may have done nothing yet, a kernel may know no huge pages, no pressure, or
/// not the highest use of memory.
const OPTIONAL: [&str; 6] = [
    "blkio_",
    "fs_reads_",
    "fs_writes_",
    "hugetlb_",
    "pressure_",
    "memory_max_usage_bytes",
];

pub(super) async fn metrics_are_described_and_have_values(s: &Subject) -> Outcome {
    let described = said(s.runtime.list_metric_descriptors(ListMetricDescriptorsRequest {}).await)?.descriptors;
    let keys: BTreeMap<String, usize> = described.into_iter().map(|d| (d.name, d.label_keys.len())).collect();
    let names: BTreeSet<String> = NAMES.iter().map(|name| format!("container_{name}")).collect();
    let missing: Vec<_> = names.iter().filter(|name| !keys.contains_key(*name)).collect();
    ensure!(missing.is_empty(), "not described: {missing:?}");

    let config = s.sandbox("metrics");
    let sandbox = said(s.run(&config).await)?;
    let mut container = s.shell("main", "echo written > /file; exec sleep 1000");
    container.linux.get_or_insert_default().resources = Some(LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: 20_000,
        cpu_shares: 1024,
        memory_limit_in_bytes: 64 << 20,
        memory_swap_limit_in_bytes: 64 << 20,
        ..Default::default()
    });
    let id = said(s.create(&sandbox, &config, container).await)?;
    said(s.start(&id).await)?;

    let listed = s
        .runtime
        .list_pod_sandbox_metrics(ListPodSandboxMetricsRequest {})
        .await;
    check(said(listed)?.pod_metrics, &sandbox, &id, &keys)?;
    let stream = s
        .runtime
        .stream_pod_sandbox_metrics(StreamPodSandboxMetricsRequest {})
        .await;
    let mut streamed = Vec::new();
    for message in said(stream)?.collect::<Vec<_>>().await {
        streamed.extend(said(message)?.pod_sandbox_metrics);
    }
    check(streamed, &sandbox, &id, &keys)?;
    s.drop_sandbox(&sandbox).await
}

/// Each metric has a value, as many labels as its descriptor, and each of its values another set of them.
fn check(all: Vec<PodSandboxMetrics>, sandbox: &str, container: &str, keys: &BTreeMap<String, usize>) -> Outcome {
    let pod = all.into_iter().find(|pod| pod.pod_sandbox_id == sandbox);
    let pod = pod.ok_or("the sandbox has no metrics")?;
    let of_container = pod.container_metrics.into_iter().find(|c| c.container_id == container);
    let of_container = of_container.ok_or("the container has no metrics")?;
    let mut found = BTreeSet::new();
    for metric in pod.metrics.into_iter().chain(of_container.metrics) {
        let (labels, described) = (metric.label_values.len(), keys.get(&metric.name));
        ensure!(
            described == Some(&labels) && metric.value.is_some(),
            "{metric:?}: described with {described:?} labels"
        );
        let series = (metric.name, metric.label_values);
        ensure!(!found.contains(&series), "told twice: {series:?}");
        found.insert(series);
    }
    let has_a_value = |name: &str| {
        found
            .iter()
            .any(|(found, _)| found.strip_prefix("container_") == Some(name))
    };
    let missing: Vec<_> = NAMES
        .into_iter()
        .filter(|name| !has_a_value(name) && !OPTIONAL.iter().any(|optional| name.starts_with(optional)))
        .collect();
    ensure!(missing.is_empty(), "without a value: {missing:?}");
    Ok(())
}
