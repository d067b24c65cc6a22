//! A full disk is an error until there is room again.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

use objects::{Key, Kind, Store};
use serde_json::{Value, json};

/// Set for the process that has the disk: the directory that it is mounted on.
const DISK: &str = "HOVE_SMALL_DISK";

fn pod(name: &str) -> Value {
    let long = "x".repeat(100_000);
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "annotations": {"long": long}},
           "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

/// Runs [`on_a_small_disk`] in a mount namespace of its own.
#[test]
fn a_full_disk_is_an_error_until_there_is_room() {
    let directory = tempfile::tempdir().unwrap();
    let mount =
        "mount -t tmpfs -o size=8m small \"$HOVE_SMALL_DISK\" && exec \"$0\" --exact on_a_small_disk --nocapture";
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "/bin/sh", "-c", mount])
        .arg(std::env::current_exe().unwrap())
        .env(DISK, directory.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 passed"), "{said}");
}

/// Not a test by itself: what is done on the disk.
#[test]
fn on_a_small_disk() {
    let Some(disk) = std::env::var_os(DISK) else { return };
    let disk = Path::new(&disk);
    let store = Store::open(&disk.join("objects.redb")).unwrap();
    store.create(Kind::Pod, pod("first")).unwrap();
    let filler = disk.join("filler");
    for round in 0..3 {
        std::fs::write(&filler, vec![0; 8 << 20]).unwrap_err();
        let mut refused = 0;
        for n in 0..64 {
            let Err(error) = store.create(Kind::Pod, pod(&format!("full-{round}-{n}"))) else {
                continue;
            };
            assert!(error.to_string().contains("No space left on device"), "{error}");
            refused += 1;
        }
        assert!(refused > 3, "the disk is not full: {refused}");
        std::fs::remove_file(&filler).unwrap();
        store.create(Kind::Pod, pod(&format!("after-{round}"))).unwrap();
        store.get(&Key::pod("default", "first")).unwrap();
    }
    drop(store);
    let store = Store::open(&disk.join("objects.redb")).unwrap();
    assert!(store.quarantined().is_none());
    for name in ["first", "after-0", "after-1", "after-2"] {
        store.get(&Key::pod("default", name)).unwrap();
    }
}
