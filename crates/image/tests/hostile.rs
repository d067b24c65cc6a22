//! Archives that were made to do harm: nothing outside the layer changes, and the error names the entry and the rule.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use image::layer::unpack;
use image::limits::Limits;
use image::{Digest, Error, Source, Store};
use tar::{Builder, EntryType, Header};

/// A layer, entry by entry: names go in as they are, which the tar crate's own writer would refuse.
struct Layer(Builder<Vec<u8>>);

impl Layer {
    fn new() -> Self {
        Layer(Builder::new(Vec::new()))
    }

    fn entry(mut self, kind: EntryType, name: &str, link: &str, data: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        header.set_size(data.len() as u64);
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        if matches!(kind, EntryType::Char | EntryType::Block) {
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        }
        header.set_cksum();
        self.0.append(&header, data).unwrap();
        self
    }

    fn file(self, name: &str, data: &str) -> Self {
        self.entry(EntryType::Regular, name, "", data.as_bytes())
    }

    fn dir(self, name: &str) -> Self {
        self.entry(EntryType::Directory, name, "", b"")
    }

    fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, name, target, b"")
    }

    fn link(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Link, name, target, b"")
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// A place with a layer's directory and a file beside it that no layer may touch.
struct Place {
    dir: tempfile::TempDir,
    lower: Vec<PathBuf>,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("layer")).unwrap();
        fs::write(dir.path().join("precious"), "untouched").unwrap();
        Place { dir, lower: Vec::new() }
    }

    fn layer(&self) -> PathBuf {
        self.dir.path().join("layer")
    }

    fn unpack(&self, layer: Layer) -> Result<(), Error> {
        let result = unpack(
            &layer.bytes()[..],
            "layer",
            &self.layer(),
            &self.lower,
            &Limits::default(),
            |_| {},
        );
        assert_eq!(
            fs::read_to_string(self.dir.path().join("precious")).unwrap(),
            "untouched"
        );
        assert_eq!(fs::read_dir(self.dir.path()).unwrap().count(), 2 + self.lower.len());
        result.map(drop)
    }

    /// Its error, which must name the entry and have these words.
    fn refuses(&self, layer: Layer, entry: &str, words: &str) {
        let error = self.unpack(layer).unwrap_err();
        assert!(
            matches!(&error, Error::Entry { entry: named, .. } if named == entry),
            "{error}"
        );
        assert!(error.to_string().contains(words), "{error}");
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.layer().join(name)).unwrap()
    }
}

#[test]
fn dots_are_refused() {
    for name in ["../precious", "a/../../precious", "..", "a/.."] {
        Place::new().refuses(Layer::new().file(name, "x"), name, "..");
    }
    Place::new().refuses(Layer::new().file("f", "x").link("g", "../precious"), "g", "..");
}

#[test]
fn absolute_names_are_below_the_root() {
    let place = Place::new();
    let precious = place.dir.path().join("precious");
    place
        .unpack(
            Layer::new()
                .file("/etc/passwd", "x")
                .file(precious.to_str().unwrap(), "y"),
        )
        .unwrap();
    assert_eq!(place.read("etc/passwd"), "x");
    assert_eq!(place.read(&precious.to_str().unwrap()[1..]), "y");
}

#[test]
fn symbolic_links_lead_nowhere_else() {
    let place = Place::new();
    let outside = place.dir.path().to_str().unwrap().to_string();
    let layer = Layer::new()
        .symlink("up", "../../../../../..")
        .symlink("out", &outside)
        .symlink("loop", "loop")
        .file("up/precious", "inside")
        .file("out/precious", "inside, too");
    place.unpack(layer).unwrap();
    assert_eq!(place.read("precious"), "inside");
    assert_eq!(place.read(&format!("{}/precious", &outside[1..])), "inside, too");
    // A link as the last component is replaced, not followed.
    let precious = format!("{outside}/precious");
    let place = Place::new();
    place
        .unpack(Layer::new().symlink("f", &precious).file("f", "plain"))
        .unwrap();
    assert!(place.layer().join("f").symlink_metadata().unwrap().is_file());
    Place::new().refuses(
        Layer::new().symlink("loop", "loop").file("loop/f", "x"),
        "loop/f",
        "symbolic links",
    );
}

#[test]
fn hard_links_stay_inside() {
    let place = Place::new();
    let precious = place.dir.path().join("precious");
    place.refuses(
        Layer::new().link("g", precious.to_str().unwrap()),
        "g",
        "does not exist",
    );
    // By way of a symbolic link: the link itself gets the second name, and leads nowhere.
    let layer = Layer::new()
        .symlink("s", precious.to_str().unwrap())
        .link("g", "s")
        .file("g", "mine");
    place.unpack(layer).unwrap();
    assert_eq!(place.read("g"), "mine");
    place.refuses(
        Layer::new().symlink("d", "..").link("h", "d/precious"),
        "h",
        "does not exist",
    );
    place.refuses(Layer::new().dir("dir").link("h", "dir"), "h", "linkat");
    // To itself: nothing is lost.
    place
        .unpack(Layer::new().file("self", "kept").link("self", "self"))
        .unwrap();
    assert_eq!(place.read("self"), "kept");
}

#[test]
fn devices_and_pipes_are_made_never_opened() {
    let place = Place::new();
    let layer = Layer::new()
        .entry(EntryType::Char, "null", "", b"")
        .entry(EntryType::Fifo, "pipe", "", b"")
        .file("pipe", "a file in the pipe's place")
        .entry(EntryType::Block, "disk", "", b"");
    place.unpack(layer).unwrap();
    assert!(
        place
            .layer()
            .join("null")
            .metadata()
            .unwrap()
            .file_type()
            .is_char_device()
    );
    assert_eq!(place.read("pipe"), "a file in the pipe's place");
    Place::new().refuses(
        Layer::new().entry(EntryType::Char, "null", "", b"").file("null/f", "x"),
        "null/f",
        "no directory",
    );
}

#[test]
fn types_that_no_layer_has() {
    // A volume's label, a continued volume, an old sparse file's continuation, a vendor's own, none at all.
    for kind in [b'V', b'M', b'N', b'A', b'Z', 0xff] {
        let layer = Layer::new().entry(EntryType::new(kind), "f", "", b"");
        let error = Place::new().unpack(layer).unwrap_err().to_string();
        assert!(error.contains("is none that a layer may have"), "{error}");
    }
}

/// A header and, for PAX's records, what it describes; then an ordinary file.
fn with_header(change: impl FnOnce(&mut Header), data: &[u8]) -> Layer {
    let mut layer = Layer::new();
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1);
    header.set_size(data.len() as u64);
    header.as_mut_bytes()[..1].copy_from_slice(b"h");
    change(&mut header);
    header.set_cksum();
    layer.0.get_mut().extend_from_slice(header.as_bytes());
    layer.0.get_mut().extend_from_slice(data);
    let padding = data.len().next_multiple_of(512) - data.len();
    layer.0.get_mut().extend_from_slice(&vec![0; padding]);
    layer.file("f", "ordinary")
}

fn with_pax(records: &[(&str, &str)]) -> Layer {
    let record = |(key, value): &(&str, &str)| {
        let rest = format!(" {key}={value}\n");
        // The length counts its own digits; all of these have two.
        format!("{:02}{rest}", rest.len() + 2)
    };
    let records: String = records.iter().map(record).collect();
    with_header(|header| header.set_entry_type(EntryType::XHeader), records.as_bytes())
}

#[test]
fn headers_that_promise_too_much() {
    let error = |layer: Layer| Place::new().unpack(layer).unwrap_err().to_string();
    // Sizes that overflow when they are rounded up to blocks, in a header and in PAX's words.
    for size in [u64::MAX, u64::MAX - 100, i64::MAX as u64] {
        let said = error(with_header(|header| header.set_size(size), b""));
        assert!(
            said.contains("out of range") || said.contains("unpacked_bytes"),
            "{said}"
        );
    }
    assert!(error(with_pax(&[("size", "18446744073709551615")])).contains("out of range"));
    assert!(error(with_pax(&[("size", "many")])).contains("is no number"));
    // A file that says it is longer than the archive.
    assert!(error(with_header(|header| header.set_size(1 << 20), b"")).contains("ends in the middle"));
    // The id that means “unchanged”, and one that is none.
    assert!(error(with_pax(&[("uid", "4294967295")])).contains("no id"));
    assert!(error(with_pax(&[("gid", "4294967296")])).contains("no id"));
    assert!(error(with_pax(&[("mtime", "tomorrow")])).contains("no time"));
    // Names and records without end.
    let kinds = [
        (EntryType::GNULongName, "at most 4096"),
        (EntryType::GNULongLink, "at most 4096"),
        (EntryType::XHeader, "at most"),
        (EntryType::XGlobalHeader, "at most"),
    ];
    for (kind, words) in kinds {
        let said = error(with_header(
            |header| {
                header.set_entry_type(kind);
                header.set_size(4 << 20);
            },
            &vec![b'a'; 4 << 20],
        ));
        assert!(said.contains(words), "{said}");
    }
    // A zero byte would end the name for the kernel, and not for us.
    assert!(error(with_pax(&[("path", "a\0b")])).contains("zero byte"));
}

#[test]
fn what_is_said_twice() {
    // The last word counts, as with GNU tar: for records of one entry, and for names of one archive.
    let place = Place::new();
    place.unpack(with_pax(&[("path", "a"), ("path", "b")])).unwrap();
    assert_eq!(place.read("b"), "ordinary");
    assert!(!place.layer().join("a").exists());
    let place = Place::new();
    let layer = Layer::new()
        .file("d/f", "1")
        .symlink("d", "elsewhere")
        .dir("d")
        .file("./d//f", "2");
    place.unpack(layer).unwrap();
    assert_eq!(place.read("d/f"), "2");
}

#[test]
fn later_entries_win_whatever_stood_there() {
    let place = Place::new();
    let layer = Layer::new()
        .file("a", "file")
        .dir("a")
        .file("a/b", "below")
        .file("a", "file again")
        .dir("d/e/f")
        .file("d/e/f/g", "deep")
        .symlink("d", "a")
        .file("x", "1")
        .link("y", "x")
        .file("x", "2");
    place.unpack(layer).unwrap();
    assert_eq!(place.read("a"), "file again");
    assert_eq!(place.read("d"), "file again");
    // Of two names, one was replaced.
    assert_eq!((place.read("x").as_str(), place.read("y").as_str()), ("2", "1"));
    // The directory's permissions are those of its last entry, its time survives what is written into it.
    let place = Place::new();
    place.unpack(Layer::new().dir("d").file("d/f", "x")).unwrap();
    assert_eq!(place.layer().join("d").metadata().unwrap().mtime(), 1);
}

#[test]
fn a_replaced_parent_is_looked_up_again() {
    let place = Place::new();
    let outside = place.dir.path().to_str().unwrap().to_string();
    // The writer remembers the directory it wrote into last.
    let layer = Layer::new()
        .dir("d")
        .file("d/one", "1")
        .symlink("d", &outside)
        .file("d/precious", "inside");
    place.unpack(layer).unwrap();
    assert_eq!(place.read(&format!("{}/precious", &outside[1..])), "inside");
}

#[test]
fn whiteouts_have_rules() {
    for name in [".wh.", ".wh..", ".wh...", "a/.wh.."] {
        Place::new().refuses(Layer::new().file(name, ""), name, "whiteout");
    }
    // Nothing is below: nothing to hide, and no device to trip over.
    let place = Place::new();
    place
        .unpack(
            Layer::new()
                .file(".wh.gone", "")
                .file("d/.wh..wh..opq", "")
                .file(".wh..wh.plnk", ""),
        )
        .unwrap();
    assert_eq!(fs::read_dir(place.layer()).unwrap().count(), 0);
}

#[test]
fn whiteouts_hide_what_is_below_and_only_that() {
    let mut place = Place::new();
    place
        .unpack(
            Layer::new()
                .file("f", "1")
                .file("d/old", "1")
                .file("e/old", "1")
                .file("keep", "1"),
        )
        .unwrap();
    let lower = place.dir.path().join("lower");
    fs::rename(place.layer(), &lower).unwrap();
    fs::create_dir(place.layer()).unwrap();
    place.lower.push(lower);
    let layer = Layer::new()
        .file(".wh.f", "")
        .file("d/new", "2")
        .file("d/.wh..wh..opq", "")
        .file("e/new", "2")
        // What this layer brought itself stays, whatever the order.
        .file("keep", "2")
        .file(".wh.keep", "")
        .file(".wh.e", "");
    place.unpack(layer).unwrap();
    let opaque = |name: &str| support::xattr(&place.layer().join(name), "trusted.overlay.opaque");
    assert_eq!(place.layer().join("f").symlink_metadata().unwrap().rdev(), 0);
    assert!(
        place
            .layer()
            .join("f")
            .symlink_metadata()
            .unwrap()
            .file_type()
            .is_char_device()
    );
    assert_eq!((opaque("d"), opaque("e")), (Some(b"y".to_vec()), Some(b"y".to_vec())));
    assert_eq!(
        (place.read("d/new"), place.read("e/new"), place.read("keep")),
        ("2".into(), "2".into(), "2".into())
    );
    // A whiteout's place may be taken by a directory, which then shows nothing from below.
    place.unpack(Layer::new().file(".wh.d2", "").file("d2/f", "3")).unwrap();
    assert_eq!(opaque("d2"), Some(b"y".to_vec()));
    assert_eq!(place.read("d2/f"), "3");
    // No second name for what is not there.
    place.refuses(Layer::new().file(".wh.q", "").link("r", "q"), "r", "removed");
}

#[test]
fn a_file_of_a_lower_layer_gets_a_second_name() {
    let mut place = Place::new();
    place.unpack(Layer::new().file("usr/tool", "tool")).unwrap();
    let lower = place.dir.path().join("lower");
    fs::rename(place.layer(), &lower).unwrap();
    fs::create_dir(place.layer()).unwrap();
    place.lower.push(lower.clone());
    place.unpack(Layer::new().link("usr/other", "usr/tool")).unwrap();
    let (tool, other) = (place.layer().join("usr/tool"), place.layer().join("usr/other"));
    assert_eq!(fs::metadata(&tool).unwrap().ino(), fs::metadata(&other).unwrap().ino());
    assert_eq!(fs::metadata(&other).unwrap().mode() & 0o7777, 0o755);
    assert_ne!(
        fs::metadata(&tool).unwrap().ino(),
        fs::metadata(lower.join("usr/tool")).unwrap().ino()
    );
}

#[test]
fn overlays_own_attributes_are_not_taken_from_archives() {
    let place = Place::new();
    let mut layer = Layer::new();
    let records = [
        ("SCHILY.xattr.trusted.overlay.redirect", &b"/etc"[..]),
        ("SCHILY.xattr.user.mine", b"1"),
    ];
    layer.0.append_pax_extensions(records).unwrap();
    place.unpack(layer.dir("d")).unwrap();
    assert_eq!(
        support::xattr(&place.layer().join("d"), "trusted.overlay.redirect"),
        None
    );
    assert_eq!(
        support::xattr(&place.layer().join("d"), "user.mine"),
        Some(b"1".to_vec())
    );
}

#[test]
fn much_deeper_than_is_descended_at_once() {
    let place = Place::new();
    let deep = "d/".repeat(600);
    let mut layer = Layer::new();
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNULongName);
    header.set_size(deep.len() as u64);
    header.set_cksum();
    layer.0.append(&header, deep.as_bytes()).unwrap();
    // A file in the place of the topmost directory: all of it is removed.
    place.unpack(layer.dir("x").file("d", "flat")).unwrap();
    assert_eq!(place.read("d"), "flat");
    assert_eq!(
        fs::read_dir(place.layer()).unwrap().count(),
        1,
        "nothing stays of what was moved up"
    );
}

#[test]
fn bombs_end_at_their_limits() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        entries: 10,
        unpacked_bytes: 1 << 20,
        ratio: 50,
        ratio_floor_bytes: 1 << 16,
        ..Limits::default()
    };
    let try_it = |bytes: &[u8]| {
        unpack(bytes, "layer", dir.path(), &[], &limits, |_| {})
            .unwrap_err()
            .to_string()
    };
    let many = (0..11).fold(Layer::new(), |layer, i| layer.file(&format!("f{i}"), ""));
    assert!(try_it(&many.bytes()).contains("entries"));
    let large = Layer::new()
        .entry(EntryType::Regular, "large", "", &vec![1; 2 << 20])
        .bytes();
    assert!(try_it(&large).contains("unpacked_bytes"));
    let zeros = Layer::new()
        .entry(EntryType::Regular, "zeros", "", &vec![0; 900 << 10])
        .bytes();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(&zeros).unwrap();
    assert!(try_it(&gzip.finish().unwrap()).contains("ratio"));
    assert!(try_it(&zstd::encode_all(&zeros[..], 19).unwrap()).contains("ratio"));
    // A sparse file of an exabyte in a kilobyte.
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNUSparse);
    header.set_mode(0o644);
    header.set_size(0);
    header.as_mut_bytes()[..1].copy_from_slice(b"s");
    header.as_gnu_mut().unwrap().set_real_size(1 << 60);
    header.set_cksum();
    assert!(try_it(header.as_bytes()).contains("unpacked_bytes"));
}

#[test]
fn an_archive_that_is_a_bomb_ends_at_its_limits() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        ratio: 50,
        ratio_floor_bytes: 1 << 16,
        ..Limits::default()
    };
    let store = Store::with_limits(&dir.path().join("root"), limits).unwrap();
    let tar = Layer::new()
        .entry(EntryType::Regular, "0/layer.tar", "", &vec![0; 4 << 20])
        .bytes();
    let archive = dir.path().join("archive.tar.zst");
    fs::write(&archive, zstd::encode_all(&tar[..], 19).unwrap()).unwrap();
    let error = store.import(Source::Archive(archive), None, &|_| {}).unwrap_err();
    assert!(matches!(error, Error::Limit { name: "ratio", .. }), "{error}");
    assert_eq!(store.fs_info().unwrap().images.bytes, 0);
}

#[test]
fn what_is_no_archive() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("root")).unwrap();
    let path = dir.path().join("file");
    let import = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        store.import(Source::at(&path), None, &|_| {}).unwrap_err().to_string()
    };
    assert!(import(b"hello").contains("header"), "{}", import(b"hello"));
    assert!(import(&[b'x'; 1024]).contains("checksum"));
    assert!(import(b"").contains("docker save"));
    assert!(import(b"\x1f\x8bnot really").contains("archive"));
    assert!(import(b"\xfd7zXZ\0......").contains("xz"));
    assert!(import(&Layer::new().file("manifest.json", "{}").bytes()).contains("manifest.json"));
    assert!(import(&Layer::new().file("manifest.json", "[]").bytes()).contains("lists no image"));
    let missing = r#"[{"Config":"c.json","RepoTags":["a:1"],"Layers":["l.tar"]}]"#;
    assert!(import(&Layer::new().file("manifest.json", missing).bytes()).contains("c.json"));
    let both = r#"{"schemaVersion":2,"manifests":[],"config":{"digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":1},"layers":[]}"#;
    assert!(import(&Layer::new().file("index.json", both).bytes()).contains("neither"));
    let truncated = Layer::new().file("index.json", &" ".repeat(2000)).bytes();
    assert!(import(&truncated[..1024]).contains("truncated"));
    assert!(
        store
            .import(Source::at(Path::new("/nowhere")), None, &|_| {})
            .unwrap_err()
            .to_string()
            .contains("/nowhere")
    );
    // Nothing of all that stayed.
    assert_eq!((store.list().len(), store.collect().unwrap()), (0, Default::default()));
    assert_eq!(fs::read_dir(dir.path().join("root/images/ingest")).unwrap().count(), 0);
}

#[test]
fn images_for_other_machines() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("root")).unwrap();
    let path = dir.path().join("archive");
    let manifest = r#"[{"Config":"c.json","RepoTags":["a:1"],"Layers":[]}]"#;
    for (os, architecture) in [("linux", "s390x"), ("windows", "amd64")] {
        let config =
            format!(r#"{{"architecture":"{architecture}","os":"{os}","rootfs":{{"type":"layers","diff_ids":[]}}}}"#);
        let archive = Layer::new().file("manifest.json", manifest).file("c.json", &config);
        fs::write(&path, archive.bytes()).unwrap();
        let error = store.import(Source::at(&path), None, &|_| {}).unwrap_err().to_string();
        assert!(error.contains(&format!("{os}/{architecture}")), "{error}");
    }
    assert_eq!((store.list().len(), store.collect().unwrap()), (0, Default::default()));
}

/// An OCI layout in a directory, written by hand, to be damaged.
fn layout(dir: &Path, layer: &[u8], diff_id: &Digest) {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8]| {
        fs::write(blobs.join(Digest::of(bytes).hex()), bytes).unwrap();
        format!(r#""digest":"{}","size":{}"#, Digest::of(bytes), bytes.len())
    };
    let layer = put(layer);
    let config = put(format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#
    )
    .as_bytes());
    let manifest = put(format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.oci.image.config.v1+json",{config}}},
               "layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar",{layer}}}]}}"#
    )
    .as_bytes());
    fs::write(
        dir.join("index.json"),
        format!(r#"{{"schemaVersion":2,"manifests":[{{{manifest}}}]}}"#),
    )
    .unwrap();
}

#[test]
fn bytes_that_are_not_what_was_promised() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("root")).unwrap();
    let layer = Layer::new().file("f", "x").bytes();
    let source = |name: &str, diff_id: &Digest| {
        let path = dir.path().join(name);
        layout(&path, &layer, diff_id);
        path
    };
    let diff_id = Digest::of(&layer);
    // The configuration promises other files.
    let other = source("other", &Digest::of(b"other"));
    assert!(matches!(
        store.import(Source::at(&other), None, &|_| {}),
        Err(Error::Mismatch { .. })
    ));
    // The layer was changed, its size was not.
    let changed = source("changed", &diff_id);
    let blob = changed.join("blobs/sha256").join(diff_id.hex());
    let mut bytes = layer.clone();
    bytes[512] ^= 1;
    fs::write(&blob, &bytes).unwrap();
    assert!(matches!(
        store.import(Source::at(&changed), None, &|_| {}),
        Err(Error::Mismatch { .. })
    ));
    // It was cut off.
    fs::write(&blob, &bytes[..1024]).unwrap();
    let error = store.import(Source::at(&changed), None, &|_| {}).unwrap_err();
    assert!(error.to_string().contains("its descriptor says"), "{error}");
    // It is a link to a file of this machine.
    fs::remove_file(&blob).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &blob).unwrap();
    assert!(matches!(
        store.import(Source::at(&changed), None, &|_| {}),
        Err(Error::Io { .. })
    ));
    assert_eq!((store.list().len(), store.collect().unwrap()), (0, Default::default()));
    assert_eq!(
        fs::read_dir(dir.path().join("root/snapshots")).unwrap().count(),
        1,
        "only `empty`"
    );
    // And whole, it is taken.
    let good = source("good", &diff_id);
    let image = store.import(Source::at(&good), None, &|_| {}).unwrap().remove(0);
    assert!(image.tags.is_empty());
    let file = store.prepare("k", &image.id).unwrap().lower[0].join("f");
    assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o7777, 0o755);
}
