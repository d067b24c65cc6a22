//! Signals to all that is in a cgroup.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::error::Result;
use crate::file;
use crate::group::Cgroup;

/// How long the v1 freezer may take to stop every process. One in uninterruptible sleep can't be stopped; then those
/// that were found are killed all the same, and another round looks for what they have started meanwhile.
pub const FREEZE_LIMIT: Duration = Duration::from_millis(100);

/// How many rounds of freeze, kill and thaw there are at most on v1.
pub const KILL_ROUNDS: usize = 5;

impl Cgroup {
    /// Sends SIGKILL to every process in it and below it, and to whatever they may be forking. Does not wait for
    /// them to end.
    ///
    /// v2 has one file for that (`cgroup.kill`, since Linux 5.14). v1 needs them frozen first, so that none forks
    /// behind the list that was read: freeze, signal each, thaw.
    pub fn kill(&self) -> Result<()> {
        // Read before the kill: who is known to v1 only (placed there by someone else) must be killed the v1 way.
        let before = match (self.freezer_dir(), self.v2_dir()) {
            (Some(_), Some(_)) => self.pids()?,
            _ => Default::default(),
        };
        if let Some(dir) = self.v2_dir() {
            let mut covered = Default::default();
            crate::group::collect_pids(dir, &mut covered)?;
            match file::write(&dir.join("cgroup.kill"), "1") {
                Ok(()) if before.is_subset(&covered) => return Ok(()),
                Ok(()) => {}
                Err(e) if file::is_gone(&e) => {
                    if self.freezer_dir().is_none() {
                        return if dir.is_dir() { self.kill_by_list() } else { Ok(()) };
                    }
                }
                Err(e) => return Err(e.into()),
            }
        }
        match self.freezer_dir() {
            Some(dir) if dir.join("freezer.state").exists() => self.kill_frozen(dir),
            _ => self.kill_by_list(),
        }
    }

    /// Sends `signal` to every process in it and below it, once. (Processes forked meanwhile may be missed: a signal
    /// that must reach all is SIGKILL, by [`Cgroup::kill`].)
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let listed: Vec<_> = self
            .pids()?
            .into_iter()
            .filter_map(|pid| open(pid).map(|fd| (pid, fd)))
            .collect();
        // A number in the list may have been reused between the reading and the opening. If it is listed again, then
        // it belongs to the cgroup now; and if its pidfd is of an earlier owner, that one has ended and gets nothing.
        let again = self.pids()?;
        for (_, pidfd) in listed.iter().filter(|(pid, _)| again.contains(pid)) {
            match pidfd_send_signal(pidfd, signal) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(e) => return Err(sys::Error::new(format_args!("pidfd_send_signal({signal:?})"), e).into()),
            }
        }
        Ok(())
    }

    fn kill_frozen(&self, freezer: &Path) -> Result<()> {
        let state = freezer.join("freezer.state");
        for _ in 0..KILL_ROUNDS {
            if self.pids()?.is_empty() {
                return Ok(());
            }
            file::write(&state, "FROZEN")?;
            let frozen = wait_frozen(&state);
            let killed = self.signal(Signal::KILL);
            // Thaw whatever happened: a frozen process does not even die.
            file::write(&state, "THAWED")?;
            killed?;
            if frozen? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Without a freezer and without `cgroup.kill`: signal until a round finds nobody new.
    fn kill_by_list(&self) -> Result<()> {
        let mut known = Default::default();
        for _ in 0..KILL_ROUNDS {
            let now = self.pids()?;
            if now.is_subset(&known) {
                return Ok(());
            }
            self.signal(Signal::KILL)?;
            known = now;
        }
        Ok(())
    }
}

fn open(pid: i32) -> Option<std::os::fd::OwnedFd> {
    pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()
}

/// True once all are frozen, false if the limit passed. The v1 freezer has no event: the kernel brings its state up
/// to date when it is read, and every read gives the stopping processes' CPU away.
fn wait_frozen(state: &Path) -> sys::Result<bool> {
    let end = Instant::now() + FREEZE_LIMIT;
    loop {
        if file::read(state)?.trim() == "FROZEN" {
            return Ok(true);
        }
        if Instant::now() >= end {
            return Ok(false);
        }
        std::thread::yield_now();
    }
}
