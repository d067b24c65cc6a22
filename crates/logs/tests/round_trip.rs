//! Whatever a container writes, in whatever chunks, comes back byte for byte; and every selection is a part of it.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use logs::{Entry, Error, Follower, PIECE_MAX, Progress, Query, Reader, Stream, Tag, Writer};
use proptest::prelude::*;

fn at(second: i64) -> Timestamp {
    Timestamp::new(1_700_000_000 + second, 0).unwrap()
}

fn everything(path: &Path, query: &Query) -> Vec<u8> {
    let mut reader = Reader::open(path, query).unwrap();
    let mut out = Vec::new();
    while reader.read(&mut out).unwrap() == Progress::More {}
    out
}

fn text(path: &Path, query: &Query) -> String {
    String::from_utf8(everything(path, query)).unwrap()
}

/// A log of lines, one second apart.
fn log_of(dir: &Path, lines: &[(Stream, &str)]) -> PathBuf {
    let path = dir.join("0.log");
    let mut writer = Writer::open(&path).unwrap();
    for (second, (stream, line)) in lines.iter().enumerate() {
        writer
            .append(at(second as i64), *stream, line.as_bytes(), true)
            .unwrap();
    }
    writer.flush().unwrap();
    path
}

/// Appends `chunk` as the pump does: what the writer does not take is handed in again.
fn pump(writer: &mut Writer, carried: &mut Vec<u8>, chunk: &[u8], idle: bool) {
    carried.extend_from_slice(chunk);
    loop {
        let used = writer.append(at(0), Stream::Stdout, carried, idle).unwrap();
        carried.drain(..used);
        if used == 0 {
            return;
        }
        writer.flush().unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn what_is_written_is_read(
        chunks in prop::collection::vec(
            (prop::collection::vec(prop_oneof![4 => any::<u8>(), 1 => Just(b'\n')], 0..300), 1usize..120, any::<bool>()),
            0..12),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut writer = Writer::open(&path).unwrap();
        let (mut carried, mut written) = (Vec::new(), Vec::new());
        for (bytes, times, idle) in &chunks {
            let chunk = bytes.repeat(*times);
            pump(&mut writer, &mut carried, &chunk, *idle);
            written.extend_from_slice(&chunk);
        }
        pump(&mut writer, &mut carried, b"", true);
        writer.flush().unwrap();
        prop_assert_eq!(everything(&path, &Query::default()), written.clone());

        for line in fs::read(&path).unwrap().split_inclusive(|b| *b == b'\n') {
            let entry = Entry::parse(line.strip_suffix(b"\n").unwrap()).unwrap();
            prop_assert!(entry.content.len() <= PIECE_MAX);
        }
        // A tail is a suffix with that many lines.
        for lines in [0, 1, 2, 7, 10_000] {
            let tail = everything(&path, &Query { tail_lines: Some(lines), ..Query::default() });
            prop_assert!(written.ends_with(&tail));
            let count = |bytes: &[u8]| bytes.split_inclusive(|b| *b == b'\n').count() as u64;
            prop_assert_eq!(count(&tail), lines.min(count(&written)));
        }
    }
}

#[test]
fn a_long_line_is_split_at_16_kib_and_joined_again() {
    let dir = tempfile::tempdir().unwrap();
    let line = format!("{}\nnext\n", "x".repeat(40_000));
    let path = log_of(dir.path(), &[(Stream::Stderr, &line)]);
    let raw = fs::read_to_string(&path).unwrap();
    let shape: Vec<_> = raw
        .lines()
        .map(|l| Entry::parse(l.as_bytes()).unwrap())
        .map(|e| (e.stream, e.tag, e.content.len()))
        .collect();
    let expected = [
        (Tag::Partial, 16_384),
        (Tag::Partial, 16_384),
        (Tag::Full, 7_232),
        (Tag::Full, 4),
    ];
    assert_eq!(shape, expected.map(|(tag, length)| (Stream::Stderr, tag, length)));
    assert_eq!(text(&path, &Query::default()), line);
    assert_eq!(
        text(
            &path,
            &Query {
                tail_lines: Some(2),
                ..Query::default()
            }
        ),
        line
    );
}

#[test]
fn selections() {
    let dir = tempfile::tempdir().unwrap();
    let path = log_of(
        dir.path(),
        &[
            (Stream::Stdout, "one\n"),
            (Stream::Stderr, "two\n"),
            (Stream::Stdout, "thr"),
            (Stream::Stdout, "ee\n"),
        ],
    );
    let all = Query::default;
    for (query, expected) in [
        (all(), "one\ntwo\nthree\n"),
        (
            Query {
                tail_lines: Some(1),
                ..all()
            },
            "three\n",
        ),
        (
            Query {
                tail_lines: Some(0),
                ..all()
            },
            "",
        ),
        (
            Query {
                tail_lines: Some(1),
                stream: Some(Stream::Stderr),
                ..all()
            },
            "two\n",
        ),
        (
            Query {
                stream: Some(Stream::Stdout),
                ..all()
            },
            "one\nthree\n",
        ),
        (
            Query {
                since: Some(at(1)),
                ..all()
            },
            "two\nthree\n",
        ),
        (
            Query {
                limit_bytes: Some(5),
                ..all()
            },
            "one\nt",
        ),
        (
            Query {
                limit_bytes: Some(0),
                ..all()
            },
            "",
        ),
        (
            Query {
                timestamps: true,
                tail_lines: Some(2),
                ..all()
            },
            "2023-11-14T22:13:21.000000000Z two\n2023-11-14T22:13:22.000000000Z three\n",
        ),
    ] {
        assert_eq!(text(&path, &query), expected, "{query:?}");
    }
}

#[test]
fn a_follower_reads_on_across_rotation_and_truncation() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    let mut follower = Follower::open(&path, &Query::default()).unwrap();
    let mut seen = Vec::new();
    assert_eq!(drain(&mut follower, &mut seen), Progress::End);

    let mut writer = Writer::open(&path).unwrap();
    write(&mut writer, "before\n");
    assert!(follower.wait(LONG).unwrap());
    drain(&mut follower, &mut seen);

    // kubelet renames first, and the container goes on writing to the old file until the writer is told.
    fs::rename(&path, dir.path().join("0.log.20260101")).unwrap();
    write(&mut writer, "between\n");
    assert!(follower.wait(LONG).unwrap());
    drain(&mut follower, &mut seen);
    write(&mut writer, "unread when the new file comes\n");
    writer.reopen().unwrap();
    write(&mut writer, "after\n");
    assert!(follower.wait(LONG).unwrap());
    drain(&mut follower, &mut seen);

    fs::File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
    drain(&mut follower, &mut seen);
    write(&mut writer, "truncated\n");
    drain(&mut follower, &mut seen);
    let expected = "before\nbetween\nunread when the new file comes\nafter\ntruncated\n";
    assert_eq!(String::from_utf8(seen).unwrap(), expected);
    assert!(!follower.wait(std::time::Duration::ZERO).unwrap());
}

/// What a writer that died has left unwritten, another one finishes: in the file that it was begun in, renamed or not.
#[test]
fn another_writer_goes_on_where_the_first_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    let append = |writer: &mut Writer| {
        writer
            .append(at(0), Stream::Stdout, b"one\ntwo\nthree\n", false)
            .unwrap()
    };
    let mut first = Writer::open(&path).unwrap();
    let begun = first.position().unwrap();
    assert_eq!(append(&mut first), 14);
    first.flush().unwrap();
    let whole = fs::read(&path).unwrap();
    for renamed in [false, true] {
        for written in [0, 1, 40, whole.len()] {
            fs::File::options()
                .write(true)
                .open(&path)
                .unwrap()
                .set_len(written as u64)
                .unwrap();
            let old = dir.path().join("0.log.old");
            if renamed {
                fs::rename(&path, &old).unwrap();
            }
            let mut second = Writer::open_again(&path, begun.device, begun.inode).unwrap();
            append(&mut second);
            let there = second.position().unwrap();
            assert_eq!((there.inode, there.offset), (begun.inode, written as u64));
            second.skip(written);
            second.flush().unwrap();
            if renamed {
                assert_eq!(fs::read(&path).unwrap(), b"");
                second.reopen().unwrap();
                append(&mut second);
                second.flush().unwrap();
                assert_eq!(fs::read(&path).unwrap(), whole);
                fs::rename(&old, &path).unwrap();
            }
            assert_eq!(fs::read(&path).unwrap(), whole);
        }
    }
}

/// On a full disk the writer writes half an entry, takes it back, and tries again.
#[test]
fn a_follower_shows_an_entry_once_however_often_it_was_tried() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    let mut writer = Writer::open(&path).unwrap();
    write(&mut writer, "one\n");
    let whole = fs::metadata(&path).unwrap().len();
    let mut follower = Follower::open(&path, &Query::default()).unwrap();
    let mut seen = Vec::new();
    for _ in 0..3 {
        fs::File::options()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(b"2026-01-01T00:00")
            .unwrap();
        drain(&mut follower, &mut seen);
        fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(whole)
            .unwrap();
        drain(&mut follower, &mut seen);
    }
    write(&mut writer, "two\n");
    drain(&mut follower, &mut seen);
    assert_eq!(String::from_utf8(seen).unwrap(), "one\ntwo\n");
}

/// Long enough for any machine; never waited for in full.
const LONG: std::time::Duration = std::time::Duration::from_secs(30);

fn write(writer: &mut Writer, line: &str) {
    writer.append(at(0), Stream::Stdout, line.as_bytes(), true).unwrap();
    writer.flush().unwrap();
}

fn drain(follower: &mut Follower, seen: &mut Vec<u8>) -> Progress {
    loop {
        match follower.read(seen).unwrap() {
            Progress::More => {}
            progress => return progress,
        }
    }
}

#[test]
fn a_missing_log_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let error = Reader::open(&dir.path().join("0.log"), &Query::default()).unwrap_err();
    assert!(matches!(error, Error::Missing { .. }), "{error}");
}
