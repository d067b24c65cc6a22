//! How containerd starts a shim and cleans up after one: `hove-shim -namespace NS -id ID -address SOCKET
//! -publish-binary PROGRAM start`, run in the bundle, prints where the shim serves and ends; `… -bundle DIR delete` takes
//! away what a dead shim has left of a container, and prints a DeleteResponse.
//!
//! A pod has one shim: the containers of a sandbox (an annotation of containerd's CRI says which) get the address of the
//! sandbox's. The socket's name is made of what they have in common, and short: a bundle's path leaves no room in the 108
//! bytes of a socket's.
//!
//! The address is printed bare, which means version 2 of the Task API to every containerd since 1.6; the newer ones' JSON
//! would be an address to the older. Events are not published: an OOM kill is known from the exit record alone.

use std::ffi::OsStr;
use std::fs;
use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::args::Containerd;

/// Where the sockets are.
const SOCKETS: &str = "/run/hove-shim";

/// The annotation by which containerd's CRI says which sandbox a container belongs to.
const SANDBOX: &str = "io.kubernetes.cri.sandbox-id";

/// Starts a shim for the bundle in the working directory, unless its sandbox has one, and prints its address.
pub fn start(who: &Containerd) -> Result<()> {
    let bundle = std::env::current_dir().context("the bundle (the working directory)")?;
    let group = shim::remains::annotation(&bundle, SANDBOX)?.unwrap_or_else(|| who.id.clone());
    let socket = socket(who, &group);
    if UnixStream::connect(&socket).is_err() {
        if group != who.id {
            bail!(
                "container {}: the shim of its sandbox {group} does not answer on {}",
                who.id,
                socket.display()
            );
        }
        spawn(&group, &bundle, &socket)?;
    }
    print!("unix://{}", socket.display());
    std::io::stdout().flush().context("the address (standard output)")
}

fn spawn(id: &str, bundle: &Path, socket: &Path) -> Result<()> {
    let program = std::env::current_exe().context("/proc/self/exe")?;
    fs::create_dir_all(SOCKETS).context(SOCKETS)?;
    fs::set_permissions(SOCKETS, fs::Permissions::from_mode(0o700)).context(SOCKETS)?;
    remove(socket)?;
    let listener = UnixListener::bind(socket).with_context(|| format!("bind {}", socket.display()))?;
    let log = bundle.join("shim.log");
    let stderr = fs::File::create(&log).with_context(|| log.display().to_string())?;
    let number = listener.as_raw_fd().to_string();
    let spawned = sys::spawn::Detached {
        program: &program,
        args: &[
            OsStr::new("--id"),
            OsStr::new(id),
            OsStr::new("--dir"),
            bundle.as_os_str(),
            OsStr::new("--socket-fd"),
            OsStr::new(&number),
            OsStr::new("--remove-socket"),
            socket.as_os_str(),
        ],
        inherited: listener.as_fd(),
        stderr: OwnedFd::from(stderr),
        cgroup: None,
        cgroups: &[],
    }
    .spawn();
    if spawned.is_err() {
        remove(socket)?;
    }
    // Its parent is whoever adopts it: containerd is a subreaper, or init.
    spawned.map(drop).with_context(|| format!("sandbox {id}"))
}

/// Takes away what is left of a container, and prints how it ended.
pub fn delete(who: &Containerd, bundle: &Path) -> Result<()> {
    let response = shim::remains::remove(bundle)?;
    let socket = socket(who, &who.id);
    if UnixStream::connect(&socket).is_err() {
        remove(&socket)?;
    }
    std::io::stdout()
        .write_all(&response)
        .context("the answer (standard output)")
}

fn remove(socket: &Path) -> Result<()> {
    match fs::remove_file(socket) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e).with_context(|| socket.display().to_string()),
        _ => Ok(()),
    }
}

fn socket(who: &Containerd, group: &str) -> PathBuf {
    // FNV-1a: the same in every build, as the name must be found again by another one.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in [who.address.as_str(), who.namespace.as_str(), group] {
        for byte in part.bytes().chain([0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
    Path::new(SOCKETS).join(format!("{hash:016x}"))
}
