//! The database: the only file that knows redb.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use redb::{Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, StorageError, TableDefinition};
use serde_json::Value;

use crate::{
    Error, Result,
    object::{Key, Kind, Object},
};

type RecordKey = (&'static str, &'static str, &'static str);

/// (resource, namespace, name) → JSON.
const OBJECTS: TableDefinition<RecordKey, &[u8]> = TableDefinition::new("objects");
/// Records of `objects` that did not parse, moved away when the database was opened.
const BROKEN: TableDefinition<RecordKey, &[u8]> = TableDefinition::new("broken");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
/// All versions below this one may have been given out.
const RESERVED: &str = "reserved_versions";
const FORMAT: &str = "format";
const FORMAT_VERSION: u64 = 1;

/// redb's page cache. Objects are small; the daemon's memory is counted.
const CACHE_BYTES: usize = 1 << 20;

/// A database that could not be opened was set aside, and an empty one begun.
#[derive(Debug, Clone)]
pub struct Quarantined {
    /// Where it is now.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
}

/// One entry of a transaction.
pub(crate) enum Op {
    Put(Arc<Object>),
    Remove(Key),
}

pub(crate) struct Disk {
    path: PathBuf,
    /// None: it has failed, and could not be opened again yet.
    db: RwLock<Option<Database>>,
}

impl Disk {
    /// Opens the database, makes it if it isn't there, and quarantines it if it is damaged.
    pub fn open(path: &Path) -> Result<(Disk, Option<Quarantined>)> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(|error| storage(path, "create its directory", error))?;
        }
        let (db, quarantined) = match open_database(path) {
            Ok(db) => (db, None),
            Err(Unusable::Damaged(reason)) => {
                let aside = free_name(path);
                std::fs::rename(path, &aside)
                    .map_err(|error| storage(path, "quarantine the damaged database", error))?;
                tracing::error!(
                    "{}: {reason}; it was moved to {} and an empty database begun: the pods that were in it must be applied again",
                    path.display(),
                    aside.display()
                );
                let db = open_database(path).map_err(|unusable| match unusable {
                    Unusable::Damaged(reason) => storage(path, "begin an empty database", reason),
                    Unusable::Failed(error) => storage(path, "begin an empty database", error),
                })?;
                (db, Some(Quarantined { path: aside, reason }))
            }
            Err(Unusable::Failed(error)) => return Err(storage(path, "open", error)),
        };
        let disk = Disk {
            path: path.to_owned(),
            db: RwLock::new(Some(db)),
        };
        disk.set_broken_aside()?;
        Ok((disk, quarantined))
    }

    pub fn reserved_versions(&self) -> Result<u64> {
        self.read("read the reserved versions", |txn| {
            Ok(txn.open_table(META)?.get(RESERVED)?.map_or(0, |value| value.value()))
        })
    }

    pub fn get(&self, key: &Key) -> Result<Option<Object>> {
        let bytes = self.read("read an object", |txn| {
            let table = txn.open_table(OBJECTS)?;
            let record = table.get((key.kind.resource(), key.namespace.as_str(), key.name.as_str()))?;
            Ok(record.map(|bytes| bytes.value().to_vec()))
        })?;
        Ok(bytes.and_then(|bytes| parse(key.kind, &bytes)))
    }

    /// All objects of a kind, of one namespace or of all, by namespace and name.
    pub fn list(&self, kind: Kind, namespace: Option<&str>) -> Result<Vec<Object>> {
        self.read("list objects", |txn| {
            let table = txn.open_table(OBJECTS)?;
            let mut objects = Vec::new();
            for entry in table.range((kind.resource(), namespace.unwrap_or(""), "")..)? {
                let (key, bytes) = entry?;
                let (resource, in_namespace, _) = key.value();
                if resource != kind.resource() || namespace.is_some_and(|namespace| namespace != in_namespace) {
                    break;
                }
                objects.extend(parse(kind, bytes.value()));
            }
            Ok(objects)
        })
    }

    /// One transaction. `durable`: on disk when this returns; otherwise with the next durable one, or when the store is closed.
    pub fn commit(&self, ops: &[Op], reserve: Option<u64>, durable: bool) -> Result<()> {
        self.write(durable, "write an object", |txn| {
            let mut table = txn.open_table(OBJECTS)?;
            for op in ops {
                match op {
                    Op::Put(object) => {
                        let key = (object.kind().resource(), object.namespace(), object.name());
                        table.insert(key, object.json().to_string().as_bytes())?;
                    }
                    Op::Remove(key) => {
                        table.remove((key.kind.resource(), key.namespace.as_str(), key.name.as_str()))?;
                    }
                }
            }
            if let Some(versions) = reserve {
                txn.open_table(META)?.insert(RESERVED, versions)?;
            }
            Ok(())
        })
    }

    /// Takes what was committed without waiting for the disk to the disk.
    pub fn flush(&self) -> Result<()> {
        self.write(true, "flush", |_| Ok(()))
    }

    /// One broken record must not hide the others: it moves to a table of its own.
    fn set_broken_aside(&self) -> Result<()> {
        self.write(true, "check the records", |txn| {
            let mut objects = txn.open_table(OBJECTS)?;
            let mut broken = txn.open_table(BROKEN)?;
            txn.open_table(META)?.insert(FORMAT, FORMAT_VERSION)?;
            let mut bad: Vec<(String, String, String, Vec<u8>)> = Vec::new();
            for entry in objects.iter()? {
                let (key, bytes) = entry?;
                let (resource, namespace, name) = key.value();
                let kind = Kind::ALL.into_iter().find(|kind| kind.resource() == resource);
                // A kind that this version doesn't know was written by a newer one, which may come back.
                if kind.is_some_and(|kind| parse(kind, bytes.value()).is_none()) {
                    bad.push((resource.into(), namespace.into(), name.into(), bytes.value().to_vec()));
                }
            }
            for (resource, namespace, name, bytes) in bad {
                let key = (resource.as_str(), namespace.as_str(), name.as_str());
                tracing::error!(
                    "{}: the record of {resource} {namespace}/{name} does not parse: set aside",
                    self.path.display()
                );
                broken.insert(key, bytes.as_slice())?;
                objects.remove(key)?;
            }
            Ok(())
        })
    }

    fn read<T>(
        &self,
        what: &'static str,
        f: impl Fn(&redb::ReadTransaction) -> std::result::Result<T, redb::Error>,
    ) -> Result<T> {
        self.with(what, |db| f(&db.begin_read()?))
    }

    fn write(
        &self,
        durable: bool,
        what: &'static str,
        f: impl Fn(&redb::WriteTransaction) -> std::result::Result<(), redb::Error>,
    ) -> Result<()> {
        self.with(what, |db| {
            let mut txn = db.begin_write()?;
            txn.set_durability(if durable {
                Durability::Immediate
            } else {
                Durability::None
            })?;
            f(&txn)?;
            txn.commit()?;
            Ok(())
        })
    }

    /// Does something with the database. One that has failed to read or to write refuses everything from then on, since it can't know
    /// what is on the disk; so it is opened anew, and a full disk costs no more than what it had no room for, and what was waiting to be
    /// flushed.
    fn with<T>(&self, what: &'static str, f: impl Fn(&Database) -> std::result::Result<T, redb::Error>) -> Result<T> {
        let run = || match &*self.db.read().unwrap_or_else(PoisonError::into_inner) {
            Some(db) => f(db),
            None => Err(redb::Error::PreviousIo),
        };
        let done = match run() {
            Err(redb::Error::PreviousIo) => {
                self.open_again()?;
                run()
            }
            done => done,
        };
        done.map_err(|error| storage(&self.path, what, error))
    }

    fn open_again(&self) -> Result<()> {
        let mut db = self.db.write().unwrap_or_else(PoisonError::into_inner);
        // The file is locked while it is open.
        *db = None;
        *db = match open_database(&self.path) {
            Ok(db) => Some(db),
            Err(Unusable::Damaged(reason)) => return Err(storage(&self.path, "open again", reason)),
            Err(Unusable::Failed(error)) => return Err(storage(&self.path, "open again", error)),
        };
        Ok(())
    }
}

fn parse(kind: Kind, bytes: &[u8]) -> Option<Object> {
    let json: Value = serde_json::from_slice(bytes).ok()?;
    let version = json.get("metadata")?.get("resourceVersion")?.as_str()?.parse().ok()?;
    Some(Object::new(kind, version, json))
}

enum Unusable {
    /// The file's content is at fault: setting it aside helps.
    Damaged(String),
    /// Something else is: another process, permissions, a full disk.
    Failed(Box<dyn std::error::Error + Send + Sync>),
}

fn open_database(path: &Path) -> std::result::Result<Database, Unusable> {
    use std::io::ErrorKind::{InvalidData, UnexpectedEof};

    if !path.exists() {
        make_database(path).map_err(|error| Unusable::Failed(error.into()))?;
    }
    // Secrets are in it: in what pods are told by their environment, at least.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .map_err(|error| Unusable::Failed(error.into()))?;
    let db = redb::Builder::new()
        .set_cache_size(CACHE_BYTES)
        .open(path)
        .map_err(|error| match error {
            DatabaseError::UpgradeRequired(format) => {
                Unusable::Damaged(format!("the database has the old format {format}"))
            }
            DatabaseError::RepairAborted => Unusable::Damaged("the database can't be repaired".into()),
            DatabaseError::Storage(StorageError::Corrupted(why)) => {
                Unusable::Damaged(format!("the database is damaged ({why})"))
            }
            DatabaseError::Storage(StorageError::Io(io)) if matches!(io.kind(), InvalidData | UnexpectedEof) => {
                Unusable::Damaged(format!("the database is damaged ({io})"))
            }
            other => Unusable::Failed(other.into()),
        })?;
    let format = db
        .begin_read()
        .ok()
        .and_then(|txn| txn.open_table(META).ok()?.get(FORMAT).ok()?.map(|value| value.value()));
    match format {
        Some(newer) if newer > FORMAT_VERSION => Err(Unusable::Failed(
            format!("the database was written by a newer Hove (format {newer}, this one knows {FORMAT_VERSION}): start that version").into(),
        )),
        _ => Ok(db),
    }
}

/// redb writes a new file step by step; one that a killed process left unfinished can't be opened again. So it gets its name when
/// it is whole, and never takes another's.
fn make_database(path: &Path) -> std::result::Result<(), redb::Error> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let unless = |wanted: std::io::ErrorKind, result: std::io::Result<()>| match result {
        Err(error) if error.kind() != wanted => Err(redb::Error::Io(error)),
        _ => Ok(()),
    };
    unless(std::io::ErrorKind::NotFound, std::fs::remove_file(&new))?;
    Database::create(&new)?.close()?;
    unless(std::io::ErrorKind::AlreadyExists, std::fs::hard_link(&new, path))?;
    unless(std::io::ErrorKind::NotFound, std::fs::remove_file(&new))?;
    if let Some(directory) = path.parent() {
        std::fs::File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(redb::Error::Io)?;
    }
    Ok(())
}

fn free_name(path: &Path) -> PathBuf {
    (1..)
        .map(|n| {
            let mut name = path.as_os_str().to_owned();
            name.push(format!(".quarantined-{n}"));
            PathBuf::from(name)
        })
        .find(|candidate| !candidate.exists())
        .expect("the numbers do not end before the directory is full")
}

fn storage(path: &Path, what: &'static str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Storage {
        path: path.to_owned(),
        what,
        source: source.into(),
    }
}
