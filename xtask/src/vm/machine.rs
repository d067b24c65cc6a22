//! A guest: qemu, from its start to its end.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::system::System;

/// The guest's memory.
const MEMORY_MIB: &str = "2048";
/// AppArmor is there but not asked for by default on Debian's cloud kernel's command line; pages for hugetlb's tests.
const KERNEL_ARGUMENTS: &str =
    "console=ttyS0 panic=-1 quiet lsm=landlock,lockdown,yama,apparmor,bpf hugepages=8 rootfstype=ext4";
/// What becomes of what a guest writes on its disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writes {
    /// It is dropped when the guest ends.
    Dropped,
    /// It stays: killing the guest is a power cut, starting it again the reboot after.
    Kept,
}

/// How to start one.
#[derive(Debug)]
pub struct Machine<'a> {
    pub system: &'a System,
    /// The second disk.
    pub disk: &'a Path,
    /// Of the second disk. The root's are always dropped.
    pub writes: Writes,
    /// What the guest's kernel says goes there.
    pub console: PathBuf,
}

/// A guest that runs.
#[derive(Debug)]
pub struct Running {
    qemu: Child,
    console: PathBuf,
    limit: Duration,
}

/// What to do after a line of the task's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    GoOn,
    /// Cut the power after that time.
    Cut(Duration),
}

/// How a guest ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Its task is over, with that exit code.
    Over(i32),
    /// By itself, before its task was over: it was restarted.
    Restarted,
    /// [`Next::Cut`].
    Cut,
}

impl Machine<'_> {
    /// Starts it; `limit`: it is killed then.
    pub fn start(&self, limit: Duration) -> Result<Running> {
        let mut qemu = self.command("");
        qemu.arg("-serial")
            .arg(format!("file:{}", self.console.display()))
            .args(["-serial", "stdio"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        Ok(Running {
            qemu: qemu.spawn().context("qemu-system-x86_64")?,
            console: self.console.clone(),
            limit,
        })
    }

    /// A console of it on this terminal, until it ends.
    pub fn shell(&self) -> Result<()> {
        let status = self
            .command("hove.shell")
            .args(["-serial", "mon:stdio"])
            .status()
            .context("qemu-system-x86_64")?;
        ensure!(status.success(), "qemu: {status}");
        Ok(())
    }

    fn command(&self, arguments: &str) -> Command {
        let drive = |image: &Path, writes| {
            let options = match writes {
                Writes::Dropped => ",snapshot=on,cache=unsafe",
                // What the guest has not flushed is the guest's to lose.
                Writes::Kept => ",cache=writeback",
            };
            format!("file={},if=virtio,format=raw{options}", image.display())
        };
        let mut command = Command::new("qemu-system-x86_64");
        command
            // A kernel that wants a paravirtual guest makes /dev/kvm hang: always in software.
            .args([
                "-accel",
                "tcg,thread=multi",
                "-smp",
                "2",
                "-cpu",
                "max",
                "-m",
                MEMORY_MIB,
            ])
            .args(["-display", "none", "-no-reboot", "-nic", "none"])
            .arg("-kernel")
            .arg(&self.system.kernel)
            .arg("-initrd")
            .arg(&self.system.initrd)
            .arg("-append")
            .arg(format!("{KERNEL_ARGUMENTS} {arguments}"))
            .args(["-drive", &drive(&self.system.root, Writes::Dropped)])
            .args(["-drive", &drive(self.disk, self.writes)]);
        command
    }
}

/// The task's last line.
const OVER: &str = "@hove over ";

impl Running {
    /// Gives `see` each line that the guest's task prints, until the guest ends.
    pub fn follow(mut self, mut see: impl FnMut(&str) -> Result<Next>) -> Result<End> {
        let output = self.qemu.stdout.take().context("qemu has no output")?;
        let watch = Watch::over(&self.qemu, Instant::now() + self.limit)?;
        let mut code = None;
        let mut cut = false;
        for line in BufReader::new(output).split(b'\n') {
            let line = line?;
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches('\r');
            if let Some(said) = line.strip_prefix(OVER) {
                code = Some(said.parse().with_context(|| line.to_owned())?);
                // Nothing that matters comes after.
                watch.kill_at(Instant::now());
            } else if let Next::Cut(after) = see(line)? {
                cut = true;
                watch.kill_at(Instant::now() + after);
            }
        }
        let killed = watch.stop();
        let status = self.qemu.wait()?;
        match code {
            Some(code) => Ok(End::Over(code)),
            None if cut => Ok(End::Cut),
            None if killed => bail!("the guest was not over after {:?}{}", self.limit, self.last_words()),
            None if status.success() => Ok(End::Restarted),
            None => bail!("qemu: {status}{}", self.last_words()),
        }
    }

    /// The end of what its kernel said.
    fn last_words(&self) -> String {
        let file = File::open(&self.console).ok();
        let lines: Vec<String> = file
            .map(|file| {
                BufReader::new(file)
                    .split(b'\n')
                    .map_while(Result::ok)
                    .map(|line| String::from_utf8_lossy(&line).into_owned())
                    .collect()
            })
            .unwrap_or_default();
        let last = lines[lines.len().saturating_sub(20)..].join("\n");
        format!("; the end of {}:\n{last}", self.console.display())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Nothing to do for one that has ended.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// Kills a guest when its time is over.
struct Watch {
    /// `None`: it has ended.
    end: Arc<Mutex<Option<Instant>>>,
    thread: std::thread::JoinHandle<bool>,
}

impl Watch {
    fn over(qemu: &Child, end: Instant) -> Result<Watch> {
        let pid = rustix::process::Pid::from_child(qemu);
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
        let end = Arc::new(Mutex::new(Some(end)));
        let told = end.clone();
        let thread = std::thread::spawn(move || {
            loop {
                let end = *told.lock().unwrap_or_else(PoisonError::into_inner);
                match end.map(|end| end.saturating_duration_since(Instant::now())) {
                    None => return false,
                    Some(Duration::ZERO) => break,
                    Some(left) => std::thread::park_timeout(left),
                }
            }
            let _ = rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL);
            true
        });
        Ok(Watch { end, thread })
    }

    fn set(&self, end: Option<Instant>) {
        *self.end.lock().unwrap_or_else(PoisonError::into_inner) = end;
        self.thread.thread().unpark();
    }

    fn kill_at(&self, end: Instant) {
        self.set(Some(end));
    }

    /// Whether the guest was killed.
    fn stop(self) -> bool {
        self.set(None);
        self.thread.join().unwrap_or(false)
    }
}
