//! `process`: what runs, as whom, with which environment.

use std::path::PathBuf;

use cri::v1::{ContainerConfig, LinuxContainerSecurityContext};
use oci_spec::image::{Config as ImageConfig, ImageConfiguration};
use oci_spec::runtime::Process;

use super::{ContainerInputs, Result, capabilities, error::invalid, user};

/// Where commands are looked for when neither the image nor the configuration says so; what container images expect.
pub(super) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A container's first process.
pub(super) fn container(inputs: &ContainerInputs<'_>, security: &LinuxContainerSecurityContext) -> Result<Process> {
    let config = inputs.config;
    let resources = config.linux.as_ref().and_then(|l| l.resources.as_ref());

    let mut process = bare();
    program(&mut process, config, inputs.image, inputs.hostname)?;
    process
        .set_terminal(Some(config.tty))
        .set_user(user::user(security)?)
        .set_capabilities(Some(capabilities::container(security, &inputs.facts.capabilities)?))
        .set_no_new_privileges(Some(security.no_new_privs))
        .set_oom_score_adj(resources.map(|r| clamp(r.oom_score_adj)));
    Ok(process)
}

/// The program: its arguments, environment and working directory.
pub(super) fn program(
    process: &mut Process,
    config: &ContainerConfig,
    image: &ImageConfiguration,
    hostname: &str,
) -> Result<()> {
    let no_image_config = ImageConfig::default();
    let image = image.config().as_ref().unwrap_or(&no_image_config);
    process
        .set_args(Some(args(config, image)?))
        .set_env(Some(env(config, image, hostname)?))
        .set_cwd(cwd(config, image)?);
    Ok(())
}

/// A further process in a container: as its first one, with another command and terminal.
pub fn exec(first: &Process, command: &[String], terminal: bool) -> Process {
    let mut process = first.clone();
    process
        .set_args(Some(command.to_vec()))
        .set_terminal(Some(terminal))
        .set_console_size(None);
    if terminal {
        let mut env = process.env().clone().unwrap_or_default();
        if !env.iter().any(|e| e.starts_with("TERM=")) {
            env.push("TERM=xterm".into());
        }
        process.set_env(Some(env));
    }
    process
}

/// A process with nothing in it.
pub(super) fn bare() -> Process {
    let mut process = Process::default();
    process
        .set_terminal(None)
        .set_args(None)
        .set_env(None)
        .set_cwd("/".into())
        .set_capabilities(None)
        .set_rlimits(None)
        .set_no_new_privileges(None)
        .set_apparmor_profile(None)
        .set_oom_score_adj(None)
        .set_selinux_label(None)
        .set_io_priority(None)
        .set_scheduler(None);
    process
}

/// The CRI's `command` stands for the image's entrypoint, its `args` for the image's command. A `command` without
/// `args` drops the image's command too, since that was meant for another program.
fn args(config: &ContainerConfig, image: &ImageConfig) -> Result<Vec<String>> {
    let image_entrypoint = || image.entrypoint().clone().unwrap_or_default();
    let image_cmd = || image.cmd().clone().unwrap_or_default();
    let mut args = match (config.command.is_empty(), config.args.is_empty()) {
        (true, true) => [image_entrypoint(), image_cmd()].concat(),
        (true, false) => [image_entrypoint(), config.args.clone()].concat(),
        (false, _) => [config.command.clone(), config.args.clone()].concat(),
    };
    if args.iter().all(String::is_empty) {
        args.clear();
    }
    if args.is_empty() {
        return Err(invalid(
            "command",
            "no command: the image has neither entrypoint nor command, so the container must say one",
        ));
    }
    Ok(args)
}

/// The image's environment, overridden name by name by the container's; a `PATH` and the host name always.
fn env(config: &ContainerConfig, image: &ImageConfig, hostname: &str) -> Result<Vec<String>> {
    let mut env = Environment::default();
    env.set("PATH", DEFAULT_PATH);
    env.set("HOSTNAME", hostname);
    if config.tty {
        env.set("TERM", "xterm");
    }
    for entry in image.env().iter().flatten() {
        let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
        env.set(name, value);
    }
    for entry in &config.envs {
        if entry.key.is_empty() || entry.key.contains(['=', '\0']) {
            return Err(invalid(
                "envs",
                format_args!("{:?} is no name for an environment variable", entry.key),
            ));
        }
        let value = String::from_utf8(entry.value.clone())
            .map_err(|_| invalid("envs", format_args!("the value of {} is not UTF-8", entry.key)))?;
        if value.contains('\0') {
            return Err(invalid(
                "envs",
                format_args!("the value of {} contains a NUL byte", entry.key),
            ));
        }
        env.set(&entry.key, &value);
    }
    Ok(env.into_vec())
}

/// Variables in the order in which they were first set.
#[derive(Default)]
struct Environment(Vec<(String, String)>);

impl Environment {
    fn set(&mut self, name: &str, value: &str) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some(entry) => entry.1 = value.into(),
            None => self.0.push((name.into(), value.into())),
        }
    }

    fn into_vec(self) -> Vec<String> {
        self.0
            .into_iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect()
    }
}

fn cwd(config: &ContainerConfig, image: &ImageConfig) -> Result<PathBuf> {
    let of_image = image.working_dir().as_deref().unwrap_or_default();
    let dir = [config.working_dir.as_str(), of_image]
        .into_iter()
        .find(|d| !d.is_empty())
        .unwrap_or("/");
    if !dir.starts_with('/') {
        return Err(invalid("working_dir", format_args!("{dir:?} is not an absolute path")));
    }
    Ok(dir.into())
}

/// The kernel takes -1000 to 1000.
fn clamp(oom_score_adj: i64) -> i32 {
    oom_score_adj.clamp(-1000, 1000) as i32
}
