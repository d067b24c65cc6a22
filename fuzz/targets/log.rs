//! A container's output → log → output, and any bytes as a log. Nothing panics; what was written is read again, byte by
//! byte, whole and by its last lines, from a time on, and up to a limit; what is no entry is passed over, as a reference
//! that reads the file at once says.

#![no_main]

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use jiff::Timestamp;
use libfuzzer_sys::arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use logs::line::ENTRY_MAX;
use logs::{Entry, Progress, Query, Reader, Stream, Tag, Writer};

/// Of a query; a log of a few kilobytes has not more lines.
const LINES_MAX: u64 = 300;

/// What a pump read at once.
#[derive(Debug)]
struct Piece<'a> {
    stream: Stream,
    /// How often the bytes are repeated: long lines are made of few.
    times: u16,
    /// Whether nothing more was there to be read.
    idle: bool,
    bytes: &'a [u8],
}

impl<'a> Arbitrary<'a> for Piece<'a> {
    fn arbitrary(input: &mut Unstructured<'a>) -> Result<Self> {
        let length = usize::from(u8::arbitrary(input)?).min(input.len());
        Ok(Piece {
            stream: if bool::arbitrary(input)? {
                Stream::Stdout
            } else {
                Stream::Stderr
            },
            times: if u8::arbitrary(input)? == 0 { 200 } else { 1 },
            idle: bool::arbitrary(input)?,
            bytes: input.bytes(length.min(input.len()))?,
        })
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&choice, rest)) = bytes.split_first() else {
        return;
    };
    if choice % 2 == 0 {
        foreign(rest, u64::from(choice / 2));
    } else {
        let mut input = Unstructured::new(rest);
        let lines = u64::from(choice / 2);
        if let Ok(pieces) = Vec::<Piece>::arbitrary(&mut input) {
            round_trip(&pieces, lines.min(LINES_MAX));
        }
    }
});

/// Any file as a log.
fn foreign(file: &[u8], lines: u64) {
    std::fs::write(path(), file).expect("a file");
    let mut expected = Vec::new();
    let whole = file.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
    for line in file[..whole].split(|b| *b == b'\n') {
        let Ok(entry) = Entry::parse(line) else { continue };
        expected.extend_from_slice(entry.content);
        if entry.tag == Tag::Full {
            expected.push(b'\n');
        }
        let mut again = Vec::new();
        entry.encode(&mut again);
        assert_eq!(Entry::parse(&again[..again.len() - 1]), Ok(entry), "{again:?}");
    }
    let all = read(&Query::default());
    assert_eq!(text(&all), text(&expected));
    let last = read(&Query {
        tail_lines: Some(lines),
        ..Query::default()
    });
    assert!(all.ends_with(&last), "{:?} is no end of {:?}", text(&last), text(&all));
}

/// What a pump writes is what a reader shows.
fn round_trip(pieces: &[Piece], lines: u64) {
    let _ = std::fs::remove_file(path());
    let mut writer = Writer::open(path()).expect("a log");
    // What a piece left unfinished comes again with the stream's next one. Each is written at a second of its own.
    let mut left = [Vec::new(), Vec::new()];
    let mut written: Vec<(i64, Stream, Vec<u8>)> = Vec::new();
    let mut write = |second: i64, stream: Stream, left: &mut Vec<u8>, idle: bool| {
        let time = Timestamp::from_second(second).expect("a time");
        loop {
            let used = writer.append(time, stream, left, idle).expect("there is room");
            if used == 0 {
                break;
            }
            written.push((second, stream, left.drain(..used).collect()));
        }
        assert!(!idle || left.is_empty(), "{} bytes were not taken", left.len());
        writer.flush().expect("there is room");
        assert_eq!(writer.pending(), 0);
    };
    for (second, piece) in (1..).zip(pieces) {
        let left = &mut left[usize::from(piece.stream == Stream::Stderr)];
        left.extend(piece.bytes.repeat(piece.times.into()));
        write(second, piece.stream, left, piece.idle);
    }
    let end = i64::try_from(pieces.len()).expect("few") + 1;
    write(end, Stream::Stdout, &mut left[0], true);
    write(end, Stream::Stderr, &mut left[1], true);

    for line in std::fs::read(path())
        .expect("it is there")
        .split_inclusive(|b| *b == b'\n')
    {
        assert!(line.ends_with(b"\n") && line.len() <= ENTRY_MAX);
        let entry = Entry::parse(&line[..line.len() - 1]).expect("an entry");
        let mut again = Vec::new();
        entry.encode(&mut again);
        assert_eq!(text(&again), text(line));
    }
    let middle = end / 2;
    for stream in [Stream::Stdout, Stream::Stderr] {
        let since = |first: i64| -> Vec<u8> {
            let wanted = written.iter().filter(|(at, of, _)| *of == stream && *at >= first);
            wanted.flat_map(|(_, _, bytes)| bytes.clone()).collect()
        };
        let query = Query {
            stream: Some(stream),
            ..Query::default()
        };
        let all = since(0);
        assert_eq!(text(&read(&query)), text(&all));

        let of_lines: Vec<&[u8]> = all.split_inclusive(|b| *b == b'\n').collect();
        let skipped = of_lines.len().saturating_sub(usize::try_from(lines).expect("few"));
        let last = Query {
            tail_lines: Some(lines),
            ..query.clone()
        };
        assert_eq!(
            text(&read(&last)),
            text(&of_lines[skipped..].concat()),
            "the last {lines} lines"
        );

        let later = Query {
            since: Some(Timestamp::from_second(middle).expect("a time")),
            ..query.clone()
        };
        assert_eq!(text(&read(&later)), text(&since(middle)));

        let limit = usize::try_from(lines * 7).expect("few");
        let limited = Query {
            limit_bytes: Some(lines * 7),
            ..query.clone()
        };
        assert_eq!(text(&read(&limited)), text(&all[..limit.min(all.len())]));

        let timed = read(&Query {
            timestamps: true,
            ..query
        });
        const TIME: usize = "1970-01-01T00:00:00.000000000Z ".len();
        let untimed: Vec<u8> = timed
            .split_inclusive(|b| *b == b'\n')
            .flat_map(|line| line[TIME..].to_vec())
            .collect();
        assert_eq!(text(&untimed), text(&all));
    }
}

fn read(query: &Query) -> Vec<u8> {
    let mut reader = Reader::open(path(), query).expect("it is there");
    let mut out = Vec::new();
    while reader.read(&mut out).expect("it can be read") == Progress::More {}
    out
}

fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// The log, one for each process.
fn path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| format!("/dev/shm/hove-fuzz-log-{}", std::process::id()).into())
}
