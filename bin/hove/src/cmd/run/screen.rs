//! Progress on standard error, output on standard output. On a terminal a spinner shows the step at hand and gets out of
//! the way of lines; elsewhere there are lines alone.

use std::{
    io::IsTerminal,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use indicatif::ProgressBar;
use tokio::sync::Notify;

use crate::{
    cmd::logs::print_line,
    terminal::{self, OutputFailed},
};

/// Where `hove run` writes.
pub struct Screen {
    bar: Option<ProgressBar>,
    colours: bool,
    failure: Mutex<Option<OutputFailed>>,
    failed: Notify,
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
            failure: Mutex::default(),
            failed: Notify::new(),
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

    /// A line of a container's output. The first that can't be written is the last one: see [`Screen::output_failed`].
    pub fn output(&self, prefix: &str, line: &[u8]) {
        if self.failure().is_some() {
            return;
        }
        self.above(|| {
            if let Err(error) = print_line(prefix, line) {
                *self.failure() = Some(error);
                self.failed.notify_one();
            }
        });
    }

    /// Waits until a line of output could not be written.
    pub async fn output_failed(&self) {
        self.failed.notified().await;
    }

    /// Why it could not, once.
    pub fn take_failure(&self) -> Option<OutputFailed> {
        self.failure().take()
    }

    fn failure(&self) -> MutexGuard<'_, Option<OutputFailed>> {
        // Set or taken as a whole.
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
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
