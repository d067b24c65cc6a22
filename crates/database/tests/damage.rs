//! What happens to a database's file, and what is left of it.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use database::{Database, Error};
use redb::{ReadableDatabase, ReadableTable, TableDefinition};

const NUMBERS: TableDefinition<u64, &[u8]> = TableDefinition::new("numbers");

/// redb's.
const PAGE_BYTES: u64 = 4096;

fn fill(database: &Database) {
    for round in 0..3 {
        database
            .run(|open| {
                let transaction = open.begin_write()?;
                for number in 0..200 {
                    let value = vec![round; 100];
                    transaction.open_table(NUMBERS)?.insert(number, value.as_slice())?;
                }
                Ok(transaction.commit()?)
            })
            .unwrap();
    }
}

/// How many records there are; all of them are read.
fn count(database: &Database) -> usize {
    database
        .run(|open| {
            let transaction = open.begin_read()?;
            let table = match transaction.open_table(NUMBERS) {
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(0),
                table => table?,
            };
            let mut count = 0;
            for row in table.iter()? {
                let (_, value) = row?;
                assert_eq!(value.value().len(), 100);
                count += 1;
            }
            Ok(count)
        })
        .unwrap()
}

fn open(path: &Path) -> Database {
    Database::open(path).unwrap().0
}

#[test]
fn what_was_written_is_there_and_roots_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.redb");
    fill(&open(&path));
    let (database, quarantined) = Database::open(&path).unwrap();
    assert!(quarantined.is_none());
    assert_eq!(count(&database), 200);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(matches!(Database::open(&path), Err(Error::Busy { .. })));
}

#[test]
fn what_is_no_database_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.redb");
    for (n, damage) in ["", "not a database"].into_iter().enumerate() {
        fs::write(&path, damage).unwrap();
        let (database, quarantined) = Database::open(&path).unwrap();
        let quarantined = quarantined.unwrap();
        assert_eq!(
            quarantined.path,
            dir.path().join(format!("a.redb.quarantined-{}", n + 1))
        );
        assert_eq!(fs::read_to_string(quarantined.path).unwrap(), damage);
        fill(&database);
        assert_eq!(count(&database), 200);
    }
}

/// Each page, one after the other, is overwritten: with zeros, ones, and another page. redb may panic over it, which ends a node; the
/// second start must do.
#[test]
fn a_rotten_page_costs_no_more_than_one_start() {
    let dir = tempfile::tempdir().unwrap();
    let sound = dir.path().join("sound.redb");
    fill(&open(&sound));
    let length = fs::metadata(&sound).unwrap().len();
    let other = {
        let mut page = vec![0; PAGE_BYTES as usize];
        fs::File::open(&sound)
            .unwrap()
            .read_exact_at(&mut page, PAGE_BYTES)
            .unwrap();
        page
    };
    let path = dir.path().join("a.redb");
    let (mut panics, mut set_aside, mut unharmed) = (0, 0, 0);
    for page in 0..length / PAGE_BYTES {
        for rot in [
            vec![0; PAGE_BYTES as usize],
            vec![0xff; PAGE_BYTES as usize],
            other.clone(),
        ] {
            fs::copy(&sound, &path).unwrap();
            let file = fs::File::options().write(true).open(&path).unwrap();
            file.write_all_at(&rot, page * PAGE_BYTES).unwrap();
            drop(file);
            let first = {
                let path = path.clone();
                std::thread::spawn(move || open(&path)).join()
            };
            panics += usize::from(first.is_err());
            let database = first.unwrap_or_else(|_| open(&path));
            match count(&database) {
                0 => set_aside += 1,
                200 => unharmed += 1,
                other => panic!("page {page}: {other} records are left"),
            }
            fill(&database);
            assert_eq!(count(&database), 200);
            drop(database);
            for n in 1..=2 {
                let _ = fs::remove_file(dir.path().join(format!("a.redb.quarantined-{n}")));
            }
        }
    }
    println!("{panics} panics, {set_aside} databases set aside, {unharmed} unharmed");
    assert!(set_aside > 0 && unharmed > 0);
}
