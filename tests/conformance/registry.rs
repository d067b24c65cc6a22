//! Debian's docker-registry in the place of those on the internet.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use end_to_end::{Host, Instance, binaries};

/// Each test's host has a loopback device of its own: the port is free.
const ADDRESS: &str = "127.0.0.1:5000";
/// The registry listens by then.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Whose names it serves.
const MIRRORED: [&str; 3] = ["registry.k8s.io", "k8s.gcr.io", "gcr.io"];

/// What critest pulls: the name without its registry, and the image below target/images.
const IMAGES: [(&str, &str); 20] = [
    ("e2e-test-images/busybox:1.29-2", "critest/busybox"),
    ("e2e-test-images/nginx:1.14-2", "nginx"),
    ("e2e-test-images/httpd:2.4.39-4", "critest/httpd"),
    ("e2e-test-images/nonewprivs:1.3", "critest/nonewprivs"),
    ("k8s-staging-cri-tools/hostnet-nginx-amd64", "critest/hostnet-nginx"),
    ("k8s-staging-cri-tools/test-image-latest", "critest/test-1"),
    ("k8s-staging-cri-tools/test-image-tag:test", "critest/test-1"),
    ("k8s-staging-cri-tools/test-image-tag:all", "critest/test-2"),
    ("k8s-staging-cri-tools/test-image-1", "critest/test-1"),
    ("k8s-staging-cri-tools/test-image-2", "critest/test-2"),
    ("k8s-staging-cri-tools/test-image-3", "critest/test-3"),
    ("k8s-staging-cri-tools/test-image-tags:1", "critest/test-1"),
    ("k8s-staging-cri-tools/test-image-tags:2", "critest/test-1"),
    ("k8s-staging-cri-tools/test-image-tags:3", "critest/test-1"),
    ("k8s-staging-cri-tools/test-image-user-uid", "critest/user-uid"),
    (
        "k8s-staging-cri-tools/test-image-user-username",
        "critest/user-username",
    ),
    (
        "k8s-staging-cri-tools/test-image-user-uid-group",
        "critest/user-uid-group",
    ),
    (
        "k8s-staging-cri-tools/test-image-user-username-group",
        "critest/user-username-group",
    ),
    (
        "k8s-staging-cri-tools/test-image-predefined-group",
        "critest/predefined-group",
    ),
    ("pause:3.9", PAUSE),
];
/// The one that `hove pause-image` writes.
const PAUSE: &str = "pause";

/// A registry that ends with the test.
pub struct Registry {
    process: Child,
}

impl Registry {
    /// Starts one on the host, with all images in it, and makes it the mirror of the registries that the clients mean: returns
    /// the lines of a node's configuration that say so.
    pub fn start(host: &Host, node: &Instance) -> Result<(Registry, String)> {
        let directory = host.directory().join("registry");
        fs::create_dir(&directory)?;
        let config = directory.join("config.yml");
        fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{ADDRESS}'}}\n",
                directory.join("storage").display()
            ),
        )?;
        let process = Command::new("/usr/bin/docker-registry")
            .args(["serve".as_ref(), config.as_os_str()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("docker-registry")?;
        let registry = Registry { process };
        let deadline = Instant::now() + START_TIMEOUT;
        while TcpStream::connect(ADDRESS).is_err() {
            ensure!(
                Instant::now() < deadline,
                "docker-registry does not listen on {ADDRESS}"
            );
            // It has no way to tell.
            std::thread::sleep(Duration::from_millis(20));
        }

        let pause = directory.join("pause.tar");
        node.output(["pause-image".as_ref(), "--output".as_ref(), pause.as_os_str()])?;
        for (name, image) in IMAGES {
            match image {
                PAUSE => push(&pause, name)?,
                image => push(&binaries::image(image).map_err(anyhow::Error::msg)?, name)?,
            }
        }
        let hosts = directory.join("certs.d");
        for mirrored in MIRRORED {
            fs::create_dir_all(hosts.join(mirrored))?;
            fs::write(
                hosts.join(mirrored).join("hosts.toml"),
                format!("server = \"http://{ADDRESS}\"\n"),
            )?;
        }
        Ok((registry, format!("[registries]\nhosts_dirs = [{:?}]\n", hosts)))
    }
}

fn push(archive: &Path, name: &str) -> Result<()> {
    let pushed = Command::new("/usr/bin/skopeo")
        .args(["copy", "--quiet", "--dest-tls-verify=false", "--insecure-policy"])
        .arg(format!("docker-archive:{}", archive.display()))
        .arg(format!("docker://{ADDRESS}/{name}"))
        .output()
        .context("skopeo")?;
    ensure!(
        pushed.status.success(),
        "{name}: {}",
        String::from_utf8_lossy(&pushed.stderr)
    );
    Ok(())
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
