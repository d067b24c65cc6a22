//! A disk that is too small. Each test runs again as a child in a mount namespace of its own.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::Write;
use std::process::Command;
use std::sync::atomic::Ordering;

use image::layer::unpack;
use image::limits::Limits;
use image::registry::Error;
use image::{ImageConfig, Store};
use support::registry::{Manners, Node, Server};
use support::shell;

/// Set in the child.
const CHILD: &str = "HOVE_IMAGE_TEST_DISK";

/// Whether this is the child; otherwise it has run, and passed.
fn is_the_child(test: &str) -> bool {
    if std::env::var_os(CHILD).is_some() {
        return true;
    }
    let child = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout).into_owned() + &String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success() && said.contains("1 passed"), "{said}");
    false
}

#[test]
fn a_full_disk_is_an_error_until_there_is_room() {
    if !is_the_child("a_full_disk_is_an_error_until_there_is_room") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    shell(&format!("mount -t tmpfs -o size=8m disk {}", dir.path().display()));
    let store = Store::open(&dir.path().join("root")).unwrap();
    let files = tempfile::tempdir().unwrap();
    std::fs::write(files.path().join("hello"), "hello").unwrap();
    let first = "localhost/app:first";
    store
        .import_rootfs(files.path(), &first.parse().unwrap(), &ImageConfig::default())
        .unwrap();
    let tag = |name: &str| store.tag(first, &format!("localhost/app:{name}").parse().unwrap());
    let filler = dir.path().join("filler");
    for round in 0..3 {
        std::fs::write(&filler, vec![0; 8 << 20]).unwrap_err();
        // What the database has reserved is soon used up.
        let long = "x".repeat(100);
        let refused = (0..2000).find_map(|n| tag(&format!("{long}-{round}-{n}")).err());
        let refused = refused.expect("the disk is not full").to_string();
        assert!(refused.contains("No space left on device"), "{refused}");
        std::fs::remove_file(&filler).unwrap();
        tag(&format!("after-{round}")).unwrap();
    }
    drop(store);
    let store = Store::open(&dir.path().join("root")).unwrap();
    for name in ["first", "after-0", "after-1", "after-2"] {
        assert!(store.get(&format!("localhost/app:{name}")).is_ok(), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_fills_the_disk_says_so_and_gives_the_space_back() {
    if !is_the_child("a_pull_that_fills_the_disk_says_so_and_gives_the_space_back") {
        return;
    }
    let server = Server::start(Manners::default()).await;
    // The layer has 2.4 MB, and takes as much again unpacked; the database has 1 MB and more.
    for megabytes in [2, 3, 4] {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().display().to_string();
        shell(&format!("mount -t tmpfs -o size={megabytes}m disk {at}"));
        let node = Node::at(dir, |_| {});
        let free = || node.store.fs_info().unwrap().available_bytes;
        let before = free();
        match node.pull(&server.image()).await {
            Err(error @ Error::Store { .. }) => assert!(error.to_string().contains("No space left"), "{error}"),
            other => panic!("{megabytes} MB: {other:?}"),
        }
        if megabytes == 2 {
            // That it can't fit was known before it was fetched.
            assert_eq!(server.seen.layers.load(Ordering::SeqCst), 0);
        }
        assert!(node.store.list().is_empty());
        assert_eq!(node.store.fs_info().unwrap().images.inodes, 0, "{megabytes} MB");
        assert!(
            free() + (512 << 10) >= before,
            "{megabytes} MB: {before} bytes were free, {} are",
            free()
        );
        // With room it works, in the same store.
        shell(&format!("mount -o remount,size=64m {at}"));
        node.pull(&server.image()).await.unwrap();
    }
}

#[test]
fn a_layer_that_grows_leaves_a_part_of_the_disk_free() {
    if !is_the_child("a_layer_that_grows_leaves_a_part_of_the_disk_free") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    shell(&format!("mount -t tmpfs -o size=96m disk {}", dir.path().display()));
    // 64 MB of zeros, in a tenth of a megabyte.
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut header = tar::Header::new_gnu();
    header.set_size(64 << 20);
    header.set_mode(0o644);
    header.set_path("zeros").unwrap();
    header.set_cksum();
    gzip.write_all(header.as_bytes()).unwrap();
    gzip.write_all(&vec![0; (64 << 20) + 1024]).unwrap();
    let layer = gzip.finish().unwrap();
    let try_it = |keep_free_bytes| {
        let limits = Limits {
            keep_free_bytes,
            ..Limits::default()
        };
        let target = tempfile::tempdir_in(dir.path()).unwrap();
        unpack(&layer[..], "layer", target.path(), &[], &limits, |_| {})
    };
    // Without a number, it is 4.8 MB of these 96.
    try_it(None).unwrap();
    // Where there is none already, nothing is begun.
    match try_it(Some(97 << 20)) {
        Err(image::Error::Room { free, .. }) => assert!(free > 90 << 20, "{free}"),
        other => panic!("{other:?}"),
    }
    match try_it(Some(64 << 20)) {
        Err(image::Error::Room { free, kept_free, .. }) => {
            assert_eq!(kept_free, 64 << 20);
            // It was seen in time.
            assert!(free > 32 << 20, "{free}");
        }
        other => panic!("{other:?}"),
    }
}
