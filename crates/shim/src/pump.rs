//! What a process writes, carried to where it shall go.
//!
//! A pump is a task; the state machine holds its [`Pump`] and talks to it by messages. There are two kinds:
//!
//! - The log pump takes what is in a container's FIFOs (or its terminal's master) and writes entries in the CRI's format, by
//!   way of a [`Journal`], so that nothing is lost or doubled if the shim dies. When the log can't be written, it stops
//!   taking: the container waits at its pipe, a notice says so, the write is tried again every [`RETRY_MS`], and nothing is
//!   lost.
//!   Who is attached gets a copy of what was taken, out of the journal and as fast as they read ([`Attached`]); the log waits for
//!   none of them.
//! - The copy pump carries bytes to a caller's FIFO or to a file, as containerd wants it.
//!
//! A FIFO is held open at both ends here, so that it never reports end of file or hang-up: the end of output is when
//! every process that could write has been killed and a read says EAGAIN ([`Pump::drain`]).

use std::future::poll_fn;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::task::Poll;
use std::time::Duration;

use logs::Stream;
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

use crate::attached::{Attached, Listener};
use crate::event::Event;
use crate::failure::{Failure, Result};
use crate::journal::{self, Journal};
use crate::ready::registered;

/// How long a log that can't be written rests before the next try, in milliseconds.
pub const RETRY_MS: u64 = 500;

/// How much one pump reads before the others get their turn, in bytes.
const TURN: usize = 64 * 1024;

/// How much is read at once, in bytes.
const CHUNK: usize = 16 * 1024;

/// A pump that runs. Dropping it ends it, once it has nothing left to write.
#[derive(Debug)]
pub struct Pump {
    commands: Vec<mpsc::UnboundedSender<Command>>,
}

#[derive(Debug)]
enum Command {
    Drain(oneshot::Sender<()>),
    Reopen(oneshot::Sender<Result<()>>),
    Attach(Vec<Listener>, oneshot::Sender<Result<()>>),
}

/// Something to read output from.
pub struct Source {
    fd: AsyncFd<OwnedFd>,
    stream: Stream,
    kind: journal::Kind,
    /// Read by a copy pump, but not written yet.
    carry: Vec<u8>,
    /// A terminal whose other side is closed for good.
    ended: bool,
}

impl Source {
    /// `fd` must be non-blocking.
    pub fn new(fd: OwnedFd, stream: Stream, kind: journal::Kind) -> Result<Source> {
        Ok(Source {
            fd: registered(fd)?,
            stream,
            kind,
            carry: Vec::new(),
            ended: false,
        })
    }

    fn poll_ready(&self, cx: &mut std::task::Context<'_>) -> bool {
        // An error of the reactor's shows in the read that follows.
        !self.ended && self.fd.poll_read_ready(cx).is_ready()
    }

    /// Takes what is there into a journal. `Ok(0)`: nothing is there now. An error is the journal's.
    fn take(&mut self, journal: &mut Journal) -> std::io::Result<usize> {
        if self.ended {
            return Ok(0);
        }
        let (stream, kind) = (self.stream, self.kind);
        let taken = self.fd.try_io(Interest::READABLE, |fd| {
            match journal.take(stream, kind, fd.as_fd()) {
                // Both ends are held open here: 0 can't come from a FIFO, and means the end of anything else.
                Ok(0) => Err(Errno::IO.into()),
                done => done,
            }
        });
        match taken {
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => Ok(0),
            // Every process has closed its side of the terminal.
            Err(e) if kind == journal::Kind::Terminal && Errno::from_io_error(&e) == Some(Errno::IO) => {
                self.ended = true;
                Ok(0)
            }
            done => done,
        }
    }

    /// Reads once onto the carried bytes. `None`: nothing is there now.
    fn read(&mut self) -> Option<usize> {
        if self.ended {
            return None;
        }
        let start = self.carry.len();
        self.carry.resize(start + CHUNK, 0);
        let buffer = &mut self.carry[start..];
        let read = self
            .fd
            .try_io(Interest::READABLE, |fd| read_once(fd.as_fd(), &mut *buffer));
        let length = match read {
            Ok(length) => length,
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => 0,
            // EIO: every process has closed its side of the terminal.
            Err(_) => {
                self.ended = true;
                0
            }
        };
        self.carry.truncate(start + length);
        (length > 0).then_some(length)
    }
}

fn read_once(fd: std::os::fd::BorrowedFd<'_>, buffer: &mut [u8]) -> std::io::Result<usize> {
    match rustix::io::retry_on_intr(|| rustix::io::read(fd, &mut *buffer)) {
        // Both ends are held open here: 0 can't come from a FIFO, and means the end of anything else.
        Ok(0) => Err(Errno::IO.into()),
        done => Ok(done?),
    }
}

impl Pump {
    /// Starts a pump from up to two sources into the log at `log`, by way of the journals in `bundle`. `container` is named
    /// in notices.
    pub fn to_log(
        sources: Vec<Source>,
        bundle: &Path,
        log: &Path,
        container: &str,
        events: &mpsc::UnboundedSender<Event>,
    ) -> Result<Pump> {
        let journal = Journal::open(bundle, log)?;
        let (commands, receiver) = mpsc::unbounded_channel();
        let pump = LogPump {
            sources,
            next: 0,
            stuck: journal.is_stuck(),
            burst: 0,
            journal,
            attached: Attached::default(),
            draining: false,
            commands: receiver,
            orphaned: false,
            container: container.to_string(),
            events: events.clone(),
        };
        tokio::task::spawn_local(pump.run());
        Ok(Pump {
            commands: vec![commands],
        })
    }

    /// Starts a pump for each pair, copying bytes as they are.
    pub fn copying(pairs: Vec<(Source, Sink)>) -> Pump {
        let commands = pairs.into_iter().map(|(source, sink)| {
            let (commands, receiver) = mpsc::unbounded_channel();
            tokio::task::spawn_local(copy(source, sink, receiver));
            commands
        });
        Pump {
            commands: commands.collect(),
        }
    }

    /// Asks the pump to read all that is there, for the processes that wrote it are gone. The future is ready when it
    /// has been read and is written, or safely held until the disk has room.
    pub fn drain(&self) -> impl Future<Output = ()> + use<> {
        let ask = |commands: &mpsc::UnboundedSender<Command>| {
            let (done, answer) = oneshot::channel();
            // A pump that is gone has nothing left to read.
            let _ = commands.send(Command::Drain(done));
            answer
        };
        let answers: Vec<_> = self.commands.iter().map(ask).collect();
        async move {
            for answer in answers {
                let _ = answer.await;
            }
        }
    }

    /// Asks a log pump to open its file anew.
    pub fn reopen(&self) -> impl Future<Output = Result<()>> + use<> {
        let (done, answer) = oneshot::channel();
        self.ask(Command::Reopen(done), answer)
    }

    /// Asks a log pump for a copy of what it takes from now on.
    pub fn attach(&self, listeners: Vec<Listener>) -> impl Future<Output = Result<()>> + use<> {
        let (done, answer) = oneshot::channel();
        self.ask(Command::Attach(listeners, done), answer)
    }

    fn ask(&self, command: Command, answer: oneshot::Receiver<Result<()>>) -> impl Future<Output = Result<()>> + use<> {
        let asked = self.commands.first().is_some_and(|c| c.send(command).is_ok());
        async move {
            if !asked {
                return Err(Failure::Precondition("its output has ended".to_string()));
            }
            match answer.await {
                Ok(done) => done,
                Err(_) => Err(Failure::Precondition("its output does not go to a log".to_string())),
            }
        }
    }
}

/// The task that writes a container's log; the log's only writer.
struct LogPump {
    sources: Vec<Source>,
    /// The source that is looked at first, next time: a stream that never rests must not starve the other.
    next: usize,
    journal: Journal,
    /// The log could not be written; nothing is taken until it can.
    stuck: bool,
    /// How much was taken since output last rested, in bytes.
    burst: usize,
    attached: Attached,
    /// No process can write any more: what is read is all there will ever be.
    draining: bool,
    commands: mpsc::UnboundedReceiver<Command>,
    /// Nobody holds the pump any more.
    orphaned: bool,
    container: String,
    events: mpsc::UnboundedSender<Event>,
}

impl LogPump {
    async fn run(mut self) {
        // What an earlier shim has taken, and not written any more.
        self.write_all(false);
        while !self.orphaned || self.stuck || self.attached.is_behind(&self.journal) {
            tokio::select! {
                biased;
                command = self.commands.recv(), if !self.orphaned => match command {
                    Some(Command::Drain(done)) => self.drain(done),
                    Some(Command::Reopen(done)) => self.reopen(done),
                    Some(Command::Attach(listeners, done)) => {
                        let _ = done.send(self.attached.add(listeners, &self.journal));
                    }
                    None => {
                        self.orphaned = true;
                        self.attached.say_farewell();
                    }
                },
                () = self.attached.ready(&self.journal) => self.attached.feed(&mut self.journal),
                () = tokio::time::sleep(Duration::from_millis(RETRY_MS)), if self.stuck => self.retry(),
                source = next_ready(&self.sources, self.next), if !self.stuck => {
                    self.next = source + 1;
                    self.turn(source);
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    /// Takes from a source until it has nothing more or its turn is over, and writes the log.
    fn turn(&mut self, source: usize) {
        let mut budget = TURN;
        while !self.stuck && budget > 0 {
            let taken = self.take(source);
            self.attached.feed(&mut self.journal);
            budget = budget.saturating_sub(taken);
            self.burst += taken;
            self.write(self.sources[source].stream, taken == 0);
            if taken == 0 {
                self.rest();
                break;
            }
        }
    }

    fn take(&mut self, source: usize) -> usize {
        let taken = self.sources[source].take(&mut self.journal);
        taken.unwrap_or_else(|e| {
            self.get_stuck(&crate::failure::system("splice(FIFO, journal)", &e));
            0
        })
    }

    /// Writes what was taken of a stream; with `idle` an unfinished line too.
    fn write(&mut self, stream: Stream, idle: bool) {
        if !self.stuck
            && let Err(e) = self.journal.write(stream, idle)
        {
            self.get_stuck(&e);
        }
    }

    fn write_all(&mut self, idle: bool) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            self.write(stream, idle);
        }
    }

    fn rest(&mut self) {
        if !self.stuck
            && let Err(e) = self.journal.rest()
        {
            self.get_stuck(&e);
        }
        if std::mem::take(&mut self.burst) >= TURN {
            // One burst must not cost its memory for ever.
            sys::memory::trim();
        }
    }

    fn get_stuck(&mut self, why: &impl std::fmt::Display) {
        if !self.stuck {
            self.stuck = true;
            self.notice(
                "LogNotWritable",
                format!("the log can't be written, and the container waits at its pipe: {why}"),
            );
        }
    }

    fn retry(&mut self) {
        if self.journal.flush().is_err() {
            return;
        }
        self.stuck = false;
        self.write_all(self.draining);
        self.rest();
        if !self.stuck {
            self.notice(
                "LogWritable",
                "the log can be written again; nothing was lost".to_string(),
            );
        }
    }

    /// Takes everything that is there, whether or not it can be written: at most what the pipes hold, since nobody
    /// writes any more.
    fn drain(&mut self, done: oneshot::Sender<()>) {
        self.draining = true;
        for source in 0..self.sources.len() {
            while self.take(source) > 0 {}
        }
        self.attached.feed(&mut self.journal);
        self.write_all(true);
        self.rest();
        let _ = done.send(());
    }

    fn reopen(&mut self, done: oneshot::Sender<Result<()>>) {
        let reopened = self.journal.reopen();
        if self.journal.is_stuck() {
            // The new file is there; a full disk is the pump's trouble, not the caller's.
            self.get_stuck(&"no room for what is to be written");
        }
        let _ = done.send(reopened);
    }

    fn notice(&self, reason: &'static str, text: String) {
        // The state machine is gone only when the shim ends.
        let _ = self.events.send(Event::Notice(self.container.clone(), text, reason));
    }
}

/// The first source that can be read, looking from `start` on. Never ready when all have ended.
async fn next_ready(sources: &[Source], start: usize) -> usize {
    poll_fn(|cx| {
        for i in 0..sources.len() {
            let i = (start + i) % sources.len();
            if sources[i].poll_ready(cx) {
                return Poll::Ready(i);
            }
        }
        Poll::Pending
    })
    .await
}

/// Where a copy pump's bytes go.
pub enum Sink {
    /// A FIFO, opened non-blocking.
    Fifo(AsyncFd<OwnedFd>),
    /// A file.
    File(OwnedFd),
}

impl Sink {
    /// A FIFO of the caller's; `fd` must be non-blocking.
    pub fn fifo(fd: OwnedFd) -> Result<Sink> {
        Ok(Sink::Fifo(registered(fd)?))
    }

    /// Writes all of it, waiting for the reader. An error means that nobody will ever read.
    async fn write_all(&self, mut bytes: &[u8]) -> std::io::Result<()> {
        while !bytes.is_empty() {
            let written = match self {
                Sink::File(fd) => rustix::io::retry_on_intr(|| rustix::io::write(fd, bytes))?,
                Sink::Fifo(fd) => {
                    fd.async_io(Interest::WRITABLE, |fd| {
                        Ok(rustix::io::retry_on_intr(|| rustix::io::write(fd, bytes))?)
                    })
                    .await?
                }
            };
            bytes = &bytes[written..];
        }
        Ok(())
    }
}

/// Copies until the pump is dropped. When nobody reads any more, output is read and thrown away, so that the process
/// does not hang.
async fn copy(mut source: Source, sink: Sink, mut commands: mpsc::UnboundedReceiver<Command>) {
    let mut sink = Some(sink);
    loop {
        let drained = tokio::select! {
            biased;
            _ = next_ready(std::slice::from_ref(&source), 0) => None,
            command = commands.recv() => match command {
                Some(Command::Drain(done)) => Some(done),
                // Not a log: the dropped sender says so.
                Some(Command::Reopen(_) | Command::Attach(..)) => continue,
                None => return,
            },
        };
        while source.read().is_some() {
            let failed = match &sink {
                Some(to) => to.write_all(&source.carry).await.is_err(),
                None => false,
            };
            if failed {
                sink = None;
            }
            source.carry = Vec::new();
        }
        source.carry = Vec::new();
        if let Some(done) = drained {
            let _ = done.send(());
        }
    }
}

/// Copies a caller's FIFO into a terminal, until the task is aborted.
pub async fn copy_input(fifo: Source, terminal: Sink) {
    let (_keep, none) = mpsc::unbounded_channel();
    copy(fifo, terminal, none).await;
}
