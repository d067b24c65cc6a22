//! The terminal: its modes, its size, its colours. Nothing below the commands touches it.

use std::{
    fmt::Display,
    io::{IsTerminal, Write},
};

use rustix::termios::{self, OptionalActions, Termios};

/// Colours for the containers of a pod, told apart on dark and on light grounds.
const PALETTE: [u8; 6] = [36, 33, 35, 32, 34, 31];

/// Whether to write colours to a stream: it is a terminal, and nobody asked for none (no-color.org).
fn wants_colour(is_terminal: bool) -> bool {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
        || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    is_terminal && !plain
}

/// Whether standard output takes colours.
pub fn stdout_colours() -> bool {
    wants_colour(std::io::stdout().is_terminal())
}

/// Whether standard error takes colours.
pub fn stderr_colours() -> bool {
    wants_colour(std::io::stderr().is_terminal())
}

/// `text` in the `index`th colour.
pub fn coloured(text: &str, index: usize) -> String {
    format!("\x1b[{}m{text}\x1b[0m", PALETTE[index % PALETTE.len()])
}

/// The one message of a command that failed. The chain of causes stands in one line.
pub fn error(error: &anyhow::Error) {
    let label = if stderr_colours() {
        "\x1b[1;31merror:\x1b[0m"
    } else {
        "error:"
    };
    // Nothing is left to do when standard error is closed.
    let _ = writeln!(std::io::stderr(), "{label} {error:#}");
}

/// A remark beside a command's output.
pub fn note(text: impl Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Writes to standard output. A reader that went away (`| head`) ends the command without a word, as it ends others.
pub fn print(text: &str) {
    let mut stdout = std::io::stdout().lock();
    if stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).is_err() {
        std::process::exit(0);
    }
}

/// The size of the terminal on standard input or output: columns, rows.
pub fn size() -> Option<(u16, u16)> {
    let size = termios::tcgetwinsize(std::io::stdout())
        .or_else(|_| termios::tcgetwinsize(std::io::stdin()))
        .ok()?;
    Some((size.ws_col, size.ws_row))
}

/// The terminal on standard input in raw mode; what it was before comes back when this is dropped.
pub struct RawMode {
    before: Termios,
}

impl RawMode {
    /// Every key goes to the program in the container, Ctrl-C included.
    pub fn enter() -> std::io::Result<RawMode> {
        let stdin = std::io::stdin();
        let before = termios::tcgetattr(&stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(&stdin, OptionalActions::Drain, &raw)?;
        Ok(RawMode { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing back.
        let _ = termios::tcsetattr(std::io::stdin(), OptionalActions::Drain, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_differ_from_container_to_container() {
        assert_ne!(coloured("a", 0), coloured("a", 1));
        assert_eq!(coloured("a", 0), coloured("a", PALETTE.len()));
    }
}
