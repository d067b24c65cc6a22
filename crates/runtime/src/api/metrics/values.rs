//! From readings to metrics. The CRI's values are whole numbers, so times are whole seconds; what is not known is left out.

use cgroup::block_io::BlockIo;
use cgroup::pressure::{Pressure, Stalls};
use cgroup::stats::{Cpu, Memory};
use cri::v1::LinuxContainerResources;

use super::super::links::Link;
use super::reading::{Disk, Disks, Processes, Reading};
use super::sheet::Sheet;
use super::table::*;
use crate::container::{DEFAULT_CPU_PERIOD_US, DEFAULT_CPU_SHARES};
use crate::records::{ContainerRecord, Life};

const NS_PER_SECOND: u64 = 1_000_000_000;
const US_PER_SECOND: u64 = 1_000_000;

pub(super) fn container(sheet: &mut Sheet, reading: &Reading<'_>, record: &ContainerRecord) {
    if let Some(used) = &reading.stats.cpu {
        cpu(sheet, used);
    }
    if let Some(used) = &reading.stats.memory {
        memory(sheet, used);
        sheet.put(&OOM_EVENTS, [], reading.oom_kills);
    }
    for pages in &reading.huge_pages {
        sheet.put(&HUGETLB_USAGE, [&pages.page_size], pages.usage);
        if let Some(peak) = pages.peak {
            sheet.put(&HUGETLB_MAX_USAGE, [&pages.page_size], peak);
        }
    }
    if let Some(root) = &reading.root {
        disk(sheet, root);
    }
    block_io(sheet, &reading.block_io, reading.disks);
    processes(sheet, reading);
    pressure(sheet, &reading.pressure);
    limits(sheet, record.resources.as_ref());
    if let Life::Running { started_at_ns } = record.life {
        let started_at_ns = u64::try_from(started_at_ns).unwrap_or(0);
        sheet.put(&START_TIME, [], started_at_ns / NS_PER_SECOND);
    }
    sheet.put(
        &LAST_SEEN,
        [],
        u64::try_from(reading.taken_at_ns).unwrap_or(0) / NS_PER_SECOND,
    );
}

/// A link of the pod's.
pub(super) fn link(sheet: &mut Sheet, link: &Link) {
    let (name, received, sent) = ([link.name.as_str()], link.received, link.sent);
    sheet.put(&NETWORK_RECEIVE_BYTES, name, received.bytes);
    sheet.put(&NETWORK_RECEIVE_PACKETS, name, received.packets);
    sheet.put(&NETWORK_RECEIVE_DROPPED, name, received.dropped);
    sheet.put(&NETWORK_RECEIVE_ERRORS, name, received.errors);
    sheet.put(&NETWORK_TRANSMIT_BYTES, name, sent.bytes);
    sheet.put(&NETWORK_TRANSMIT_PACKETS, name, sent.packets);
    sheet.put(&NETWORK_TRANSMIT_DROPPED, name, sent.dropped);
    sheet.put(&NETWORK_TRANSMIT_ERRORS, name, sent.errors);
}

fn cpu(sheet: &mut Sheet, cpu: &Cpu) {
    sheet.put(&CPU_USAGE, ["total"], cpu.usage_ns / NS_PER_SECOND);
    sheet.put(&CPU_USER, [], cpu.user_ns / NS_PER_SECOND);
    sheet.put(&CPU_SYSTEM, [], cpu.system_ns / NS_PER_SECOND);
    sheet.put(&CFS_PERIODS, [], cpu.periods);
    sheet.put(&CFS_THROTTLED_PERIODS, [], cpu.throttled_periods);
    sheet.put(&CFS_THROTTLED, [], cpu.throttled_ns / NS_PER_SECOND);
}

fn memory(sheet: &mut Sheet, memory: &Memory) {
    sheet.put(&MEMORY_USAGE, [], memory.usage);
    sheet.put(&MEMORY_WORKING_SET, [], memory.working_set);
    sheet.put(&MEMORY_RSS, [], memory.rss);
    sheet.put(&MEMORY_CACHE, [], memory.cache);
    sheet.put(&MEMORY_MAPPED_FILE, [], memory.mapped_file);
    sheet.put(&MEMORY_KERNEL, [], memory.kernel);
    sheet.put(&MEMORY_SWAP, [], memory.swap);
    if let Some(peak) = memory.peak {
        sheet.put(&MEMORY_MAX_USAGE, [], peak);
    }
    sheet.put(&MEMORY_FAILCNT, [], memory.limit_hits);
    // A container has no cgroups below it but those of its execs, which are its own.
    for scope in ["container", "hierarchy"] {
        sheet.put(&MEMORY_FAILURES, ["pgfault", scope], memory.page_faults);
        sheet.put(&MEMORY_FAILURES, ["pgmajfault", scope], memory.major_page_faults);
    }
}

fn disk(sheet: &mut Sheet, root: &Disk) {
    let device = [root.device.as_str()];
    sheet.put(&FS_USAGE, device, root.used_bytes);
    sheet.put(&FS_LIMIT, device, root.size_bytes);
    sheet.put(&FS_INODES_TOTAL, device, root.inodes);
    sheet.put(&FS_INODES_FREE, device, root.free_inodes);
}

fn block_io(sheet: &mut Sheet, all: &BlockIo, disks: &Disks) {
    for (&number, io) in all {
        let device = disks.name(number);
        let (major, minor) = (number.0.to_string(), number.1.to_string());
        sheet.put(&FS_READS_BYTES, [&device], io.read_bytes);
        sheet.put(&FS_READS, [&device], io.reads);
        sheet.put(&FS_WRITES_BYTES, [&device], io.written_bytes);
        sheet.put(&FS_WRITES, [&device], io.writes);
        for (operation, bytes) in [("Read", io.read_bytes), ("Write", io.written_bytes)] {
            sheet.put(&BLKIO_DEVICE_USAGE, [&device, &major, &minor, operation], bytes);
        }
    }
}

fn processes(sheet: &mut Sheet, reading: &Reading<'_>) {
    let Processes {
        count,
        descriptors,
        sockets,
        open_files_limit,
    } = reading.processes;
    sheet.put(&PROCESSES, [], count);
    sheet.put(&FILE_DESCRIPTORS, [], descriptors);
    sheet.put(&SOCKETS, [], sockets);
    if let Some(limit) = open_files_limit {
        sheet.put(&ULIMITS_SOFT, ["max_open_files"], limit);
    }
    if let Some(threads) = &reading.stats.pids {
        sheet.put(&THREADS, [], threads.current);
        sheet.put(&THREADS_MAX, [], threads.limit.unwrap_or(0));
    }
}

fn pressure(sheet: &mut Sheet, pressure: &Pressure) {
    let mut put = |stalls: Option<Stalls>, waiting, stalled| {
        if let Some(stalls) = stalls {
            sheet.put(waiting, [], stalls.some.total_us / US_PER_SECOND);
            sheet.put(stalled, [], stalls.full.total_us / US_PER_SECOND);
        }
    };
    put(pressure.cpu, &PRESSURE_CPU_WAITING, &PRESSURE_CPU_STALLED);
    put(pressure.memory, &PRESSURE_MEMORY_WAITING, &PRESSURE_MEMORY_STALLED);
    put(pressure.io, &PRESSURE_IO_WAITING, &PRESSURE_IO_STALLED);
}

/// What was configured, or set by an update since.
fn limits(sheet: &mut Sheet, resources: Option<&LinuxContainerResources>) {
    let none = LinuxContainerResources::default();
    let resources = resources.unwrap_or(&none);
    let or = |value: i64, default: i64| if value > 0 { value } else { default }.unsigned_abs();
    // Minus one is a word for “no limit”.
    let bytes = |limit: i64| u64::try_from(limit).unwrap_or(0);
    sheet.put(&SPEC_CPU_PERIOD, [], or(resources.cpu_period, DEFAULT_CPU_PERIOD_US));
    sheet.put(&SPEC_CPU_SHARES, [], or(resources.cpu_shares, DEFAULT_CPU_SHARES));
    if let Ok(quota @ 1..) = u64::try_from(resources.cpu_quota) {
        sheet.put(&SPEC_CPU_QUOTA, [], quota);
    }
    sheet.put(&SPEC_MEMORY_LIMIT, [], bytes(resources.memory_limit_in_bytes));
    sheet.put(&SPEC_MEMORY_SWAP_LIMIT, [], bytes(resources.memory_swap_limit_in_bytes));
    // The CRI has no field of its own for it: kubelet says it in v2's words.
    let reservation = resources.unified.get("memory.min").and_then(|text| text.parse().ok());
    sheet.put(&SPEC_MEMORY_RESERVATION, [], reservation.unwrap_or(0));
}
