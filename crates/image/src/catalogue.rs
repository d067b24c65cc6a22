//! The database of images and layers, `ROOT/images/images.redb`.
//!
//! It is read once, when the store opens; from then on the store answers from memory, and every change goes to the
//! database before it shows. Lookups are on the way of every container that starts.

use std::fs::File;
use std::path::Path;

use database::{Database, Quarantined};
use redb::{Durability, ReadableDatabase, ReadableTable, TableDefinition};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::model::{Record, Usage};

/// Image id → [`Record`], JSON.
const IMAGES: TableDefinition<&str, &[u8]> = TableDefinition::new("images.1");
/// Chain id → [`Chain`], JSON.
const CHAINS: TableDefinition<&str, &[u8]> = TableDefinition::new("chains.1");

/// A layer that is unpacked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// Its snapshot's number.
    pub number: u64,
    /// What it takes.
    pub usage: Usage,
    /// The boot in which it was unpacked, until it is known to be on the disk.
    #[serde(default)]
    pub unsettled: Option<String>,
}

/// The open database. A second process is refused.
pub struct Catalogue {
    database: Database,
    /// `ROOT/images/lock`.
    _lock: Lock,
}

/// A locked file.
struct Lock(File);

impl Drop for Lock {
    /// Closing alone would not do: a child that was forked a moment ago, and has not reached its exec yet, still has it open.
    fn drop(&mut self) {
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

/// All that is recorded.
pub struct Loaded {
    /// Images by id.
    pub images: Vec<(Digest, Record)>,
    /// Unpacked layers by chain id.
    pub chains: Vec<(Digest, Chain)>,
}

/// What one commit changes.
#[derive(Default)]
pub struct Change {
    /// Images to write or, without a record, to forget.
    pub images: Vec<(Digest, Option<Record>)>,
    /// Likewise layers.
    pub chains: Vec<(Digest, Option<Chain>)>,
}

impl Catalogue {
    /// Opens or creates `images.redb` in `images`.
    pub fn open(images: &Path) -> Result<Self> {
        let lock = lock(&images.join("lock"))?;
        let (database, quarantined) = Database::open(&images.join("images.redb")).map_err(|error| match error {
            database::Error::Busy { path } => Error::Locked { path },
            database::Error::Failed { path, source } => Error::Database { path, source },
        })?;
        if let Some(Quarantined { path, reason }) = quarantined {
            tracing::error!(aside = %path.display(), "{reason}: import the images again");
        }
        Ok(Catalogue { database, _lock: lock })
    }

    /// All that is recorded. A record that can't be read is left out with a warning: one broken image must not keep a
    /// node from starting.
    pub fn load(&self) -> Result<Loaded> {
        self.run(|database| {
            let transaction = database.begin_read()?;
            Ok(Loaded {
                images: read_table(&transaction, IMAGES)?,
                chains: read_table(&transaction, CHAINS)?,
            })
        })
    }

    /// Makes a change durable.
    pub fn commit(&self, change: &Change) -> Result<()> {
        self.write(change, Durability::Immediate)
    }

    /// Makes a change that the next [`Catalogue::commit`] makes durable: it does not wait for the disk.
    pub fn commit_later(&self, change: &Change) -> Result<()> {
        self.write(change, Durability::None)
    }

    fn write(&self, change: &Change, durability: Durability) -> Result<()> {
        self.run(|database| {
            let mut transaction = database.begin_write()?;
            transaction.set_durability(durability)?;
            write_table(&transaction, IMAGES, &change.images)?;
            write_table(&transaction, CHAINS, &change.chains)?;
            transaction.commit()?;
            Ok(())
        })
    }

    fn run<T>(&self, operation: impl Fn(&redb::Database) -> Result<T, redb::Error>) -> Result<T> {
        self.database.run(operation).map_err(|e| Error::Database {
            path: self.database.path().to_path_buf(),
            source: Box::new(e),
        })
    }
}

/// The lock of the whole store: it is there before the database is.
fn lock(path: &Path) -> Result<Lock> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(Error::io("opening", path))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Lock(file)),
        Err(Errno::WOULDBLOCK) => Err(Error::Locked {
            path: path.to_path_buf(),
        }),
        Err(errno) => Err(Error::call("locking", path)(errno)),
    }
}

fn read_table<T: for<'de> Deserialize<'de>>(
    transaction: &redb::ReadTransaction,
    table: TableDefinition<&str, &[u8]>,
) -> Result<Vec<(Digest, T)>, redb::Error> {
    let table = match transaction.open_table(table) {
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        table => table?,
    };
    let mut records = Vec::new();
    for row in table.iter()? {
        let (key, value) = row?;
        match (key.value().parse(), serde_json::from_slice(value.value())) {
            (Ok(key), Ok(value)) => records.push((key, value)),
            _ => tracing::warn!(
                key = key.value(),
                "record of an image or a layer is unreadable; it is ignored"
            ),
        }
    }
    Ok(records)
}

fn write_table<T: Serialize>(
    transaction: &redb::WriteTransaction,
    table: TableDefinition<&str, &[u8]>,
    rows: &[(Digest, Option<T>)],
) -> Result<(), redb::Error> {
    let mut table = transaction.open_table(table)?;
    for (key, value) in rows {
        let key = key.to_string();
        match value {
            Some(value) => {
                let json = serde_json::to_vec(value).expect("records hold nothing that JSON can't");
                table.insert(key.as_str(), json.as_slice())?;
            }
            None => drop(table.remove(key.as_str())?),
        }
    }
    Ok(())
}
