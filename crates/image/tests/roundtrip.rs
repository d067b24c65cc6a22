//! What goes in comes out: directories to archives to the store to a container's layers, file by file.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::process::Command;

use image::archive::{Contents, FileSpec, Format, ImageSpec, write_image};
use image::{Error, ImageConfig, Source, Store};
use support::{describe, sample_tree, shell};

fn config() -> ImageConfig {
    ImageConfig {
        entrypoint: vec!["/bin/app".into()],
        env: vec!["A=1".into()],
        user: "1:2".into(),
        exposed_ports: vec!["80/tcp".into()],
        stop_signal: "SIGQUIT".into(),
        labels: [("k".to_string(), "v".to_string())].into(),
        ..ImageConfig::default()
    }
}

#[test]
fn a_directory_comes_out_as_it_went_in() {
    let temporary = tempfile::tempdir().unwrap();
    let tree = temporary.path().join("tree");
    sample_tree(&tree);
    let store = Store::open(&temporary.path().join("root")).unwrap();
    let image = store
        .import_rootfs(&tree, &"localhost/sample:1".parse().unwrap(), &config())
        .unwrap();
    assert_eq!(image.tags, ["localhost/sample:1"]);
    assert_eq!(image.layers[0].diff_id, image.layers[0].digest);
    let got = image.config.config().as_ref().unwrap();
    assert_eq!(got.user().as_deref(), Some("1:2"));
    assert_eq!(got.entrypoint().as_deref(), Some(&["/bin/app".to_string()][..]));
    assert_eq!(got.stop_signal().as_deref(), Some("SIGQUIT"));

    let overlay = store.prepare("c1", &image.id).unwrap();
    assert_eq!(overlay.lower.len(), 1);
    assert_eq!(describe(&overlay.lower[0]), describe(&tree));
    assert_eq!(
        fs::metadata(&overlay.upper).unwrap().permissions().mode() & 0o7777,
        0o751
    );

    // The same files, the same image.
    let again = store
        .import_rootfs(&tree, &"localhost/sample:2".parse().unwrap(), &config())
        .unwrap();
    assert_eq!(again.id, image.id);
    assert_eq!(again.tags, ["localhost/sample:1", "localhost/sample:2"]);
    assert_eq!(store.list().len(), 1);
}

#[test]
fn archives_of_both_formats_and_all_compressions() {
    let temporary = tempfile::tempdir().unwrap();
    let tree = temporary.path().join("tree");
    sample_tree(&tree);
    let mut ids = Vec::new();
    for format in [Format::Docker, Format::Oci] {
        let path = temporary.path().join(format!("{format:?}.tar"));
        let reference = Some("localhost/sample:1".parse().unwrap());
        let spec = ImageSpec {
            reference,
            config: config(),
            contents: Contents::Directory(&tree),
        };
        write_image(fs::File::create(&path).unwrap(), format, &spec).unwrap();
        shell(&format!(
            "cd {0} && gzip -k {1} && zstd -q {1}",
            temporary.path().display(),
            path.display()
        ));
        for suffix in ["", ".gz", ".zst"] {
            let store = Store::open(&temporary.path().join(format!("root-{format:?}{suffix}"))).unwrap();
            let file = path.with_extension(format!("tar{suffix}"));
            let images = store.import(Source::at(&file), None, &|_| {}).unwrap();
            assert_eq!(images[0].tags, ["localhost/sample:1"], "{}", file.display());
            assert_eq!(images[0].digests.len(), 1);
            let overlay = store.prepare("c", &images[0].id).unwrap();
            assert_eq!(describe(&overlay.lower[0]), describe(&tree));
            ids.push(images[0].id);
        }
        // As a directory, and as a stream.
        let dir = temporary.path().join(format!("layout-{format:?}"));
        shell(&format!(
            "mkdir {0} && tar -xf {1} -C {0}",
            dir.display(),
            path.display()
        ));
        let store = Store::open(&temporary.path().join(format!("root-{format:?}-dir"))).unwrap();
        ids.push(store.import(Source::at(&dir), None, &|_| {}).unwrap()[0].id);
        let mut stream = fs::File::open(&path).unwrap();
        ids.push(store.import(Source::Stream(&mut stream), None, &|_| {}).unwrap()[0].id);
    }
    ids.dedup();
    assert_eq!(ids.len(), 1, "one image, however it came");
}

#[test]
fn an_image_of_files() {
    let temporary = tempfile::tempdir().unwrap();
    let file = FileSpec {
        path: "/usr/bin/pause",
        mode: 0o755,
        data: b"ELF",
    };
    let spec = ImageSpec {
        reference: None,
        config: config(),
        contents: Contents::Files(vec![file]),
    };
    let mut archive = Vec::new();
    write_image(&mut archive, Format::Docker, &spec).unwrap();
    let store = Store::open(temporary.path()).unwrap();
    let name = "localhost/pause:1".parse().unwrap();
    let image = store
        .import(Source::Stream(&mut &archive[..]), Some(&name), &|_| {})
        .unwrap()
        .remove(0);
    assert_eq!(image.tags, ["localhost/pause:1"]);
    let overlay = store.prepare("p", &image.id).unwrap();
    let path = overlay.lower[0].join("usr/bin/pause");
    assert_eq!(fs::read(&path).unwrap(), b"ELF");
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o755);
}

/// GNU tar's own formats, with its long names, sparse files and numbers.
#[test]
fn archives_that_gnu_tar_made() {
    let temporary = tempfile::tempdir().unwrap();
    let tree = temporary.path().join("tree");
    sample_tree(&tree);
    shell(&format!(
        "cd {} && mkdir -p {long} && echo deep > {long}/file && truncate -s 5M sparse && \
         echo end >> sparse && printf x | dd of=sparse bs=1 seek=2000000 conv=notrunc status=none && \
         ln -s {long}/file {long}/link && touch -d 2001-02-03T04:05:06.789 fraction",
        tree.display(),
        long = "d".repeat(120) + "/" + &"e".repeat(120) + "/" + &"f".repeat(120),
    ));
    for options in ["--format=gnu", "--format=gnu -S", "--format=posix", "--format=posix -S"] {
        let target = tempfile::tempdir().unwrap();
        let archive = temporary.path().join("layer.tar");
        shell(&format!(
            "tar -C {} {options} --xattrs --xattrs-include='*' -cf {} .",
            tree.display(),
            archive.display()
        ));
        let file = fs::File::open(&archive).unwrap();
        image::layer::unpack(file, "layer", target.path(), &[], &Default::default(), |_| {}).unwrap();
        let strip = |lines: Vec<String>| -> Vec<String> {
            // GNU's format knows neither attributes nor fractions of seconds.
            let plain = |line: String| match options.contains("gnu") {
                true => line.split(" |").next().unwrap().split('.').next().unwrap().to_string(),
                false => line,
            };
            lines.into_iter().map(plain).collect()
        };
        assert_eq!(strip(describe(target.path())), strip(describe(&tree)), "{options}");
        if options.ends_with("-S") {
            let sparse = fs::metadata(target.path().join("sparse")).unwrap();
            assert!(sparse.blocks() * 512 < 1 << 20, "{options}: holes were filled");
        }
    }
}

#[test]
fn layers_of_tar_and_whiteouts_stack() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().display();
    // As an image builder leaves them, without entries for directories that did not change.
    shell(&format!(
        "cd {dir} && mkdir -p a/usr/bin a/etc/conf a/tmp a/gone b/usr/bin b/etc/conf b/bin && ln -s usr/bin a/bin && \
         chmod 1777 a/tmp && chown 5:6 a/usr && chmod 2750 a/usr && echo 1 > a/usr/bin/one && echo o > a/etc/conf/old && \
         echo g > a/gone/file && touch -d @86400 a/usr && \
         touch b/.wh.gone b/etc/conf/.wh..wh..opq && echo n > b/etc/conf/new && echo t > b/tmpfile && \
         tar -C a -cf a.tar . && \
         tar -C b -cf b.tar .wh.gone etc/conf/new etc/conf/.wh..wh..opq && \
         mkdir c && echo 2 > c/two && tar -C c --transform 's,^,bin/,' -rf b.tar two && tar -C c --transform 's,^,tmp/,' -rf b.tar two && \
         mkdir la lb"
    ));
    let (la, lb) = (temporary.path().join("la"), temporary.path().join("lb"));
    let unpack = |tar: &str, target: &std::path::Path, lower: &[std::path::PathBuf]| {
        let file = fs::File::open(temporary.path().join(tar)).unwrap();
        image::layer::unpack(file, tar, target, lower, &Default::default(), |_| {}).unwrap();
    };
    unpack("a.tar", &la, &[]);
    unpack("b.tar", &lb, std::slice::from_ref(&la));

    let gone = fs::symlink_metadata(lb.join("gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    assert_eq!(
        support::xattr(&lb.join("etc/conf"), "trusted.overlay.opaque"),
        Some(b"y".to_vec())
    );
    // bin is a link below: its file lies where the link leads, in a directory that looks like the one below.
    assert!(!lb.join("bin").exists());
    assert_eq!(fs::read(lb.join("usr/bin/two")).unwrap(), b"2\n");
    let usr = fs::metadata(lb.join("usr")).unwrap();
    assert_eq!(
        (usr.uid(), usr.gid(), usr.mode() & 0o7777, usr.mtime()),
        (5, 6, 0o2750, 86400)
    );
    assert_eq!(fs::metadata(lb.join("tmp")).unwrap().mode() & 0o7777, 0o1777);

    // And so the kernel sees it, in a mount namespace of its own.
    let script = format!(
        "cd {dir} && mkdir m && mount -t overlay overlay -o lowerdir=lb:la m && cd m && \
         find . -printf '%y %p\\n' | sort && cat bin/one bin/two"
    );
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-ec", &script])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let expected = "d .\nd ./etc\nd ./etc/conf\nd ./tmp\nd ./usr\nd ./usr/bin\nf ./etc/conf/new\nf ./tmp/two\n\
                    f ./usr/bin/one\nf ./usr/bin/two\nl ./bin\n1\n2\n";
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
}

#[test]
fn names_and_their_ends() {
    let temporary = tempfile::tempdir().unwrap();
    let tree = temporary.path().join("tree");
    sample_tree(&tree);
    let store = Store::open(&temporary.path().join("root")).unwrap();
    let image = store
        .import_rootfs(&tree, &"sample".parse().unwrap(), &config())
        .unwrap();
    let hex = image.id.hex();
    for name in [
        "sample",
        "sample:latest",
        "docker.io/library/sample",
        &hex,
        &hex[..8],
        &image.id.to_string(),
        &image.digests[0],
    ] {
        assert_eq!(store.get(name).unwrap().id, image.id, "{name}");
    }
    assert!(matches!(store.get("other"), Err(Error::NotFound { .. })));
    assert!(matches!(store.get("Not/a/Name!"), Err(Error::Reference(_))));
    store.tag("sample", &"localhost/two:2".parse().unwrap()).unwrap();

    let overlay = store.prepare("c", &image.id).unwrap();
    assert_eq!(store.overlay("c").unwrap(), overlay);
    assert!(matches!(
        store.prepare("c", &image.id),
        Err(Error::SnapshotExists { .. })
    ));
    assert!(matches!(
        store.prepare("../x", &image.id),
        Err(Error::SnapshotKey { .. })
    ));

    assert_eq!(store.remove("sample", false).unwrap().deleted, None);
    assert!(matches!(
        store.remove("localhost/two:2", false),
        Err(Error::InUse { .. })
    ));
    assert!(matches!(store.remove(&hex, false), Err(Error::InUse { .. })));
    let removed = store.remove(&hex, true).unwrap();
    assert_eq!(
        (removed.deleted, removed.untagged),
        (Some(image.id), vec!["localhost/two:2".to_string()])
    );
    // The container's files stay, and go with the container.
    assert!(overlay.lower[0].join("file").exists());
    assert_eq!(store.usage("c").unwrap().inodes, 1);
    fs::write(overlay.upper.join("written"), vec![1; 100_000]).unwrap();
    let usage = store.usage("c").unwrap();
    assert!(
        usage.inodes == 2 && (100_000..200_000).contains(&usage.bytes),
        "{usage:?}"
    );
    store.remove_snapshot("c").unwrap();
    store.remove_snapshot("c").unwrap();
    assert!(!overlay.lower[0].exists() && !overlay.upper.exists());
    let info = store.fs_info().unwrap();
    assert_eq!((info.images.bytes, info.containers.bytes), (0, 0));
    assert!(info.capacity_bytes > info.available_bytes);
}

#[test]
fn a_tag_moves_and_what_lost_it_is_pruned() {
    let temporary = tempfile::tempdir().unwrap();
    let tree = temporary.path().join("tree");
    sample_tree(&tree);
    let root = temporary.path().join("root");
    let store = Store::open(&root).unwrap();
    let name = "localhost/a:1".parse().unwrap();
    let first = store.import_rootfs(&tree, &name, &config()).unwrap();
    fs::write(tree.join("more"), "x").unwrap();
    let second = store.import_rootfs(&tree, &name, &config()).unwrap();
    assert_ne!(first.id, second.id);
    assert_eq!(store.get("localhost/a:1").unwrap().id, second.id);
    assert!(store.get(&first.id.to_string()).unwrap().tags.is_empty());
    // It is still known by its manifest; nothing else keeps it.
    store.remove(&first.digests[0], false).unwrap();
    assert_eq!(store.list().len(), 1);
    drop(store);
    let store = Store::open(&root).unwrap();
    assert_eq!(store.list().len(), 1);
    assert_eq!(store.get("localhost/a:1").unwrap().id, second.id);
    assert_eq!(store.collect().unwrap(), Default::default());
}

#[test]
fn what_is_exported_comes_back_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    sample_tree(&tree);
    let store = Store::open(&dir.path().join("one")).unwrap();
    let name = "example.org/app:1".parse().unwrap();
    let image = store.import_rootfs(&tree, &name, &config()).unwrap();
    store
        .tag("example.org/app:1", &"example.org/other:2".parse().unwrap())
        .unwrap();
    let image = store.get(&image.id.to_string()).unwrap();
    for (asked, tags) in [
        (None, vec!["example.org/app:1", "example.org/other:2"]),
        (Some(name.clone()), vec!["example.org/app:1"]),
    ] {
        let mut archive = Vec::new();
        store.export(&[(asked, image.clone())], &mut archive).unwrap();
        let other = Store::open(&dir.path().join(format!("into-{}", tags.len()))).unwrap();
        let mut stream = archive.as_slice();
        let back = other
            .import(Source::Stream(&mut stream), None, &|_| {})
            .unwrap()
            .remove(0);
        assert_eq!(
            (back.id, back.manifest, &back.layers),
            (image.id, image.manifest, &image.layers)
        );
        assert_eq!(back.tags, tags);
        let overlay = other.prepare("c", &back.id).unwrap();
        assert_eq!(describe(&overlay.lower[0]), describe(&tree));
    }
}
