//! The store: every verb of the API on objects.

use std::{
    collections::VecDeque,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio::sync::broadcast;

use crate::{
    Error, Result,
    disk::{Disk, Op, Quarantined},
    flush::Flusher,
    object::{Key, Object, format_time, metadata},
    watch::{BACKLOG_LIMIT, History, Scope, Watch, WatchEvent},
};

/// How many resourceVersions one durable write reserves.
const VERSION_BLOCK: u64 = 4096;

/// What a pod gets to end in, when nothing says otherwise.
const DEFAULT_GRACE_SECONDS: i64 = 30;

/// The objects of a node. Calls block: a durable write for one fsync (milliseconds), the others for microseconds. All take
/// `&self`; share it as `Arc<Store>`.
pub struct Store {
    /// Before the disk: it ends before the database is closed.
    flusher: Flusher,
    disk: Arc<Disk>,
    quarantined: Option<Quarantined>,
    state: Mutex<State>,
    live: broadcast::Sender<WatchEvent>,
    latest: Arc<AtomicU64>,
}

/// What the one lock guards.
struct State {
    /// The last version given out.
    version: u64,
    /// Versions up to here may be given out.
    reserved: u64,
    history: History,
}

/// What a [`Store::delete`] did.
#[derive(Debug, Clone, PartialEq)]
pub enum Deletion {
    /// The object is marked; its owner takes down what it stands for, then [`Store::finalise`]s it.
    Marked(Arc<Object>),
    /// The object is gone; this was its last state.
    Removed(Arc<Object>),
}

/// What a write decided to do.
enum Decision {
    /// Nothing: the object is already as wanted.
    Keep(Arc<Object>),
    Put {
        json: Value,
        is_new: bool,
    },
    Remove(Object),
}

impl Store {
    /// Opens the database at `path`, makes it if it isn't there. A damaged one is set aside ([`Store::quarantined`]).
    pub fn open(path: &Path) -> Result<Store> {
        let (disk, quarantined) = Disk::open(path)?;
        let version = disk.reserved_versions()?;
        let disk = Arc::new(disk);
        let flusher = Flusher::start(Arc::clone(&disk)).map_err(|error| Error::Storage {
            path: path.to_owned(),
            what: "start the thread that flushes",
            source: error.into(),
        })?;
        let (live, _) = broadcast::channel(BACKLOG_LIMIT);
        let state = State {
            version,
            reserved: version,
            history: History::starting_at(version),
        };
        Ok(Store {
            flusher,
            disk,
            quarantined,
            state: Mutex::new(state),
            live,
            latest: Arc::new(AtomicU64::new(version)),
        })
    }

    /// Set when [`Store::open`] found a damaged database. The pods it held may still run: whoever takes away what has no
    /// object must not do so now.
    pub fn quarantined(&self) -> Option<&Quarantined> {
        self.quarantined.as_ref()
    }

    /// The version of the newest change.
    pub fn version(&self) -> u64 {
        self.latest.load(Ordering::Acquire)
    }

    /// Keeps a new object. Fills `metadata`: namespace (`default`), name (from generateName), uid, creationTimestamp,
    /// generation, resourceVersion. Fails with [`Error::AlreadyExists`] when the name is taken.
    pub fn create(&self, kind: crate::Kind, mut json: Value) -> Result<Arc<Object>> {
        let key = prepare_new(kind, &mut json)?;
        self.write(&key, true, |existing| match existing {
            Some(_) => Err(Error::AlreadyExists(key.clone())),
            None => Ok(Decision::Put { json, is_new: true }),
        })
    }

    /// The object, or [`Error::NotFound`].
    pub fn get(&self, key: &Key) -> Result<Arc<Object>> {
        self.disk
            .get(key)?
            .map(Arc::new)
            .ok_or_else(|| Error::NotFound(key.clone()))
    }

    /// The objects of `scope` by namespace and name, and the version to watch from.
    pub fn list(&self, scope: &Scope) -> Result<(Vec<Arc<Object>>, u64)> {
        let state = self.state();
        Ok((self.list_locked(scope)?, state.version))
    }

    /// Replaces an object but for its status. When `metadata.resourceVersion` is set it must be the current one
    /// ([`Error::Conflict`]); so must `metadata.uid`. What only the store may set stays as it was. A change of
    /// `spec` raises `metadata.generation`.
    pub fn update(&self, key: &Key, json: Value) -> Result<Arc<Object>> {
        self.modify(key, move |current| {
            let status = current.get("status").cloned();
            *current = json;
            match (status, current.as_object_mut()) {
                (Some(status), Some(object)) => object.insert("status".into(), status),
                (None, Some(object)) => object.remove("status"),
                (_, None) => return Err(Error::Invalid("the object is not a JSON object".into())),
            };
            Ok(())
        })
    }

    /// Reads, changes and writes an object as one step: for patches. The rules of [`Store::update`] hold for what `change`
    /// leaves behind; an error of `change` leaves everything as it was.
    pub fn modify(&self, key: &Key, change: impl FnOnce(&mut Value) -> Result<()>) -> Result<Arc<Object>> {
        self.write(key, true, |existing| {
            let current = existing.ok_or_else(|| Error::NotFound(key.clone()))?;
            let mut json = current.json().clone();
            change(&mut json)?;
            check_preconditions(key, &json, &current)?;
            keep_system_fields(key, &mut json, current.json())?;
            if json == *current.json() {
                return Ok(Decision::Keep(Arc::new(current)));
            }
            if json.get("spec") != current.json().get("spec") {
                let generation = current.json()["metadata"]["generation"].as_i64().unwrap_or(1) + 1;
                metadata(&mut json)?.insert("generation".into(), generation.into());
            }
            Ok(Decision::Put { json, is_new: false })
        })
    }

    /// Replaces the status of the object with this `uid` and nothing else. Not durable at once: a status is found out again
    /// after a crash. Writes nothing, and announces nothing, when the status is the same.
    pub fn update_status(&self, key: &Key, uid: &str, status: Value) -> Result<Arc<Object>> {
        self.write(key, false, |existing| {
            let current = existing
                .filter(|object| object.uid() == uid)
                .ok_or_else(|| Error::NotFound(key.clone()))?;
            if current.json().get("status") == Some(&status) {
                return Ok(Decision::Keep(Arc::new(current)));
            }
            let mut json = current.into_json();
            if let Some(object) = json.as_object_mut() {
                object.insert("status".into(), status);
            }
            Ok(Decision::Put { json, is_new: false })
        })
    }

    /// Deletes an object. A pod is marked with deletionTimestamp and deletionGracePeriodSeconds (`grace_seconds`, else its
    /// terminationGracePeriodSeconds, else 30) and stays until [`Store::finalise`]; asked again, the time can only become
    /// shorter. With `grace_seconds` 0 its containers are killed at once. Others are removed.
    pub fn delete(&self, key: &Key, uid: Option<&str>, grace_seconds: Option<i64>) -> Result<Deletion> {
        let mut removed = false;
        let object = self.write(key, true, |existing| {
            let current = existing.ok_or_else(|| Error::NotFound(key.clone()))?;
            check_uid(key, uid, &current)?;
            if !key.kind.deletes_gracefully() {
                removed = true;
                return Ok(Decision::Remove(current));
            }
            let own = current.json()["spec"]["terminationGracePeriodSeconds"].as_i64();
            let grace = grace_seconds.or(own).unwrap_or(DEFAULT_GRACE_SECONDS).max(0);
            let marked = current.json()["metadata"]["deletionGracePeriodSeconds"].as_i64();
            if current.is_being_deleted() && marked.is_some_and(|marked| marked <= grace) {
                return Ok(Decision::Keep(Arc::new(current)));
            }
            let end = Timestamp::now()
                .saturating_add(SignedDuration::from_secs(grace))
                .unwrap_or(Timestamp::MAX);
            let mut json = current.into_json();
            let metadata = metadata(&mut json)?;
            metadata.insert("deletionTimestamp".into(), format_time(end).into());
            metadata.insert("deletionGracePeriodSeconds".into(), grace.into());
            Ok(Decision::Put { json, is_new: false })
        })?;
        Ok(if removed {
            Deletion::Removed(object)
        } else {
            Deletion::Marked(object)
        })
    }

    /// Removes the object with this `uid` for good: what it stood for is gone. Answers whether there was one.
    pub fn finalise(&self, key: &Key, uid: &str) -> Result<bool> {
        let mut found = false;
        let result = self.write(key, true, |existing| match existing {
            Some(current) if current.uid() == uid => {
                found = true;
                Ok(Decision::Remove(current))
            }
            _ => Err(Error::NotFound(key.clone())),
        });
        match result {
            Ok(_) | Err(Error::NotFound(_)) => Ok(found),
            Err(error) => Err(error),
        }
    }

    /// The changes in `scope` after `version` (of a list, or of the last change or bookmark seen). With `None` the watch
    /// begins with an `Added` for each object that exists.
    pub fn watch(&self, scope: Scope, version: Option<u64>) -> Result<Watch> {
        let state = self.state();
        let backlog = match version {
            // A version of the future is one that a crash took back before anyone could rely on it.
            Some(version) => state.history.after(version, &scope)?,
            None => {
                // Oldest first, so that a watcher that is cut off on the way can go on from the last version it saw.
                let mut objects = self.list_locked(&scope)?;
                objects.sort_by_key(|object| object.version());
                objects.into_iter().map(WatchEvent::Added).collect::<VecDeque<_>>()
            }
        };
        let live = self.live.subscribe();
        Ok(Watch {
            scope,
            backlog,
            live,
            seen: state.version,
            latest: Arc::clone(&self.latest),
        })
    }

    /// Takes what was written without waiting for the disk there now: before an orderly end, which may not wait for
    /// everyone who shares the store.
    pub fn flush(&self) -> Result<()> {
        // No write comes between the flush and the note of it.
        let _state = self.state();
        self.disk.flush()?;
        self.flusher.note(true);
        Ok(())
    }

    /// Like [`Store::create`] for what may be lost in a crash.
    pub(crate) fn create_lazily(&self, kind: crate::Kind, mut json: Value) -> Result<Arc<Object>> {
        let key = prepare_new(kind, &mut json)?;
        self.write(&key, false, |existing| match existing {
            Some(_) => Err(Error::AlreadyExists(key.clone())),
            None => Ok(Decision::Put { json, is_new: true }),
        })
    }

    /// Like [`Store::modify`], without its rules, for what may be lost in a crash.
    pub(crate) fn modify_lazily(&self, key: &Key, change: impl FnOnce(&mut Value)) -> Result<Arc<Object>> {
        self.write(key, false, |existing| {
            let mut json = existing.ok_or_else(|| Error::NotFound(key.clone()))?.into_json();
            change(&mut json);
            Ok(Decision::Put { json, is_new: false })
        })
    }

    /// Removes what may come back after a crash.
    pub(crate) fn remove_lazily(&self, key: &Key) -> Result<()> {
        self.write(key, false, |existing| {
            existing
                .map(Decision::Remove)
                .ok_or_else(|| Error::NotFound(key.clone()))
        })
        .map(|_| ())
    }

    /// The one write path: read, decide, give the next version, commit, remember, announce.
    fn write(
        &self,
        key: &Key,
        durable: bool,
        decide: impl FnOnce(Option<Object>) -> Result<Decision>,
    ) -> Result<Arc<Object>> {
        let mut state = self.state();
        let existing = self.disk.get(key)?;
        let decision = decide(existing)?;
        let version = state.version + 1;
        let (op, change) = match decision {
            Decision::Keep(object) => return Ok(object),
            Decision::Put { mut json, is_new } => {
                metadata(&mut json)?.insert("resourceVersion".into(), version.to_string().into());
                let object = Arc::new(Object::new(key.kind, version, json));
                let change = if is_new {
                    WatchEvent::Added(object.clone())
                } else {
                    WatchEvent::Modified(object.clone())
                };
                (Op::Put(object), change)
            }
            Decision::Remove(object) => {
                let mut json = object.into_json();
                metadata(&mut json)?.insert("resourceVersion".into(), version.to_string().into());
                (
                    Op::Remove(key.clone()),
                    WatchEvent::Deleted(Arc::new(Object::new(key.kind, version, json))),
                )
            }
        };
        // A block of versions is on disk before its first one is given out, so that a crash never gives one out twice.
        let reserve = (version > state.reserved).then_some(version + VERSION_BLOCK);
        let durable = durable || reserve.is_some();
        self.disk.commit(&[op], reserve, durable)?;
        self.flusher.note(durable);
        state.reserved = reserve.unwrap_or(state.reserved);
        state.version = version;
        state.history.push(change.clone());
        self.latest.store(version, Ordering::Release);
        let object = Arc::clone(change.object());
        // An error only says that nobody watches.
        let _ = self.live.send(change);
        Ok(object)
    }

    fn list_locked(&self, scope: &Scope) -> Result<Vec<Arc<Object>>> {
        let all = self.disk.list(scope.kind, scope.namespace.as_deref())?;
        Ok(all
            .into_iter()
            .filter(|object| scope.covers(object))
            .map(Arc::new)
            .collect())
    }

    /// State is replaced only after a commit, so that a panic under the lock leaves it whole.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Fills the metadata of a new object, and says its address.
fn prepare_new(kind: crate::Kind, json: &mut Value) -> Result<Key> {
    for (field, wanted) in [("apiVersion", kind.api_version()), ("kind", kind.name())] {
        match json.get(field).and_then(Value::as_str) {
            None if json.is_object() => json[field] = wanted.into(),
            Some(is) if is == wanted => {}
            is => return Err(Error::Invalid(format!("{field}: {}: want {wanted}", is.unwrap_or("?")))),
        }
    }
    let metadata = metadata(json)?;
    let string = |metadata: &serde_json::Map<String, Value>, field: &str| {
        metadata
            .get(field)
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
            .map(str::to_owned)
    };
    let namespace = string(metadata, "namespace").unwrap_or_else(|| "default".into());
    let name = match (string(metadata, "name"), string(metadata, "generateName")) {
        (Some(name), _) => name,
        (None, Some(prefix)) => prefix + &suffix(),
        (None, None) => {
            return Err(Error::Invalid(
                "metadata.name: Required value: name or generateName is required".into(),
            ));
        }
    };
    metadata.insert("name".into(), name.clone().into());
    metadata.insert("namespace".into(), namespace.clone().into());
    metadata.insert("uid".into(), uid().into());
    metadata.insert("creationTimestamp".into(), format_time(Timestamp::now()).into());
    if kind.deletes_gracefully() {
        metadata.insert("generation".into(), 1.into());
    }
    metadata.remove("deletionTimestamp");
    metadata.remove("deletionGracePeriodSeconds");
    Ok(Key::new(kind, namespace, name))
}

fn check_preconditions(key: &Key, json: &Value, current: &Object) -> Result<()> {
    let asked = |field: &str| {
        json.get("metadata")
            .and_then(|metadata| metadata.get(field))
            .and_then(Value::as_str)
    };
    check_uid(key, asked("uid").filter(|uid| !uid.is_empty()), current)?;
    match asked("resourceVersion") {
        Some(version) if !version.is_empty() && version != current.version().to_string() => Err(Error::Conflict {
            key: key.clone(),
            why: "the object has been modified; please apply your changes to the latest version and try again".into(),
        }),
        _ => Ok(()),
    }
}

fn check_uid(key: &Key, uid: Option<&str>, current: &Object) -> Result<()> {
    match uid {
        Some(uid) if uid != current.uid() => Err(Error::Conflict {
            key: key.clone(),
            why: format!(
                "the UID in the precondition ({uid}) does not match the UID in record ({})",
                current.uid()
            ),
        }),
        _ => Ok(()),
    }
}

/// What only the store sets is taken from the `current` object.
fn keep_system_fields(key: &Key, json: &mut Value, current: &Value) -> Result<()> {
    let fields = [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "resourceVersion",
    ];
    json["apiVersion"] = key.kind.api_version().into();
    json["kind"] = key.kind.name().into();
    let metadata = metadata(json)?;
    for (field, wanted) in [("name", &key.name), ("namespace", &key.namespace)] {
        match metadata.get(field).and_then(Value::as_str) {
            None | Some("") => metadata.insert(field.into(), wanted.as_str().into()),
            Some(is) if is == wanted => None,
            Some(is) => {
                return Err(Error::Invalid(format!(
                    "metadata.{field}: \"{is}\": field is immutable, it is \"{wanted}\""
                )));
            }
        };
    }
    for field in fields {
        match current["metadata"].get(field) {
            Some(value) => metadata.insert(field.into(), value.clone()),
            None => metadata.remove(field),
        };
    }
    Ok(())
}

/// Five characters as Kubernetes appends to generateName: no vowels, nothing that looks like another.
pub(crate) fn suffix() -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    random::<5>()
        .iter()
        .map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]))
        .collect()
}

/// A random UUID (RFC 9562, version 4).
fn uid() -> String {
    let mut bytes = random::<16>();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("getrandom(2) fails only before the machine has booted");
    bytes
}
