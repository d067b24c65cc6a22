//! A guest: qemu, from its start to its end.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::system::System;

/// The guest's memory.
const MEMORY_MIB: &str = "2048";
/// AppArmor is there but not asked for by default on Debian's cloud kernel's command line; pages for hugetlb's tests.
const KERNEL_ARGUMENTS: &str =
    "console=ttyS0 panic=-1 quiet lsm=landlock,lockdown,yama,apparmor,bpf hugepages=8 rootfstype=ext4";
/// How often a guest that says nothing is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// What becomes of what a guest writes on its disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writes {
    /// It is dropped when the guest ends.
    Dropped,
    #[allow(dead_code)]
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
    end: Instant,
    limit: Duration,
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
            end: Instant::now() + limit,
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
    /// Gives `see` each line that the guest's task prints, until it is over; then its exit code.
    pub fn follow(mut self, mut see: impl FnMut(&str) -> Result<()>) -> Result<i32> {
        let output = self.qemu.stdout.take().context("qemu has no output")?;
        let watch = Watch::over(&self)?;
        let mut code = None;
        for line in BufReader::new(output).split(b'\n') {
            let line = line?;
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches('\r');
            match line.strip_prefix(OVER) {
                Some(said) => code = Some(said.parse().with_context(|| line.to_owned())?),
                None => see(line)?,
            }
        }
        let in_time = watch.stop();
        let status = self.qemu.wait()?;
        match code {
            Some(code) => Ok(code),
            None if !in_time => bail!("the guest was not over after {:?}{}", self.limit, self.last_words()),
            None => bail!("the guest ended ({status}) before its task did{}", self.last_words()),
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
    over: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<bool>,
}

impl Watch {
    fn over(guest: &Running) -> Result<Watch> {
        let pid = rustix::process::Pid::from_child(&guest.qemu);
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
        let (over, end) = (Arc::new(AtomicBool::new(false)), guest.end);
        let told = over.clone();
        let thread = std::thread::spawn(move || {
            while Instant::now() < end {
                if told.load(Ordering::Relaxed) {
                    return true;
                }
                std::thread::park_timeout(LOOK);
            }
            let _ = rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL);
            false
        });
        Ok(Watch { over, thread })
    }

    /// Whether the guest ended by itself.
    fn stop(self) -> bool {
        self.over.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
        self.thread.join().unwrap_or(false)
    }
}
