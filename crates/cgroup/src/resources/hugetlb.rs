//! Huge pages: a limit for each page size, on faults and (where the kernel has it) on reservations.

use oci_spec::runtime::LinuxHugepageLimit;

use super::{OnFailure, Write, bad, dialect};
use crate::error::Result;
use crate::hierarchy::{Controller, Hierarchies, Version};

pub(super) fn plan(hierarchies: &Hierarchies, limit: &LinuxHugepageLimit) -> Result<Vec<Write>> {
    let field = "linux.resources.hugepageLimits";
    let size = limit.page_size();
    let digits = size.trim_end_matches("B").trim_end_matches(['K', 'M', 'G']);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) || !size.ends_with("B") {
        return Err(bad(field, size, "a page size is written like 64KB, 2MB or 1GB"));
    }
    let value = match (dialect(hierarchies, Controller::Hugetlb, field)?, limit.limit()) {
        (Version::V2, n) if n < 0 => "max".to_owned(),
        (_, n) => n.to_string(),
    };
    let [plain, reserved] = match dialect(hierarchies, Controller::Hugetlb, field)? {
        Version::V1 => ["limit_in_bytes", "rsvd.limit_in_bytes"],
        Version::V2 => ["max", "rsvd.max"],
    };
    let field = format!("{field}[{size}]");
    Ok(vec![
        Write::new(Controller::Hugetlb, format!("hugetlb.{size}.{plain}"), &value, &field),
        // Linux 5.7. Without it the limit on faults still holds.
        Write::new(
            Controller::Hugetlb,
            format!("hugetlb.{size}.{reserved}"),
            &value,
            &field,
        )
        .or(OnFailure::FineIfMissing),
    ])
}

#[cfg(test)]
mod tests {
    use super::super::tests::{lines, machines};
    use super::*;

    fn limit(size: &str, n: i64) -> LinuxHugepageLimit {
        let mut limit = LinuxHugepageLimit::default();
        limit.set_page_size(size.to_owned()).set_limit(n);
        limit
    }

    #[test]
    fn both_dialects() {
        let (v1, v2) = machines();
        let two = limit("2MB", 4096);
        assert_eq!(
            lines(&plan(&v1, &two).unwrap()),
            [
                "hugetlb.2MB.limit_in_bytes=4096",
                "hugetlb.2MB.rsvd.limit_in_bytes=4096"
            ]
        );
        assert_eq!(
            lines(&plan(&v2, &limit("1GB", -1)).unwrap()),
            ["hugetlb.1GB.max=max", "hugetlb.1GB.rsvd.max=max"]
        );
        for wrong in ["", "2M", "MB", "../MB", "2 MB"] {
            assert!(plan(&v2, &limit(wrong, 0)).is_err(), "{wrong:?}");
        }
    }
}
