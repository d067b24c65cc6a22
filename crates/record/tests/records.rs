//! What a record must withstand: crashes half-way, reboots, newer versions, foreign text, full disks.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use record::{Error, Record, load, quarantine, remove, save};
use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Attempt {
    id: String,
    pid: u32,
}

impl Record for Attempt {
    const KIND: &'static str = "attempt";
    const VERSION: u32 = 3;
    const SURVIVES_BOOT: bool = false;
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Lasting(u8);

impl Record for Lasting {
    const KIND: &'static str = "lasting";
    const VERSION: u32 = 1;
    const SURVIVES_BOOT: bool = true;
}

fn attempt() -> Attempt {
    Attempt {
        id: "a1".into(),
        pid: 42,
    }
}

fn envelope(kind: &str, version: u32, boot: &str) -> String {
    format!(r#"{{"kind":"{kind}","version":{version},"boot_id":"{boot}","record":{{"id":"a1","pid":42}}}}"#)
}

#[test]
fn what_is_saved_is_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.json");
    save(&path, &attempt()).unwrap();
    save(
        &path,
        &Attempt {
            id: "a2".into(),
            pid: 43,
        },
    )
    .unwrap();
    assert_eq!(
        load::<Attempt>(&path).unwrap(),
        Attempt {
            id: "a2".into(),
            pid: 43
        }
    );
    assert_eq!(names(dir.path()), ["a.json"]);
    remove(&path).unwrap();
    remove(&path).unwrap();
    assert!(matches!(load::<Attempt>(&path), Err(Error::Missing { .. })));
}

#[test]
fn every_torn_prefix_is_corrupt() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.json");
    save(&path, &attempt()).unwrap();
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        assert!(
            matches!(load::<Attempt>(&path), Err(Error::Corrupt { .. })),
            "{length} bytes"
        );
    }
}

#[test]
fn a_crash_before_the_rename_leaves_the_old_record() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.json");
    save(&path, &attempt()).unwrap();
    fs::write(dir.path().join("a.json.new"), "{\"kind\":").unwrap();
    assert_eq!(load::<Attempt>(&path).unwrap(), attempt());
    save(&path, &attempt()).unwrap();
    assert_eq!(names(dir.path()), ["a.json"]);
}

#[test]
fn another_boot_is_foreign_unless_the_record_survives() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.json");
    fs::write(&path, envelope("attempt", 3, "an-older-boot")).unwrap();
    let error = load::<Attempt>(&path).unwrap_err();
    assert!(
        matches!(&error, Error::Foreign { boot_id, .. } if boot_id == "an-older-boot"),
        "{error}"
    );

    fs::write(
        &path,
        r#"{"kind":"lasting","version":1,"boot_id":"an-older-boot","record":7}"#,
    )
    .unwrap();
    assert_eq!(load::<Lasting>(&path).unwrap(), Lasting(7));
}

#[test]
fn versions_up_to_ours_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.json");
    let boot = record::boot_id().unwrap();
    for (version, readable) in [(1, true), (3, true), (4, false)] {
        fs::write(&path, envelope("attempt", version, boot)).unwrap();
        match load::<Attempt>(&path) {
            Ok(record) => assert!(readable && record == attempt()),
            Err(Error::Version { found, known, .. }) => assert!(!readable && (found, known) == (4, 3)),
            Err(e) => panic!("{e}"),
        }
    }
}

#[test]
fn another_kind_and_a_wrong_shape_are_corrupt() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.json");
    let boot = record::boot_id().unwrap();
    for text in [
        envelope("lasting", 3, boot),
        envelope("attempt", 3, boot).replace("\"pid\":42", "\"pid\":\"many\""),
        "[]".to_string(),
        "\u{0}\u{0}\u{0}".to_string(),
    ] {
        fs::write(&path, &text).unwrap();
        assert!(matches!(load::<Attempt>(&path), Err(Error::Corrupt { .. })), "{text}");
    }
}

/// Neither a writer that never comes nor a file without end holds the node up.
#[test]
fn what_is_no_file_of_ours_is_corrupt() {
    let dir = tempfile::tempdir().unwrap();
    let (fifo, huge) = (dir.path().join("fifo"), dir.path().join("huge"));
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RUSR).unwrap();
    fs::File::create(&huge).unwrap().set_len(3 << 30).unwrap();
    for path in [fifo, huge] {
        assert!(matches!(load::<Attempt>(&path), Err(Error::Corrupt { .. })), "{path:?}");
    }
}

#[test]
fn quarantine_overwrites_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.json");
    for (n, text) in ["first", "second"].iter().enumerate() {
        fs::write(&path, text).unwrap();
        let moved = quarantine(&path).unwrap();
        assert_eq!(moved, dir.path().join(format!("a.json.quarantined-{}", n + 1)));
        assert_eq!(fs::read_to_string(moved).unwrap(), *text);
    }
    assert!(matches!(quarantine(&path), Err(Error::Missing { .. })));
}

#[test]
fn a_failed_save_says_which_call_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let error = save(&dir.path().join("no/such/a.json"), &attempt()).unwrap_err();
    assert!(error.to_string().contains("no/such\", O_DIRECTORY"), "{error}");

    let taken = dir.path().join("taken");
    fs::create_dir(&taken).unwrap();
    let error = save(&taken, &attempt()).unwrap_err();
    assert!(error.to_string().starts_with("rename("), "{error}");
    assert_eq!(names(dir.path()), ["taken"]);
}

fn names(dir: &Path) -> Vec<String> {
    fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect()
}
