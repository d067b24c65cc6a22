//! The format of one entry, both ways.

use std::fmt;
use std::io::Write;

use jiff::Timestamp;

/// The longest content of one entry, in bytes: a longer line of the container's becomes several pieces. kubelet
/// and containerd use the same number.
pub const PIECE_MAX: usize = 16 * 1024;

/// The longest entry that the parser has to expect, newline included: time, stream and tag take less than 64 bytes.
/// Other writers' entries may be longer; the reader takes them as they come.
pub const ENTRY_MAX: usize = PIECE_MAX + 64;

/// Which of the two outputs an entry is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output; of a terminal, everything.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Whether an entry ends a line of the container's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tag {
    /// `P`: the line goes on in the stream's next entry.
    Partial,
    /// `F`: the line ends here.
    Full,
}

/// One entry of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// When the shim read it.
    pub time: Timestamp,
    /// Of which output.
    pub stream: Stream,
    /// Whether a newline followed.
    pub tag: Tag,
    /// The bytes that the container wrote, without the newline.
    pub content: &'a [u8],
}

/// An entry that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an entry of a CRI log: {0}")]
pub struct Malformed(&'static str);

impl Stream {
    /// As it stands in the log.
    pub fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl<'a> Entry<'a> {
    /// Appends the entry with its newline to `out`. `content` must not hold a newline.
    pub fn encode(&self, out: &mut Vec<u8>) {
        debug_assert!(!self.content.contains(&b'\n'));
        encode(&prefix(self.time, self.stream), self.tag, self.content, out);
    }

    /// Reads an entry; `line` is without its newline. Tags after the first (`F:tag2:tag3`) are reserved by the format
    /// and ignored.
    pub fn parse(line: &'a [u8]) -> Result<Entry<'a>, Malformed> {
        let (time, rest) = word(line).ok_or(Malformed("no time"))?;
        let (stream, rest) = word(rest).ok_or(Malformed("no stream"))?;
        // A writer may leave out the space when nothing follows.
        let (tags, content) = word(rest).unwrap_or((rest, &[]));
        let time = std::str::from_utf8(time).ok().and_then(|t| t.parse().ok());
        Ok(Entry {
            time: time.ok_or(Malformed("the time is not RFC 3339"))?,
            stream: match stream {
                b"stdout" => Stream::Stdout,
                b"stderr" => Stream::Stderr,
                _ => return Err(Malformed("the stream is neither stdout nor stderr")),
            },
            tag: match tags.split(|b| *b == b':').next() {
                Some(b"P") => Tag::Partial,
                Some(b"F") => Tag::Full,
                _ => return Err(Malformed("the tag is neither P nor F")),
            },
            content,
        })
    }
}

/// What all entries of one stream and time begin with.
pub(crate) fn prefix(time: Timestamp, stream: Stream) -> Vec<u8> {
    let mut prefix = Vec::with_capacity(64);
    // Writing to a Vec can't fail.
    let _ = write!(prefix, "{time:.9} {stream} ");
    prefix
}

/// Appends an entry with its newline to `out`.
pub(crate) fn encode(prefix: &[u8], tag: Tag, content: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(prefix);
    out.extend_from_slice(match tag {
        Tag::Partial => b"P ",
        Tag::Full => b"F ",
    });
    out.extend_from_slice(content);
    out.push(b'\n');
}

/// What the next entry of a stream is, taken from the bytes that were read from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece<'a> {
    /// Its content.
    pub content: &'a [u8],
    /// Whether a newline followed it.
    pub tag: Tag,
    /// How many of the bytes it used up: its content, and the newline if there was one.
    pub used: usize,
}

/// Takes the next piece off `bytes`. The unfinished line at the end is a piece when it is [`PIECE_MAX`] long, or when
/// nothing more will come for now (`idle`): a prompt must show in the log while the program waits for its answer.
pub fn next_piece(bytes: &[u8], idle: bool) -> Option<Piece<'_>> {
    // A newline right after a full piece still belongs to it, else an empty entry would follow.
    let window = &bytes[..bytes.len().min(PIECE_MAX + 1)];
    match window.iter().position(|b| *b == b'\n') {
        Some(end) => Some(Piece {
            content: &bytes[..end],
            tag: Tag::Full,
            used: end + 1,
        }),
        None if bytes.len() > PIECE_MAX => Some(Piece {
            content: &bytes[..PIECE_MAX],
            tag: Tag::Partial,
            used: PIECE_MAX,
        }),
        None if idle && !bytes.is_empty() => Some(Piece {
            content: bytes,
            tag: Tag::Partial,
            used: bytes.len(),
        }),
        None => None,
    }
}

fn word(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = line.iter().position(|b| *b == b' ')?;
    Some((&line[..end], &line[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<(String, Stream, Tag, String), Malformed> {
        let e = Entry::parse(line.as_bytes())?;
        Ok((
            e.time.to_string(),
            e.stream,
            e.tag,
            String::from_utf8_lossy(e.content).into_owned(),
        ))
    }

    #[test]
    fn entries_of_other_writers_are_read() {
        use Stream::{Stderr, Stdout};
        use Tag::{Full, Partial};
        let time = "2016-10-06T00:17:09.669794202Z";
        for (line, stream, tag, content) in [
            (
                "2016-10-06T00:17:09.669794202Z stdout P log content 1",
                Stdout,
                Partial,
                "log content 1",
            ),
            (
                "2016-10-06T02:17:09.669794202+02:00 stderr F log content 2",
                Stderr,
                Full,
                "log content 2",
            ),
            ("2016-10-06T00:17:09.669794202Z stdout F:TAG2 x", Stdout, Full, "x"),
            ("2016-10-06T00:17:09.669794202Z stdout F ", Stdout, Full, ""),
            ("2016-10-06T00:17:09.669794202Z stdout F", Stdout, Full, ""),
            (
                "2016-10-06T00:17:09.669794202Z stdout F  two spaces ",
                Stdout,
                Full,
                " two spaces ",
            ),
        ] {
            assert_eq!(
                parsed(line).unwrap(),
                (time.into(), stream, tag, content.into()),
                "{line}"
            );
        }
    }

    #[test]
    fn what_is_no_entry_is_refused() {
        for line in [
            "",
            "2016-10-06T00:17:09Z",
            "2016-10-06T00:17:09Z stdout",
            "yesterday stdout F x",
            "2016-10-06T00:17:09Z stdin F x",
            "2016-10-06T00:17:09Z stdout Q x",
            "{\"log\":\"docker's\\n\"}",
        ] {
            assert!(parsed(line).is_err(), "{line}");
        }
    }

    #[test]
    fn nanoseconds_are_always_nine_digits() {
        let mut out = Vec::new();
        let time = Timestamp::new(1_475_713_029, 100).unwrap();
        Entry {
            time,
            stream: Stream::Stderr,
            tag: Tag::Partial,
            content: b"$ ",
        }
        .encode(&mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "2016-10-06T00:17:09.000000100Z stderr P $ \n"
        );
    }

    #[test]
    fn pieces() {
        let long = vec![b'x'; PIECE_MAX];
        let with = |tail: &[u8]| [&long[..], tail].concat();
        // (bytes, idle, length of the content, tag, used)
        for (bytes, idle, expected) in [
            (b"".to_vec(), true, None),
            (b"a\nb".to_vec(), false, Some((1, Tag::Full, 2))),
            (b"\n".to_vec(), false, Some((0, Tag::Full, 1))),
            (b"prompt> ".to_vec(), false, None),
            (b"prompt> ".to_vec(), true, Some((8, Tag::Partial, 8))),
            (long.clone(), false, None),
            (long.clone(), true, Some((PIECE_MAX, Tag::Partial, PIECE_MAX))),
            (with(b"\n"), false, Some((PIECE_MAX, Tag::Full, PIECE_MAX + 1))),
            (with(b"y\n"), false, Some((PIECE_MAX, Tag::Partial, PIECE_MAX))),
        ] {
            let piece = next_piece(&bytes, idle).map(|p| (p.content.len(), p.tag, p.used));
            assert_eq!(piece, expected, "{} bytes, idle {idle}", bytes.len());
        }
    }
}
