//! From the CRI's configuration and the image's to an OCI runtime spec: what is decided about a container before
//! anything of it exists. Pure: what has to be looked up on the host (devices, profiles, where links lead) comes in
//! as [`Facts`].
//!
//! A file per section of the spec; [`container()`] and [`sandbox()`] put the sections together. Every field of the
//! spec is set here, because oci-spec's own defaults insert namespaces, mounts and masks.

pub mod annotations;
mod capabilities;
mod confinement;
mod devices;
mod error;
mod mounts;
mod namespaces;
mod paths;
mod process;
mod resources;
mod sandbox;
mod seccomp;
mod sysctls;
mod user;
mod userns;

use std::path::{Path, PathBuf};

use cri::v1::{ContainerConfig, LinuxContainerSecurityContext, NamespaceOption, PodSandboxConfig};
use oci_spec::image::ImageConfiguration;
use oci_spec::runtime::{Capabilities, Linux, LinuxSeccomp, Root, Spec};

pub use confinement::{DEFAULT_PROFILE, SecurityModules, asks_for_apparmor};
pub use devices::HostDevice;
pub use error::{Result, SpecError};
pub use namespaces::{check as check_namespaces, host_network};
pub use process::exec;
pub use resources::{Limitable, resources};
pub use sandbox::{SandboxInputs, sandbox};
pub use seccomp::{Profile, container_profile};
pub use userns::{UserMaps, user_maps};

/// The spec's version: the last one whose fields we use.
const VERSION: &str = "1.1.0";

/// What is true of the host, looked up before the spec is derived.
#[derive(Debug, Default)]
pub struct Facts {
    /// Capabilities that this node itself has: “ALL” can't mean more.
    pub capabilities: Capabilities,
    /// cgroup v2: a container gets a cgroup namespace there.
    pub cgroup_v2: bool,
    /// Which security modules the kernel enforces.
    pub security_modules: SecurityModules,
    /// What can be limited on this host.
    pub limitable: Limitable,
    /// The devices that the configuration lists, found on the host; all of the host's for a privileged container.
    pub devices: Vec<HostDevice>,
    /// The content of the Localhost seccomp profile, if one is asked for.
    pub seccomp: Option<LinuxSeccomp>,
    /// The host paths of the configuration's mounts, in its order, links resolved.
    pub mount_sources: Vec<PathBuf>,
    /// The AppArmor profiles that the kernel has, if one is asked for and the list can be read.
    pub apparmor_profiles: Option<Vec<String>>,
}

/// What a container's spec is derived from.
pub struct ContainerInputs<'a> {
    /// The container's id.
    pub id: &'a str,
    /// The container's configuration.
    pub config: &'a ContainerConfig,
    /// The image's.
    pub image: &'a ImageConfiguration,
    /// The sandbox's id.
    pub sandbox_id: &'a str,
    /// The sandbox's configuration.
    pub sandbox: &'a PodSandboxConfig,
    /// The sandbox's directory.
    pub sandbox_dir: &'a Path,
    /// Where the sandbox's network namespace is bound; `None` on the host's network.
    pub netns: Option<&'a Path>,
    /// Where the sandbox's user namespace is bound; `None` in the host's.
    pub userns: Option<&'a Path>,
    /// The pod's host name.
    pub hostname: &'a str,
    /// The pod's cgroup, absolute.
    pub cgroup_parent: &'a str,
    /// What is true of the host.
    pub facts: &'a Facts,
}

impl ContainerInputs<'_> {
    fn security(&self) -> LinuxContainerSecurityContext {
        self.config
            .linux
            .as_ref()
            .and_then(|l| l.security_context.clone())
            .unwrap_or_default()
    }

    fn namespace_options(&self) -> NamespaceOption {
        self.security()
            .namespace_options
            .unwrap_or_else(|| namespaces::of_sandbox(self.sandbox))
    }
}

/// The spec of a container.
pub fn container(inputs: &ContainerInputs<'_>) -> Result<Spec> {
    let security = inputs.security();
    let profile = confinement::container(&security, &inputs.config.mounts, inputs.facts)?;
    let maps = user_maps(inputs.sandbox)?;
    let options = inputs.namespace_options();
    let cgroups_path = Path::new(inputs.cgroup_parent).join(inputs.id);

    let mut linux = bare_linux();
    linux
        .set_namespaces(Some(namespaces::container(inputs, &options, security.privileged)?))
        .set_devices(devices::nodes(inputs))
        .set_resources(Some(resources::container(inputs, security.privileged)))
        .set_cgroups_path(Some(cgroups_path))
        .set_seccomp(inputs.facts.seccomp.clone())
        .set_rootfs_propagation(mounts::rootfs_propagation(&inputs.config.mounts))
        .set_masked_paths(paths::masked(&security))
        .set_readonly_paths(paths::readonly(&security));

    if let Some(maps) = &maps {
        let [uids, gids] = maps.mappings();
        linux.set_uid_mappings(Some(uids)).set_gid_mappings(Some(gids));
    }

    let mut root = Root::default();
    root.set_path("rootfs".into())
        .set_readonly(Some(security.readonly_rootfs));
    let mut process = process::container(inputs, &security)?;
    process.set_apparmor_profile(profile);

    let mut spec = bare_spec();
    spec.set_root(Some(root))
        .set_process(Some(process))
        .set_mounts(Some(mounts::container(inputs, &security, &options)?))
        .set_annotations(Some(annotations::container(inputs, &security)?))
        .set_linux(Some(linux));
    Ok(spec)
}

/// A spec with nothing in it.
fn bare_spec() -> Spec {
    let mut spec = Spec::default();
    spec.set_version(VERSION.into())
        .set_root(None)
        .set_mounts(None)
        .set_process(None)
        .set_hostname(None)
        .set_domainname(None)
        .set_hooks(None)
        .set_annotations(None)
        .set_linux(None)
        .set_uid_mappings(None)
        .set_gid_mappings(None);
    spec
}

/// A Linux section with nothing in it.
fn bare_linux() -> Linux {
    let mut linux = Linux::default();
    linux
        .set_net_devices(None)
        .set_uid_mappings(None)
        .set_gid_mappings(None)
        .set_sysctl(None)
        .set_resources(None)
        .set_cgroups_path(None)
        .set_namespaces(None)
        .set_devices(None)
        .set_seccomp(None)
        .set_rootfs_propagation(None)
        .set_masked_paths(None)
        .set_readonly_paths(None)
        .set_mount_label(None)
        .set_intel_rdt(None)
        .set_memory_policy(None)
        .set_personality(None)
        .set_time_offsets(None);
    linux
}

#[cfg(test)]
mod tests;
