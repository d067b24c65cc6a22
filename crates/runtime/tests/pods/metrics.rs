//! What a pod's metrics say is what it does. (That all of them are there, the suite that any implementation has to pass checks.)

use cri::RuntimeService;
use cri::v1::*;

use crate::host::{Host, on_a_host, shell};

const MEGABYTE: u64 = 1 << 20;

/// All values of a pod and its only container.
struct Values(Vec<Metric>);

impl Values {
    async fn of(host: &Host, sandbox: &str) -> Values {
        let request = ListPodSandboxMetricsRequest {};
        let all = host
            .runtime
            .list_pod_sandbox_metrics(request)
            .await
            .unwrap()
            .pod_metrics;
        let pod = all.into_iter().find(|pod| pod.pod_sandbox_id == sandbox).unwrap();
        let of_containers = pod.container_metrics.into_iter().flat_map(|c| c.metrics);
        Values(pod.metrics.into_iter().chain(of_containers).collect())
    }

    /// The first value of a metric with this label.
    fn with(&self, name: &str, label: &str) -> Option<u64> {
        let name = format!("container_{name}");
        let is_meant = |m: &&Metric| m.name == name && (label.is_empty() || m.label_values.iter().any(|l| l == label));
        self.0.iter().find(is_meant)?.value.map(|v| v.value)
    }

    fn get(&self, name: &str) -> u64 {
        self.with(name, "").unwrap_or_else(|| panic!("{name} has no value"))
    }
}

#[test]
fn values_are_real() {
    on_a_host(|host| async move {
        let sandbox = host.run(host.pod("measured")).await.unwrap();
        let script = "dd if=/dev/zero of=/written bs=1M count=3 2>/dev/null; exec sleep 1000";
        let mut config = shell("main", script);
        let limits = LinuxContainerResources {
            cpu_period: 50_000,
            cpu_quota: 40_000,
            cpu_shares: 512,
            memory_limit_in_bytes: 64 << 20,
            memory_swap_limit_in_bytes: 64 << 20,
            ..Default::default()
        };
        config.linux.as_mut().unwrap().resources = Some(limits);
        let id = host.create(&sandbox, config).await.unwrap();
        host.start(&id).await.unwrap();
        // Something to count: a file, a second of work.
        let written = "until test $(stat -c %s /written) = 3145728; do :; done 2>/dev/null";
        assert_eq!(host.exec(&id, &["sh", "-c", written]).await.unwrap().exit_code, 0);
        let busy = ["timeout", "1", "sh", "-c", "while :; do :; done"];
        while Values::of(&host, &sandbox).await.get("cpu_usage_seconds_total") == 0 {
            host.exec(&id, &busy).await.unwrap();
        }

        let values = Values::of(&host, &sandbox).await;
        for (name, value) in [
            ("spec_cpu_period", 50_000),
            ("spec_cpu_quota", 40_000),
            ("spec_cpu_shares", 512),
            ("spec_memory_limit_bytes", 64 * MEGABYTE),
            ("spec_memory_swap_limit_bytes", 64 * MEGABYTE),
            ("oom_events_total", 0),
        ] {
            assert_eq!(values.get(name), value, "{name}");
        }
        assert!(values.get("cpu_cfs_periods_total") > 0);
        assert!((100_000..64 * MEGABYTE).contains(&values.get("memory_usage_bytes")));
        assert!(values.get("memory_working_set_bytes") <= values.get("memory_usage_bytes"));
        assert!(values.with("memory_failures_total", "pgfault").unwrap() > 0);
        assert_eq!(values.get("processes"), 1, "sleep");
        assert!(values.get("file_descriptors") >= 3 && values.get("threads") >= 1);
        assert!(values.with("ulimits_soft", "max_open_files").unwrap() > 0);
        assert!(values.get("fs_usage_bytes") >= 3 * MEGABYTE);
        assert!(values.get("fs_limit_bytes") > values.get("fs_usage_bytes"));
        assert!(values.get("fs_inodes_free") <= values.get("fs_inodes_total"));
        assert!(values.with("network_receive_bytes_total", "eth0").is_some());
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs();
        let started = values.get("start_time_seconds");
        assert!(started <= values.get("last_seen") && now - started < 600, "{started}");

        // Their labels are cAdvisor's.
        let request = ListMetricDescriptorsRequest {};
        let described = host.runtime.list_metric_descriptors(request).await.unwrap().descriptors;
        assert_eq!(described.len(), 56);
        let processes = |m: &&Metric| m.name == "container_processes";
        let labels = &values.0.iter().find(processes).unwrap().label_values;
        let cgroup = format!("{}/{id}", host.config.cgroup_parent);
        let wanted = ["main", &cgroup, crate::host::IMAGE, &id, "default", "measured"];
        assert_eq!(labels, &wanted);

        host.stop_container(&id, 0).await.unwrap();
        let values = Values::of(&host, &sandbox).await;
        assert_eq!(values.with("processes", ""), None, "what has ended is not measured");
        assert!(
            values.with("network_receive_bytes_total", "eth0").is_some(),
            "its pod is"
        );
        host.remove(&sandbox).await.unwrap();
    });
}
