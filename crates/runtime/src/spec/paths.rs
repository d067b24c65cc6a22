//! `linux.maskedPaths` and `linux.readonlyPaths`: what of /proc and /sys a container may not see or change.

use cri::v1::LinuxContainerSecurityContext;

/// Hidden: they tell about the host, or let a container slow it down.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Readable only: writing there changes the host.
const READONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// As the configuration says, else the default; nothing for a privileged container.
pub(super) fn masked(security: &LinuxContainerSecurityContext) -> Option<Vec<String>> {
    chosen(security.privileged, &security.masked_paths, &MASKED)
}

/// As the configuration says, else the default; nothing for a privileged container.
pub(super) fn readonly(security: &LinuxContainerSecurityContext) -> Option<Vec<String>> {
    chosen(security.privileged, &security.readonly_paths, &READONLY)
}

fn chosen(privileged: bool, configured: &[String], default: &[&str]) -> Option<Vec<String>> {
    if privileged {
        return None;
    }
    if configured.is_empty() {
        return Some(default.iter().map(|p| (*p).to_owned()).collect());
    }
    Some(configured.to_vec())
}
