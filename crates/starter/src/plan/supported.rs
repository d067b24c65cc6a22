//! What a config may ask for and Hove would otherwise silently leave undone is refused here.

use oci_spec::runtime::{Process, Spec};

use crate::{Error, Result};

pub(crate) fn check(spec: &Spec) -> Result<()> {
    let refuse = |present: bool, field: &str, what: &str| {
        if present {
            Err(Error::unsupported(field, what))
        } else {
            Ok(())
        }
    };
    if let Some(hooks) = spec.hooks() {
        let any = [
            #[allow(deprecated)]
            hooks.prestart(),
            hooks.create_runtime(),
            hooks.create_container(),
            hooks.start_container(),
            hooks.poststart(),
            hooks.poststop(),
        ]
        .into_iter()
        .any(|hooks| hooks.as_ref().is_some_and(|h| !h.is_empty()));
        refuse(any, "hooks", "running hooks")?;
    }
    if let Some(linux) = spec.linux() {
        refuse(linux.intel_rdt().is_some(), "linux.intelRdt", "Intel RDT")?;
        refuse(linux.memory_policy().is_some(), "linux.memoryPolicy", "a memory policy")?;
        refuse(
            linux.net_devices().as_ref().is_some_and(|d| !d.is_empty()),
            "linux.netDevices",
            "moving a device",
        )?;
        let label = linux.mount_label().as_ref().is_some_and(|l| !l.is_empty());
        refuse(label, "linux.mountLabel", "an SELinux label")?;
    }
    Ok(())
}

pub(crate) fn check_process(process: &Process) -> Result<()> {
    let refuse = |present: bool, field: &str, what: &str| {
        if present {
            Err(Error::unsupported(field, what))
        } else {
            Ok(())
        }
    };
    let named = |value: &Option<String>| value.as_ref().is_some_and(|v| !v.is_empty() && v != "unconfined");
    refuse(named(process.selinux_label()), "process.selinuxLabel", "SELinux")?;
    refuse(process.io_priority().is_some(), "process.ioPriority", "an I/O priority")?;
    refuse(
        process.scheduler().is_some(),
        "process.scheduler",
        "a scheduling policy",
    )?;
    refuse(
        process.exec_cpu_affinity().is_some(),
        "process.execCPUAffinity",
        "a CPU affinity",
    )
}
