//! Signals to all that is in a cgroup; stopping it and letting it go on.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::error::{Error, Result};
use crate::file;
use crate::group::{Cgroup, children, collect_pids};
use crate::hierarchy::{Controller, Version};

/// How long the v1 freezer may take to stop every process. One in uninterruptible sleep can't be stopped; then those
/// that were found are killed all the same, and another round looks for what they have started meanwhile.
pub const FREEZE_LIMIT: Duration = Duration::from_millis(100);

/// How many rounds there are at most on v1: of signals, and then of freeze, signal and thaw.
pub const KILL_ROUNDS: usize = 5;

impl Cgroup {
    /// Sends SIGKILL to every process in it and below it, and to whatever they may be forking. Does not wait for
    /// them to end.
    ///
    /// v2 has one file for that (`cgroup.kill`, since Linux 5.14). On v1 they are signalled until nobody new is found, and where
    /// they fork faster than that, frozen first.
    pub fn kill(&self) -> Result<()> {
        let killed = self.kill_at_once().and_then(|all| match all {
            true => Ok(()),
            false => self.kill_v1(),
        });
        // Whatever happened: a process in a frozen v1 cgroup does not even die. It may be a killer that was killed itself, or
        // the container, that has frozen it.
        killed.and(self.freezer_dir().map_or(Ok(()), thaw_tree))
    }

    /// By `cgroup.kill`. False: there is none, or somebody is in v1's cgroup alone, placed there by another hand.
    fn kill_at_once(&self) -> Result<bool> {
        let Some(dir) = self.v2_dir() else { return Ok(false) };
        let mut outside = BTreeSet::new();
        if let Some(v1) = self.freezer_dir() {
            collect_pids(v1, &mut outside)?;
        }
        let mut covered = BTreeSet::new();
        collect_pids(dir, &mut covered)?;
        match file::write(&dir.join("cgroup.kill"), "1") {
            Ok(()) => {}
            Err(e) if file::is_gone(&e) => return Ok(self.freezer_dir().is_none() && !dir.is_dir()),
            Err(e) => return Err(e.into()),
        }
        outside.retain(|pid| !covered.contains(pid));
        if outside.is_empty() {
            return Ok(true);
        }
        // Most have only ended in between.
        let now = self.pids()?;
        Ok(!outside.iter().any(|pid| now.contains(pid)))
    }

    fn kill_v1(&self) -> Result<()> {
        match self.freezer_dir().map(|dir| dir.join("freezer.state")) {
            _ if self.kill_by_list()? => Ok(()),
            Some(state) if state.exists() => self.kill_frozen(&state),
            _ => Ok(()),
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

    /// Stops every process in it and below it, until [`Cgroup::thaw`]. Returns whether all had stopped within
    /// [`FREEZE_LIMIT`]; the others follow.
    ///
    /// By v2's `cgroup.freeze` (Linux 5.2) also in hybrid mode: what that has stopped can still be killed, whereas the v1
    /// freezer keeps even SIGKILL waiting.
    pub fn freeze(&self) -> Result<bool> {
        match self.freezer_file() {
            Some((path, Version::V2)) => {
                file::write(&path, "1")?;
                let frozen = |events: &str| file::keyed(events, "frozen") == Some(1);
                Ok(wait_until(&path.with_file_name("cgroup.events"), frozen)?)
            }
            Some((path, Version::V1)) => {
                file::write(&path, "FROZEN")?;
                Ok(wait_until(&path, |state| state.trim() == "FROZEN")?)
            }
            None => Err(Error::ControllerMissing {
                controller: Controller::Freezer,
                field: "pausing".to_owned(),
            }),
        }
    }

    /// Lets the processes go on that [`Cgroup::freeze`] stopped.
    pub fn thaw(&self) -> Result<()> {
        match self.freezer_file() {
            Some((path, Version::V2)) => Ok(file::write(&path, "0")?),
            Some((path, Version::V1)) => Ok(file::write(&path, "THAWED")?),
            None => Ok(()),
        }
    }

    /// True between [`Cgroup::freeze`] and [`Cgroup::thaw`].
    pub fn is_frozen(&self) -> Result<bool> {
        Ok(match self.freezer_file() {
            Some((path, Version::V2)) => file::read(&path)?.trim() == "1",
            Some((path, Version::V1)) => file::read(&path)?.trim() != "THAWED",
            None => false,
        })
    }

    fn freezer_file(&self) -> Option<(PathBuf, Version)> {
        let v2 = self.v2_dir().map(|dir| (dir.join("cgroup.freeze"), Version::V2));
        let v1 = self.freezer_dir().map(|dir| (dir.join("freezer.state"), Version::V1));
        [v2, v1].into_iter().flatten().find(|(path, _)| path.exists())
    }

    /// Signals until a round finds nobody new: who has been signalled forks no more. False: there were always more.
    fn kill_by_list(&self) -> Result<bool> {
        let mut known = BTreeSet::new();
        for _ in 0..KILL_ROUNDS {
            let now = self.pids()?;
            if now.is_subset(&known) {
                return Ok(true);
            }
            self.signal(Signal::KILL)?;
            known = now;
        }
        Ok(false)
    }

    /// Frozen, none forks behind the list that was read.
    fn kill_frozen(&self, state: &Path) -> Result<()> {
        for _ in 0..KILL_ROUNDS {
            if self.pids()?.is_empty() {
                return Ok(());
            }
            file::write(state, "FROZEN")?;
            let frozen = wait_until(state, |state| state.trim() == "FROZEN");
            let killed = self.signal(Signal::KILL);
            file::write(state, "THAWED")?;
            killed?;
            if frozen? {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Thaws a v1 cgroup and those below it.
fn thaw_tree(dir: &Path) -> Result<()> {
    // None in a hierarchy that has no freezer, or once the cgroup is gone.
    let frozen = file::read_optional(&dir.join("freezer.self_freezing"))?;
    if frozen.is_some_and(|frozen| frozen.trim() == "1") {
        file::write(&dir.join("freezer.state"), "THAWED")?;
    }
    children(dir).iter().try_for_each(|child| thaw_tree(child))
}

fn open(pid: i32) -> Option<std::os::fd::OwnedFd> {
    pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()
}

/// Reads the file until it is as wanted: true then, false once [`FREEZE_LIMIT`] has passed. The v1 freezer has no event,
/// and the kernel brings its state up to date only when it is read; each reading gives the CPU to those who are stopping.
fn wait_until(path: &Path, wanted: impl Fn(&str) -> bool) -> sys::Result<bool> {
    let end = Instant::now() + FREEZE_LIMIT;
    loop {
        if wanted(&file::read(path)?) {
            return Ok(true);
        }
        if Instant::now() >= end {
            return Ok(false);
        }
        std::thread::yield_now();
    }
}
