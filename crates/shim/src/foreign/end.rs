//! How processes end that another shim runs, and how that shim does.
//!
//! ```text
//!  Wait answers ─► the rest of its cgroup killed ─► the end written down ─► Delete ─► output drained ─► record durable ─► announced
//! ```
//!
//! Delete comes before the output is drained, because the other shim answers it once it has carried all output into the FIFO.
//! A keeper that dies in between leaves the end to its successor, which could not ask for it again.

use std::path::Path;
use std::time::Duration;

use containerd_shim_protos::api::DeleteResponse;
use jiff::Timestamp;
use protobuf::Message;
use rustix::process::Signal;
use sys::pidfd::End;

use super::{Foreign, Report, Task, bootstrap, bundle};
use crate::diary;
use crate::event::{Exit, Key, Reply};
use crate::failure::{Failure, Result};
use crate::pod::Pod;
use crate::{process, records};

/// How long the other shim may take to end once it was asked to, before it is killed.
const FAREWELL: Duration = Duration::from_secs(3);

/// The code of what was killed because its shim had died.
const KILLED: i32 = 137;

impl Pod {
    /// Tells of a process's end when the other shim does.
    pub(crate) fn wait_for_foreign(&self, key: &Key) -> Result<()> {
        let Ok(task) = self.foreign_task(key) else {
            // It has died, and what it ran is about to be killed.
            return Ok(());
        };
        let recorded = self.unannounced_end(key);
        self.report(key, async move {
            if let Some(Exit { code, at_ns, .. }) = recorded {
                let at = Timestamp::from_nanosecond(at_ns.into()).unwrap_or_else(|_| Timestamp::now());
                return Ok(Report::Ended(code, at));
            }
            match task.wait().await {
                Ok((code, at)) => Ok(Report::Ended(code.cast_signed(), at)),
                // Nobody knows any more.
                Err(Failure::NotFound(_)) => Ok(Report::Ended(End::Unknown.shell_status(), Timestamp::now())),
                // Its own end is seen by its pidfd.
                Err(e) => Err(e),
            }
        });
        Ok(())
    }

    /// The end of a process that a dead keeper has heard of.
    fn unannounced_end(&self, key: &Key) -> Option<Exit> {
        let bundle = match key {
            Key::Pause => return None,
            _ => &self.container(key.container()).ok()?.bundle,
        };
        record::load(&records::end(bundle, key.exec())).ok()
    }

    /// Has the other shim forget a process that has ended; then its output is here.
    pub(crate) fn forget_foreign(&mut self, key: &Key) {
        if let Err(e) = self.write_down_end(key) {
            diary::note(format_args!("{key}: its end is not safe yet: {e}"));
        }
        let task = self.foreign_task(key);
        self.report(key, async move {
            // What a dead one knew is forgotten.
            if let Ok(task) = task {
                forget(&task).await;
            }
            Ok(Report::Deleted)
        });
    }

    fn write_down_end(&self, key: &Key) -> Result<()> {
        let container = self.container(key.container())?;
        let Some((end, at)) = self.process(key)?.ended else {
            return Ok(());
        };
        if !key.exec().is_empty() {
            crate::container::make_exec_dir(&container.bundle, key.exec())?;
        }
        let exit = Exit {
            code: end.shell_status(),
            at_ns: process::ns(at),
            oom_killed: false,
            unseen: end == End::Unknown,
        };
        Ok(record::save(&records::end(&container.bundle, key.exec()), &exit)?)
    }

    /// The keeper has taken over: the other shim is looked after again, or is seen to have ended.
    pub(crate) fn adopt_foreign(&mut self) {
        match self.foreign.as_ref().map(|foreign| foreign.shim.is_some()) {
            Some(true) => self.watch_foreign(),
            Some(false) => self.foreign_died(),
            None => {}
        }
    }

    /// Tells of the other shim's end.
    pub(crate) fn watch_foreign(&self) {
        let Some(shim) = self.foreign.as_ref().and_then(|f| f.shim.clone()) else {
            return;
        };
        self.report(&Key::Pause, async move {
            shim.ended().await?;
            Ok(Report::Died)
        });
    }

    /// The other shim has ended, and nobody looks after what it ran: that is killed, as containerd does it.
    pub(crate) fn foreign_died(&mut self) {
        let Some(foreign) = &mut self.foreign else { return };
        if foreign.died {
            return;
        }
        (foreign.died, foreign.shim) = (true, None);
        self.notice(
            "",
            "HandlerShimDied",
            "the handler's shim has ended; what it ran is killed".to_string(),
        );
        let keys: Vec<Key> = self.processes().map(|(key, _)| key).collect();
        // Pause last: with it the sandbox is over.
        for key in keys.into_iter().rev() {
            if self.process(&key).is_ok_and(|p| p.state().is_alive()) {
                self.kill_orphan(&key);
                self.ended(&key, End::Code(KILLED), Timestamp::now());
            }
        }
    }

    /// Kills what is left of a container on the host; the shim's own program takes away what only it knows of.
    fn kill_orphan(&self, key: &Key) {
        let (dir, id) = match key {
            Key::Pause => (self.sandbox_bundle().to_path_buf(), self.config.id.clone()),
            Key::Container(id) => match self.container(id) {
                Ok(container) => (container.bundle.clone(), id.clone()),
                Err(_) => return,
            },
            Key::Exec(..) => return,
        };
        let groups = [&self.sandbox.cgroup].into_iter();
        let own = self.container(key.container()).ok().map(|c| &c.cgroup);
        for group in groups.chain(own).flatten() {
            if let Err(e) = group.kill() {
                diary::note(format_args!("cgroup {}: {e}", group.path()));
            }
        }
        let Some(foreign) = &self.foreign else { return };
        if let Err(e) = foreign.clean_up(&dir, &id) {
            diary::note(format_args!("{key}: {e}"));
        }
    }

    /// The keeper is to end, and the other shim before it. Gives the reply back if there is none.
    pub(crate) fn end_foreign(&mut self, reply: Reply<()>) -> Option<Reply<()>> {
        let Some(foreign) = &self.foreign else {
            return Some(reply);
        };
        let Some(shim) = foreign.shim.clone() else {
            return Some(reply);
        };
        self.farewells.push(reply);
        if self.farewells.len() > 1 {
            return None;
        }
        let id = foreign.id.clone();
        let keys = self.processes().map(|(key, _)| key);
        let tasks: Vec<Task> = keys.filter_map(|key| self.foreign_task(&key).ok()).collect();
        self.report(&Key::Pause, async move {
            // Execs first, pause last.
            for task in tasks.iter().rev() {
                if !matches!(task.delete().await, Ok(()) | Err(Failure::NotFound(_))) {
                    let _ = task.kill(Signal::KILL.as_raw().unsigned_abs(), true).await;
                    forget(task).await;
                }
            }
            // It may end before it answers.
            let _ = shim.shut_down(&id).await;
            if tokio::time::timeout(FAREWELL, shim.ended()).await.is_err() {
                diary::note(format_args!("the handler's shim does not end; it is killed"));
                shim.kill();
                let _ = tokio::time::timeout(FAREWELL, shim.ended()).await;
            }
            // Its own to remove, unless it was killed.
            let _ = std::fs::remove_file(&shim.address.socket);
            Ok(Report::Over)
        });
        None
    }

    /// Nothing is left of the other shim.
    pub(crate) fn foreign_over(&mut self) {
        self.foreign = None;
        if let Err(e) = bundle::remove(self.sandbox_bundle()) {
            diary::note(format_args!("{e}"));
        }
        for reply in std::mem::take(&mut self.farewells) {
            self.end(reply);
        }
    }
}

/// Waits until the shim has forgotten a process.
async fn forget(task: &Task) {
    match task.delete().await {
        Ok(()) | Err(Failure::NotFound(_)) => {}
        Err(e) => diary::note(format_args!(
            "{} {}: not forgotten by its shim: {e}",
            task.id, task.exec
        )),
    }
}

impl Foreign {
    /// Has the program take away what its shim, which has died, has left of a container: its verb `delete`.
    fn clean_up(&self, dir: &Path, id: &str) -> Result<()> {
        let made = bundle::of(dir);
        let name = made.to_string_lossy().into_owned();
        let command = self.command(&made, "delete", &["-id", id, "-bundle", &name])?;
        // Nobody listens on it, and the keeper may end before the program does.
        if let Ok(super::calls::Address { socket, .. }) = record::load(&bootstrap::record_path(&self.dir)) {
            let _ = std::fs::remove_file(socket);
        }
        let id = id.to_owned();
        tokio::task::spawn_local(async move {
            match bootstrap::run(command, &[]).await {
                Ok(said) if DeleteResponse::parse_from_bytes(&said.stdout).is_ok() && said.stderr.is_empty() => {}
                Ok(said) => diary::note(format_args!(
                    "{id}: delete: {}",
                    String::from_utf8_lossy(&said.stderr).trim()
                )),
                Err(e) => diary::note(format_args!("{id}: delete: {e}")),
            }
        });
        Ok(())
    }
}
