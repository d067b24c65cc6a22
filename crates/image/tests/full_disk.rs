//! A pull onto a disk that is too small. The test runs again as a child in a mount namespace of its own.

#![allow(clippy::unwrap_used)]

mod support;

use std::process::Command;

use image::registry::Error;
use support::registry::{Manners, Node, Server};
use support::shell;

/// Set in the child.
const CHILD: &str = "HOVE_IMAGE_TEST_DISK";

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_fills_the_disk_says_so_and_gives_the_space_back() {
    if std::env::var_os(CHILD).is_none() {
        let child = Command::new("unshare")
            .args(["--mount", "--propagation", "private"])
            .arg(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "a_pull_that_fills_the_disk_says_so_and_gives_the_space_back",
                "--nocapture",
            ])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stderr);
        return assert!(child.status.success(), "{said}");
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
