//! The shim's own log: one line per thing that a person might look for, on stderr (shim.log). No subscriber, no
//! buffer: a pod pays for every page.

use std::fmt;
use std::io::Write;

/// Writes one line, with the time.
pub fn note(what: fmt::Arguments<'_>) {
    // A shim whose log can't be written has nobody to tell.
    let _ = writeln!(std::io::stderr(), "{:.6} {what}", jiff::Timestamp::now());
}
