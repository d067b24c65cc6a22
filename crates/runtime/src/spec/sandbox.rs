//! The spec of a sandbox: pause, which needs nothing but the namespaces that it holds for the others; or an image's program in
//! its place.

use std::path::Path;

use cri::v1::{ContainerConfig, LinuxContainerSecurityContext, NamespaceMode, PodSandboxConfig};
use oci_spec::image::ImageConfiguration;
use oci_spec::runtime::{LinuxCpu, LinuxResources, Process, Root, Spec, User};

use super::{
    Result, SecurityModules, annotations, bare_linux, bare_spec, capabilities, confinement, error::invalid, mounts,
    namespaces, paths, process, seccomp, sysctls, userns,
};

/// Pause runs as a user that no image and no host knows.
const PAUSE_USER: u32 = 65535;

/// Below every container (0 and up) and above what the kernel never kills (-1000): pause dies last, because with it the
/// pod's shared PID namespace dies.
const PAUSE_OOM_SCORE_ADJ: i32 = -998;

/// What a sandbox's spec is derived from.
pub struct SandboxInputs<'a> {
    /// The sandbox's id.
    pub id: &'a str,
    /// Its configuration.
    pub config: &'a PodSandboxConfig,
    /// That of the image whose program is the first process; `None`: the supervisor's own pause.
    pub image: Option<&'a ImageConfiguration>,
    /// Where its network namespace is bound; `None` on the host's network.
    pub netns: Option<&'a Path>,
    /// Where its user namespace is bound; `None` in the host's.
    pub userns: Option<&'a Path>,
    /// The pod's host name.
    pub hostname: &'a str,
    /// The pod's cgroup, absolute.
    pub cgroup_parent: &'a str,
    /// Which security modules the host's kernel enforces.
    pub security_modules: SecurityModules,
}

/// The spec of a sandbox.
pub fn sandbox(inputs: &SandboxInputs<'_>) -> Result<Spec> {
    let options = namespaces::of_sandbox(inputs.config);
    let configured = inputs.config.linux.clone().unwrap_or_default();
    let own_ipc = options.ipc != NamespaceMode::Node as i32;
    let own_network = inputs.netns.is_some();

    let maps = userns::user_maps(inputs.config)?;
    let last_gid = maps.map(|m| m.last_gid());

    let mut linux = bare_linux();
    linux
        .set_namespaces(Some(namespaces::sandbox(
            &options,
            inputs.netns.map(Into::into),
            inputs.userns.map(Into::into),
        )))
        .set_sysctl(Some(sysctls::sandbox(
            &configured.sysctls,
            own_network,
            own_ipc,
            last_gid,
        )?))
        .set_resources(Some(resources()))
        .set_cgroups_path(Some(Path::new(inputs.cgroup_parent).join(inputs.id)));

    let security = configured.security_context.unwrap_or_default();
    let profile = confinement::sandbox(&security, inputs.security_modules)?;
    if let Some(maps) = &maps {
        let [uids, gids] = maps.mappings();
        linux.set_uid_mappings(Some(uids)).set_gid_mappings(Some(gids));
    }
    let mut annotations = annotations::of_pod("sandbox", inputs.id, inputs.config);
    let (mut process, mounts) = match inputs.image {
        None => (pause(maps.as_ref()), Vec::new()),
        Some(image) => {
            let nothing = LinuxContainerSecurityContext::default();
            annotations::mark_user(&mut annotations, &nothing, image)?;
            linux
                .set_masked_paths(paths::masked(&nothing))
                .set_readonly_paths(paths::readonly(&nothing));
            (program(image, inputs.hostname)?, mounts::sandbox())
        }
    };
    process.set_apparmor_profile(profile);
    #[allow(deprecated)]
    let profile = seccomp::profile(security.seccomp.as_ref(), &security.seccomp_profile_path)?;
    annotations::mark_seccomp(&mut annotations, &profile);

    let mut root = Root::default();
    root.set_path("rootfs".into()).set_readonly(Some(true));

    let mut spec = bare_spec();
    spec.set_root(Some(root))
        .set_process(Some(process))
        .set_mounts(Some(mounts))
        .set_annotations(Some(annotations))
        .set_hostname(own_network.then(|| inputs.hostname.to_owned()))
        .set_linux(Some(linux));
    Ok(spec)
}

/// In a small user namespace there may be no such user as pause's.
fn pause(maps: Option<&userns::UserMaps>) -> Process {
    let mut user = User::default();
    user.set_uid(maps.map_or(PAUSE_USER, |m| m.last_uid().min(PAUSE_USER)))
        .set_gid(maps.map_or(PAUSE_USER, |m| m.last_gid().min(PAUSE_USER)));
    let mut process = unprivileged();
    process
        .set_args(Some(vec!["/pause".into()]))
        .set_env(Some(vec![format!("PATH={}", process::DEFAULT_PATH)]))
        .set_user(user);
    process
}

/// An image's program, as the image has it, and with no more rights than pause.
fn program(image: &ImageConfiguration, hostname: &str) -> Result<Process> {
    let config = image.config().as_ref();
    let says = |words: Option<&Vec<String>>| words.is_some_and(|words| words.iter().any(|word| !word.is_empty()));
    if !says(config.and_then(|c| c.entrypoint().as_ref())) && !says(config.and_then(|c| c.cmd().as_ref())) {
        return Err(invalid(
            "[sandbox] image",
            "the image has neither entrypoint nor command, so nothing can be started in pause's place",
        ));
    }
    let of_image = ContainerConfig::default();
    let mut process = unprivileged();
    process::program(&mut process, &of_image, image, hostname)?;
    Ok(process)
}

fn unprivileged() -> Process {
    let mut process = process::bare();
    process
        .set_capabilities(Some(capabilities::none()))
        .set_no_new_privileges(Some(true))
        .set_oom_score_adj(Some(PAUSE_OOM_SCORE_ADJ));
    process
}

/// The least share of the processor that there is: pause sleeps.
fn resources() -> LinuxResources {
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(Some(2));
    let mut resources = LinuxResources::default();
    resources.set_cpu(Some(cpu));
    resources
}
