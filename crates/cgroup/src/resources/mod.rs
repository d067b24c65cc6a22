//! Limits: the OCI configuration's `linux.resources`, as writes to cgroup files.
//!
//! Decide, then do: each submodule turns its part of the configuration into a list of [`Write`]s for one dialect,
//! without touching the machine (what it must know of the present state is passed in). [`Cgroup::apply`] gathers the
//! lists, then writes them in order.

mod cpu;
mod cpuset;
pub mod devices;
mod hugetlb;
mod io;
mod memory;
mod pids;
mod unified;

use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxResources;
use rustix::io::Errno;

pub use cpu::weight_from_shares;

use crate::error::{Error, Result};
use crate::file;
use crate::group::Cgroup;
use crate::hierarchy::{Controller, Hierarchies, Version};

/// One value for one file of a cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Write {
    /// Whose hierarchy the file is in; `None` for core files of v2.
    pub(crate) controller: Option<Controller>,
    pub(crate) file: String,
    pub(crate) value: String,
    /// The field of the configuration, for messages.
    pub(crate) field: String,
    pub(crate) on_failure: OnFailure,
}

/// What a failed write means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnFailure {
    /// The limit can't be had: say so.
    Fail,
    /// The file need not exist: without it, what the value asks for is true already.
    FineIfMissing,
    /// The kernel refuses this value before the next write and accepts it after that: try again at the end.
    Retry,
}

impl Write {
    fn new(controller: Controller, file: impl Into<String>, value: impl ToString, field: impl Into<String>) -> Self {
        Write {
            controller: Some(controller),
            file: file.into(),
            value: value.to_string(),
            field: field.into(),
            on_failure: OnFailure::Fail,
        }
    }

    fn or(mut self, on_failure: OnFailure) -> Self {
        self.on_failure = on_failure;
        self
    }
}

/// A limit that can't be expressed, with the rule it breaks.
fn bad(field: &str, value: impl ToString, rule: impl Into<String>) -> Error {
    Error::BadValue {
        field: field.to_owned(),
        value: value.to_string(),
        rule: rule.into(),
    }
}

/// `None` if the node lacks `controller`; else what to do about it in its dialect.
fn dialect(hierarchies: &Hierarchies, controller: Controller, field: &str) -> Result<Version> {
    hierarchies.version(controller).ok_or(Error::ControllerMissing {
        controller,
        field: field.to_owned(),
    })
}

impl Cgroup {
    /// Sets the limits that `resources` has; what it leaves out stays as it is. For a new cgroup: see [`Cgroup::update`].
    ///
    /// A limit whose controller this node lacks, or that its cgroup version has no word for, is an error that names
    /// the field; nothing is skipped silently. Everything is checked before the first file is written, except what
    /// only the kernel can refuse (a memory limit below what is in use, a CPU that isn't there).
    pub fn apply(&self, resources: &LinuxResources) -> Result<()> {
        let plan = self.plan(resources)?;
        let device_program = self.plan_v2_devices(resources)?;

        // v2: a controller's files appear once its parents let it through. In hybrid mode that is done when it is
        // first needed, so that a machine's v2 root is not changed for nothing.
        let mut enabled = std::collections::BTreeSet::new();
        for controller in plan.iter().filter_map(|w| w.controller) {
            if self.hierarchies().version(controller) == Some(Version::V2) && enabled.insert(controller) {
                self.enable_v2(&[controller]).map_err(|source| {
                    let hint = match source.errno {
                        Errno::BUSY => "; a cgroup that has processes of its own can't pass controllers on",
                        _ => "",
                    };
                    Error::Refused {
                        field: format!("the cgroup v2 controller {controller}{hint}"),
                        source,
                    }
                })?;
            }
        }

        let mut again = Vec::new();
        for write in &plan {
            match self.write(write) {
                Ok(()) => {}
                Err(e) if write.on_failure == OnFailure::FineIfMissing && e.errno == Errno::NOENT => {}
                Err(e) if write.on_failure == OnFailure::Retry && e.errno == Errno::INVAL => again.push(write),
                Err(source) => {
                    return Err(Error::Refused {
                        field: write.field.clone(),
                        source,
                    });
                }
            }
        }
        for write in again {
            self.write(write).map_err(|source| Error::Refused {
                field: write.field.clone(),
                source,
            })?;
        }
        if let (Some(program), Some(dir)) = (device_program, self.v2_dir()) {
            devices::attach_v2(dir, &program)?;
        }
        Ok(())
    }

    /// [`Cgroup::apply`] for limits in force: all or nothing. When one of them is refused, those that were set before it are
    /// set back to what they were.
    pub fn update(&self, resources: &LinuxResources) -> Result<()> {
        let before = self.present(&self.plan(resources)?);
        self.apply(resources).inspect_err(|_| self.set_back(&before))
    }

    /// What stands now where `plan` writes. What can't be read, such as v1's device rules, can't be set back either.
    fn present(&self, plan: &[Write]) -> Vec<(PathBuf, String)> {
        let present = plan.iter().filter_map(|write| {
            let path = self.dir_of(write)?.join(&write.file);
            let value = file::read(&path).ok()?;
            Some((path, value.trim_end().to_owned()))
        });
        present.collect()
    }

    /// In the opposite order, so that a pair of limits of which one must not pass the other goes back as it came. What the
    /// kernel refuses nonetheless is tried once more when the rest is as it was.
    fn set_back(&self, before: &[(PathBuf, String)]) {
        let set = |(path, value): &&(PathBuf, String)| file::write(path, value).is_err();
        let refused: Vec<_> = before.iter().rev().filter(set).collect();
        for (path, value) in refused {
            let _ = file::write(path, value);
        }
    }

    fn write(&self, write: &Write) -> sys::Result<()> {
        match self.dir_of(write) {
            Some(dir) => file::write(&dir.join(&write.file), &write.value),
            // Planned only for controllers that are there.
            None => Err(sys::Error::new(format_args!("write({:?})", write.file), Errno::NOENT)),
        }
    }

    fn dir_of(&self, write: &Write) -> Option<&Path> {
        match write.controller {
            Some(controller) => self.dir(controller).map(|(_, dir)| dir),
            None => self.v2_dir(),
        }
    }

    fn plan(&self, resources: &LinuxResources) -> Result<Vec<Write>> {
        let h = self.hierarchies();
        let mut plan = Vec::new();
        if let Some(memory) = resources.memory() {
            plan.extend(memory::plan(h, memory, &memory::Present::read(self)?)?);
        }
        if let Some(cpu) = resources.cpu() {
            plan.extend(cpu::plan(h, cpu)?);
            plan.extend(cpuset::plan(h, cpu)?);
        }
        if let Some(pids) = resources.pids() {
            plan.extend(pids::plan(h, pids)?);
        }
        if let Some(block_io) = resources.block_io() {
            plan.extend(io::plan(h, block_io)?);
        }
        for limit in resources.hugepage_limits().iter().flatten() {
            plan.extend(hugetlb::plan(h, limit)?);
        }
        if let Some(rules) = resources.devices()
            && h.version(Controller::Devices) == Some(Version::V1)
        {
            plan.extend(devices::plan_v1(rules)?);
        }
        if let Some(unified) = resources.unified() {
            plan.extend(unified::plan(h, unified)?);
        }
        if resources
            .network()
            .as_ref()
            .is_some_and(|n| n.class_id().is_some() || n.priorities().is_some())
        {
            return Err(Error::Unsupported {
                field: "linux.resources.network".to_owned(),
                why: "Hove does not set net_cls and net_prio; use nftables' cgroup matches instead".to_owned(),
            });
        }
        if resources.rdma().as_ref().is_some_and(|r| !r.is_empty()) {
            return Err(Error::Unsupported {
                field: "linux.resources.rdma".to_owned(),
                why: "Hove does not set limits on RDMA devices".to_owned(),
            });
        }
        Ok(plan)
    }

    /// The program for v2's device rules, where devices are v2's. Compiled before anything is written.
    fn plan_v2_devices(&self, resources: &LinuxResources) -> Result<Option<devices::Program>> {
        let Some(rules) = resources.devices() else {
            return Ok(None);
        };
        if rules.is_empty() {
            return Ok(None);
        }
        match dialect(self.hierarchies(), Controller::Devices, "linux.resources.devices")? {
            Version::V1 => Ok(None),
            Version::V2 => devices::compile_v2(rules).map(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hierarchy::{V1, V2};

    /// A machine on which every controller is v1's, and one on which every one is v2's.
    pub(super) fn machines() -> (Hierarchies, Hierarchies) {
        let v1 = V1 {
            mount: "/v1".into(),
            controllers: Controller::ALL.into(),
        };
        let v2 = V2 {
            mount: "/v2".into(),
            controllers: Controller::ALL.into(),
        };
        (
            Hierarchies::from_parts(vec![v1], None).unwrap(),
            Hierarchies::from_parts(vec![], Some(v2)).unwrap(),
        )
    }

    pub(super) fn lines(plan: &[Write]) -> Vec<String> {
        plan.iter().map(|w| format!("{}={}", w.file, w.value)).collect()
    }
}
