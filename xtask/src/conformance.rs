//! `cargo xtask conformance`: what others say that a CRI runtime must do, asked by their own clients.
//!
//! crictl and critest come from their Go module through the ordinary `go` client (tests/conformance/go.mod says which version),
//! the images that critest pulls from Debian packages; the tests are in tests/conformance.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{images, packages, test};

/// What the tests run beside Hove and the clients: ipcmk is util-linux's.
const PACKAGES: &[&str] = &[
    "busybox",
    "docker-registry",
    "gcc",
    "iproute2",
    "libc6-dev",
    "skopeo",
    "util-linux",
];

/// Builds all that is needed, and runs the tests that `arguments`, libtest's, choose.
pub fn run(root: &Path, arguments: &[String]) -> Result<()> {
    packages::ensure_installed(PACKAGES)?;
    clients(root)?;
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
        .args(arguments)
        .env("HOVE_BIN_DIR", test::release_dir(root))
        .current_dir(root)
        .status()
        .context("cargo test")?;
    ensure!(status.success(), "cargo test: {status}");
    Ok(())
}

/// Builds the clients into target/conformance, and what the wire contract is. Go knows when there is nothing to do.
fn clients(root: &Path) -> Result<()> {
    let output = root.join("target/conformance");
    std::fs::create_dir_all(&output)?;
    let place = |name: &str| output.join(name).into_os_string();
    let go = |arguments: &[OsString]| -> Result<()> {
        let status = Command::new("go")
            .args(arguments)
            .current_dir(root.join("tests/conformance"))
            .env("CGO_ENABLED", "0")
            .status()
            .context("go: the clients are built by Go 1.26 or newer, from PATH; see https://go.dev/dl")?;
        ensure!(status.success(), "go {arguments:?}: {status}");
        Ok(())
    };
    let crictl = "sigs.k8s.io/cri-tools/cmd/crictl";
    go(&["build".into(), "-o".into(), place("crictl"), crictl.into()])?;
    let ginkgo = "github.com/onsi/ginkgo/v2/ginkgo";
    go(&["build".into(), "-o".into(), place("ginkgo"), ginkgo.into()])?;
    // critest is a test program: its package has nothing else.
    let critest = "sigs.k8s.io/cri-tools/cmd/critest";
    go(&[
        "test".into(),
        "-c".into(),
        "-o".into(),
        place("critest"),
        critest.into(),
    ])?;
    go(&["run".into(), "./descriptor".into(), place("cri.descriptor")])
}
