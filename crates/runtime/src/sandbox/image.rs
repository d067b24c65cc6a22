//! The sandbox's image, where the node's configuration names one: its program is the sandbox's first process then, in a root
//! that is read-only and the image's, instead of the pause that is a part of the supervisor.

use std::sync::Arc;

use image::{Image, Reference};
use tracing::info;

use super::owner::Sandbox;
use crate::blocking::blocking;
use crate::disk::{make_dir, write_json};
use crate::error::{Error, Result};
use crate::{root, spec};
use shim_api::RootMount;

impl Sandbox {
    /// Makes the snapshot on which the first process will stand; it keeps the image until the sandbox is removed. The image is
    /// pulled if it is not here.
    pub(super) async fn hold_image(&mut self) -> Result<()> {
        let Some(name) = self.node.config.sandbox_image.clone() else {
            return Ok(());
        };
        let image = self.find_image(&name).await.map_err(|e| unavailable(&name, e))?;
        self.state.record.image = Some(image.id.to_string());
        self.save()?;
        let (images, key) = (self.node.images.clone(), self.state.record.id.clone());
        blocking(move || images.prepare(key.as_str(), &image.id))
            .await
            .map_err(|e| unavailable(&name, e.into()))?;
        Ok(())
    }

    async fn find_image(&self, name: &str) -> Result<Arc<Image>> {
        let (images, owned) = (self.node.images.clone(), name.to_owned());
        match blocking(move || images.get(&owned)).await {
            Err(image::Error::NotFound { .. }) => {}
            found => return Ok(found?),
        }
        let reference: Reference = name.parse().map_err(image::Error::from)?;
        if reference.is_local() {
            return Err(image::Error::NotFound { name: name.into() }.into());
        }
        info!(image = name, "the sandbox image is not here: it is pulled");
        let pulled = self.node.registries.pull(&reference, None, |_| {}).await;
        Ok(pulled?)
    }

    /// Writes down for the supervisor what the first process stands on, if that is an image.
    pub(super) async fn write_root(&self) -> Result<()> {
        if self.state.record.image.is_none() {
            return Ok(());
        }
        let (images, key) = (self.node.images.clone(), self.state.record.id.clone());
        let overlay = blocking(move || images.overlay(key.as_str())).await?;
        let maps = spec::user_maps(&self.state.record.config)?;
        make_dir(&self.dir.rootfs())?;
        write_json(
            &RootMount::of_sandbox(self.dir.path()),
            &root::mount(&overlay, maps.as_ref()),
        )
    }

    /// What the image says of its program.
    pub(super) async fn image_config(&self) -> Result<Option<Arc<Image>>> {
        let Some(id) = self.state.record.image.clone() else {
            return Ok(None);
        };
        let images = self.node.images.clone();
        Ok(Some(blocking(move || images.get(&id)).await?))
    }

    /// Takes away what [`Sandbox::hold_image`] has made, or was about to.
    pub(super) async fn release_image(&self) -> Result<()> {
        let (images, key) = (self.node.images.clone(), self.state.record.id.clone());
        Ok(blocking(move || images.remove_snapshot(key.as_str())).await?)
    }
}

/// Without it no pod starts, and who asked for the pod has not named it.
fn unavailable(name: &str, error: Error) -> Error {
    let error = cri::Error::from(error);
    let message = format!(
        "the sandbox image {name:?} can't be had ({}): import or pull it, name another as [sandbox] image in the node's \
         configuration, or leave that out, since Hove has a pause of its own",
        error.message
    );
    cri::Error::new(error.kind, message).into()
}
