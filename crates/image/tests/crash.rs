//! Killed in the middle, the store opens whole; opened twice, it refuses.

#![allow(clippy::unwrap_used)]

mod support;

use std::cell::Cell;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use image::{Error, ImageConfig, Source, Stage, Store};
use support::{describe, sample_tree, shell};

/// Set for a test that runs again as a child: "ROOT:ARCHIVE:EVENT", where EVENT is the progress event it dies at.
const CHILD: &str = "HOVE_IMAGE_TEST_CHILD";

/// An archive as old versions of `docker save` made it: three layers, the last one a link to the first.
fn three_layers(dir: &Path) {
    sample_tree(&dir.join("one"));
    shell(&format!(
        "cd {} && mkdir -p two/usr/bin three save/a save/b save/c && touch two/usr/.wh.bin two/added && \
         tar -C one --format=posix --xattrs --xattrs-include='*' -cf save/a/layer.tar . && \
         tar -C two -cf save/b/layer.tar . && ln -s ../a/layer.tar save/c/layer.tar",
        dir.display()
    ));
    let id = |name: &str| image::Digest::of(&fs::read(dir.join("save").join(name).join("layer.tar")).unwrap());
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"Cmd":["sh"]}},"rootfs":{{"type":"layers","diff_ids":["{0}","{1}","{0}"]}}}}"#,
        id("a"),
        id("b")
    );
    fs::write(dir.join("save/config.json"), config).unwrap();
    let manifest =
        r#"[{"Config":"config.json","RepoTags":["three:1"],"Layers":["a/layer.tar","b/layer.tar","c/layer.tar"]}]"#;
    fs::write(dir.join("save/manifest.json"), manifest).unwrap();
    shell(&format!(
        "cd {}/save && tar -cf ../three.tar manifest.json config.json a b c",
        dir.display()
    ));
}

/// Not a test: what the killed child does.
#[test]
fn child() {
    let Ok(task) = std::env::var(CHILD) else { return };
    let [root, archive, event] = task.split(':').collect::<Vec<_>>().try_into().unwrap();
    let last: u32 = event.parse().unwrap();
    let count = Cell::new(0);
    let store = Store::open(Path::new(root)).unwrap();
    let result = store.import(Source::at(Path::new(archive)), None, &|_| {
        count.set(count.get() + 1);
        if count.get() == last {
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
        }
    });
    result.unwrap();
}

/// Runs `child` until the progress event `event`.
fn importer(root: &Path, archive: &Path, event: u32) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(CHILD, format!("{}:{}:{event}", root.display(), archive.display()))
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Whatever a killed process left: nothing is half-visible, the next import completes it, and nothing leaks.
fn converges(root: &Path, dir: &Path) {
    let store = Store::open(root).unwrap();
    for image in store.list() {
        let overlay = store.prepare("seen", &image.id).unwrap();
        assert_eq!(
            describe(&overlay.lower[2]),
            describe(&dir.join("one")),
            "what is listed is whole"
        );
        store.remove_snapshot("seen").unwrap();
    }
    // What was whole is verified again before it is used, and what was not has gone.
    for entry in fs::read_dir(root.join("images/ingest")).unwrap() {
        let name = entry.unwrap().file_name();
        assert_eq!(name.len(), 64, "{name:?}");
    }
    for entry in fs::read_dir(root.join("snapshots")).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(!name.to_string_lossy().starts_with(".new-"), "{name:?}");
    }
    let image = store
        .import(Source::at(&dir.join("three.tar")), None, &|_| {})
        .unwrap()
        .remove(0);
    let overlay = store.prepare("c", &image.id).unwrap();
    assert_eq!(overlay.lower.len(), 3);
    assert_eq!(describe(&overlay.lower[2]), describe(&dir.join("one")));
    store.remove_snapshot("c").unwrap();
    store.remove("three:1", false).unwrap();
    assert_eq!(fs::read_dir(root.join("images/ingest")).unwrap().count(), 0);
    assert_eq!(store.fs_info().unwrap().images.inodes, 0, "nothing leaks");
    drop(store);
    fs::remove_dir_all(root).unwrap();
}

#[test]
fn killed_at_every_progress_event_of_an_import() {
    let dir = tempfile::tempdir().unwrap();
    three_layers(dir.path());
    for event in 1..200 {
        let root = dir.path().join(format!("root-{event}"));
        let status = importer(&root, &dir.path().join("three.tar"), event).wait().unwrap();
        if status.success() {
            return assert_eq!(Store::open(&root).unwrap().list().len(), 1);
        }
        assert_eq!(status.signal(), Some(9));
        assert_eq!(Store::open(&root).unwrap().list().len(), 0, "it was not named yet");
        converges(&root, dir.path());
    }
    panic!("an import has fewer than 200 events");
}

/// Between the events, too: wherever the signal happens to fall, from the opening of the store to the last commit.
#[test]
fn killed_at_any_time() {
    let dir = tempfile::tempdir().unwrap();
    three_layers(dir.path());
    let archive = dir.path().join("three.tar");
    let began = Instant::now();
    assert!(
        importer(&dir.path().join("root"), &archive, 0)
            .wait()
            .unwrap()
            .success()
    );
    let whole = began.elapsed();
    for step in 0..30 {
        let root = dir.path().join(format!("root-{step}"));
        let mut child = importer(&root, &archive, 0);
        // Not to wait for something, but to hit it anywhere.
        std::thread::sleep(whole * step / 25);
        child.kill().unwrap();
        child.wait().unwrap();
        converges(&root, dir.path());
    }
}

#[test]
fn one_store_per_directory() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let error = Store::open(dir.path()).err().unwrap();
    assert!(
        matches!(error, Error::Locked { .. }) && error.to_string().contains("another process"),
        "{error}"
    );
    drop(store);
    Store::open(dir.path()).unwrap();
}

#[test]
fn containers_snapshots_outlive_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let (root, tree) = (dir.path().join("root"), dir.path().join("tree"));
    sample_tree(&tree);
    let store = Store::open(&root).unwrap();
    let image = store
        .import_rootfs(&tree, &"a:1".parse().unwrap(), &ImageConfig::default())
        .unwrap();
    let overlay = store.prepare("c1", &image.id).unwrap();
    fs::write(overlay.upper.join("written"), "x").unwrap();
    drop(store);
    // One that was being made, and one whose description the power cut tore.
    fs::create_dir_all(root.join("snapshots/.new-77/fs")).unwrap();
    fs::create_dir_all(root.join("snapshots/78/fs")).unwrap();
    fs::write(root.join("snapshots/78/snapshot.json"), "{\"key\":").unwrap();

    let store = Store::open(&root).unwrap();
    assert_eq!(store.snapshots(), ["c1"]);
    assert_eq!(store.overlay("c1").unwrap(), overlay);
    assert_eq!(fs::read(overlay.upper.join("written")).unwrap(), b"x");
    assert!(!root.join("snapshots/.new-77").exists() && !root.join("snapshots/78").exists());
    assert_ne!(store.prepare("c2", &image.id).unwrap().upper, overlay.upper);
    assert!(matches!(store.remove("a:1", false), Err(Error::InUse { .. })));
}

/// Programs that become root, devices and secrets of images and containers are out of reach of the host's users.
#[test]
fn nobody_else_enters_the_store() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("snapshots")).unwrap();
    Store::open(dir.path()).unwrap();
    for inner in ["images", "snapshots"] {
        let mode = fs::metadata(dir.path().join(inner)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{inner}");
    }
}

#[test]
fn a_lost_layer_is_unpacked_again() {
    let dir = tempfile::tempdir().unwrap();
    let (root, tree) = (dir.path().join("root"), dir.path().join("tree"));
    sample_tree(&tree);
    let store = Store::open(&root).unwrap();
    let image = store
        .import_rootfs(&tree, &"a:1".parse().unwrap(), &ImageConfig::default())
        .unwrap();
    drop(store);
    fs::remove_dir_all(root.join("snapshots")).unwrap();
    let store = Store::open(&root).unwrap();
    let overlay = store.prepare("c", &image.id).unwrap();
    assert_eq!(describe(&overlay.lower[0]), describe(&tree));
}

#[test]
fn a_damaged_database_keeps_no_node_from_starting() {
    let dir = tempfile::tempdir().unwrap();
    let (root, tree) = (dir.path().join("root"), dir.path().join("tree"));
    sample_tree(&tree);
    let name = "a:1".parse().unwrap();
    let store = Store::open(&root).unwrap();
    let image = store.import_rootfs(&tree, &name, &ImageConfig::default()).unwrap();
    let overlay = store.prepare("c", &image.id).unwrap();
    drop(store);
    for damage in ["not a database", ""] {
        fs::write(root.join("images/images.redb"), damage).unwrap();
        let store = Store::open(&root).unwrap();
        assert_eq!(store.list().len(), 0);
        // The container that runs from it keeps its layers, and the image can be brought again.
        assert!(overlay.lower[0].join("file").exists());
        assert_eq!(store.overlay("c").unwrap(), overlay);
        assert_eq!(
            store.import_rootfs(&tree, &name, &ImageConfig::default()).unwrap().id,
            image.id
        );
    }
    assert!(root.join("images/images.redb.quarantined-2").exists());
    // The layer that it kept goes with it; the one that was unpacked anew stays.
    let store = Store::open(&root).unwrap();
    let numbered = || fs::read_dir(root.join("snapshots")).unwrap().count() - 1;
    assert_eq!(numbered(), 3, "two layers, a container's");
    store.remove_snapshot("c").unwrap();
    assert_eq!(numbered(), 1);
    assert!(!overlay.lower[0].exists());
    store.prepare("d", &image.id).unwrap();
}

#[test]
fn many_at_once_unpack_once() {
    let dir = tempfile::tempdir().unwrap();
    three_layers(dir.path());
    let archive = dir.path().join("three.tar");
    let store = Store::open(&dir.path().join("root")).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (store, archive) = (&store, &archive);
            scope.spawn(move || {
                for round in 0..3 {
                    let image = store.import(Source::at(archive), None, &|_| {}).unwrap().remove(0);
                    // Somebody else may have removed it meanwhile; then nothing of it is left to stand on.
                    let key = format!("c{thread}-{round}");
                    match store.prepare(&key, &image.id) {
                        Ok(overlay) => assert!(overlay.lower[2].join("usr/bin/tool").exists()),
                        Err(Error::NotFound { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                    store.remove_snapshot(&key).unwrap();
                    match store.remove("three:1", true) {
                        Ok(_) | Err(Error::NotFound { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
    });
    store.collect().unwrap();
    assert_eq!(store.fs_info().unwrap().images.inodes, 0);
}

#[test]
fn progress_tells_layers_and_bytes() {
    let dir = tempfile::tempdir().unwrap();
    three_layers(dir.path());
    let store = Store::open(&dir.path().join("root")).unwrap();
    let seen = std::cell::RefCell::new(Vec::new());
    store
        .import(Source::at(&dir.path().join("three.tar")), None, &|p| {
            seen.borrow_mut().push(*p)
        })
        .unwrap();
    let seen = seen.into_inner();
    assert!(seen.iter().all(|p| p.layers == 3 && p.done_bytes <= p.total_bytes));
    let unpacked: Vec<_> = seen
        .iter()
        .filter(|p| p.stage == Stage::Unpacking && p.done_bytes == p.total_bytes)
        .map(|p| p.layer)
        .collect();
    assert!([1, 2, 3].iter().all(|layer| unpacked.contains(layer)), "{unpacked:?}");
    // The third is the first again: its bytes are there.
    assert!(
        seen.iter().any(|p| p.stage == Stage::Storing)
            && !seen.iter().any(|p| p.stage == Stage::Storing && p.layer == 3)
    );
}
