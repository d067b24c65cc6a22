//! The guest's kernel and root, from Debian's packages. Made once and kept below target/vm:
//!
//! ```text
//! target/vm/
//!   packages/          the kernel's and busybox's .deb
//!   vmlinuz            the kernel
//!   initrd.d/          the disks' drivers, and the guest's first scripts
//!   root.ext4          Debian, minbase, with the kernel's modules: never written to (qemu drops what a guest writes)
//!   made-from          what these were made from; another recipe makes them again
//!   run-*/             of one run: the initrd, made from initrd.d; the second disk, with what is tested; console.log, what
//!                      the guest's kernel said
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::images::{command, debian};
use crate::packages;

/// What the host needs.
const HOST_PACKAGES: &[&str] = &["busybox", "debootstrap", "e2fsprogs", "qemu-system-x86"];
/// What the guest's Debian has beside its essentials.
const GUEST_PACKAGES: &str = "apparmor,busybox,iproute2,kmod,procps";
const SUITE: &str = "bookworm";
/// Depends on the newest kernel there is.
const KERNEL: &str = "linux-image-cloud-amd64";
/// The drivers of a disk, in the order in which they build on each other.
const DISK_DRIVERS: &[&str] = &[
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
];
/// Room on the root for what tests write, on top of what is there.
const SPARE: u64 = 2 << 30;

const FIRST: &str = include_str!("../../vm/first.sh");
const SECOND: &str = include_str!("../../vm/second.sh");

/// A kernel and a root to boot.
#[derive(Debug)]
pub struct System {
    pub kernel: PathBuf,
    pub initrd: PathBuf,
    pub root: PathBuf,
}

/// The system in `folder`, made if it is not there yet or was made by another recipe; what is of this run alone, in `run`.
pub fn ensure_made(folder: &Path, run: &Path) -> Result<System> {
    packages::ensure_installed(HOST_PACKAGES)?;
    let system = System {
        kernel: folder.join("vmlinuz"),
        initrd: run.join("initrd"),
        root: folder.join("root.ext4"),
    };
    let stamp = folder.join("made-from");
    let recipe = format!("{SUITE} {GUEST_PACKAGES} {KERNEL} {DISK_DRIVERS:?} {SPARE}");
    let tree = folder.join("initrd.d");
    if !fs::read_to_string(&stamp).is_ok_and(|made_from| made_from == recipe) {
        println!("making the guest's Debian (kept below {})", folder.display());
        fs::create_dir_all(folder)?;
        let scratch = tempfile::Builder::new().prefix("making-").tempdir_in(folder)?;
        let unpacked = unpack_kernel(folder, scratch.path())?;
        let version = only_entry(&unpacked.join("lib/modules"))?;
        fs::copy(unpacked.join(format!("boot/vmlinuz-{version}")), &system.kernel)?;
        collect_drivers(&unpacked, &version, &tree)?;
        make_root(&unpacked, &version, scratch.path(), &system.root)?;
        fs::write(stamp, recipe)?;
    }
    write_program(&tree.join("init"), FIRST)?;
    write_program(&tree.join("second"), SECOND)?;
    make_initrd(&tree, &system.initrd)?;
    Ok(system)
}

/// The kernel's and busybox's packages, unpacked into one tree.
fn unpack_kernel(folder: &Path, scratch: &Path) -> Result<PathBuf> {
    let depends = || command(Command::new("apt-cache").args(["depends", "--important", KERNEL]));
    let kernel_of = |text: String| {
        text.lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "))
            .find(|name| name.starts_with("linux-image-"))
            .map(str::to_owned)
    };
    let kernel = match kernel_of(depends().unwrap_or_default()) {
        Some(kernel) => kernel,
        // A fresh machine has no lists of packages.
        None => {
            command(Command::new("apt-get").args(["update", "-qq"]))?;
            kernel_of(depends()?).with_context(|| format!("apt knows no kernel that {KERNEL} depends on"))?
        }
    };
    let unpacked = scratch.join("kernel");
    fs::create_dir(&unpacked)?;
    for package in debian::download(&[kernel, "busybox-static".to_owned()], &folder.join("packages"))? {
        debian::extract(&package, &unpacked)?;
    }
    Ok(unpacked)
}

/// busybox and the drivers.
fn collect_drivers(unpacked: &Path, version: &str, tree: &Path) -> Result<()> {
    for directory in ["bin", "drivers", "dev", "root"] {
        fs::create_dir_all(tree.join(directory))?;
    }
    fs::copy(unpacked.join("bin/busybox"), tree.join("bin/busybox"))?;
    let modules = unpacked.join("lib/modules").join(version).join("kernel/drivers");
    for (number, driver) in DISK_DRIVERS.iter().enumerate() {
        let file = format!("{driver}.ko");
        let from = ["virtio", "block"]
            .iter()
            .map(|kind| modules.join(kind).join(&file))
            .find(|path| path.exists())
            .with_context(|| format!("{KERNEL} {version} has no {file}"))?;
        fs::copy(from, tree.join(format!("drivers/{number}-{file}")))?;
    }
    Ok(())
}

/// What is below `tree`, as the kernel wants it.
fn make_initrd(tree: &Path, initrd: &Path) -> Result<()> {
    let archive = "find . | busybox cpio -o -H newc";
    let output = Command::new("sh").args(["-c", archive]).current_dir(tree).output()?;
    ensure!(
        output.status.success(),
        "{archive}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    fs::write(initrd, output.stdout)?;
    Ok(())
}

/// Debian with the kernel's modules, as a file system in a file.
fn make_root(unpacked: &Path, version: &str, scratch: &Path, image: &Path) -> Result<()> {
    let root = scratch.join("root");
    let include = format!("--include={GUEST_PACKAGES}");
    // debootstrap leaves /proc mounted in there: in a mount namespace that goes with it.
    command(
        Command::new("unshare")
            .args([
                "--mount",
                "--propagation",
                "private",
                "debootstrap",
                "--variant=minbase",
            ])
            .args([&include, SUITE])
            .arg(&root),
    )?;
    // Their archives are of no use in there.
    command(Command::new("chroot").arg(&root).args(["apt-get", "clean"]))?;
    let modules = root.join("lib/modules");
    fs::create_dir_all(&modules)?;
    fs::rename(unpacked.join("lib/modules").join(version), modules.join(version))?;
    command(Command::new("chroot").arg(&root).args(["depmod", "-a", version]))?;
    fs::create_dir_all(root.join("disk"))?;
    make_file_system(&root, SPARE, image)
}

/// `image` becomes an ext4 with what is below `tree`, and `spare` bytes of room. (The file is sparse.)
pub fn make_file_system(tree: &Path, spare: u64, image: &Path) -> Result<()> {
    let used = command(Command::new("du").args(["-s", "--block-size=1"]).arg(tree))?;
    let used: u64 = used
        .split_whitespace()
        .next()
        .and_then(|n| n.parse().ok())
        .with_context(|| format!("du printed {used:?}"))?;
    // A tenth more, for what the file system keeps for itself.
    let size = used + used / 10 + spare;
    match fs::remove_file(image) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e).context(image.display().to_string()),
        _ => {}
    }
    fs::File::create(image)?.set_len(size)?;
    command(
        Command::new("mkfs.ext4")
            .args(["-q", "-F", "-m", "0", "-E", "root_owner=0:0", "-d"])
            .arg(tree)
            .arg(image),
    )?;
    Ok(())
}

fn write_program(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn only_entry(folder: &Path) -> Result<String> {
    let names: Vec<String> = fs::read_dir(folder)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    match <[String; 1]>::try_from(names) {
        Ok([name]) => Ok(name),
        Err(names) => anyhow::bail!("{}: one entry was expected, not {names:?}", folder.display()),
    }
}
