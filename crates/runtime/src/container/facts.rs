//! What has to be looked up on the host before a container's spec can be derived.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use cri::v1::{ContainerConfig, Device, MountPropagation};
use oci_spec::runtime::{Capabilities, Capability, LinuxDeviceType, LinuxSeccomp};

use super::propagation;
use crate::error::{Error, Result};
use crate::node::Node;
use crate::spec::{Facts, HostDevice, Limitable, Profile, SecurityModules, asks_for_apparmor, container_profile};

/// Capabilities by the kernel's number.
const CAPABILITIES: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// Looks everything up that `config` needs. `volumes`: where its image volumes are.
pub(super) fn gather(config: &ContainerConfig, volumes: &BTreeMap<usize, PathBuf>, node: &Node) -> Result<Facts> {
    let security = config
        .linux
        .as_ref()
        .and_then(|l| l.security_context.clone())
        .unwrap_or_default();
    let hierarchies = node.cgroups.hierarchies();
    Ok(Facts {
        capabilities: node.capabilities.clone(),
        security_modules: node.security_modules,
        cgroup_v2: hierarchies.mode() == cgroup::Mode::V2,
        limitable: limitable(hierarchies),
        devices: devices(config, security.privileged)?,
        seccomp: match container_profile(&security)? {
            Profile::Localhost(path) => Some(seccomp_profile(&path)?),
            Profile::Unconfined | Profile::RuntimeDefault => None,
        },
        mount_sources: mount_sources(config, volumes)?,
        apparmor_profiles: match node.security_modules.apparmor && asks_for_apparmor(&security) {
            true => crate::apparmor::loaded(),
            false => None,
        },
    })
}

pub(super) fn limitable(hierarchies: &cgroup::Hierarchies) -> Limitable {
    Limitable {
        swap: hierarchies.swap_accounting(),
        huge_pages: hierarchies.version(cgroup::Controller::Hugetlb).is_some(),
    }
}

/// Which security modules the kernel enforces. What can't be read is not there.
pub(crate) fn security_modules() -> SecurityModules {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    SecurityModules {
        apparmor: read("/sys/module/apparmor/parameters/enabled").starts_with('Y'),
        // Registered only where SELinux is switched on.
        selinux: read("/proc/filesystems")
            .lines()
            .any(|line| line.ends_with("\tselinuxfs")),
    }
}

/// What this process may do, from /proc/self/status.
pub(crate) fn own_capabilities() -> Result<Capabilities> {
    let path = Path::new("/proc/self/status");
    let status = fs::read_to_string(path).map_err(Error::file("read", path))?;
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .map(str::trim)
        .unwrap_or_default();
    let bits = u64::from_str_radix(effective, 16).unwrap_or(0);
    Ok(CAPABILITIES
        .into_iter()
        .enumerate()
        .filter(|(number, _)| bits >> number & 1 == 1)
        .map(|(_, c)| c)
        .collect())
}

fn seccomp_profile(path: &Path) -> Result<LinuxSeccomp> {
    let text = fs::read(path).map_err(Error::file("read the seccomp profile", path))?;
    serde_json::from_slice(&text)
        .map_err(|e| cri::Error::invalid(format!("seccomp.localhost_ref: {}: {e}", path.display())).into())
}

/// Where each mount's host path leads. One that does not exist yet is made, as a directory: the field's runtimes do so, and
/// hostPath volumes without a type rely on it.
///
/// What mounts are to pass through must let them.
fn mount_sources(config: &ContainerConfig, volumes: &BTreeMap<usize, PathBuf>) -> Result<Vec<PathBuf>> {
    let source = |mount: &cri::v1::Mount| {
        let path = Path::new(&mount.host_path);
        if !path.is_absolute() {
            // A mount without a host path is refused by name when the spec is derived.
            return Ok(path.into());
        }
        match fs::canonicalize(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                fs::create_dir_all(path).map_err(Error::file("make the host path of a mount,", path))?;
                Ok(path.into())
            }
            found => found.map_err(Error::file("resolve the host path of a mount,", path)),
        }
    };
    let mut sources = Vec::with_capacity(config.mounts.len());
    for (index, mount) in config.mounts.iter().enumerate() {
        let source = match volumes.get(&index) {
            Some(volume) => volume.clone(),
            None => source(mount)?,
        };
        // A mount without a host path, or of a kind that there is not, is refused by name when the spec is derived.
        if let (true, Ok(asked)) = (source.is_absolute(), MountPropagation::try_from(mount.propagation)) {
            propagation::check(&format!("mounts[{index}].propagation"), &source, asked)?;
        }
        sources.push(source);
    }
    Ok(sources)
}

/// The listed devices; a privileged container has all of the host's besides.
fn devices(config: &ContainerConfig, privileged: bool) -> Result<Vec<HostDevice>> {
    let mut devices = Vec::new();
    for listed in &config.devices {
        let host = Path::new(&listed.host_path);
        let container = Path::new(if listed.container_path.is_empty() {
            &listed.host_path
        } else {
            &listed.container_path
        });
        let access = access(listed)?;
        // A link leads to the device that it names today.
        let host = fs::canonicalize(host).map_err(Error::file("find the device", host))?;
        let before = devices.len();
        find(&host, container, &access, &mut devices)?;
        if devices.len() == before {
            return Err(cri::Error::invalid(format!("devices.host_path: {} is not a device", host.display())).into());
        }
    }
    if privileged {
        let dev = Path::new("/dev");
        let mut all = Vec::new();
        find(dev, dev, "rwm", &mut all)?;
        all.retain(|d| !devices.iter().any(|listed| listed.container_path == d.container_path));
        devices.append(&mut all);
    }
    Ok(devices)
}

fn access(device: &Device) -> Result<String> {
    let letters = if device.permissions.is_empty() {
        "rwm"
    } else {
        &device.permissions
    };
    if letters.chars().all(|c| "rwm".contains(c)) {
        return Ok(letters.into());
    }
    Err(cri::Error::invalid(format!(
        "devices.permissions: {letters:?} has letters other than r, w and m"
    ))
    .into())
}

/// The device at `host`, or all below that directory. What every container has of its own in /dev is left out: terminals,
/// shared memory, message queues, the console.
fn find(host: &Path, container: &Path, access: &str, found: &mut Vec<HostDevice>) -> Result<()> {
    const OWN: [&str; 6] = [
        "/dev/pts",
        "/dev/shm",
        "/dev/mqueue",
        "/dev/fd",
        "/dev/console",
        "/dev/ptmx",
    ];
    if OWN.iter().any(|own| container == Path::new(own)) {
        return Ok(());
    }
    let Ok(metadata) = fs::symlink_metadata(host) else {
        return Ok(());
    };
    let kind = metadata.file_type();
    if kind.is_dir() {
        for entry in fs::read_dir(host).map_err(Error::file("read", host))? {
            let name = entry.map_err(Error::file("read", host))?.file_name();
            find(&host.join(&name), &container.join(&name), access, found)?;
        }
    } else if kind.is_char_device() || kind.is_block_device() {
        found.push(HostDevice {
            container_path: container.into(),
            kind: if kind.is_char_device() {
                LinuxDeviceType::C
            } else {
                LinuxDeviceType::B
            },
            major: rustix::fs::major(metadata.rdev()),
            minor: rustix::fs::minor(metadata.rdev()),
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
            access: access.into(),
        });
    }
    Ok(())
}
