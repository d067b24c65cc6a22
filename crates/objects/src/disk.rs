//! The objects' tables.

use std::{path::Path, sync::Arc};

use database::Database;
pub use database::Quarantined;
use redb::{Durability, ReadableDatabase, ReadableTable, TableDefinition, TableError};
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

/// One entry of a transaction.
pub(crate) enum Op {
    Put(Arc<Object>),
    Remove(Key),
}

pub(crate) struct Disk {
    database: Database,
}

impl Disk {
    /// Opens the database, makes it if it isn't there, and quarantines it if it is damaged.
    pub fn open(path: &Path) -> Result<(Disk, Option<Quarantined>)> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(|error| storage(path, "create its directory", error))?;
        }
        let (database, quarantined) = Database::open(path).map_err(|error| storage(path, "open", error))?;
        if let Some(Quarantined { path: aside, reason }) = &quarantined {
            tracing::error!(
                "{}: {reason}; it was moved to {} and an empty database begun: the pods that were in it must be applied again",
                path.display(),
                aside.display()
            );
        }
        let disk = Disk { database };
        disk.refuse_newer()?;
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

    /// What a newer Hove has written is its own: it may come back.
    fn refuse_newer(&self) -> Result<()> {
        let format = self.read("read the format", |txn| match txn.open_table(META) {
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            table => Ok(table?.get(FORMAT)?.map(|value| value.value())),
        })?;
        match format {
            Some(newer) if newer > FORMAT_VERSION => Err(storage(
                self.database.path(),
                "open",
                format!(
                    "the database was written by a newer Hove (format {newer}, this one knows {FORMAT_VERSION}): start that version"
                ),
            )),
            _ => Ok(()),
        }
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
                    self.database.path().display()
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

    /// What waited to be flushed may be lost if the database fails.
    fn with<T>(
        &self,
        what: &'static str,
        f: impl Fn(&redb::Database) -> std::result::Result<T, redb::Error>,
    ) -> Result<T> {
        self.database
            .run(f)
            .map_err(|error| storage(self.database.path(), what, error))
    }
}

fn parse(kind: Kind, bytes: &[u8]) -> Option<Object> {
    let json: Value = serde_json::from_slice(bytes).ok()?;
    let version = json.get("metadata")?.get("resourceVersion")?.as_str()?.parse().ok()?;
    Some(Object::new(kind, version, json))
}

fn storage(path: &Path, what: &'static str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Storage {
        path: path.to_owned(),
        what,
        source: source.into(),
    }
}
