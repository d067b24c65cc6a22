//! Block devices: weight and throttles.

use oci_spec::runtime::{LinuxBlockIo, LinuxThrottleDevice};

use super::{Write, bad, dialect};
use crate::error::{Error, Result};
use crate::hierarchy::{Controller, Hierarchies, Version};

pub(super) fn plan(hierarchies: &Hierarchies, io: &LinuxBlockIo) -> Result<Vec<Write>> {
    let weight = io.weight().filter(|n| *n != 0);
    // (field, v1 file, v2 key, devices)
    type Throttle<'a> = (
        &'static str,
        &'static str,
        &'static str,
        &'a Option<Vec<LinuxThrottleDevice>>,
    );
    let throttles: [Throttle; 4] = [
        (
            "throttleReadBpsDevice",
            "read_bps_device",
            "rbps",
            io.throttle_read_bps_device(),
        ),
        (
            "throttleWriteBpsDevice",
            "write_bps_device",
            "wbps",
            io.throttle_write_bps_device(),
        ),
        (
            "throttleReadIOPSDevice",
            "read_iops_device",
            "riops",
            io.throttle_read_iops_device(),
        ),
        (
            "throttleWriteIOPSDevice",
            "write_iops_device",
            "wiops",
            io.throttle_write_iops_device(),
        ),
    ];
    if io.leaf_weight().is_some_and(|n| n != 0) || io.weight_device().as_ref().is_some_and(|d| !d.is_empty()) {
        return Err(Error::Unsupported {
            field: "linux.resources.blockIO.weightDevice".to_owned(),
            why: "Hove sets one weight for all devices".to_owned(),
        });
    }
    if weight.is_none() && throttles.iter().all(|t| t.3.as_ref().is_none_or(Vec::is_empty)) {
        return Ok(Vec::new());
    }
    let version = dialect(hierarchies, Controller::Io, "linux.resources.blockIO")?;
    let mut plan = Vec::new();
    if let Some(n) = weight {
        let field = "linux.resources.blockIO.weight";
        if !(10..=1000).contains(&n) {
            return Err(bad(field, n, "must be between 10 and 1000"));
        }
        plan.push(match version {
            Version::V1 => Write::new(Controller::Io, "blkio.bfq.weight", n, field),
            Version::V2 => Write::new(Controller::Io, "io.bfq.weight", n, field),
        });
    }
    for (field, v1_file, v2_key, devices) in throttles {
        for device in devices.iter().flatten() {
            let field = format!("linux.resources.blockIO.{field}");
            let id = format!("{}:{}", device.major(), device.minor());
            plan.push(match (version, device.rate()) {
                (Version::V1, rate) => Write::new(
                    Controller::Io,
                    format!("blkio.throttle.{v1_file}"),
                    format!("{id} {rate}"),
                    field,
                ),
                (Version::V2, 0) => Write::new(Controller::Io, "io.max", format!("{id} {v2_key}=max"), field),
                (Version::V2, rate) => Write::new(Controller::Io, "io.max", format!("{id} {v2_key}={rate}"), field),
            });
        }
    }
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::LinuxThrottleDeviceBuilder;

    use super::super::tests::{lines, machines};
    use super::*;

    #[test]
    fn both_dialects() {
        let (v1, v2) = machines();
        let device = LinuxThrottleDeviceBuilder::default()
            .major(8)
            .minor(16)
            .rate(1_000_000u64)
            .build()
            .unwrap();
        let mut io = LinuxBlockIo::default();
        io.set_weight(Some(500))
            .set_throttle_read_bps_device(Some(vec![device]));
        assert_eq!(
            lines(&plan(&v1, &io).unwrap()),
            ["blkio.bfq.weight=500", "blkio.throttle.read_bps_device=8:16 1000000"]
        );
        assert_eq!(
            lines(&plan(&v2, &io).unwrap()),
            ["io.bfq.weight=500", "io.max=8:16 rbps=1000000"]
        );
        io.set_weight(Some(5));
        assert!(plan(&v1, &io).is_err());
    }
}
