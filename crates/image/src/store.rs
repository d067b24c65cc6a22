//! The store: images by name, layers unpacked once, a writable snapshot per container.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use oci_spec::image::ImageConfiguration;

use crate::catalogue::{Catalogue, Chain, Change, Loaded};
use crate::content::Content;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layer;
use crate::limits::Limits;
use crate::model::{FsInfo, Image, Layer, Overlay, Record, Usage};
use crate::progress::{Progress, Stage};
use crate::reference::Reference;
use crate::snapshot::{Snapshots, Writable};

/// Hex digits of an id that may stand for the whole: fewer are more likely a typing error.
const PREFIX_DIGITS: usize = 4;

/// Images on this machine. Blocking, and safe to use from many threads: only an import, a removal of files and the
/// first preparation of a damaged image take long, and none of them holds the lock meanwhile.
pub struct Store {
    pub(crate) content: Content,
    pub(crate) limits: Limits,
    root: PathBuf,
    catalogue: Catalogue,
    snapshots: Snapshots,
    state: Mutex<State>,
    /// A layer that another thread unpacked is ready, or failed.
    unpacked: Condvar,
}

#[derive(Default)]
struct State {
    images: BTreeMap<Digest, Arc<Image>>,
    /// Tags and repo digests.
    names: BTreeMap<String, Digest>,
    chains: HashMap<Digest, Chain>,
    unpacking: HashSet<Digest>,
    writables: BTreeMap<String, Writable>,
    leases: HashMap<u64, Held>,
    next_lease: u64,
    next_snapshot: u64,
}

/// What an import needs that no image refers to yet.
#[derive(Default)]
struct Held {
    content: HashSet<Digest>,
    chains: HashSet<Digest>,
}

/// Keeps content and layers from being collected until it is dropped.
pub(crate) struct Lease<'a> {
    store: &'a Store,
    number: u64,
}

/// What [`Store::remove`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// Names that are gone.
    pub untagged: Vec<String>,
    /// The image, when it went with its last name.
    pub deleted: Option<Digest>,
}

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
    /// Opens or creates the store below `root` (ROOT/images, ROOT/snapshots), and sweeps what a killed process left.
    pub fn open(root: &Path) -> Result<Store> {
        Store::with_limits(root, Limits::default())
    }

    /// As [`Store::open`], with other limits.
    pub fn with_limits(root: &Path, limits: Limits) -> Result<Store> {
        let images = root.join("images");
        std::fs::create_dir_all(&images).map_err(Error::io("making", &images))?;
        // The lock first: nothing of another process's is swept.
        let catalogue = Catalogue::open(&images)?;
        let content = Content::open(&images)?;
        let Loaded {
            images: records,
            chains,
        } = catalogue.load()?;
        let layers: HashSet<u64> = chains.iter().map(|(_, chain)| chain.number).collect();
        let (snapshots, writables, next_snapshot) =
            Snapshots::open(root.join("snapshots"), |number| layers.contains(&number))?;
        let mut state = State {
            next_snapshot,
            ..State::default()
        };
        for (chain, record) in chains {
            if snapshots.fs(record.number).is_dir() {
                state.chains.insert(chain, record);
            }
        }
        for writable in writables {
            state.writables.insert(writable.key.clone(), writable);
        }
        for (id, record) in records {
            match load_image(&content, id, &record) {
                Ok(image) => state.insert(image),
                Err(error) => tracing::warn!(image = %id, %error, "image is damaged; it is ignored"),
            }
        }
        Ok(Store {
            content,
            limits,
            root: root.to_path_buf(),
            catalogue,
            snapshots,
            state: Mutex::new(state),
            unpacked: Condvar::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is made in one step after all that can fail.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All images, by id.
    pub fn list(&self) -> Vec<Arc<Image>> {
        self.state().images.values().cloned().collect()
    }

    /// The image of a name: a reference (with a tag, or a digest of its manifest), an id with or without `sha256:`,
    /// or the beginning of one.
    pub fn get(&self, name: &str) -> Result<Arc<Image>> {
        self.state().find(name)
    }

    /// The image's configuration as it came, JSON.
    pub fn raw_config(&self, id: &Digest) -> Result<Vec<u8>> {
        self.content.bytes(id)
    }

    /// Gives an image one more name.
    pub fn tag(&self, name: &str, new: &Reference) -> Result<Arc<Image>> {
        let mut state = self.state();
        let id = state.find(name)?.id;
        let tag = new
            .tagged()
            .ok_or_else(|| Error::malformed(new, "reference", "a tag is needed, not a digest"))?;
        self.name(&mut state, id, &[tag], &[])?;
        Ok(state.images[&id].clone())
    }

    /// Adds names to an image; other images lose the tags.
    fn name(&self, state: &mut State, id: Digest, tags: &[String], digests: &[String]) -> Result<()> {
        let mut change = Change::default();
        let mut updated: BTreeMap<Digest, Image> = BTreeMap::new();
        let mut image = (*state.images[&id]).clone();
        for tag in tags {
            if let Some(other) = state.names.get(tag).filter(|other| **other != id) {
                let other = updated.entry(*other).or_insert_with(|| (*state.images[other]).clone());
                other.tags.retain(|t| t != tag);
            }
            add(&mut image.tags, tag);
        }
        digests.iter().for_each(|digest| add(&mut image.digests, digest));
        updated.insert(id, image);
        change.images = updated
            .iter()
            .map(|(id, image)| (*id, Some(record_of(image))))
            .collect();
        self.catalogue.commit(&change)?;
        updated.into_values().for_each(|image| state.insert(image));
        Ok(())
    }

    /// Records an image whose content and layers are there, with its names.
    pub(crate) fn add_image(&self, image: Image) -> Result<Arc<Image>> {
        let mut state = self.state();
        let (id, tags, digests) = (image.id, image.tags.clone(), image.digests.clone());
        if !state.images.contains_key(&id) {
            let nameless = Image {
                tags: Vec::new(),
                digests: Vec::new(),
                ..image
            };
            // Not durable before `name` commits it with its names.
            state.insert(nameless);
        }
        if let Err(error) = self.name(&mut state, id, &tags, &digests) {
            if state.images[&id].tags.is_empty() && state.images[&id].digests.is_empty() {
                state.images.remove(&id);
            }
            return Err(error);
        }
        Ok(state.images[&id].clone())
    }

    /// Removes an image's name, and the image with its last one; by id, all of its names and the image. Refused while
    /// a container's snapshot stands on the image, unless `force`: then the image goes, and its layers follow when
    /// the last such snapshot does. What nothing needs any more is collected.
    pub fn remove(&self, name: &str, force: bool) -> Result<Removed> {
        let removed = {
            let mut state = self.state();
            let image = state.find(name)?;
            let named = state.exact_name(name);
            let mut left = (*image).clone();
            let mut untagged = Vec::new();
            match &named {
                Some(named) => {
                    left.tags.retain(|tag| tag != named);
                    left.digests.retain(|digest| digest != named);
                    untagged.push(named.clone());
                    // A repository's digests stand as long as one of its tags does.
                    let repository = |name: &str| name.parse::<Reference>().map(|r| r.name()).unwrap_or_default();
                    let gone = repository(named);
                    if !left.tags.iter().any(|tag| repository(tag) == gone) {
                        let (away, kept) = left.digests.drain(..).partition(|digest| repository(digest) == gone);
                        left.digests = kept;
                        untagged.extend::<Vec<_>>(away);
                    }
                }
                None => untagged.extend(left.tags.drain(..).chain(left.digests.drain(..))),
            }
            let deleted = left.tags.is_empty() && left.digests.is_empty();
            if deleted && !force {
                let users: Vec<_> = state
                    .writables
                    .values()
                    .filter(|w| w.image == image.id)
                    .map(|w| w.key.clone())
                    .collect();
                if !users.is_empty() {
                    return Err(Error::InUse { image: image.id, users });
                }
            }
            let record = (!deleted).then(|| record_of(&left));
            self.catalogue.commit(&Change {
                images: vec![(image.id, record)],
                chains: Vec::new(),
            })?;
            state.forget(&image.id);
            if !deleted {
                state.insert(left);
            }
            Removed {
                untagged,
                deleted: deleted.then_some(image.id),
            }
        };
        if removed.deleted.is_some() {
            self.collect()?;
        }
        Ok(removed)
    }

    /// Images that no name leads to, and that no container uses, are removed; then garbage is collected.
    pub fn prune(&self) -> Result<(Vec<Digest>, Collected)> {
        let pruned = {
            let mut state = self.state();
            let unused: Vec<_> = state
                .images
                .values()
                .filter(|image| image.tags.is_empty() && image.digests.is_empty())
                .map(|image| image.id)
                .filter(|id| !state.writables.values().any(|writable| writable.image == *id))
                .collect();
            let images = unused.iter().map(|id| (*id, None)).collect();
            self.catalogue.commit(&Change {
                images,
                chains: Vec::new(),
            })?;
            unused.iter().for_each(|id| state.forget(id));
            unused
        };
        Ok((pruned, self.collect()?))
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
        let garbage: Vec<_> = state
            .chains
            .iter()
            .filter(|(chain, record)| !chains.contains(chain) && !numbers.contains(&record.number))
            .map(|(chain, record)| (*chain, *record))
            .collect();
        if garbage.is_empty() {
            return Ok(collected);
        }
        self.catalogue.commit(&Change {
            images: Vec::new(),
            chains: garbage.iter().map(|(chain, _)| (*chain, None)).collect(),
        })?;
        state
            .chains
            .retain(|chain, _| !garbage.iter().any(|(gone, _)| gone == chain));
        drop(state);
        // Nobody finds them any more; if this is interrupted, the next start sweeps.
        for (_, record) in garbage {
            self.snapshots.remove(record.number)?;
            collected.layers += 1;
            collected.bytes += record.usage.bytes;
        }
        Ok(collected)
    }

    /// Makes the writable snapshot `key` above an image's layers.
    pub fn prepare(&self, key: &str, image: &Digest) -> Result<Overlay> {
        check_key(key)?;
        let lease = self.lease();
        let (layers, ready) = {
            let mut state = self.state();
            if state.writables.contains_key(key) {
                return Err(Error::SnapshotExists { key: key.to_string() });
            }
            let image = state
                .images
                .get(image)
                .ok_or_else(|| Error::NotFound {
                    name: image.to_string(),
                })?
                .clone();
            let ready = image
                .layers
                .iter()
                .all(|layer| state.chains.contains_key(&layer.chain_id));
            if !ready {
                lease.hold(
                    &mut state,
                    image.layers.iter().map(|l| l.digest),
                    image.layers.iter().map(|l| l.chain_id),
                );
            }
            (image.layers.clone(), ready)
        };
        // A layer's record or directory can be lost (a damaged database, a hand that cleaned up): its content is here.
        if !ready {
            self.unpack_all(&lease, &layers, &|_| {})?;
        }
        let writable = {
            let mut state = self.state();
            if state.writables.contains_key(key) {
                return Err(Error::SnapshotExists { key: key.to_string() });
            }
            let missing = || Error::NotFound {
                name: image.to_string(),
            };
            let lower = layers
                .iter()
                .rev()
                .map(|layer| Some(state.chains.get(&layer.chain_id)?.number));
            let lower = lower.collect::<Option<Vec<_>>>().ok_or_else(missing)?;
            let number = state.take_number();
            let writable = Writable {
                number,
                key: key.to_string(),
                image: *image,
                lower,
            };
            // Reserves the key, and keeps the layers.
            state.writables.insert(key.to_string(), writable.clone());
            writable
        };
        if let Err(error) = self.snapshots.create(&writable) {
            // The key stays taken until its directory is gone.
            match self.snapshots.remove(writable.number) {
                Ok(()) => drop(self.state().writables.remove(key)),
                Err(failure) => tracing::warn!(key, %failure, "a snapshot that could not be made remains"),
            }
            return Err(error);
        }
        Ok(self.stacked(&writable))
    }

    fn stacked(&self, writable: &Writable) -> Overlay {
        let lower = match writable.lower.as_slice() {
            [] => vec![self.snapshots.empty()],
            numbers => numbers.iter().map(|number| self.snapshots.fs(*number)).collect(),
        };
        Overlay {
            lower,
            upper: self.snapshots.fs(writable.number),
            work: self.snapshots.work(writable.number),
        }
    }

    /// Where the snapshot `key` is.
    pub fn overlay(&self, key: &str) -> Result<Overlay> {
        let state = self.state();
        let writable = state
            .writables
            .get(key)
            .ok_or_else(|| Error::SnapshotMissing { key: key.to_string() })?;
        Ok(self.stacked(writable))
    }

    /// Keys of all writable snapshots.
    pub fn snapshots(&self) -> Vec<String> {
        self.state().writables.keys().cloned().collect()
    }

    /// Removes a writable snapshot, which no process may be using any more. A missing one is no error.
    pub fn remove_snapshot(&self, key: &str) -> Result<()> {
        // The record goes with the directory: until then, the key stays taken and the layers stay.
        let Some(writable) = self.state().writables.get(key).cloned() else {
            return Ok(());
        };
        self.snapshots.remove(writable.number)?;
        let mut state = self.state();
        state.writables.remove(key);
        let orphaned = !state.images.contains_key(&writable.image);
        drop(state);
        if orphaned { self.collect().map(drop) } else { Ok(()) }
    }

    /// What a container wrote.
    pub fn usage(&self, key: &str) -> Result<Usage> {
        let number = {
            let state = self.state();
            state
                .writables
                .get(key)
                .ok_or_else(|| Error::SnapshotMissing { key: key.to_string() })?
                .number
        };
        self.snapshots.usage(number)
    }

    /// The file system that the store is on, and what of it is used for what.
    pub fn fs_info(&self) -> Result<FsInfo> {
        let (mut images, keys) = {
            let state = self.state();
            let mut images = Usage::default();
            for chain in state.chains.values() {
                images.bytes += chain.usage.bytes;
                images.inodes += chain.usage.inodes;
            }
            (images, state.writables.keys().cloned().collect::<Vec<_>>())
        };
        for (_, bytes) in self.content.list()? {
            images.bytes += bytes;
            images.inodes += 1;
        }
        let mut containers = Usage::default();
        for key in keys {
            match self.usage(&key) {
                Ok(usage) => {
                    containers.bytes += usage.bytes;
                    containers.inodes += usage.inodes;
                }
                Err(error) => tracing::debug!(key, %error, "removed while it was measured"),
            }
        }
        let statistics = rustix::fs::statvfs(&self.root).map_err(Error::call("statvfs", &self.root))?;
        Ok(FsInfo {
            mountpoint: self.root.clone(),
            images,
            containers,
            capacity_bytes: statistics.f_blocks * statistics.f_frsize,
            available_bytes: statistics.f_bavail * statistics.f_frsize,
        })
    }

    pub(crate) fn lease(&self) -> Lease<'_> {
        let mut state = self.state();
        let number = state.next_lease;
        state.next_lease += 1;
        state.leases.insert(number, Held::default());
        Lease { store: self, number }
    }

    /// Unpacks those of an image's layers, from the bottom up, that are not yet; their content must be in the store.
    pub(crate) fn unpack_all(&self, lease: &Lease<'_>, layers: &[Layer], progress: &dyn Fn(&Progress)) -> Result<()> {
        let mut lower: Vec<PathBuf> = Vec::new();
        for (index, layer) in layers.iter().enumerate() {
            lease.keep([], [layer.chain_id]);
            let number = self.unpack_once(layer, &lower, &|done| {
                progress(&Progress {
                    stage: Stage::Unpacking,
                    layer: index + 1,
                    layers: layers.len(),
                    digest: layer.digest,
                    done_bytes: done,
                    total_bytes: layer.size_bytes,
                });
            })?;
            lower.insert(0, self.snapshots.fs(number));
        }
        Ok(())
    }

    /// The snapshot of a layer above `lower`. Where another thread is unpacking it, waits for that one.
    fn unpack_once(&self, layer: &Layer, lower: &[PathBuf], progress: &dyn Fn(u64)) -> Result<u64> {
        let number = {
            let mut state = self.state();
            loop {
                if let Some(chain) = state.chains.get(&layer.chain_id) {
                    return Ok(chain.number);
                }
                if state.unpacking.insert(layer.chain_id) {
                    break state.take_number();
                }
                state = self.unpacked.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        };
        let result = self.unpack(number, layer, lower, progress);
        let mut state = self.state();
        let result = result.and_then(|usage| {
            let chain = Chain { number, usage };
            self.catalogue.commit(&Change {
                images: Vec::new(),
                chains: vec![(layer.chain_id, Some(chain))],
            })?;
            state.chains.insert(layer.chain_id, chain);
            Ok(number)
        });
        state.unpacking.remove(&layer.chain_id);
        self.unpacked.notify_all();
        drop(state);
        if result.is_err() {
            // The first failure is the one to tell; what stays is swept at the next start.
            let swept = self
                .snapshots
                .abandon_layer(number)
                .and_then(|()| self.snapshots.remove(number));
            if let Err(error) = swept {
                tracing::warn!(%error, "a layer that failed to unpack could not be removed");
            }
        }
        result
    }

    fn unpack(&self, number: u64, layer: &Layer, lower: &[PathBuf], progress: &dyn Fn(u64)) -> Result<Usage> {
        let name = format!("layer {}", layer.digest);
        let blob = self.content.read(&layer.digest)?;
        let fs = self.snapshots.new_layer(number)?;
        let unpacked = layer::unpack(blob, &name, &fs, lower, &self.limits, progress)?;
        if unpacked.diff_id != layer.diff_id {
            let (expected, actual) = (layer.diff_id, unpacked.diff_id);
            return Err(Error::Mismatch {
                what: format!("{name}, uncompressed"),
                expected,
                actual,
            });
        }
        self.snapshots.commit_layer(number)?;
        self.snapshots.usage(number)
    }
}

impl Lease<'_> {
    /// Keeps these until the lease is dropped.
    pub(crate) fn keep(&self, content: impl IntoIterator<Item = Digest>, chains: impl IntoIterator<Item = Digest>) {
        self.hold(&mut self.store.state(), content, chains);
    }

    fn hold(
        &self,
        state: &mut State,
        content: impl IntoIterator<Item = Digest>,
        chains: impl IntoIterator<Item = Digest>,
    ) {
        let held = state.leases.entry(self.number).or_default();
        held.content.extend(content);
        held.chains.extend(chains);
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.store.state().leases.remove(&self.number);
    }
}

impl State {
    fn insert(&mut self, image: Image) {
        let id = image.id;
        self.names.retain(|_, named| *named != id);
        for name in image.tags.iter().chain(&image.digests) {
            self.names.insert(name.clone(), id);
        }
        self.images.insert(id, Arc::new(image));
    }

    fn forget(&mut self, id: &Digest) {
        self.names.retain(|_, named| named != id);
        self.images.remove(id);
    }

    fn take_number(&mut self) -> u64 {
        let number = self.next_snapshot;
        self.next_snapshot += 1;
        number
    }

    /// The tag or repo digest that `name` spells, if an image has it.
    fn exact_name(&self, name: &str) -> Option<String> {
        let reference: Reference = name.parse().ok()?;
        // With both a tag and a digest, the digest says which image is meant.
        let name = match reference.digest() {
            Some(digest) => reference.with_digest(digest),
            None => reference.tagged()?,
        };
        self.names.contains_key(&name).then_some(name)
    }

    fn find(&self, name: &str) -> Result<Arc<Image>> {
        let missing = || Error::NotFound { name: name.to_string() };
        if let Ok(id) = name.parse::<Digest>() {
            return self.images.get(&id).cloned().ok_or_else(missing);
        }
        if let Some(id) = self.exact_name(name).and_then(|name| self.names.get(&name)) {
            return Ok(self.images[id].clone());
        }
        let prefix = name.strip_prefix("sha256:").unwrap_or(name);
        let is_prefix = (PREFIX_DIGITS..=64).contains(&prefix.len())
            && prefix.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let matching: Vec<_> = self
            .images
            .values()
            .filter(|image| is_prefix && image.id.hex().starts_with(prefix))
            .collect();
        match matching.as_slice() {
            [image] => Ok((*image).clone()),
            // Neither an image nor a name that one could have: the rule says more than "not found".
            [] => Err(name
                .parse::<Reference>()
                .err()
                .filter(|_| !is_prefix)
                .map_or_else(missing, Error::from)),
            several => Err(Error::Ambiguous {
                prefix: name.to_string(),
                ids: several.iter().map(|image| image.id.hex()[..12].to_string()).collect(),
            }),
        }
    }

    /// Content, chains and snapshot numbers that something stands on.
    fn needed(&self) -> (HashSet<Digest>, HashSet<Digest>, HashSet<u64>) {
        let (mut content, mut chains) = (HashSet::new(), HashSet::new());
        for image in self.images.values() {
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

fn add(names: &mut Vec<String>, name: &str) {
    if !names.iter().any(|n| n == name) {
        names.push(name.to_string());
        names.sort();
    }
}

fn check_key(key: &str) -> Result<()> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    match (1..=128).contains(&key.len()) && key.bytes().all(allowed) {
        true => Ok(()),
        false => Err(Error::SnapshotKey { key: key.to_string() }),
    }
}

fn record_of(image: &Image) -> Record {
    Record {
        manifest: image.manifest,
        layers: image.layers.clone(),
        tags: BTreeSet::from_iter(image.tags.iter().cloned()),
        digests: BTreeSet::from_iter(image.digests.iter().cloned()),
        size_bytes: image.size_bytes,
        imported_at: image.imported_at.clone(),
    }
}

fn load_image(content: &Content, id: Digest, record: &Record) -> Result<Image> {
    let bytes = content.bytes(&id)?;
    let config: ImageConfiguration =
        serde_json::from_slice(&bytes).map_err(|e| Error::malformed(id, "configuration", e))?;
    Ok(Image {
        id,
        tags: record.tags.iter().cloned().collect(),
        digests: record.digests.iter().cloned().collect(),
        manifest: record.manifest,
        layers: record.layers.clone(),
        size_bytes: record.size_bytes,
        imported_at: record.imported_at.clone(),
        config,
    })
}
