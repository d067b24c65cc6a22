//! The terminal: its modes, its size, its colours. Nothing below the commands touches it.

use std::{
    fmt::Display,
    io::{IsTerminal, Write},
    process::ExitCode,
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

/// A command's output can't be written: its reader is gone (`| head`), its disk is full.
#[derive(Debug)]
pub struct OutputFailed {
    stream: &'static str,
    error: std::io::Error,
}

impl OutputFailed {
    /// For `map_err` on a write to standard output.
    pub fn stdout(error: std::io::Error) -> OutputFailed {
        let stream = "standard output";
        OutputFailed { stream, error }
    }

    /// For `map_err` on a write of a program's output to standard error.
    pub fn stderr(error: std::io::Error) -> OutputFailed {
        let stream = "standard error";
        OutputFailed { stream, error }
    }

    /// How a command ends whose output nobody wants: without a word, with what a shell shows for SIGPIPE (128 + 13).
    /// `None`: the output is lost, which its user must know.
    pub fn quiet_end(&self) -> Option<ExitCode> {
        (self.error.kind() == std::io::ErrorKind::BrokenPipe).then_some(ExitCode::from(128 + 13))
    }
}

impl Display for OutputFailed {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}: {}", self.stream, self.error)
    }
}

impl std::error::Error for OutputFailed {}

/// Writes to standard output, whole.
pub fn print(text: &str) -> Result<(), OutputFailed> {
    print_bytes(text.as_bytes())
}

/// The same, whatever bytes they are.
pub fn print_bytes(bytes: &[u8]) -> Result<(), OutputFailed> {
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(bytes)
        .and_then(|()| stdout.flush())
        .map_err(OutputFailed::stdout)
}

/// Says why a command failed, if that is to be said; answers its exit code.
pub fn end(failure: &anyhow::Error) -> ExitCode {
    if let Some(quiet) = failure.downcast_ref::<OutputFailed>().and_then(OutputFailed::quiet_end) {
        return quiet;
    }
    error(failure);
    ExitCode::FAILURE
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
    fn a_reader_that_is_gone_is_no_failure_and_a_full_disk_is() {
        let end = |errno: rustix::io::Errno| {
            let failure = anyhow::Error::from(OutputFailed::stdout(errno.into())).context("while listing");
            format!("{:?}", end(&failure))
        };
        assert_eq!(end(rustix::io::Errno::PIPE), format!("{:?}", ExitCode::from(141)));
        assert_eq!(end(rustix::io::Errno::NOSPC), format!("{:?}", ExitCode::FAILURE));
    }

    #[test]
    fn colours_differ_from_container_to_container() {
        assert_ne!(coloured("a", 0), coloured("a", 1));
        assert_eq!(coloured("a", 0), coloured("a", PALETTE.len()));
    }
}
