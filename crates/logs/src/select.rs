//! Which part of a log is asked for.

use jiff::Timestamp;

use crate::line::Stream;

/// Which part of a log is asked for, and how it shall look. The default is all of it, as the container wrote it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// Only this many of the last lines (as the container wrote them: pieces of one line count once).
    pub tail_lines: Option<u64>,
    /// Only entries from this time on.
    pub since: Option<Timestamp>,
    /// Only this stream.
    pub stream: Option<Stream>,
    /// Put the time before every line.
    pub timestamps: bool,
    /// Stop after this many bytes of output, in the middle of a line if need be.
    pub limit_bytes: Option<u64>,
}
