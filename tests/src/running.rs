//! A command that runs, and its output as it comes.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags, Signal};
use rustix::time::Timespec;

/// A started command. Killed when dropped.
#[derive(Debug)]
pub struct Running {
    what: String,
    child: Child,
    stdin: Option<File>,
    stdout: Arc<Output>,
    stderr: Arc<Output>,
}

/// How a command ended.
#[derive(Debug, Clone)]
pub struct Ended {
    /// Exit status.
    pub status: ExitStatus,
    /// All of its standard output.
    pub stdout: String,
    /// All of its standard error.
    pub stderr: String,
}

impl Ended {
    /// The exit code; 128 and more for a signal, as shells count.
    pub fn code(&self) -> i32 {
        use std::os::unix::process::ExitStatusExt;
        self.status
            .code()
            .unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }
}

#[derive(Debug, Default)]
struct Output {
    text: Mutex<(String, bool)>,
    more: Condvar,
}

impl Running {
    /// Starts `command`, with pipes for its streams.
    pub fn start(command: Command) -> Result<Running> {
        Running::start_with(command, Stdio::piped())
    }

    /// The same, its standard output elsewhere.
    pub fn start_with(mut command: Command, stdout: Stdio) -> Result<Running> {
        let what = format!("{command:?}");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| what.clone())?;
        let stdout = Output::follow(child.stdout.take());
        let stderr = Output::follow(child.stderr.take());
        let stdin = child.stdin.take().map(|stdin| File::from(OwnedFd::from(stdin)));
        Ok(Running {
            what,
            child,
            stdin,
            stdout,
            stderr,
        })
    }

    /// Starts `command` on a terminal of its own: what it writes to standard output or error comes as output.
    pub fn start_on_terminal(mut command: Command) -> Result<Running> {
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
        let what = format!("{command:?}");
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).context("open /dev/ptmx")?;
        grantpt(&ours)?;
        unlockpt(&ours)?;
        let name = ptsname(&ours, Vec::new())?.into_string()?;
        let theirs = File::options()
            .read(true)
            .write(true)
            .open(&name)
            .with_context(|| name.clone())?;
        let mut child = command
            .stdin(theirs.try_clone()?)
            .stdout(theirs.try_clone()?)
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| what.clone())?;
        // Held by the command as well: as long as it has them, its terminal stays open for it alone.
        drop(command);
        drop(theirs);
        let ours = File::from(ours);
        let stdout = Output::follow(Some(ours.try_clone()?));
        let stderr = Output::follow(child.stderr.take());
        Ok(Running {
            what,
            child,
            stdin: Some(ours),
            stdout,
            stderr,
        })
    }

    /// Its number.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Waits until `text` has come on standard output.
    pub fn wait_for_output(&self, text: &str, limit: Duration) -> Result<()> {
        self.stdout.wait_for(text, limit).with_context(|| {
            format!(
                "{}: {text:?} did not come within {limit:?}; stdout:\n{}\nstderr:\n{}",
                self.what,
                self.stdout.get(),
                self.stderr.get()
            )
        })
    }

    /// The same for standard error, where progress goes.
    pub fn wait_for_words(&self, text: &str, limit: Duration) -> Result<()> {
        self.stderr.wait_for(text, limit).with_context(|| {
            format!(
                "{}: {text:?} was not said within {limit:?}:\n{}",
                self.what,
                self.stderr.get()
            )
        })
    }

    /// What it has written to standard error until now.
    pub fn words(&self) -> String {
        self.stderr.get()
    }

    /// Writes to its standard input.
    pub fn write(&mut self, text: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("standard input is closed")?;
        stdin.write_all(text.as_bytes())?;
        Ok(stdin.flush()?)
    }

    /// Ends its standard input.
    pub fn close_input(&mut self) {
        self.stdin = None;
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        rustix::process::kill_process(self.pid(), signal).with_context(|| format!("{}: kill({signal:?})", self.what))
    }

    /// Waits for its end; after `limit` it is killed, and that is an error.
    pub fn wait(mut self, limit: Duration) -> Result<Ended> {
        self.stdin = None;
        if !wait_for_end(self.pid(), limit)? {
            let (stdout, stderr) = (self.stdout.get(), self.stderr.get());
            bail!(
                "{} did not end within {limit:?}; stdout:\n{stdout}\nstderr:\n{stderr}",
                self.what
            );
        }
        let status = self.child.wait()?;
        // A grandchild that has the pipe keeps it open: what came until now is what there is.
        let patience = Duration::from_secs(2);
        self.stdout.wait_for_close(patience);
        self.stderr.wait_for_close(patience);
        Ok(Ended {
            status,
            stdout: self.stdout.get(),
            stderr: self.stderr.get(),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Output {
    fn follow(stream: Option<impl Read + Send + 'static>) -> Arc<Output> {
        let output = Arc::new(Output::default());
        let theirs = Arc::clone(&output);
        std::thread::spawn(move || {
            if let Some(stream) = stream {
                let mut reader = BufReader::new(stream);
                // A terminal that nobody has open any more answers EIO: its end, as 0 bytes are a pipe's.
                while let Ok(piece) = reader.fill_buf()
                    && !piece.is_empty()
                {
                    let length = piece.len();
                    theirs.update(|(text, _)| text.push_str(&String::from_utf8_lossy(piece)));
                    reader.consume(length);
                }
            }
            theirs.update(|(_, closed)| *closed = true);
        });
        output
    }

    fn update(&self, change: impl FnOnce(&mut (String, bool))) {
        change(&mut self.text.lock().unwrap_or_else(PoisonError::into_inner));
        self.more.notify_all();
    }

    fn get(&self) -> String {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    fn wait_for(&self, wanted: &str, limit: Duration) -> Result<()> {
        let guard = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = |state: &mut (String, bool)| !state.0.contains(wanted) && !state.1;
        let (state, _) = self
            .more
            .wait_timeout_while(guard, limit, missing)
            .unwrap_or_else(PoisonError::into_inner);
        if state.0.contains(wanted) {
            Ok(())
        } else {
            bail!("closed: {}", state.1)
        }
    }

    fn wait_for_close(&self, limit: Duration) {
        let guard = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = self.more.wait_timeout_while(guard, limit, |(_, closed)| !*closed);
    }
}

/// Waits for a process to end, at most `limit`; whether it did. One that isn't there has ended.
pub fn wait_for_end(pid: Pid, limit: Duration) -> Result<bool> {
    let pidfd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(rustix::io::Errno::SRCH) => return Ok(true),
        Err(e) => return Err(e).with_context(|| format!("pidfd_open({pid:?})")),
    };
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: left.as_secs().cast_signed(),
            tv_nsec: left.subsec_nanos().into(),
        };
        match rustix::event::poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e).context("poll(pidfd)"),
            Ok(ready) => return Ok(ready > 0),
        }
    }
}
