//! What a cgroup's processes have read from and written to block devices.

use std::collections::BTreeMap;

use crate::error::Result;
use crate::file::read_optional;
use crate::group::Cgroup;
use crate::hierarchy::{Controller, Version};

/// What went to and from one device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeviceIo {
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Reads done.
    pub reads: u64,
    /// Writes done.
    pub writes: u64,
}

/// By device number, major and minor.
pub type BlockIo = BTreeMap<(u32, u32), DeviceIo>;

impl Cgroup {
    /// Reads what the cgroup and all below it did to each block device. Empty without the controller.
    pub fn block_io(&self) -> Result<BlockIo> {
        let Some((version, dir)) = self.dir(Controller::Io) else {
            return Ok(BlockIo::new());
        };
        let read = |name: &str| -> Result<String> { Ok(read_optional(&dir.join(name))?.unwrap_or_default()) };
        Ok(match version {
            Version::V1 => v1(
                // The throttling layer counts everything, whichever scheduler a disk has.
                &read("blkio.throttle.io_service_bytes_recursive")?,
                &read("blkio.throttle.io_serviced_recursive")?,
            ),
            Version::V2 => v2(&read("io.stat")?),
        })
    }
}

fn v1(bytes: &str, requests: &str) -> BlockIo {
    let mut devices = BlockIo::new();
    for (device, operation, bytes) in v1_lines(bytes) {
        let io = devices.entry(device).or_default();
        match operation {
            "Read" => io.read_bytes = bytes,
            "Write" => io.written_bytes = bytes,
            _ => {}
        }
    }
    for (device, operation, requests) in v1_lines(requests) {
        let io = devices.entry(device).or_default();
        match operation {
            "Read" => io.reads = requests,
            "Write" => io.writes = requests,
            _ => {}
        }
    }
    devices
}

/// Lines `8:0 Read 4096`; the one with the total at the end has no device.
fn v1_lines(text: &str) -> impl Iterator<Item = ((u32, u32), &str, u64)> {
    text.lines().filter_map(|line| {
        let mut words = line.split(' ');
        Some((number(words.next()?)?, words.next()?, words.next()?.parse().ok()?))
    })
}

/// Lines `8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0`.
fn v2(stat: &str) -> BlockIo {
    let device = |line: &str| {
        let (device, fields) = line.split_once(' ')?;
        let field = |key: &str| {
            let value = fields
                .split(' ')
                .find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
            value.and_then(|n| n.parse().ok()).unwrap_or(0)
        };
        let io = DeviceIo {
            read_bytes: field("rbytes"),
            written_bytes: field("wbytes"),
            reads: field("rios"),
            writes: field("wios"),
        };
        Some((number(device)?, io))
    };
    stat.lines().filter_map(device).collect()
}

/// `8:0`.
fn number(device: &str) -> Option<(u32, u32)> {
    let (major, minor) = device.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_dialects_say_the_same() {
        let said = v1(
            "8:0 Read 4096\n8:0 Write 8192\n8:0 Sync 4096\n8:0 Total 12288\nTotal 12288\n",
            "8:0 Read 1\n8:0 Write 2\n8:0 Total 3\nTotal 3\n",
        );
        assert_eq!(said, v2("8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n"));
        assert_eq!(
            said[&(8, 0)],
            DeviceIo {
                read_bytes: 4096,
                written_bytes: 8192,
                reads: 1,
                writes: 2
            }
        );
        // A device that did nothing yet may have no fields.
        assert_eq!(v2("8:16 \n")[&(8, 16)], DeviceIo::default());
        assert!(v1("Total 0\n", "Total 0\n").is_empty());
    }
}
