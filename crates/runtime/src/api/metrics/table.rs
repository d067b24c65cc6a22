//! The metrics that there are. Names, labels and kinds are those by which cAdvisor has always told them, since dashboards and
//! alerts are written for these: kubelet shows at /metrics/cadvisor what it gets from here as it is.

use cri::v1::{MetricDescriptor, MetricType};

/// Labels that every metric has: the container's name in the pod, its cgroup, its image, its id, and the pod. Metrics of a
/// pod as a whole have no container and no image.
pub(super) const BASE_LABELS: [&str; 6] = ["container", "id", "image", "name", "namespace", "pod"];

/// A metric.
#[derive(Debug)]
pub(super) struct Descriptor {
    pub(super) name: &'static str,
    pub(super) kind: MetricType,
    /// Labels besides [`BASE_LABELS`].
    pub(super) labels: &'static [&'static str],
    help: &'static str,
}

impl Descriptor {
    pub(super) fn to_cri(&self) -> MetricDescriptor {
        MetricDescriptor {
            name: self.name.into(),
            help: self.help.into(),
            label_keys: BASE_LABELS.iter().chain(self.labels).map(|&l| l.to_owned()).collect(),
        }
    }
}

/// A constant for each line, and [`ALL`] of them.
macro_rules! descriptors {
    ($($constant:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(pub(super) const $constant: Descriptor = Descriptor {
            name: $name,
            kind: MetricType::$kind,
            labels: &[$($label),*],
            help: $help,
        };)*
        /// The whole table.
        pub(super) const ALL: &[Descriptor] = &[$($constant),*];
    };
}

descriptors! {
    CPU_USAGE = Counter "container_cpu_usage_seconds_total" ["cpu"] "Processor time used, in seconds.";
    CPU_USER = Counter "container_cpu_user_seconds_total" [] "Processor time used in user mode, in seconds.";
    CPU_SYSTEM = Counter "container_cpu_system_seconds_total" [] "Processor time used in kernel mode, in seconds.";
    CFS_PERIODS = Counter "container_cpu_cfs_periods_total" [] "Periods of the processor quota that have passed.";
    CFS_THROTTLED_PERIODS = Counter "container_cpu_cfs_throttled_periods_total" [] "Periods in which the processor quota was used up.";
    CFS_THROTTLED = Counter "container_cpu_cfs_throttled_seconds_total" [] "Time spent waiting for a new period of the processor quota, in seconds.";

    MEMORY_USAGE = Gauge "container_memory_usage_bytes" [] "All memory that is charged, page cache included, in bytes.";
    MEMORY_WORKING_SET = Gauge "container_memory_working_set_bytes" [] "Memory without the page cache that the kernel would drop first, in bytes.";
    MEMORY_RSS = Gauge "container_memory_rss" [] "Anonymous memory, in bytes.";
    MEMORY_CACHE = Gauge "container_memory_cache" [] "Page cache, in bytes.";
    MEMORY_MAPPED_FILE = Gauge "container_memory_mapped_file" [] "Page cache that is mapped into processes, in bytes.";
    MEMORY_KERNEL = Gauge "container_memory_kernel_usage" [] "Memory that the kernel keeps for the container, in bytes.";
    MEMORY_SWAP = Gauge "container_memory_swap" [] "Swap used, in bytes.";
    MEMORY_MAX_USAGE = Gauge "container_memory_max_usage_bytes" [] "The highest memory usage so far, in bytes.";
    MEMORY_FAILCNT = Counter "container_memory_failcnt" [] "How often the memory limit was met.";
    MEMORY_FAILURES = Counter "container_memory_failures_total" ["failure_type", "scope"] "Page faults.";
    OOM_EVENTS = Counter "container_oom_events_total" [] "Processes killed for lack of memory.";

    HUGETLB_USAGE = Gauge "container_hugetlb_usage_bytes" ["pagesize"] "Huge pages in use, in bytes.";
    HUGETLB_MAX_USAGE = Gauge "container_hugetlb_max_usage_bytes" ["pagesize"] "The most huge pages in use so far, in bytes.";

    FS_USAGE = Gauge "container_fs_usage_bytes" ["device"] "What the container has written into its root, in bytes.";
    FS_LIMIT = Gauge "container_fs_limit_bytes" ["device"] "The size of the file system that the container's root is on, in bytes.";
    FS_INODES_TOTAL = Gauge "container_fs_inodes_total" ["device"] "Inodes of the file system that the container's root is on.";
    FS_INODES_FREE = Gauge "container_fs_inodes_free" ["device"] "Free inodes of the file system that the container's root is on.";

    FS_READS_BYTES = Counter "container_fs_reads_bytes_total" ["device"] "Bytes read from the device.";
    FS_READS = Counter "container_fs_reads_total" ["device"] "Reads from the device.";
    FS_WRITES_BYTES = Counter "container_fs_writes_bytes_total" ["device"] "Bytes written to the device.";
    FS_WRITES = Counter "container_fs_writes_total" ["device"] "Writes to the device.";
    BLKIO_DEVICE_USAGE = Counter "container_blkio_device_usage_total" ["device", "major", "minor", "operation"] "Bytes read from or written to the device.";

    NETWORK_RECEIVE_BYTES = Counter "container_network_receive_bytes_total" ["interface"] "Bytes received.";
    NETWORK_RECEIVE_PACKETS = Counter "container_network_receive_packets_total" ["interface"] "Packets received.";
    NETWORK_RECEIVE_DROPPED = Counter "container_network_receive_packets_dropped_total" ["interface"] "Packets dropped when they were received.";
    NETWORK_RECEIVE_ERRORS = Counter "container_network_receive_errors_total" ["interface"] "Packets that could not be received.";
    NETWORK_TRANSMIT_BYTES = Counter "container_network_transmit_bytes_total" ["interface"] "Bytes sent.";
    NETWORK_TRANSMIT_PACKETS = Counter "container_network_transmit_packets_total" ["interface"] "Packets sent.";
    NETWORK_TRANSMIT_DROPPED = Counter "container_network_transmit_packets_dropped_total" ["interface"] "Packets dropped when they were to be sent.";
    NETWORK_TRANSMIT_ERRORS = Counter "container_network_transmit_errors_total" ["interface"] "Packets that could not be sent.";

    PROCESSES = Gauge "container_processes" [] "Processes.";
    THREADS = Gauge "container_threads" [] "Threads.";
    THREADS_MAX = Gauge "container_threads_max" [] "The most threads that there may be; 0 for no limit.";
    FILE_DESCRIPTORS = Gauge "container_file_descriptors" [] "Open file descriptors.";
    SOCKETS = Gauge "container_sockets" [] "Open sockets.";
    ULIMITS_SOFT = Gauge "container_ulimits_soft" ["ulimit"] "Soft limits of the first process.";

    PRESSURE_CPU_WAITING = Counter "container_pressure_cpu_waiting_seconds_total" [] "Time in which at least one process waited for a processor, in seconds.";
    PRESSURE_CPU_STALLED = Counter "container_pressure_cpu_stalled_seconds_total" [] "Time in which all processes waited for a processor, in seconds.";
    PRESSURE_MEMORY_WAITING = Counter "container_pressure_memory_waiting_seconds_total" [] "Time in which at least one process waited for memory, in seconds.";
    PRESSURE_MEMORY_STALLED = Counter "container_pressure_memory_stalled_seconds_total" [] "Time in which all processes waited for memory, in seconds.";
    PRESSURE_IO_WAITING = Counter "container_pressure_io_waiting_seconds_total" [] "Time in which at least one process waited for a disk, in seconds.";
    PRESSURE_IO_STALLED = Counter "container_pressure_io_stalled_seconds_total" [] "Time in which all processes waited for a disk, in seconds.";

    SPEC_CPU_PERIOD = Gauge "container_spec_cpu_period" [] "The period of the processor quota, in microseconds.";
    SPEC_CPU_QUOTA = Gauge "container_spec_cpu_quota" [] "The processor quota, in microseconds of each period; absent without a limit.";
    SPEC_CPU_SHARES = Gauge "container_spec_cpu_shares" [] "The weight by which processors are shared.";
    SPEC_MEMORY_LIMIT = Gauge "container_spec_memory_limit_bytes" [] "The memory limit, in bytes; 0 for none.";
    SPEC_MEMORY_RESERVATION = Gauge "container_spec_memory_reservation_limit_bytes" [] "Memory that is kept for the container, in bytes; 0 for none.";
    SPEC_MEMORY_SWAP_LIMIT = Gauge "container_spec_memory_swap_limit_bytes" [] "The limit of memory and swap together, in bytes; 0 for none.";

    START_TIME = Gauge "container_start_time_seconds" [] "When the container was started, in seconds since 1970.";
    LAST_SEEN = Gauge "container_last_seen" [] "When these values were read, in seconds since 1970.";
}
