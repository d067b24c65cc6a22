//! Debian's packages: downloaded by apt, which checks their signatures and hashes, and unpacked by tar.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::command;

/// The newest versions of `packages` that apt knows, in `folder`; what is there is not downloaded again. Where the
/// network is gone, versions downloaded earlier will do.
pub fn download(packages: &[String], folder: &Path) -> Result<Vec<PathBuf>> {
    if packages.is_empty() {
        return Ok(Vec::new());
    }
    fs::create_dir_all(folder)?;
    let files = match wanted(packages) {
        Ok(files) => files,
        // A fresh machine has no lists of packages.
        Err(_) => {
            command(Command::new("apt-get").args(["update", "-qq"]))?;
            wanted(packages)?
        }
    };
    let missing: Vec<_> = files
        .iter()
        .filter(|(_, file)| !folder.join(file).exists())
        .map(|(name, _)| name)
        .collect();
    if !missing.is_empty() {
        let fetch = || {
            // Its own user, _apt, may not write here.
            let options = ["-qq", "-o", "APT::Sandbox::User=root", "download"];
            command(Command::new("apt-get").args(options).args(&missing).current_dir(folder))
        };
        // Lists may be so old that the versions they name are gone.
        if fetch().is_err() {
            command(Command::new("apt-get").args(["update", "-qq"]))?;
            return download_known(packages, folder);
        }
    }
    Ok(files.values().map(|file| folder.join(file)).collect())
}

fn download_known(packages: &[String], folder: &Path) -> Result<Vec<PathBuf>> {
    let files = wanted(packages)?;
    let options = ["-qq", "-o", "APT::Sandbox::User=root", "download"];
    command(
        Command::new("apt-get")
            .args(options)
            .args(files.keys())
            .current_dir(folder),
    )?;
    Ok(files.values().map(|file| folder.join(file)).collect())
}

/// Package to file name, as apt would download it.
fn wanted(packages: &[String]) -> Result<BTreeMap<String, String>> {
    let text = command(
        Command::new("apt-get")
            .args(["download", "--print-uris"])
            .args(packages),
    )?;
    let mut files = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with('\'')) {
        // 'URL' NAME_VERSION_ARCHITECTURE.deb SIZE HASH
        let file = line
            .split(' ')
            .nth(1)
            .with_context(|| format!("apt-get printed {line:?}"))?;
        let name = file.split('_').next().unwrap_or(file);
        files.insert(name.to_string(), file.to_string());
    }
    let unknown: Vec<_> = packages
        .iter()
        .filter(|package| !files.contains_key(*package))
        .collect();
    ensure!(unknown.is_empty(), "apt knows no package {unknown:?}");
    Ok(files)
}

/// Unpacks a package's files below `rootfs`. Links like /bin → usr/bin stay, which is why dpkg-deb does not unpack: it
/// would put directories in their place.
pub fn extract(package: &Path, rootfs: &Path) -> Result<()> {
    let mut files = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdout(Stdio::piped())
        .spawn()?;
    let stream = files.stdout.take().context("dpkg-deb has a pipe for its output")?;
    let options = [
        "--extract",
        "--keep-directory-symlink",
        "--numeric-owner",
        "--preserve-permissions",
    ];
    command(
        Command::new("tar")
            .args(options)
            .arg("--directory")
            .arg(rootfs)
            .stdin(stream),
    )?;
    ensure!(files.wait()?.success(), "dpkg-deb could not read {}", package.display());
    Ok(())
}
