//! What may go: content, layers and images that nothing stands on.
//!
//! ```text
//!  container, mount ─► image, layers      (a snapshot's record)
//!  name ─► image ─► content, layers       (the catalogue)
//!  pull, import, push, export ─► content, layers     (a lease)
//! ```
//! What no arrow leads to is garbage. An image is removed when it is told to be; by [`Store::prune`]; or, oldest first, when
//! images would take more than the store's quota. Neither of the last two takes an image that is pinned.

use std::collections::HashSet;

use super::{State, Store};
use crate::catalogue::Change;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::model::Image;
use crate::reference::Reference;
use crate::room;

/// What [`Store::collect`] gave back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Blobs removed.
    pub blobs: u64,
    /// Unpacked layers removed.
    pub layers: u64,
    /// Bytes of both.
    pub bytes: u64,
}

impl Store {
    /// Never collects images of these names: references, or with a star at their end all that begin so.
    pub fn pin(&self, names: &[String]) {
        let whole = |name: &String| match name.parse::<Reference>() {
            // An image is known by its tags and by its digests, one by one.
            Ok(reference) => match reference.digest() {
                Some(digest) => reference.with_digest(digest),
                None => reference.to_string(),
            },
            Err(_) => name.clone(),
        };
        self.state().pinned = names.iter().map(whole).collect();
    }

    /// Whether the image is pinned.
    pub fn is_pinned(&self, image: &Image) -> bool {
        self.state().is_pinned(&image.id)
    }

    /// Images that no name leads to, or with `named` all of them, are removed where nothing uses or pins them; then garbage
    /// is collected.
    pub fn prune(&self, named: bool) -> Result<(Vec<Digest>, Collected)> {
        let pruned = {
            let mut state = self.state();
            let unused: Vec<_> = state
                .images
                .values()
                .filter(|image| named || image.tags.is_empty() && image.digests.is_empty())
                .map(|image| image.id)
                .filter(|id| !state.is_used(id) && !state.is_pinned(id))
                .collect();
            self.forget(&mut state, &unused)?;
            unused
        };
        Ok((pruned, self.collect()?))
    }

    /// Images are no images any more; what they stand on is garbage now.
    fn forget(&self, state: &mut State, images: &[Digest]) -> Result<()> {
        self.catalogue.commit(&Change {
            images: images.iter().map(|id| (*id, None)).collect(),
            chains: Vec::new(),
        })?;
        images.iter().for_each(|id| state.forget(id));
        Ok(())
    }

    /// Removes content and layers that no image, container or import needs.
    pub fn collect(&self) -> Result<Collected> {
        let mut collected = Collected::default();
        let mut state = self.state();
        let (content, chains, numbers) = state.needed();
        for (digest, bytes) in self.content.list()? {
            if !content.contains(&digest) {
                self.content.remove(&digest)?;
                collected.blobs += 1;
                collected.bytes += bytes;
            }
        }
        for (digest, bytes) in self.content.partials()? {
            if !content.contains(&digest) {
                self.content.remove_partial(&digest)?;
                collected.bytes += bytes;
            }
        }
        let garbage: Vec<_> = state
            .chains
            .iter()
            .filter(|(chain, record)| !chains.contains(chain) && !numbers.contains(&record.number))
            .map(|(chain, record)| (*chain, record.clone()))
            .collect();
        let orphans = state.orphans.iter().copied();
        let orphans: Vec<u64> = orphans.filter(|number| !numbers.contains(number)).collect();
        if garbage.is_empty() && orphans.is_empty() {
            return Ok(collected);
        }
        self.catalogue.commit(&Change {
            images: Vec::new(),
            chains: garbage.iter().map(|(chain, _)| (*chain, None)).collect(),
        })?;
        state
            .chains
            .retain(|chain, _| !garbage.iter().any(|(gone, _)| gone == chain));
        state.orphans.retain(|number| !orphans.contains(number));
        drop(state);
        // Nobody finds them any more; if this is interrupted, the next start sweeps.
        for number in orphans {
            collected.bytes += self.snapshots.usage(number)?.bytes;
            collected.layers += 1;
            self.snapshots.remove(number)?;
        }
        for (_, record) in garbage {
            self.snapshots.remove(record.number)?;
            collected.layers += 1;
            collected.bytes += record.usage.bytes;
        }
        Ok(collected)
    }

    /// Makes sure that the disk has room for `wanted` more bytes, and that they are within the quota, if there is one: the oldest
    /// images go that nothing uses.
    pub(crate) fn make_room(&self, wanted: u64) -> Result<()> {
        self.stay_within_quota(wanted)?;
        room::check(&self.root, wanted, &self.limits)
    }

    fn stay_within_quota(&self, wanted: u64) -> Result<()> {
        let Some(limit) = self.limits.store_bytes else {
            return Ok(());
        };
        // Nothing goes for what would not fit even then.
        let least = self.least_bytes(&self.state())?;
        if least.saturating_add(wanted) > limit {
            return Err(Error::Quota { limit, wanted });
        }
        loop {
            let mut state = self.state();
            if self.bytes(&state)?.saturating_add(wanted) <= limit {
                return Ok(());
            }
            let unused = state
                .images
                .values()
                .filter(|image| !state.is_used(&image.id) && !state.is_pinned(&image.id));
            let Some(oldest) = unused
                .min_by_key(|image| image.imported_at.clone())
                .map(|image| image.id)
            else {
                return Err(Error::Quota { limit, wanted });
            };
            tracing::info!(image = %oldest, "an image that nothing uses is removed: images take as much as they may");
            self.forget(&mut state, &[oldest])?;
            drop(state);
            self.collect()?;
        }
    }

    /// Whether `wanted` more bytes are within the quota.
    pub(super) fn check_room(&self, state: &State, wanted: u64) -> Result<()> {
        match self.limits.store_bytes {
            Some(limit) if self.bytes(state)?.saturating_add(wanted) > limit => Err(Error::Quota { limit, wanted }),
            _ => Ok(()),
        }
    }

    /// What content and layers would take without the images that nothing uses.
    fn least_bytes(&self, state: &State) -> Result<u64> {
        let is_kept = |image: &Image| state.is_used(&image.id) || state.is_pinned(&image.id);
        let (content, chains, numbers) = state.needed_for(is_kept);
        let blobs = self.content.list()?.into_iter().chain(self.content.partials()?);
        let blobs = blobs.filter(|(digest, _)| content.contains(digest));
        let layers = state.chains.iter();
        let layers = layers.filter(|(chain, record)| chains.contains(chain) || numbers.contains(&record.number));
        let layers = layers.map(|(_, record)| record.usage.bytes);
        Ok(blobs.map(|(_, bytes)| bytes).chain(layers).sum())
    }

    /// What content and layers take.
    fn bytes(&self, state: &State) -> Result<u64> {
        let blobs = self.content.list()?.into_iter().chain(self.content.partials()?);
        let layers = state.chains.values().map(|chain| chain.usage.bytes);
        Ok(blobs.map(|(_, bytes)| bytes).chain(layers).sum())
    }
}

impl State {
    /// Whether a container stands on it.
    fn is_used(&self, id: &Digest) -> bool {
        self.writables.values().any(|writable| writable.image == *id)
    }

    fn is_pinned(&self, id: &Digest) -> bool {
        let names = self
            .images
            .get(id)
            .into_iter()
            .flat_map(|image| image.tags.iter().chain(&image.digests));
        let is_meant = |name: &String, pinned: &String| match pinned.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == pinned,
        };
        names
            .into_iter()
            .any(|name| self.pinned.iter().any(|pinned| is_meant(name, pinned)))
    }

    /// Content, chains and snapshot numbers that something stands on.
    pub(super) fn needed(&self) -> (HashSet<Digest>, HashSet<Digest>, HashSet<u64>) {
        self.needed_for(|_| true)
    }

    /// The same, of all images those that are kept.
    fn needed_for(&self, is_kept: impl Fn(&Image) -> bool) -> (HashSet<Digest>, HashSet<Digest>, HashSet<u64>) {
        let (mut content, mut chains) = (HashSet::new(), HashSet::new());
        for image in self.images.values().filter(|image| is_kept(image)) {
            content.insert(image.id);
            content.extend(image.manifest);
            content.extend(image.layers.iter().map(|layer| layer.digest));
            chains.extend(image.layers.iter().map(|layer| layer.chain_id));
        }
        for held in self.leases.values() {
            content.extend(&held.content);
            chains.extend(&held.chains);
        }
        let numbers = self
            .writables
            .values()
            .flat_map(|writable| writable.lower.iter().copied())
            .collect();
        (content, chains, numbers)
    }
}
