//! What a dead shim has left of a container, for whoever has only its bundle: containerd's `delete`.

use std::path::Path;
use std::time::{Duration, Instant};

use containerd_shim_protos::api::DeleteResponse;
use protobuf::Message;

use crate::door::wire_time;
use crate::event::Exit;
use crate::failure::{Failure, Result};
use crate::sandbox::{cgroup_path, load_spec};
use crate::{process, records};

/// The code of a container that was killed because its shim was dead.
const KILLED: i32 = 137;

/// How long its processes may take to be gone from their cgroup.
const KILL_LIMIT: Duration = Duration::from_secs(2);

/// An annotation of the config in `bundle`.
pub fn annotation(bundle: &Path, name: &str) -> Result<Option<String>> {
    let spec = load_spec(bundle)?;
    Ok(spec.annotations().as_ref().and_then(|all| all.get(name).cloned()))
}

/// Kills what runs of the container in `bundle` and removes its cgroup. How it ended: a DeleteResponse, encoded. Nothing
/// is left to do if the bundle has no config any more.
pub fn remove(bundle: &Path) -> Result<Vec<u8>> {
    if bundle.join("config.json").exists()
        && let Some(path) = cgroup_path(&load_spec(bundle)?)
    {
        match cgroup::Cgroup::open(&cgroup::Hierarchies::detect()?, &path) {
            Ok(group) => empty(&group)?,
            Err(cgroup::Error::NotFound { .. }) => {}
            Err(e) => return Err(e.into()),
        }
    }
    let recorded = record::load::<Exit>(&records::exit(bundle, "")).ok();
    let exit = recorded.unwrap_or_else(|| Exit {
        code: KILLED,
        at_ns: process::now_ns(),
        oom_killed: false,
        unseen: false,
    });
    let mut response = DeleteResponse::new();
    response.pid = record::load::<records::Process>(&records::process(bundle)).map_or(0, |known| known.process.pid);
    response.exit_status = exit.code.unsigned_abs();
    response.exited_at = wire_time(exit.at_ns);
    response
        .write_to_bytes()
        .map_err(|e| Failure::Invalid(format!("DeleteResponse: {e}")))
}

/// Kills what is in a cgroup and removes it, within a limit.
pub(crate) fn empty(group: &cgroup::Cgroup) -> Result<()> {
    group.kill()?;
    let end = Instant::now() + KILL_LIMIT;
    // Killed processes leave in their own time, and nobody here is their parent.
    while !group.pids()?.is_empty() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(group.remove()?)
}
