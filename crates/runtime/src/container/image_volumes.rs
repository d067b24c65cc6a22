//! Image volumes: mounts whose source is an image instead of a path of the host.
//!
//! Each is mounted in the container's directory, by the number of the mount in the configuration, when the container is
//! made, and bound from there like any other path when it starts. A snapshot of the store's keeps the image meanwhile. Both
//! are found again by the container's id and that number, so an undo needs to know no more than the record does.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use cri::v1::{ContainerConfig, Mount};
use image::{Image, Store};
use rustix::fs::{Mode, OFlags};

use crate::blocking::blocking;
use crate::disk::{make_dir, unmount};
use crate::error::{Error, Result};
use crate::id::ContainerId;
use crate::sandbox::Sandbox;

/// The word by which kubelet knows such a failure, at the message's beginning (cri-api/pkg/errors).
const FAILED: &str = "ImageVolumeMountFailed";

/// Images of mounts, by the mounts' numbers in the configuration.
pub(super) type Images = BTreeMap<usize, Arc<Image>>;

/// The images that are to be mounted: they are here, and what is asked for can be had.
pub(super) fn images(config: &ContainerConfig, store: &Store) -> Result<Images> {
    let mut images = Images::new();
    for (number, mount) in config.mounts.iter().enumerate() {
        if let Some(name) = image_name(mount) {
            let image = check(mount).and_then(|()| Ok(store.get(name)?));
            images.insert(number, image.map_err(|e| failed(number, e))?);
        }
    }
    Ok(images)
}

fn image_name(mount: &Mount) -> Option<&str> {
    let name = mount.image.as_ref()?.image.as_str();
    (!name.is_empty()).then_some(name)
}

fn check(mount: &Mount) -> Result<()> {
    let invalid = |message: String| Err(cri::Error::invalid(message).into());
    if !mount.readonly {
        return invalid("an image is mounted read-only: set readonly".into());
    }
    if !mount.host_path.is_empty() {
        return invalid(format!("host_path: {:?} is set besides an image", mount.host_path));
    }
    let sub_path = Path::new(&mount.image_sub_path);
    let is_below = sub_path
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !is_below || mount.image_sub_path.contains('\0') {
        return invalid(format!(
            "image_sub_path: {:?} is not a path below the image's root: leave out / at its beginning and ..",
            mount.image_sub_path
        ));
    }
    Ok(())
}

/// The error of the mount with this number.
fn failed(number: usize, error: Error) -> Error {
    let error = cri::Error::from(error);
    cri::Error::new(error.kind, format!("{FAILED}: mounts[{number}]: {}", error.message)).into()
}

impl Sandbox {
    /// Mounts a container's image volumes; where on the host each of them is.
    pub(super) async fn mount_images(&self, id: &ContainerId, images: Images) -> Result<BTreeMap<usize, PathBuf>> {
        let mut sources = BTreeMap::new();
        for (number, image) in images {
            let directory = self.dir().container(id).image_volume(number);
            let sub_path = self.container(id)?.record.config.mounts[number].image_sub_path.clone();
            let (store, key) = (self.node().images.clone(), snapshot(id, number));
            let mounted = blocking(move || {
                for made in directory.parent().into_iter().chain([directory.as_path()]) {
                    make_dir(made)?;
                }
                store.view(&key, &image.id, &directory)?;
                part(&directory, &sub_path)
            });
            sources.insert(number, mounted.await.map_err(|e| failed(number, e))?);
            sys::failpoint!("container.create.volume")?;
        }
        Ok(sources)
    }

    /// Takes away what [`Sandbox::mount_images`] has mounted, or was about to.
    pub(super) async fn unmount_images(&self, id: &ContainerId) -> Result<()> {
        let Some(container) = self.state.containers.get(id) else {
            return Ok(());
        };
        for &number in container.record.image_volumes.keys() {
            let directory = self.dir().container(id).image_volume(number);
            let (store, key) = (self.node().images.clone(), snapshot(id, number));
            blocking(move || {
                unmount(&directory)?;
                Ok::<_, Error>(store.remove_snapshot(&key)?)
            })
            .await?;
        }
        Ok(())
    }
}

/// The name of the snapshot that keeps an image volume.
fn snapshot(id: &ContainerId, number: usize) -> String {
    format!("{id}.{number}")
}

/// The container that a snapshot belongs to: its root's has its name, those of its image volumes begin with it.
pub(crate) fn owner_of_snapshot(key: &str) -> &str {
    key.split_once('.').map_or(key, |(container, _)| container)
}

/// Where the part `sub_path` of the image that is mounted at `root` is on the host. Links in it lead where they lead in the
/// image; nobody can change them, since nobody can write there.
fn part(root: &Path, sub_path: &str) -> Result<PathBuf> {
    if sub_path.is_empty() {
        return Ok(root.into());
    }
    let absent = |errno| {
        let why = std::io::Error::from(errno);
        cri::Error::new(
            cri::ErrorKind::FailedPrecondition,
            format!("image_sub_path: the image has no {sub_path:?}: {why}"),
        )
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(root, flags, Mode::empty()).map_err(Error::call(format_args!("open({root:?})")))?;
    let path = CString::new(sub_path).expect("checked before");
    let part = sys::resolve::open_in_root(opened.as_fd(), &path, OFlags::PATH).map_err(absent)?;
    let link = PathBuf::from(format!("/proc/self/fd/{}", part.as_raw_fd()));
    std::fs::read_link(&link).map_err(Error::file("read", &link))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_found_inside_its_root() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::os::unix::fs::symlink("/a", root.join("link")).unwrap();
        assert_eq!(part(&root, "").unwrap(), root);
        assert_eq!(part(&root, "a/./b").unwrap(), root.join("a/b"));
        assert_eq!(
            part(&root, "link/b").unwrap(),
            root.join("a/b"),
            "a link leads to the root's own /a"
        );
        let error = part(&root, "a/c").unwrap_err().to_string();
        assert!(error.contains("has no \"a/c\""), "{error}");
    }

    #[test]
    fn snapshots_belong_to_containers() {
        let id = ContainerId::from("0123abcd");
        assert_eq!(owner_of_snapshot(&snapshot(&id, 2)), "0123abcd");
        assert_eq!(owner_of_snapshot("0123abcd"), "0123abcd");
    }
}
