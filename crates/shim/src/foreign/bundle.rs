//! What another shim is given: an OCI bundle beside this crate's own files, since such shims keep files of theirs in it.
//!
//! ```text
//!  DIR/bundle/config.json    DIR/config.json in OCI's words alone
//!  DIR/bundle/rootfs/        where the shim mounts the container's root; pause's lies there as it is
//!  DIR/bundle/log            where the shim writes its log
//! ```

use std::fs::{self, DirBuilder};
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, Spec};
use rustix::mount::UnmountFlags;
use starter::RootfsMount;

use crate::failure::{self, Failure, Result};

/// Where the bundle of the sandbox, or of the container, whose directory is `dir` lies.
pub(super) fn of(dir: &Path) -> PathBuf {
    dir.join("bundle")
}

/// Makes the directories. One that a dead keeper has left goes first.
pub(super) fn make(dir: &Path) -> Result<PathBuf> {
    remove(dir)?;
    let bundle = of(dir);
    for path in [&bundle, &bundle.join("rootfs")] {
        let made = DirBuilder::new().mode(0o755).create(path);
        made.map_err(|e| failure::system(format_args!("mkdir({path:?})"), &e))?;
    }
    // containerd makes a FIFO of it, and reads. A file takes the same words and needs no reader that lives.
    write(&bundle.join("log"), b"", 0o600)?;
    Ok(bundle)
}

/// Writes the configuration.
pub(super) fn write_spec(bundle: &Path, spec: &Spec) -> Result<()> {
    let text = serde_json::to_vec(spec).map_err(|e| Failure::Invalid(format!("config.json: {e}")))?;
    write(&bundle.join("config.json"), &text, 0o600)
}

/// Takes the bundle away, and the root that a shim which has died has left mounted on it.
pub(crate) fn remove(dir: &Path) -> Result<()> {
    let bundle = of(dir);
    let root = bundle.join("rootfs");
    use rustix::io::Errno;
    loop {
        match rustix::mount::unmount(&root, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            // There may be one upon another.
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT) => break,
            Err(e) => return Err(sys::Error::new(format_args!("umount2({root:?}, MNT_DETACH)"), e).into()),
        }
    }
    match fs::remove_dir_all(&bundle) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(failure::system(format_args!("unlink({bundle:?})"), &e).into())
        }
        _ => Ok(()),
    }
}

/// Puts pause's root into a bundle: the program, and what an OCI runtime needs to start any program at all.
pub(super) fn fill_with_pause(bundle: &Path, spec: &mut Spec, pause: &[u8]) -> Result<()> {
    write(&bundle.join("rootfs/pause"), pause, 0o755)?;
    let mount = |kind: &str, target: &str, options: &[&str]| {
        let mut mount = Mount::default();
        mount
            .set_destination(target.into())
            .set_typ(Some(kind.into()))
            .set_source(Some(kind.into()))
            .set_options(Some(options.iter().map(|o| (*o).to_owned()).collect()));
        mount
    };
    spec.set_mounts(Some(vec![
        mount("proc", "/proc", &["nosuid", "noexec", "nodev"]),
        mount("tmpfs", "/dev", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
    ]));
    Ok(())
}

/// Opens the root directory that lies in a bundle, or that `rootfs` will mount there, to look into it.
pub(super) fn open_root(bundle: &Path, rootfs: &[RootfsMount]) -> Result<OwnedFd> {
    let root = bundle.join("rootfs");
    let Some(overlay) = rootfs.first() else {
        return open(&root);
    };
    let layers = layers(overlay).ok_or_else(|| {
        Failure::Unsupported(format!(
            "a root file system of type {:?}: the root of a container that another vendor's shim runs is an overlay",
            overlay.kind
        ))
    })?;
    let base = common(&layers);
    let below = |layer: &&Path| {
        layer
            .strip_prefix(&base)
            .unwrap_or(layer)
            .to_string_lossy()
            .into_owned()
    };
    let lower: Vec<String> = layers.iter().map(below).collect();
    sys::overlay::mount_read_only(&base, &lower, "hove", &root)?;
    let opened = open(&root);
    rustix::mount::unmount(&root, UnmountFlags::DETACH)
        .map_err(|e| sys::Error::new(format_args!("umount2({root:?}, MNT_DETACH)"), e))?;
    opened
}

/// The directories of an overlay, the topmost first.
fn layers(overlay: &RootfsMount) -> Option<Vec<&Path>> {
    let value = |name: &str| overlay.options.iter().find_map(|o| o.strip_prefix(name));
    let lower = value("lowerdir=")?.split(':');
    let all: Vec<&Path> = value("upperdir=").into_iter().chain(lower).map(Path::new).collect();
    (overlay.kind == "overlay" && all.len() > 1).then_some(all)
}

/// The deepest directory that all of them are in.
fn common(paths: &[&Path]) -> PathBuf {
    let mut ancestors = paths[0].ancestors().skip(1);
    let shared = ancestors.find(|dir| paths.iter().all(|path| path.starts_with(dir)));
    shared.unwrap_or(Path::new("/")).to_path_buf()
}

/// Namespaces that this process holds get names that every process understands.
pub(super) fn name_namespaces(spec: &mut Spec, pinned: &[(PathBuf, OwnedFd)]) {
    let namespaces = spec
        .linux_mut()
        .as_mut()
        .and_then(|linux| linux.namespaces_mut().as_mut());
    for namespace in namespaces.into_iter().flatten() {
        let held = pinned
            .iter()
            .find(|(path, _)| namespace.path().as_deref() == Some(path));
        if let Some((_, fd)) = held {
            let name = format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd());
            namespace.set_path(Some(name.into()));
        }
    }
}

fn open(path: &Path) -> Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(path, flags, Mode::empty());
    Ok(opened.map_err(|e| sys::Error::new(format_args!("open({path:?}, O_DIRECTORY)"), e))?)
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let written = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(bytes));
    Ok(written.map_err(|e| failure::system(format_args!("write({path:?})"), &e))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlays_directories_and_where_they_are() {
        let overlay = |options: &[&str]| RootfsMount {
            kind: "overlay".into(),
            source: "overlay".into(),
            target: String::new(),
            options: options.iter().map(|o| (*o).to_owned()).collect(),
        };
        let mount = overlay(&["lowerdir=/s/2/fs:/s/1/fs", "upperdir=/s/3/fs", "workdir=/s/3/work"]);
        let found = layers(&mount).unwrap();
        assert_eq!(found, ["/s/3/fs", "/s/2/fs", "/s/1/fs"].map(Path::new));
        assert_eq!(common(&found), Path::new("/s"));
        assert_eq!(layers(&overlay(&["lowerdir=/a"])), None);
    }
}
