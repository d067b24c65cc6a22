//! The store on a real file.

use std::{os::unix::fs::PermissionsExt, path::PathBuf, sync::Arc};

use k8s_openapi::api::core::v1::{Event, ObjectReference};
use serde_json::{Value, json};

use crate::*;

struct Dir {
    _dir: tempfile::TempDir,
    db: PathBuf,
}

fn dir() -> Dir {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("objects.redb");
    Dir { _dir: dir, db }
}

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i", "x-unknown": 1}]}})
}

fn key(name: &str) -> Key {
    Key::pod("default", name)
}

#[test]
fn a_new_object_gets_what_only_the_store_can_give() {
    let dir = dir();
    let store = Store::open(&dir.db).unwrap();
    let object = store.create(Kind::Pod, pod("web")).unwrap();
    assert_eq!(object.namespace(), "default");
    assert_eq!(object.uid().len(), 36);
    assert_eq!(object.uid().as_bytes()[14], b'4', "{}", object.uid());
    assert_eq!(object.json()["metadata"]["generation"], 1);
    assert_eq!(
        object.json()["metadata"]["resourceVersion"],
        object.version().to_string()
    );
    assert_eq!(
        object.json()["spec"]["containers"][0]["x-unknown"],
        1,
        "the JSON is kept as it was applied"
    );
    assert_eq!(*store.get(&key("web")).unwrap(), *object);

    let error = store.create(Kind::Pod, pod("web")).unwrap_err();
    assert!(
        matches!(&error, Error::AlreadyExists(_)) && error.to_string().starts_with("pods \"web\" already exists"),
        "{error}"
    );
    assert_eq!(store.get(&key("no")).unwrap_err().to_string(), "pods \"no\" not found");
    let generated = store
        .create(Kind::Pod, json!({"metadata": {"generateName": "job-"}}))
        .unwrap();
    assert_eq!(generated.name().len(), "job-".len() + 5);
    assert!(matches!(
        store.create(Kind::Pod, json!({"kind": "Service"})).unwrap_err(),
        Error::Invalid(_)
    ));
    assert!(matches!(
        store.create(Kind::Pod, json!([1])).unwrap_err(),
        Error::Invalid(_)
    ));
}

#[test]
fn a_stale_writer_gets_a_conflict() {
    let dir = dir();
    let store = Store::open(&dir.db).unwrap();
    let first = store.create(Kind::Pod, pod("web")).unwrap();
    let mut changed = first.json().clone();
    changed["spec"]["containers"][0]["image"] = "other".into();
    let second = store.update(&key("web"), changed.clone()).unwrap();
    assert_eq!(second.json()["metadata"]["generation"], 2);
    assert!(second.version() > first.version());

    assert!(matches!(
        store.update(&key("web"), changed).unwrap_err(),
        Error::Conflict { .. }
    ));
    let mut of_another = second.json().clone();
    of_another["metadata"]["uid"] = "0".into();
    assert!(matches!(
        store.update(&key("web"), of_another).unwrap_err(),
        Error::Conflict { .. }
    ));
    // Without a version the last writer wins; the system's fields stay.
    let third = store.update(&key("web"), pod("web")).unwrap();
    assert_eq!(third.uid(), first.uid());
    assert_eq!(third.json()["metadata"]["generation"], 3);
    // The same again is no change.
    assert_eq!(
        store.update(&key("web"), pod("web")).unwrap().version(),
        third.version()
    );
}

#[test]
fn a_status_is_written_apart_from_the_spec() {
    let dir = dir();
    let store = Store::open(&dir.db).unwrap();
    let object = store.create(Kind::Pod, pod("web")).unwrap();
    let running = store
        .update_status(&key("web"), object.uid(), json!({"phase": "Running"}))
        .unwrap();
    assert_eq!(running.json()["metadata"]["generation"], 1);
    let same = store
        .update_status(&key("web"), object.uid(), json!({"phase": "Running"}))
        .unwrap();
    assert_eq!(same.version(), running.version());
    let updated = store.update(&key("web"), pod("web")).unwrap();
    assert_eq!(
        updated.json()["status"]["phase"],
        "Running",
        "an update keeps the status"
    );
    assert!(matches!(
        store.update_status(&key("web"), "another", json!({})).unwrap_err(),
        Error::NotFound(_)
    ));
}

#[test]
fn a_pod_is_deleted_in_two_steps_and_its_time_only_shrinks() {
    let dir = dir();
    let store = Store::open(&dir.db).unwrap();
    let uid = store.create(Kind::Pod, pod("web")).unwrap().uid().to_owned();
    let grace = |deletion: &Deletion| match deletion {
        Deletion::Marked(object) => object.json()["metadata"]["deletionGracePeriodSeconds"]
            .as_i64()
            .unwrap(),
        Deletion::Removed(_) => panic!("a pod is not removed at once"),
    };
    assert!(matches!(
        store.delete(&key("web"), Some("another"), None).unwrap_err(),
        Error::Conflict { .. }
    ));
    assert_eq!(grace(&store.delete(&key("web"), Some(&uid), None).unwrap()), 30);
    assert_eq!(grace(&store.delete(&key("web"), None, Some(5)).unwrap()), 5);
    assert_eq!(grace(&store.delete(&key("web"), None, Some(60)).unwrap()), 5);
    assert!(store.get(&key("web")).unwrap().is_being_deleted());
    assert!(!store.finalise(&key("web"), "another").unwrap());
    assert!(store.finalise(&key("web"), &uid).unwrap());
    assert!(!store.finalise(&key("web"), &uid).unwrap());
    assert!(store.create(Kind::Pod, pod("web")).is_ok(), "the name is free again");
}

#[tokio::test]
async fn a_watch_replays_then_follows() {
    let dir = dir();
    let store = Store::open(&dir.db).unwrap();
    let a = store.create(Kind::Pod, pod("a")).unwrap();
    let (items, version) = store.list(&Scope::all(Kind::Pod)).unwrap();
    assert_eq!((items.len(), version), (1, a.version()));
    store.create(Kind::Pod, pod("b")).unwrap();
    let mut from_list = store.watch(Scope::all(Kind::Pod), Some(version)).unwrap();
    let mut from_start = store.watch(Scope::all(Kind::Pod), None).unwrap();
    let mut only_a = store
        .watch(
            Scope {
                name: Some("a".into()),
                ..Scope::all(Kind::Pod)
            },
            Some(version),
        )
        .unwrap();
    store.delete(&key("a"), None, None).unwrap();
    store.finalise(&key("a"), a.uid()).unwrap();

    let mut seen = Vec::new();
    for (watch, count) in [(&mut from_list, 3), (&mut from_start, 4), (&mut only_a, 2)] {
        let mut list = Vec::new();
        for _ in 0..count {
            let event = watch.next().await.unwrap().unwrap();
            list.push(format!("{} {}", event.type_name(), event.object().name()));
        }
        assert_eq!(watch.version(), store.version());
        seen.push(list.join(", "));
    }
    assert_eq!(
        seen,
        [
            "ADDED b, MODIFIED a, DELETED a",
            "ADDED a, ADDED b, MODIFIED a, DELETED a",
            "MODIFIED a, DELETED a"
        ]
    );
}

#[tokio::test]
async fn a_watcher_that_is_too_slow_or_too_late_is_told_to_list_again() {
    let dir = dir();
    let store = Store::open(&dir.db).unwrap();
    let object = store.create(Kind::Pod, pod("a")).unwrap();
    let mut slow = store.watch(Scope::all(Kind::Pod), Some(object.version())).unwrap();
    for n in 0..2000 {
        store.update_status(&key("a"), object.uid(), json!({"n": n})).unwrap();
    }
    assert!(matches!(slow.next().await.unwrap().unwrap_err(), Error::Expired { .. }));
    let late = store
        .watch(Scope::all(Kind::Pod), Some(object.version()))
        .err()
        .unwrap();
    assert!(late.to_string().starts_with("too old resource version"), "{late}");
    assert!(store.watch(Scope::all(Kind::Pod), Some(store.version())).is_ok());
    let mut watch = store.watch(Scope::all(Kind::Pod), Some(store.version())).unwrap();
    drop(store);
    assert!(watch.next().await.is_none());
}

#[test]
fn objects_and_versions_outlive_the_process() {
    let dir = dir();
    let store = Store::open(&dir.db).unwrap();
    let object = store.create(Kind::Pod, pod("web")).unwrap();
    store
        .update_status(&key("web"), object.uid(), json!({"phase": "Running"}))
        .unwrap();
    let version = store.version();
    drop(store);
    let store = Store::open(&dir.db).unwrap();
    assert_eq!(store.get(&key("web")).unwrap().uid(), object.uid());
    assert!(
        store.version() > version,
        "a version is never given twice: {} after {version}",
        store.version()
    );
    assert!(matches!(
        store.watch(Scope::all(Kind::Pod), Some(version)).err().unwrap(),
        Error::Expired { .. }
    ));
}

#[test]
fn a_crash_keeps_what_was_asked_for_and_never_repeats_a_version() {
    let dir = dir();
    let store = Store::open(&dir.db).unwrap();
    let object = store.create(Kind::Pod, pod("web")).unwrap();
    for n in 0..10 {
        store.update_status(&key("web"), object.uid(), json!({"n": n})).unwrap();
    }
    // What a crash at this instant would leave: the file as it is, without the store's orderly end.
    let crashed = dir.db.with_file_name("crashed.redb");
    std::fs::copy(&dir.db, &crashed).unwrap();
    let after = Store::open(&crashed).unwrap();
    assert!(after.quarantined().is_none());
    assert_eq!(after.get(&key("web")).unwrap().uid(), object.uid());
    assert!(after.version() >= store.version());
}

/// A killed process leaves the file as it is.
fn after_a_kill(dir: &Dir) -> Store {
    let killed = dir.db.with_file_name("killed.redb");
    std::fs::copy(&dir.db, &killed).unwrap();
    Store::open(&killed).unwrap()
}

#[test]
fn a_kill_forgets_no_event_that_is_older_than_the_limit() {
    let dir = dir();
    let store = Arc::new(Store::open(&dir.db).unwrap());
    let recorder = Recorder::new(store.clone(), "test").unwrap();
    let begin = std::time::Instant::now();
    recorder.record(&ObjectReference::default(), EventType::Normal, "Started", "it runs");
    let spent = begin.elapsed();
    let limit = begin + 20 * crate::flush::FLUSH_WITHIN;
    while after_a_kill(&dir).list(&Scope::all(Kind::Event)).unwrap().0.is_empty() {
        assert!(std::time::Instant::now() < limit, "the event is not on the disk");
    }
    assert!(spent < crate::flush::FLUSH_WITHIN, "nobody waits for it: {spent:?}");
}

#[test]
fn an_orderly_end_forgets_nothing() {
    let dir = dir();
    let store = Arc::new(Store::open(&dir.db).unwrap());
    let recorder = Recorder::new(store.clone(), "test").unwrap();
    recorder.record(&ObjectReference::default(), EventType::Normal, "Started", "it runs");
    store.flush().unwrap();
    assert_eq!(after_a_kill(&dir).list(&Scope::all(Kind::Event)).unwrap().0.len(), 1);
}

#[test]
fn nobody_else_reads_the_database() {
    let dir = dir();
    Store::open(&dir.db).unwrap();
    std::fs::set_permissions(&dir.db, std::fs::Permissions::from_mode(0o644)).unwrap();
    Store::open(&dir.db).unwrap();
    assert_eq!(std::fs::metadata(&dir.db).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_damaged_database_is_set_aside() {
    let dir = dir();
    std::fs::write(
        &dir.db,
        b"this is no database at all, but it is long enough to have a header".repeat(200),
    )
    .unwrap();
    let store = Store::open(&dir.db).unwrap();
    let quarantined = store.quarantined().unwrap();
    assert!(
        quarantined.path.exists()
            && quarantined
                .path
                .to_string_lossy()
                .ends_with("objects.redb.quarantined-1")
    );
    store.create(Kind::Pod, pod("web")).unwrap();
}

/// A database that was cut or emptied is opened as it is, or set aside; the store can be used.
#[test]
fn a_torn_database_is_used_or_set_aside() {
    let whole = {
        let dir = dir();
        let store = Store::open(&dir.db).unwrap();
        for n in 0..40 {
            store.create(Kind::Pod, pod(&format!("p{n}"))).unwrap();
        }
        drop(store);
        std::fs::read(&dir.db).unwrap()
    };
    let pages = (0..whole.len()).step_by(4096);
    let inside = [1, 64, 320, 4095, whole.len() / 2 + 100, whole.len() - 1];
    let mut set_aside = 0;
    for length in pages.chain(inside) {
        let dir = dir();
        std::fs::write(&dir.db, &whole[..length]).unwrap();
        let store = Store::open(&dir.db).unwrap_or_else(|e| panic!("cut at {length}: {e}"));
        set_aside += usize::from(store.quarantined().is_some());
        let made = store.create(Kind::Pod, pod("after"));
        assert!(made.is_ok(), "cut at {length}: {made:?}");
    }
    assert!(set_aside > 0);
}

#[test]
fn a_first_start_that_was_killed_is_taken_up_again() {
    let dir = dir();
    std::fs::write(dir.db.with_file_name("objects.redb.new"), b"redb's first bytes").unwrap();
    let store = Store::open(&dir.db).unwrap();
    assert!(store.quarantined().is_none());
    assert!(!dir.db.with_file_name("objects.redb.new").exists());
}

#[test]
fn a_database_in_use_is_an_error_and_is_not_moved() {
    let dir = dir();
    let _first = Store::open(&dir.db).unwrap();
    let error = Store::open(&dir.db).err().unwrap();
    assert!(matches!(error, Error::Storage { .. }), "{error}");
    assert!(!dir.db.with_file_name("objects.redb.quarantined-1").exists());
}

#[test]
fn equal_events_are_counted_and_counts_go_on_after_a_restart() {
    let dir = dir();
    let about = ObjectReference {
        kind: Some("Pod".into()),
        namespace: Some("default".into()),
        name: Some("web".into()),
        uid: Some("u".into()),
        ..Default::default()
    };
    for _ in 0..2 {
        let store = Arc::new(Store::open(&dir.db).unwrap());
        let recorder = Recorder::new(store.clone(), "sync").unwrap();
        recorder.record(
            &about,
            EventType::Warning,
            "BackOff",
            "Back-off restarting failed container",
        );
        recorder.record(
            &about,
            EventType::Warning,
            "BackOff",
            "Back-off restarting failed container",
        );
        recorder.record(&about, EventType::Normal, "Pulled", &"é".repeat(1000));
    }
    let store = Store::open(&dir.db).unwrap();
    let events: Vec<Event> = store
        .list(&Scope::all(Kind::Event))
        .unwrap()
        .0
        .iter()
        .map(|e| e.decode().unwrap())
        .collect();
    let counts: Vec<_> = events
        .iter()
        .map(|event| (event.reason.as_deref().unwrap(), event.count.unwrap()))
        .collect();
    assert_eq!(counts.len(), 2, "{counts:?}");
    assert!(
        counts.contains(&("BackOff", 4)) && counts.contains(&("Pulled", 2)),
        "{counts:?}"
    );
}
