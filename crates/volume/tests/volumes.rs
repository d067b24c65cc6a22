//! Volumes on the real file system, in temporary directories; what mounts does so in a mount namespace of its own. Needs root.

#![allow(clippy::unwrap_used)]

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use volume::{ChangePolicy, Error, FsGroup, HostPathType, Medium, Source, Volumes};

const DISK: Source = Source::EmptyDir {
    medium: Medium::Default,
    size_limit_bytes: None,
};
const MEMORY: Source = Source::EmptyDir {
    medium: Medium::Memory,
    size_limit_bytes: Some(1 << 20),
};

fn isolated(test: impl FnOnce() + Send + 'static) {
    let outcome = std::thread::spawn(|| {
        sys::netns::isolate_thread().unwrap();
        test();
    })
    .join();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

fn host_path(path: impl AsRef<Path>, kind: HostPathType) -> Source {
    Source::HostPath {
        path: path.as_ref().to_owned(),
        kind,
    }
}

#[test]
fn an_empty_dir_is_everybodys_and_keeps_its_content() {
    let root = tempfile::tempdir().unwrap();
    let volumes = Volumes::new(root.path());
    let path = volumes.prepare("uid", "html", &DISK, None).unwrap();
    assert_eq!(path, root.path().join("pods/uid/volumes/empty-dir/html"));
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o777);
    std::fs::write(path.join("index.html"), "x").unwrap();
    assert_eq!(volumes.prepare("uid", "html", &DISK, None).unwrap(), path);
    assert!(path.join("index.html").exists(), "made once");
    assert_eq!(volumes.pods().unwrap(), ["uid"]);
    volumes.teardown("uid").unwrap();
    volumes.teardown("uid").unwrap();
    assert!(!root.path().join("pods/uid").exists());
    assert!(volumes.pods().unwrap().is_empty());
}

#[test]
fn a_memory_empty_dir_has_its_size() {
    isolated(|| {
        let root = tempfile::tempdir().unwrap();
        let volumes = Volumes::new(root.path());
        let path = volumes.prepare("uid", "cache", &MEMORY, None).unwrap();
        volumes.prepare("uid", "cache", &MEMORY, None).unwrap();
        let mounts = || std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        assert_eq!(mounts().matches("empty-dir/cache").count(), 1, "mounted once");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o777);
        let full = std::fs::write(path.join("big"), vec![1; 2 << 20]).unwrap_err();
        assert_eq!(full.raw_os_error(), Some(28), "ENOSPC beyond sizeLimit");
        let outer = root.path().metadata().unwrap().dev();
        assert_ne!(path.metadata().unwrap().dev(), outer);
        volumes.teardown("uid").unwrap();
        assert!(!mounts().contains("empty-dir/cache"));
        assert!(!root.path().join("pods/uid").exists());
    });
}

#[test]
fn host_path_types() {
    let directory = tempfile::tempdir().unwrap();
    let volumes = Volumes::new(directory.path());
    let at = |name: &str| directory.path().join(name);
    std::fs::write(at("file"), "").unwrap();
    let _socket = UnixListener::bind(at("socket")).unwrap();
    let good = [
        (at("made/deep"), HostPathType::DirectoryOrCreate),
        (at("made"), HostPathType::Directory),
        (at("made/file"), HostPathType::FileOrCreate),
        (at("file"), HostPathType::File),
        (at("socket"), HostPathType::Socket),
        ("/dev/null".into(), HostPathType::CharDevice),
        (at("nothing"), HostPathType::Unset),
    ];
    for (path, kind) in good {
        assert_eq!(
            volumes.prepare("uid", "v", &host_path(&path, kind), None).unwrap(),
            path
        );
    }
    assert!(at("made/deep").is_dir() && at("made/file").is_file() && !at("nothing").exists());
    assert_eq!(at("made/deep").metadata().unwrap().permissions().mode() & 0o777, 0o755);

    let bad = [
        (
            at("nothing"),
            HostPathType::Directory,
            "does not exist, and type Directory",
        ),
        (at("no/where"), HostPathType::FileOrCreate, "No such file"),
        (
            at("file"),
            HostPathType::DirectoryOrCreate,
            "is a file, and type DirectoryOrCreate",
        ),
        (at("made"), HostPathType::File, "is a directory, and type File"),
        ("/dev/null".into(), HostPathType::BlockDevice, "is a character device"),
        (at("file"), HostPathType::Socket, "is a file"),
        ("relative".into(), HostPathType::Unset, "must be absolute"),
        ("/a/../b".into(), HostPathType::Unset, "without '..'"),
    ];
    for (path, kind, words) in bad {
        let error = volumes
            .prepare("uid", "v", &host_path(&path, kind), None)
            .unwrap_err()
            .to_string();
        assert!(error.contains(words), "{error}");
    }
    volumes.teardown("uid").unwrap();
    assert!(at("made/file").exists(), "what the host has stays");
}

#[test]
fn teardown_never_leaves_the_volume() {
    let root = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("precious"), "x").unwrap();
    let volumes = Volumes::new(root.path());
    let path = volumes.prepare("uid", "v", &DISK, None).unwrap();
    symlink(outside.path(), path.join("out")).unwrap();
    symlink("..", path.join("up")).unwrap();
    std::fs::create_dir(path.join("inner")).unwrap();
    symlink(outside.path().join("precious"), path.join("inner/file")).unwrap();
    volumes.teardown("uid").unwrap();
    assert!(outside.path().join("precious").exists());
    // The pod's directory itself replaced by a link: the link goes, not what it leads to.
    symlink(outside.path(), root.path().join("pods/uid")).unwrap();
    volumes.teardown("uid").unwrap();
    assert!(outside.path().join("precious").exists());
    assert!(root.path().join("pods/uid").symlink_metadata().is_err());
}

#[test]
fn teardown_stops_at_foreign_mounts_only_if_they_cannot_be_unmounted() {
    isolated(|| {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("precious"), "x").unwrap();
        let volumes = Volumes::new(root.path());
        let path = volumes.prepare("uid", "v", &DISK, None).unwrap();
        // As a privileged container with bidirectional propagation leaves it, twice on one point.
        let inner = path.join("inner dir");
        std::fs::create_dir(&inner).unwrap();
        rustix::mount::mount_bind(outside.path(), &inner).unwrap();
        rustix::mount::mount_bind(outside.path(), &inner).unwrap();
        volumes.teardown("uid").unwrap();
        assert!(outside.path().join("precious").exists());
        assert!(!root.path().join("pods/uid").exists());
    });
}

#[test]
fn deep_and_wide_trees_go() {
    let root = tempfile::tempdir().unwrap();
    let volumes = Volumes::new(root.path());
    let path = volumes.prepare("uid", "v", &DISK, None).unwrap();
    // Deeper than PATH_MAX and than there are descriptors: made by descriptor, as `mkdir a; cd a` in a loop does.
    let mut directory = rustix::fs::open(&path, rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
    for _ in 0..3000 {
        rustix::fs::mkdirat(&directory, "d", rustix::fs::Mode::RWXU).unwrap();
        directory = rustix::fs::openat(&directory, "d", rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
    }
    for n in 0..5000 {
        std::fs::write(path.join(format!("f{n}")), "").unwrap();
    }
    drop(directory);
    volumes.teardown("uid").unwrap();
    assert!(!root.path().join("pods/uid").exists());
}

#[test]
fn names_are_file_names() {
    let root = tempfile::tempdir().unwrap();
    let volumes = Volumes::new(root.path());
    for bad in ["", "..", ".", "a/b", "a\0b"] {
        assert!(
            matches!(volumes.prepare(bad, "v", &DISK, None), Err(Error::BadName { .. })),
            "{bad:?}"
        );
        assert!(
            matches!(volumes.prepare("uid", bad, &DISK, None), Err(Error::BadName { .. })),
            "{bad:?}"
        );
        assert!(matches!(volumes.teardown(bad), Err(Error::BadName { .. })), "{bad:?}");
    }
}

const GROUP: FsGroup = FsGroup {
    gid: 4242,
    policy: ChangePolicy::Always,
};

fn mode_and_group(path: &Path) -> (u32, u32) {
    let metadata = path.symlink_metadata().unwrap();
    (metadata.mode() & 0o7777, metadata.gid())
}

#[test]
fn an_empty_dir_is_given_to_the_group_once() {
    let root = tempfile::tempdir().unwrap();
    let volumes = Volumes::new(root.path());
    let path = volumes.prepare("uid", "data", &DISK, Some(GROUP)).unwrap();
    assert_eq!(mode_and_group(&path), (0o2777, 4242));
    // What a container then makes private stays private when the next one is started.
    std::fs::write(path.join("key"), "").unwrap();
    std::fs::set_permissions(path.join("key"), PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o700)).unwrap();
    volumes.prepare("uid", "data", &DISK, Some(GROUP)).unwrap();
    assert_eq!(mode_and_group(&path), (0o700, 4242));
    assert_eq!(
        mode_and_group(&path.join("key")),
        (0o600, 4242),
        "setgid hands the group on"
    );
    volumes.teardown("uid").unwrap();
    assert!(volumes.pods().unwrap().is_empty());
}

#[test]
fn a_memory_empty_dir_is_given_to_the_group() {
    isolated(|| {
        let root = tempfile::tempdir().unwrap();
        let volumes = Volumes::new(root.path());
        let path = volumes.prepare("uid", "cache", &MEMORY, Some(GROUP)).unwrap();
        assert_eq!(mode_and_group(&path), (0o2777, 4242));
        volumes.teardown("uid").unwrap();
    });
}

#[test]
fn a_host_path_keeps_its_group() {
    let directory = tempfile::tempdir().unwrap();
    let before = mode_and_group(directory.path());
    let volumes = Volumes::new(directory.path().join("root"));
    let source = host_path(directory.path(), HostPathType::Directory);
    volumes.prepare("uid", "v", &source, Some(GROUP)).unwrap();
    assert_eq!(mode_and_group(directory.path()), before);
}
