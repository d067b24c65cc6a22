//! Huge pages in use.

use crate::error::Result;
use crate::file::{number, read_optional};
use crate::group::Cgroup;
use crate::hierarchy::{Controller, Version};

/// Huge pages of one size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HugePages {
    /// As the kernel writes it: `2MB`, `1GB`.
    pub page_size: String,
    /// Bytes in use.
    pub usage: u64,
    /// The highest usage so far; v2 does not keep it.
    pub peak: Option<u64>,
}

impl Cgroup {
    /// Reads what the cgroup and all below it have, a part for each page size of the machine. Empty without the
    /// controller, on v2 also where it is not enabled.
    pub fn huge_pages(&self) -> Result<Vec<HugePages>> {
        let Some((version, dir)) = self.dir(Controller::Hugetlb) else {
            return Ok(Vec::new());
        };
        let (usage, peak) = match version {
            Version::V1 => (".usage_in_bytes", Some(".max_usage_in_bytes")),
            Version::V2 => (".current", None),
        };
        let mut all = Vec::new();
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let size = name
                .to_str()
                .and_then(|n| n.strip_prefix("hugetlb.")?.strip_suffix(usage));
            // Reservations have files of their own.
            let Some(size) = size.filter(|s| !s.contains('.')) else {
                continue;
            };
            let value = |suffix: &str| -> Result<Option<u64>> {
                Ok(read_optional(&dir.join(format!("hugetlb.{size}{suffix}")))?.and_then(|t| number(&t)))
            };
            let Some(bytes) = value(usage)? else { continue };
            all.push(HugePages {
                page_size: size.to_owned(),
                usage: bytes,
                peak: peak.map(value).transpose()?.flatten(),
            });
        }
        all.sort_by(|a, b| a.page_size.cmp(&b.page_size));
        Ok(all)
    }
}
