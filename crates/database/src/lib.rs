//! A redb database that never keeps a node from starting.
//!
//! - It is made whole or not at all ([`Database::open`]), and readable by root alone.
//! - A file that is torn, emptied, foreign or rotten is set aside for a person, and an empty one begun: a node without its images or
//!   pods can be given them again, a node that does not start can't. Every page is checked when it is opened.
//! - One that has failed to read or to write is opened anew by the next [`Database::run`], so that a full disk costs no more than
//!   what it had no room for.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod opening;

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use redb::{DatabaseError, StorageError};

use opening::Opening;

/// redb's cache of pages. What is kept is small, and a node's memory is counted.
const CACHE_BYTES: usize = 1 << 20;

/// An open database. A second process is refused.
pub struct Database {
    path: PathBuf,
    /// None: it has failed, and could not be opened again yet.
    open: RwLock<Option<redb::Database>>,
}

/// A file that could not be used was set aside, and an empty database begun.
#[derive(Debug, Clone)]
pub struct Quarantined {
    /// Where it is now.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
}

/// Why a database can't be opened, though its content may be sound.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process has it open.
    #[error("{} is open in another process", path.display())]
    Busy {
        /// The database.
        path: PathBuf,
    },
    /// Its disk or its permissions are at fault.
    #[error("{}: {source}", path.display())]
    Failed {
        /// The database.
        path: PathBuf,
        /// redb's or the system's word.
        source: Box<redb::Error>,
    },
}

impl Database {
    /// Opens the database at `path`, whose directory must be there; makes it if it isn't there; begins an empty one if it can't be
    /// used.
    pub fn open(path: &Path) -> Result<(Self, Option<Quarantined>), Error> {
        let failed = |source: redb::Error| Error::Failed {
            path: path.to_path_buf(),
            source: Box::new(source),
        };
        let refused = |error| match error {
            DatabaseError::DatabaseAlreadyOpen => Error::Busy {
                path: path.to_path_buf(),
            },
            error => failed(error.into()),
        };
        make(path).map_err(failed)?;
        let (open, quarantined) = match open(path) {
            Ok(open) => (open, None),
            Err(error) => {
                let Some(reason) = damage(&error) else {
                    return Err(refused(error));
                };
                let aside = record::quarantine(path).map_err(|e| failed(redb::Error::Io(io::Error::other(e))))?;
                make(path).map_err(failed)?;
                let quarantined = Quarantined { path: aside, reason };
                (open(path).map_err(refused)?, Some(quarantined))
            }
        };
        let database = Database {
            path: path.to_path_buf(),
            open: RwLock::new(Some(open)),
        };
        Ok((database, quarantined))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Does something with it; twice, if it had failed before: redb refuses everything after a failure, since it can't know what is on
    /// the disk.
    pub fn run<T>(&self, operation: impl Fn(&redb::Database) -> Result<T, redb::Error>) -> Result<T, redb::Error> {
        let run = || match &*self.open.read().unwrap_or_else(PoisonError::into_inner) {
            Some(open) => operation(open),
            None => Err(redb::Error::PreviousIo),
        };
        match run() {
            Err(redb::Error::PreviousIo) => self.open_again().and_then(|()| run()),
            done => done,
        }
    }

    fn open_again(&self) -> Result<(), redb::Error> {
        let mut database = self.open.write().unwrap_or_else(PoisonError::into_inner);
        // The file is locked while it is open.
        *database = None;
        *database = Some(open(&self.path)?);
        Ok(())
    }
}

/// Opens a file, and looks at every page of it.
fn open(path: &Path) -> Result<redb::Database, DatabaseError> {
    // It tells of pods' environments, secrets among them.
    fs::set_permissions(path, Permissions::from_mode(0o600))
        .map_err(|e| DatabaseError::Storage(StorageError::Io(e)))?;
    let _opening = Opening::begin(path);
    let mut database = redb::Builder::new().set_cache_size(CACHE_BYTES).open(path)?;
    // redb takes the pages of a file that was closed for good ones, and panics over those that are not.
    database.check_integrity()?;
    Ok(database)
}

/// What is wrong with the content; none if it is the disk, a permission, another process.
fn damage(error: &DatabaseError) -> Option<String> {
    match error {
        DatabaseError::UpgradeRequired(format) => Some(format!("the database has the old format {format}")),
        DatabaseError::RepairAborted => Some("the database can't be repaired".to_string()),
        DatabaseError::Storage(StorageError::Corrupted(why)) => Some(format!("the database is damaged ({why})")),
        DatabaseError::Storage(StorageError::Io(io))
            if matches!(io.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) =>
        {
            Some(format!("the database is damaged ({io})"))
        }
        _ => None,
    }
}

/// Makes an empty database if there is none. redb writes a new file step by step; one that a killed process left unfinished can't be
/// opened again. So it gets its name when it is whole, and never takes another's.
fn make(path: &Path) -> Result<(), redb::Error> {
    if path.exists() {
        return Ok(());
    }
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let unless = |wanted: ErrorKind, result: io::Result<()>| match result {
        Err(error) if error.kind() != wanted => Err(redb::Error::Io(error)),
        _ => Ok(()),
    };
    unless(ErrorKind::NotFound, fs::remove_file(&new))?;
    redb::Database::create(&new)?.close()?;
    unless(ErrorKind::AlreadyExists, fs::hard_link(&new, path))?;
    unless(ErrorKind::NotFound, fs::remove_file(&new))?;
    match path.parent() {
        Some(directory) => Ok(File::open(directory).and_then(|directory| directory.sync_all())?),
        None => Ok(()),
    }
}
