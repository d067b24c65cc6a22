//! `cargo xtask conformance`: what others say that a CRI runtime must do, asked by their own clients.
//!
//! crictl, critest and kubelet come from their Go modules through the ordinary `go` client (tests/conformance/go.mod and
//! tests/conformance/kubelet/go.mod say which versions), the images that critest pulls from Debian packages; the tests are in
//! tests/conformance.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{images, packages, test};

/// What the tests run beside Hove and the clients: ipcmk is util-linux's.
const PACKAGES: &[&str] = &[
    "busybox",
    "curl",
    "docker-registry",
    "gcc",
    "iproute2",
    "iptables",
    "libc6-dev",
    "nftables",
    "skopeo",
    "util-linux",
];

/// What is asked for.
#[derive(Debug, clap::Args)]
pub struct Ask {
    /// Build kubelet, which takes minutes, and run it in the place of the other clients
    #[arg(long)]
    kubelet: bool,
    /// Arguments of the test program, such as the name of a test
    arguments: Vec<String>,
}

/// Builds all that is needed, and runs the tests.
pub fn run(root: &Path, ask: &Ask) -> Result<()> {
    packages::ensure_installed(PACKAGES)?;
    crictl(root)?;
    match ask.kubelet {
        true => kubelet(root)?,
        false => critest(root)?,
    }
    test::build(root)?;
    images::run(root)?;
    images::group(root, "critest")?;
    let status = Command::new(env!("CARGO"))
        // Of the whole workspace, as `cargo xtask test` does it: nothing is compiled a second time.
        .args([
            "test",
            "--workspace",
            "--test",
            "conformance",
            "--",
            "--ignored",
            "--nocapture",
        ])
        // Each has a daemon with 100 pods in a minute: beside each other they would measure the machine.
        .arg("--test-threads=1")
        .args(if ask.kubelet {
            ["kubelet::"].as_slice()
        } else {
            &["--skip", "kubelet::"]
        })
        .args(&ask.arguments)
        .env("HOVE_BIN_DIR", test::release_dir(root))
        .current_dir(root)
        .status()
        .context("cargo test")?;
    ensure!(status.success(), "cargo test: {status}");
    Ok(())
}

/// Where the versions of crictl and critest stand.
fn module(root: &Path) -> PathBuf {
    root.join("tests/conformance")
}

fn crictl(root: &Path) -> Result<()> {
    build(root, &module(root), "crictl", "sigs.k8s.io/cri-tools/cmd/crictl")
}

/// Builds critest, and what the wire contract is.
fn critest(root: &Path) -> Result<()> {
    let module = module(root);
    build(root, &module, "ginkgo", "github.com/onsi/ginkgo/v2/ginkgo")?;
    // critest is a test program: its package has nothing else.
    let critest = "sigs.k8s.io/cri-tools/cmd/critest";
    go(&module, &["test", "-c", "-o", &place(root, "critest")?, critest])?;
    go(&module, &["run", "./descriptor", &place(root, "cri.descriptor")?])
}

fn kubelet(root: &Path) -> Result<()> {
    let module = root.join("tests/conformance/kubelet");
    build(root, &module, "kubelet", "k8s.io/kubernetes/cmd/kubelet")
}

fn build(root: &Path, module: &Path, name: &str, package: &str) -> Result<()> {
    go(module, &["build", "-o", &place(root, name)?, package])
}

/// Where the tests look for a client.
fn place(root: &Path, name: &str) -> Result<String> {
    let folder = root.join("target/conformance");
    std::fs::create_dir_all(&folder)?;
    let path = folder.join(name).into_os_string().into_string();
    path.map_err(|path| anyhow::anyhow!("{} is not UTF-8", path.display()))
}

/// Go knows by itself when there is nothing to do.
fn go(module: &Path, arguments: &[&str]) -> Result<()> {
    let status = Command::new("go")
        .args(arguments)
        .current_dir(module)
        .env("CGO_ENABLED", "0")
        .status()
        .context("go: the clients are built by Go 1.26 or newer, from PATH; see https://go.dev/dl")?;
    ensure!(status.success(), "go {}: {status}", arguments.join(" "));
    Ok(())
}
