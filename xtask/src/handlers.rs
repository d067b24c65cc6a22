//! `cargo xtask handlers`: pods whose handler is containerd's own shim, as Debian has it, with runc and with crun.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::packages;

/// containerd's package brings the shim.
const PACKAGES: &[&str] = &["busybox", "containerd", "crun", "runc"];

/// The variable by which the runtime's tests are told in which OCI runtime their pods run.
const OCI_RUNTIME: &str = "HOVE_TEST_OCI_RUNTIME";

/// Where a hybrid machine's version 2 hierarchy lies, which its unbound controllers are on.
const UNIFIED: &str = "/sys/fs/cgroup/unified/cgroup.controllers";

/// The kernel moves a controller only while nobody has a cgroup below its old hierarchy's root.
const WITH_VERSION_1: &str = r#"
mount -t cgroup -o "$0" hove "$1" || {
    echo "crun's pods need $0 on version 1, which this kernel gives while no pods run elsewhere: end them and try again" >&2
    exit 1
}
shift
exec "$@"
"#;

/// What is asked for.
#[derive(Debug, clap::Args)]
pub struct Ask {
    /// Only with this OCI runtime
    #[arg(long)]
    oci_runtime: Option<String>,
    /// Arguments of the test program, such as the name of a test
    arguments: Vec<String>,
}

/// Runs the suite of the native handler's pods once for each OCI runtime, and the tests of the keeper itself.
pub fn run(root: &Path, ask: &Ask) -> Result<()> {
    packages::ensure_installed(PACKAGES)?;
    cargo(root, &["build", "-p", "hove-shim"], None)?;
    let both = ["runc".to_owned(), "crun".to_owned()];
    let chosen = ask.oci_runtime.as_ref().map_or(both.as_slice(), std::slice::from_ref);
    for oci_runtime in chosen {
        eprintln!("handler: containerd-shim-runc-v2 with {oci_runtime}");
        let mut arguments = vec!["test", "-p", "runtime", "--test", "pods", "--", "--include-ignored"];
        arguments.extend(ask.arguments.iter().map(String::as_str));
        cargo(root, &arguments, Some(oci_runtime))?;
    }
    Ok(())
}

fn cargo(root: &Path, arguments: &[&str], oci_runtime: Option<&str>) -> Result<()> {
    let unbound = std::fs::read_to_string(UNIFIED).unwrap_or_default();
    let unbound: Vec<&str> = unbound.split_whitespace().collect();
    let mut command = match oci_runtime {
        Some("crun") if !unbound.is_empty() => with_version_1(root, &unbound)?,
        _ => Command::new(env!("CARGO")),
    };
    let status = command
        .args(arguments)
        .envs(oci_runtime.map(|name| (OCI_RUNTIME, name)))
        .current_dir(root)
        .status()
        .context("cargo")?;
    ensure!(status.success(), "cargo {}: {status}", arguments.join(" "));
    Ok(())
}

/// crun refuses a hybrid machine that has a controller on version 2: those are mounted as version 1, in a mount namespace of
/// cargo's own, with which they go again.
fn with_version_1(root: &Path, controllers: &[&str]) -> Result<Command> {
    let directory = root.join("target/handlers");
    std::fs::create_dir_all(&directory)?;
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c"])
        .arg(WITH_VERSION_1)
        .arg(controllers.join(","))
        .arg(directory)
        .arg(env!("CARGO"));
    Ok(command)
}
