//! How many processes and threads: the same file in both dialects.

use oci_spec::runtime::LinuxPids;

use super::{Write, dialect};
use crate::error::Result;
use crate::hierarchy::{Controller, Hierarchies};

/// Below 0: no limit. 0: leave as it is, since that is what a configuration without the number decodes to.
pub(super) fn plan(hierarchies: &Hierarchies, pids: &LinuxPids) -> Result<Option<Write>> {
    let field = "linux.resources.pids.limit";
    let value = match pids.limit() {
        0 => return Ok(None),
        n if n < 0 => "max".to_owned(),
        n => n.to_string(),
    };
    dialect(hierarchies, Controller::Pids, field)?;
    Ok(Some(Write::new(Controller::Pids, "pids.max", value, field)))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{lines, machines};
    use super::*;

    #[test]
    fn limits() {
        let (v1, _) = machines();
        for (limit, written) in [(-1, Some("pids.max=max")), (0, None), (64, Some("pids.max=64"))] {
            let mut pids = LinuxPids::default();
            pids.set_limit(limit);
            let plan: Vec<Write> = plan(&v1, &pids).unwrap().into_iter().collect();
            assert_eq!(lines(&plan).first().map(String::as_str), written);
        }
    }
}
