//! Images mounted at a directory. The test runs again as a child in a mount namespace of its own.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::process::Command;

use image::{Error, ImageConfig, Store};
use support::{describe, sample_tree};

/// Set in the child.
const CHILD: &str = "HOVE_IMAGE_TEST_MOUNT";

#[test]
fn an_image_is_shown_read_only_until_it_is_taken_away() {
    if std::env::var_os(CHILD).is_none() {
        let child = Command::new("unshare")
            .args(["--mount", "--propagation", "private"])
            .arg(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "an_image_is_shown_read_only_until_it_is_taken_away",
                "--nocapture",
            ])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stderr);
        return assert!(child.status.success(), "{said}");
    }
    let dir = tempfile::tempdir().unwrap();
    let (root, tree, at) = (dir.path().join("root"), dir.path().join("tree"), dir.path().join("at"));
    sample_tree(&tree);
    fs::create_dir(&at).unwrap();
    let store = Store::open(&root).unwrap();
    let image = store
        .import_rootfs(&tree, &"a:1".parse().unwrap(), &ImageConfig::default())
        .unwrap();

    let words = |error: Error| error.to_string();
    assert!(words(store.mount("a:1", &tree).unwrap_err()).contains("is not empty"));
    assert!(words(store.unmount(&at).unwrap_err()).contains("has no image mounted"));
    let mounted = store.mount("a:1", &at).unwrap();
    assert_eq!((mounted.image, store.mounts()), (image.id, vec![mounted.clone()]));
    assert_eq!(describe(&at), describe(&tree));
    assert_eq!(
        fs::write(at.join("new"), "").unwrap_err().kind(),
        std::io::ErrorKind::ReadOnlyFilesystem
    );
    assert!(store.snapshots().is_empty(), "no container's");
    match store.remove("a:1", false) {
        Err(Error::InUse { users, .. }) => assert_eq!(users, [at.display().to_string()]),
        other => panic!("{other:?}"),
    }
    // Somebody is in it: it stays, and goes when they are gone.
    let open = fs::File::open(at.join("file")).unwrap();
    assert!(words(store.unmount(&at).unwrap_err()).contains("busy"));
    drop(open);
    store.unmount(&at).unwrap();
    assert_eq!(fs::read_dir(&at).unwrap().count(), 0);

    // A node that is killed leaves it; the next one knows what it was.
    store.mount("a:1", &at).unwrap();
    drop(store);
    let store = Store::open(&root).unwrap();
    assert_eq!(store.mounts(), [mounted]);
    store.unmount_all().unwrap();
    assert_eq!((fs::read_dir(&at).unwrap().count(), store.mounts().len()), (0, 0));
    store.remove("a:1", false).unwrap();
    assert_eq!(store.fs_info().unwrap().images.inodes, 0);
}
