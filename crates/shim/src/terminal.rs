//! A process's terminal: the master of a pty, whose other side the process has.

use std::os::fd::{AsFd, OwnedFd};

use rustix::termios::Winsize;
use tokio::task::AbortHandle;

use crate::failure::Result;
use crate::journal::Kind;
use crate::pump::{self, Sink, Source};

/// The master, held for its size, and the task that carries input to it.
#[derive(Debug)]
pub struct Terminal {
    master: OwnedFd,
    input: Option<AbortHandle>,
}

impl Terminal {
    /// Takes the master over; `input` is a FIFO, opened non-blocking at both ends, whose bytes are what is typed.
    pub fn new(master: OwnedFd, input: Option<OwnedFd>) -> Result<Terminal> {
        sys::fifo::set_nonblocking(&master, true)?;
        let mut terminal = Terminal { master, input: None };
        if let Some(fifo) = input {
            let typed = Source::new(fifo, logs::Stream::Stdout, Kind::Fifo)?;
            let keyboard = Sink::fifo(terminal.another_master()?)?;
            terminal.input = Some(tokio::task::spawn_local(pump::copy_input(typed, keyboard)).abort_handle());
        }
        Ok(terminal)
    }

    /// What the process shows, as a source for a pump.
    pub fn output(&self) -> Result<Source> {
        Source::new(self.another_master()?, logs::Stream::Stdout, Kind::Terminal)
    }

    /// Changes the size; the process gets SIGWINCH.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(&self.master, size)
            .map_err(|e| sys::Error::new(format_args!("ioctl(terminal, TIOCSWINSZ, {rows}x{columns})"), e))?;
        Ok(())
    }

    /// Nothing more will be typed. The process is not told: a terminal has no end of file but the one that is typed.
    pub fn close_input(&mut self) {
        if let Some(task) = self.input.take() {
            task.abort();
        }
    }

    fn another_master(&self) -> Result<OwnedFd> {
        let dup = rustix::io::fcntl_dupfd_cloexec(self.master.as_fd(), 3);
        Ok(dup.map_err(|e| sys::Error::new("fcntl(terminal, F_DUPFD_CLOEXEC)", e))?)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.close_input();
    }
}
