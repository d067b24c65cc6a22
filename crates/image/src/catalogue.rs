//! The database of images and layers, `ROOT/images/images.redb`.
//!
//! It is read once, when the store opens; from then on the store answers from memory, and every change goes to the
//! database before it shows. Lookups are on the way of every container that starts.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};
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
    path: PathBuf,
    /// None: it has failed, and could not be opened again yet.
    database: RwLock<Option<Database>>,
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
        Self::open_locked(images, lock)
    }

    fn open_locked(images: &Path, lock: Lock) -> Result<Self> {
        let path = images.join("images.redb");
        let failed = |source: redb::Error| Error::Database {
            path: path.clone(),
            source: Box::new(source),
        };
        if !path.exists() {
            // redb writes a new file step by step; one that a killed process left unfinished could never be opened
            // again (tried: "magic number mismatch"). So it gets its name when it is whole.
            let new = images.join("images.redb.new");
            match fs::remove_file(&new) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Error::io("removing", &new)(e)),
                _ => {}
            }
            drop(Database::create(&new).map_err(|e| failed(e.into()))?);
            fs::rename(&new, &path).map_err(Error::io("renaming", &new))?;
            File::open(images)
                .and_then(|dir| dir.sync_all())
                .map_err(Error::io("syncing", images))?;
        }
        let database = match open_database(&path) {
            Ok(database) => database,
            Err(redb::DatabaseError::DatabaseAlreadyOpen) => return Err(Error::Locked { path }),
            // A node without its images can be given them again; a node that does not start can't.
            Err(error) if is_damaged(&error) => {
                // Whoever wants to look into it finds it there.
                let aside = record::quarantine(&path).map_err(|e| Error::io("renaming", &path)(io::Error::other(e)))?;
                tracing::error!(%error, aside = %aside.display(), "the database of images is damaged: import the images again");
                return Self::open_locked(images, lock);
            }
            Err(error) => return Err(failed(error.into())),
        };
        Ok(Catalogue {
            path,
            database: RwLock::new(Some(database)),
            _lock: lock,
        })
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

    /// Does something with the database. One that has failed to write refuses everything from then on, since it can't know what is on
    /// the disk; so it is opened anew, and a full disk costs no more than what it had no room for.
    fn run<T>(&self, operation: impl Fn(&Database) -> Result<T, redb::Error>) -> Result<T> {
        let run = || match &*self.database.read().unwrap_or_else(PoisonError::into_inner) {
            Some(database) => operation(database),
            None => Err(redb::Error::PreviousIo),
        };
        let done = match run() {
            Err(redb::Error::PreviousIo) => self.open_again().and_then(|()| run()),
            done => done,
        };
        done.map_err(|e| Error::Database {
            path: self.path.clone(),
            source: Box::new(e),
        })
    }

    fn open_again(&self) -> Result<(), redb::Error> {
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        // The file is locked while it is open.
        *database = None;
        *database = Some(open_database(&self.path)?);
        Ok(())
    }
}

fn open_database(path: &Path) -> Result<Database, redb::DatabaseError> {
    Database::builder().set_cache_size(1 << 20).open(path)
}

/// Is the file's content at fault, not the disk or a permission?
fn is_damaged(error: &redb::DatabaseError) -> bool {
    use redb::{DatabaseError, StorageError};
    match error {
        DatabaseError::RepairAborted | DatabaseError::Storage(StorageError::Corrupted(_)) => true,
        DatabaseError::Storage(StorageError::Io(io)) => {
            matches!(io.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
        }
        _ => false,
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
