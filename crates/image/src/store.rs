//! The store: images by name, layers unpacked once, a writable snapshot per container.

mod garbage;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use oci_spec::image::ImageConfiguration;

use crate::arrival::Arrival;
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

pub use garbage::Collected;

/// Images on this machine. Blocking, and safe to use from many threads: only an import, a removal of files and the
/// first preparation of a damaged image take long, and none of them holds the lock meanwhile.
pub struct Store {
    pub(crate) content: Content,
    pub(crate) limits: Limits,
    root: PathBuf,
    catalogue: Catalogue,
    pub(crate) snapshots: Snapshots,
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
    /// Layers that containers stand on, and no new one may: unpacked anew they have another number.
    orphans: BTreeSet<u64>,
    /// Images whose content may not be on the disk yet.
    unsettled: BTreeSet<Digest>,
    /// Names of images that are never collected; with a star at the end, all that begin so.
    pinned: Vec<String>,
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

/// A layer's bytes as they came.
pub(crate) enum LayerBytes {
    /// In the store.
    Stored(File),
    /// On their way.
    Arriving(Arc<Arrival>),
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

impl Store {
    /// Opens or creates the store below `root` (ROOT/images, ROOT/snapshots), and sweeps what a killed process left.
    pub fn open(root: &Path) -> Result<Store> {
        Store::with_limits(root, Limits::default())
    }

    /// As [`Store::open`], with other limits.
    pub fn with_limits(root: &Path, limits: Limits) -> Result<Store> {
        let images = root.join("images");
        let snapshots = root.join("snapshots");
        [&images, &snapshots]
            .into_iter()
            .try_for_each(|dir| make_private(dir))?;
        // The lock first: nothing of another process's is swept.
        let catalogue = Catalogue::open(&images)?;
        let content = Content::open(&images)?;
        let Loaded {
            images: records,
            chains,
        } = catalogue.load()?;
        let boot = boot_id()?;
        // What the machine's power may have torn is unpacked again from content, and content is looked at.
        let chains: Vec<_> = chains
            .into_iter()
            .filter(|(_, chain)| is_settled(&chain.unsettled, boot))
            .collect();
        let layers: HashSet<u64> = chains.iter().map(|(_, chain)| chain.number).collect();
        let (snapshots, found) = Snapshots::open(snapshots, |number| layers.contains(&number))?;
        let mut state = State {
            next_snapshot: found.next,
            orphans: found.orphans,
            ..State::default()
        };
        for (chain, record) in chains {
            if snapshots.fs(record.number).is_dir() {
                state.chains.insert(chain, record);
            }
        }
        for writable in found.writables {
            state.writables.insert(writable.key.clone(), writable);
        }
        for (id, record) in records {
            if !is_settled(&record.unsettled, boot) && !record.content(&id).all(|digest| content.is_whole(&digest)) {
                tracing::warn!(image = %id, "an image is not whole: the machine stopped when it had just come; pull it again");
                continue;
            }
            match load_image(&content, id, &record) {
                Ok(image) => state.insert(image),
                Err(error) => tracing::warn!(image = %id, %error, "image is damaged; it is ignored"),
            }
        }
        content.doubt(&state.needed().0)?;
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

    /// The directory that it is below.
    pub(crate) fn root(&self) -> &Path {
        &self.root
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
        let image = (*state.images[&id]).clone();
        self.name(&mut state, image, &[tag], &[])?;
        Ok(state.images[&id].clone())
    }

    /// Adds names to an image, and keeps it; other images lose the tags.
    fn name(&self, state: &mut State, mut image: Image, tags: &[String], digests: &[String]) -> Result<()> {
        let mut change = Change::default();
        let mut updated: BTreeMap<Digest, Image> = BTreeMap::new();
        let id = image.id;
        for tag in tags {
            if let Some(other) = state.names.get(tag).filter(|other| **other != id) {
                let other = updated.entry(*other).or_insert_with(|| (*state.images[other]).clone());
                other.tags.retain(|t| t != tag);
            }
            add(&mut image.tags, tag);
        }
        digests.iter().for_each(|digest| add(&mut image.digests, digest));
        updated.insert(id, image);
        let record = |(id, image): (&Digest, &Image)| (*id, Some(state.record_of(image)));
        change.images = updated.iter().map(record).collect();
        self.catalogue.commit(&change)?;
        updated.into_values().for_each(|image| state.insert(image));
        Ok(())
    }

    /// Records an image whose content and layers are there, with its names.
    pub(crate) fn add_image(&self, image: Image) -> Result<Arc<Image>> {
        let mut state = self.state();
        let (id, tags, digests) = (image.id, image.tags.clone(), image.digests.clone());
        let image = match state.images.get(&id) {
            None => {
                let nameless = Image {
                    tags: Vec::new(),
                    digests: Vec::new(),
                    ..image
                };
                // Not durable before `name` commits it with its names.
                state.insert(nameless.clone());
                state.unsettled.insert(id);
                nameless
            }
            // The same files under another manifest. A name by digest is a promise: who pushes or exports the image sends what
            // registries and signatures know, not what an archive said first.
            Some(known) if !digests.is_empty() => Image {
                tags: known.tags.clone(),
                digests: known.digests.clone(),
                imported_at: known.imported_at.clone(),
                ..image
            },
            Some(known) => (**known).clone(),
        };
        if let Err(error) = self.name(&mut state, image, &tags, &digests) {
            if state.images[&id].tags.is_empty() && state.images[&id].digests.is_empty() {
                state.images.remove(&id);
                state.unsettled.remove(&id);
            }
            return Err(error);
        }
        reach(sys::failpoint!("image.added"))?;
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
                    .map(Writable::user)
                    .collect();
                if !users.is_empty() {
                    return Err(Error::InUse { image: image.id, users });
                }
            }
            let record = (!deleted).then(|| state.record_of(&left));
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

    /// Makes the writable snapshot `key` above an image's layers.
    pub fn prepare(&self, key: &str, image: &Digest) -> Result<Overlay> {
        let writable = self.hold(key, image, None)?;
        Ok(self.stacked(&writable))
    }

    /// Makes the snapshot `key`, for a container or for a mount at a directory: the image's layers are there, and stay.
    pub(crate) fn hold(&self, key: &str, image: &Digest, mounted_at: Option<PathBuf>) -> Result<Writable> {
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
                lease.keep_in(
                    &mut state,
                    image.layers.iter().map(|l| l.digest),
                    image.layers.iter().map(|l| l.chain_id),
                );
            }
            (image.layers.clone(), ready)
        };
        // A layer's record or directory can be lost (a damaged database, a hand that cleaned up): its content is here.
        if !ready {
            self.unpack_all(&lease, &layers, |layer| self.stored(layer), &|_| {})?;
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
                mounted_at,
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
        Ok(writable)
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

    /// Keys of the containers' snapshots.
    pub fn snapshots(&self) -> Vec<String> {
        let state = self.state();
        let containers = state
            .writables
            .values()
            .filter(|writable| writable.mounted_at.is_none());
        containers.map(|writable| writable.key.clone()).collect()
    }

    /// The snapshots that hold mounted images.
    pub(crate) fn mounted(&self) -> Vec<Writable> {
        let state = self.state();
        state
            .writables
            .values()
            .filter(|writable| writable.mounted_at.is_some())
            .cloned()
            .collect()
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
        let leaves_garbage = !state.images.contains_key(&writable.image)
            || writable.lower.iter().any(|number| state.orphans.contains(number));
        drop(state);
        if leaves_garbage {
            self.collect().map(drop)
        } else {
            Ok(())
        }
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
        for (_, bytes) in self.content.list()?.into_iter().chain(self.content.partials()?) {
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

    /// A layer's bytes, which are in the store.
    pub(crate) fn stored(&self, layer: &Layer) -> Result<LayerBytes> {
        Ok(LayerBytes::Stored(self.content.read(&layer.digest)?))
    }

    /// Unpacks those of an image's layers, from the bottom up, that are not yet; `open` gives a layer's bytes.
    pub(crate) fn unpack_all(
        &self,
        lease: &Lease<'_>,
        layers: &[Layer],
        open: impl Fn(&Layer) -> Result<LayerBytes>,
        progress: &dyn Fn(&Progress),
    ) -> Result<()> {
        let mut lower: Vec<PathBuf> = Vec::new();
        for (index, layer) in layers.iter().enumerate() {
            lease.keep([], [layer.chain_id]);
            let report = |stage, done_bytes| {
                progress(&Progress {
                    stage,
                    layer: index + 1,
                    layers: layers.len(),
                    digest: layer.digest,
                    done_bytes,
                    total_bytes: layer.size_bytes,
                });
            };
            let number = self.unpack_once(layer, &lower, &open, &|done| report(Stage::Unpacking, done))?;
            report(Stage::Ready, layer.size_bytes);
            lower.insert(0, self.snapshots.fs(number));
        }
        Ok(())
    }

    /// The snapshot of a layer above `lower`. Where another thread is unpacking it, waits for that one.
    fn unpack_once(
        &self,
        layer: &Layer,
        lower: &[PathBuf],
        open: impl Fn(&Layer) -> Result<LayerBytes>,
        progress: &dyn Fn(u64),
    ) -> Result<u64> {
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
        let result = open(layer).and_then(|bytes| self.unpack(number, layer, bytes, lower, progress));
        let mut state = self.state();
        let result = result.and_then(|usage| {
            self.check_room(&state, usage.bytes)?;
            let chain = Chain {
                number,
                usage,
                unsettled: Some(boot_id()?.to_string()),
            };
            // On the disk with the image, whose commit waits for it. Before that nobody misses it.
            self.catalogue.commit_later(&Change {
                images: Vec::new(),
                chains: vec![(layer.chain_id, Some(chain.clone()))],
            })?;
            state.chains.insert(layer.chain_id, chain);
            reach(sys::failpoint!("image.layer.recorded"))?;
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

    fn unpack(
        &self,
        number: u64,
        layer: &Layer,
        bytes: LayerBytes,
        lower: &[PathBuf],
        progress: &dyn Fn(u64),
    ) -> Result<Usage> {
        let name = format!("layer {}", layer.digest);
        let fs = self.snapshots.new_layer(number)?;
        let (stream, arrival): (Box<dyn Read + Send>, _) = match bytes {
            LayerBytes::Stored(file) => (Box::new(file), None),
            LayerBytes::Arriving(arrival) => (Box::new(arrival.follow()), Some(arrival)),
        };
        let unpacked = layer::unpack(stream, &name, &fs, lower, &self.limits, progress);
        if let (Err(Error::Malformed { .. }), Some(arrival)) = (&unpacked, &arrival) {
            // What is damaged or forged looks so. Whether it was is known when all of it is there.
            arrival.wait().map_err(|e| Error::malformed(&name, "content", e))?;
        }
        let unpacked = unpacked?;
        if unpacked.diff_id != layer.diff_id {
            let (expected, actual) = (layer.diff_id, unpacked.diff_id);
            return Err(Error::Mismatch {
                what: format!("{name}, uncompressed"),
                expected,
                actual,
            });
        }
        if let Some(arrival) = arrival {
            arrival.wait().map_err(|e| Error::malformed(&name, "content", e))?;
        }
        reach(sys::failpoint!("image.layer.unpacked"))?;
        self.snapshots.commit_layer(number)?;
        self.snapshots.usage(number)
    }

    /// Waits until what has come is on the disk, and records that it is: until then, the machine's power could tear it. Takes
    /// as long as the disk does; nobody needs to wait for it.
    pub fn settle(&self) -> Result<()> {
        let (images, chains) = {
            let state = self.state();
            let fresh = |(id, chain): (&Digest, &Chain)| chain.unsettled.is_some().then_some(*id);
            let chains: Vec<_> = state.chains.iter().filter_map(fresh).collect();
            (state.unsettled.clone(), chains)
        };
        if images.is_empty() && chains.is_empty() {
            return Ok(());
        }
        self.content.sync()?;
        self.snapshots.sync()?;
        let mut state = self.state();
        state.unsettled.retain(|id| !images.contains(id));
        let mut change = Change::default();
        for id in images {
            let record = state.images.get(&id).map(|image| state.record_of(image));
            change.images.extend(record.map(|record| (id, Some(record))));
        }
        for id in chains {
            if let Some(chain) = state.chains.get_mut(&id) {
                chain.unsettled = None;
                change.chains.push((id, Some(chain.clone())));
            }
        }
        self.catalogue.commit(&change)?;
        reach(sys::failpoint!("image.settled"))
    }
}

impl Lease<'_> {
    /// Keeps these until the lease is dropped.
    pub(crate) fn keep(&self, content: impl IntoIterator<Item = Digest>, chains: impl IntoIterator<Item = Digest>) {
        self.keep_in(&mut self.store.state(), content, chains);
    }

    fn keep_in(
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

    /// What the database keeps of an image.
    fn record_of(&self, image: &Image) -> Record {
        Record {
            manifest: image.manifest,
            layers: image.layers.clone(),
            tags: BTreeSet::from_iter(image.tags.iter().cloned()),
            digests: BTreeSet::from_iter(image.digests.iter().cloned()),
            size_bytes: image.size_bytes,
            imported_at: image.imported_at.clone(),
            unsettled: self
                .unsettled
                .get(&image.id)
                .and_then(|_| boot_id().ok())
                .map(str::to_string),
        }
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
}

/// Makes a directory that nobody but root passes: a container's set-user-ID programs, devices and secrets are the host's business
/// as little as its passwords are.
fn make_private(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(Error::io("making", dir))?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).map_err(Error::io("closing to others", dir))
}

/// A failpoint's order as the store's own failure.
pub(crate) fn reach(point: sys::Result<()>) -> Result<()> {
    point.map_err(|e| Error::io("reaching a failpoint in", "the store")(e.into()))
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

/// Whether what was recorded in the boot `unsettled` (or is on the disk anyway) is whole in this one.
fn is_settled(unsettled: &Option<String>, boot: &str) -> bool {
    unsettled.as_deref().is_none_or(|then| then == boot)
}

fn boot_id() -> Result<&'static str> {
    record::boot_id().map_err(|e| Error::io("reading", "/proc/sys/kernel/random/boot_id")(io::Error::other(e)))
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
