//! A log on a full disk: a small tmpfs in a mount namespace of the test's own.

#![allow(clippy::unwrap_used)]

use std::fs;

use jiff::Timestamp;
use logs::{Error, Progress, Query, Reader, Stream, Writer};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::UnshareFlags;

/// Leaves the calling test thread, and nothing else, in a mount namespace with a tmpfs of 64 KiB at `at`.
fn small_disk(at: &std::path::Path) {
    // Deprecated because of CLONE_FILES, which is not asked for.
    #[allow(deprecated)]
    rustix::thread::unshare(UnshareFlags::NEWNS).unwrap();
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    mount("hove-test", at, "tmpfs", MountFlags::empty(), c"size=64k").unwrap();
}

#[test]
fn a_full_disk_loses_nothing_and_tears_nothing() {
    let dir = tempfile::tempdir().unwrap();
    small_disk(dir.path());
    let path = dir.path().join("0.log");
    let filler = dir.path().join("filler");
    fs::write(&filler, vec![0; 40 * 1024]).unwrap();

    let mut writer = Writer::open(&path).unwrap();
    let mut written = String::new();
    let mut full = 0;
    for n in 0.. {
        let line = format!("line {n} {}\n", "x".repeat(n % 100));
        writer
            .append(Timestamp::UNIX_EPOCH, Stream::Stdout, line.as_bytes(), true)
            .unwrap();
        written.push_str(&line);
        match writer.flush() {
            Ok(()) => {}
            Err(Error::Full { .. }) if full == 19 => break,
            Err(Error::Full { .. }) => full += 1,
            Err(e) => panic!("{e}"),
        }
    }
    assert_eq!(full, 19);
    assert_eq!(fs::read(&path).unwrap().last(), Some(&b'\n'));

    fs::remove_file(&filler).unwrap();
    writer.flush().unwrap();
    assert_eq!(read(&path), written);

    // The same, but the disk is full when the log is rotated: what is pending goes to the new file.
    fs::write(&filler, vec![0; 64 * 1024]).unwrap_err();
    writer
        .append(Timestamp::UNIX_EPOCH, Stream::Stdout, "x".repeat(5000).as_bytes(), true)
        .unwrap();
    writer
        .append(Timestamp::UNIX_EPOCH, Stream::Stdout, b"y\n", true)
        .unwrap();
    assert!(matches!(writer.flush(), Err(Error::Full { .. })));
    let old = dir.path().join("0.log.old");
    fs::rename(&path, &old).unwrap();
    writer.reopen().unwrap();
    assert!(matches!(writer.flush(), Err(Error::Full { .. })));
    fs::remove_file(&filler).unwrap();
    writer.flush().unwrap();
    assert_eq!(read(&old) + &read(&path), written + &"x".repeat(5000) + "y\n");
}

fn read(path: &std::path::Path) -> String {
    let mut reader = Reader::open(path, &Query::default()).unwrap();
    let mut out = Vec::new();
    while reader.read(&mut out).unwrap() == Progress::More {}
    String::from_utf8(out).unwrap()
}
