//! Which CPUs and memory nodes: the same two files in both dialects.

use oci_spec::runtime::LinuxCpu;

use super::{Write, dialect};
use crate::error::Result;
use crate::hierarchy::{Controller, Hierarchies};

pub(super) fn plan(hierarchies: &Hierarchies, cpu: &LinuxCpu) -> Result<Vec<Write>> {
    let mut plan = Vec::new();
    for (file, list, field) in [
        ("cpuset.cpus", cpu.cpus(), "linux.resources.cpu.cpus"),
        ("cpuset.mems", cpu.mems(), "linux.resources.cpu.mems"),
    ] {
        let Some(list) = list.as_deref().filter(|l| !l.is_empty()) else {
            continue;
        };
        dialect(hierarchies, Controller::Cpuset, field)?;
        plan.push(Write::new(Controller::Cpuset, file, list, field));
    }
    Ok(plan)
}
