//! Progress on standard error, output on standard output. On a terminal a spinner shows the step at hand and gets out of
//! the way of lines; elsewhere there are lines alone.

use std::{
    io::{IsTerminal, Write},
    time::Duration,
};

use indicatif::ProgressBar;

use crate::terminal;

/// Where `hove run` writes.
pub struct Screen {
    bar: Option<ProgressBar>,
    colours: bool,
}

impl Screen {
    /// Looks whether there is a terminal.
    pub fn new() -> Screen {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Screen {
            bar,
            colours: terminal::stderr_colours(),
        }
    }

    /// What is being done now.
    pub fn step(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.to_owned());
        }
    }

    /// A line beside the output.
    pub fn say(&self, text: &str) {
        self.above(|| terminal::note(text));
    }

    /// Something that happened to the pod.
    pub fn event(&self, elapsed_ms: u64, warning: bool, message: &str) {
        let time = format!("{elapsed_ms:>6} ms");
        let line = match (self.colours, warning) {
            (true, true) => format!("\x1b[2m{time}\x1b[0m  \x1b[33m{message}\x1b[0m"),
            (true, false) => format!("\x1b[2m{time}  {message}\x1b[0m"),
            (false, true) => format!("{time}  warning: {message}"),
            (false, false) => format!("{time}  {message}"),
        };
        self.say(&line);
        self.step(message);
    }

    /// The pod is up: the spinner has done its work.
    pub fn up(&self, elapsed_ms: u64, summary: &str) {
        self.clear();
        let summary = if self.colours {
            format!("\x1b[1m{summary}\x1b[0m")
        } else {
            summary.to_owned()
        };
        terminal::note(format!("{elapsed_ms:>6} ms  {summary}"));
    }

    /// A line of a container's output.
    pub fn output(&self, prefix: &str, line: &[u8]) {
        self.above(|| {
            let mut stdout = std::io::stdout().lock();
            // A reader that is gone is no reason to leave the pod: it ends by Ctrl-C, or by itself.
            let _ = stdout
                .write_all(&[prefix.as_bytes(), line, b"\n"].concat())
                .and_then(|()| stdout.flush());
        });
    }

    /// Takes the spinner away.
    pub fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn above(&self, write: impl FnOnce()) {
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }
}
