//! Debian packages that a chore needs, installed when they are missing.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Installs those of `names` that dpkg does not know as installed.
pub fn ensure_installed(names: &[&str]) -> Result<()> {
    let missing: Vec<&str> = names.iter().copied().filter(|name| !installed(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("installing {}", missing.join(" "));
    apt(&["update", "-q"])?;
    apt(&[&["install", "-q", "-y", "--no-install-recommends"], missing.as_slice()].concat())
}

fn installed(name: &str) -> bool {
    Command::new("dpkg-query")
        .args(["-W", "-f=${db:Status-Status}", name])
        .stderr(Stdio::null())
        .output()
        .is_ok_and(|output| output.stdout == b"installed")
}

fn apt(args: &[&str]) -> Result<()> {
    let status = Command::new("apt-get")
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdout(Stdio::null())
        .status()
        .context("apt-get: Hove's tests and images are made from Debian packages")?;
    ensure!(
        status.success(),
        "apt-get {} failed ({status}); its own words are above",
        args.join(" ")
    );
    Ok(())
}
