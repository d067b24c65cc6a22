//! Places where a test can make a process fail, wait or die: every step of making, stopping and removing a sandbox and a
//! container has one before its effect, or between the effect and the record of it.
//!
//! ```text
//! HOVE_FAILPOINTS='sandbox.shim.spawned=kill'              the process is killed when it comes there
//! HOVE_FAILPOINTS='record.written@3=error'                 the third time, the step fails with EIO
//! HOVE_FAILPOINTS='container.start.created=delay(50)'      milliseconds; the calling thread sleeps
//! HOVE_FAILPOINTS='trace=/tmp/points'                      the name of each point is appended when it is reached
//! ```
//!
//! Several of them are separated by `;`. The variable is read once. What `HOVE_SHIM_FAILPOINTS` says is for the first
//! supervisor that the process starts ([`crate::spawn`]): the one that takes its place lives. Builds without debug assertions have none of this: there [`failpoint!`](crate::failpoint!) is `Ok(())`.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::Signal;

use crate::{Error, Result};

/// The environment variable.
pub const VARIABLE: &str = "HOVE_FAILPOINTS";

/// What becomes [`VARIABLE`] for a supervisor.
pub const SUPERVISORS: &str = "HOVE_SHIM_FAILPOINTS";

/// The orders that a process gives to the first supervisor that it starts, if it gives any.
pub fn for_supervisor() -> Option<OsString> {
    static GIVEN: AtomicBool = AtomicBool::new(false);
    if cfg!(debug_assertions) && !GIVEN.swap(true, Ordering::Relaxed) {
        std::env::var_os(SUPERVISORS)
    } else {
        None
    }
}

/// Every point, in the order in which a pod's life passes them. A name that is not in this list does not compile; one that
/// no test reaches fails the test that goes through them all.
pub const POINTS: &[&str] = &[
    "record.written",
    "record.renamed",
    "sandbox.reserve.made",
    "sandbox.reserve.recorded",
    "network.namespace.file",
    "network.namespace.bound",
    "sandbox.namespaces.made",
    "sandbox.shm.mounted",
    "network.attach.reserved",
    "network.attach.held",
    "network.bridge.made",
    "network.bridge.firewall",
    "network.attach.linked",
    "network.attach.configured",
    "network.attach.published",
    "network.attach.recorded",
    "sandbox.network.joined",
    "sandbox.files.written",
    "sandbox.shim.configured",
    "sandbox.shim.cgroups",
    "sandbox.shim.spawned",
    "sandbox.shim.recorded",
    "sandbox.shim.created",
    "sandbox.shim.attended",
    "sandbox.pause.started",
    "sandbox.ready.recorded",
    "container.create.made",
    "container.create.recorded",
    "container.create.volume",
    "container.create.configured",
    "image.snapshot.made",
    "image.snapshot.named",
    "container.create.prepared",
    "container.create.kept",
    "container.start.recorded",
    "container.start.created",
    "container.start.started",
    "exec.made",
    "exec.registered",
    "exec.started",
    "exec.ended",
    "container.exit.recorded",
    "container.remove.recorded",
    "container.remove.forgotten",
    "container.remove.cgroup",
    "image.snapshot.removed",
    "container.remove.snapshot",
    "container.remove.files",
    "sandbox.stop.recorded",
    "sandbox.undo.killed",
    "sandbox.undo.shutdown",
    "sandbox.undo.cgroups",
    "sandbox.undo.supervised",
    "network.release.unbound",
    "network.release.withdrawn",
    "network.release.forgotten",
    "sandbox.undo.networked",
    "sandbox.undo.namespaced",
    "sandbox.remove.recorded",
    "sandbox.remove.containers",
    "sandbox.remove.files",
    "sandbox.remove.record",
    "shim.started",
    "shim.sandbox.created",
    "shim.pause.cgroup",
    "shim.pause.cloned",
    "shim.pause.pinned",
    "shim.pause.runs",
    "shim.pause.recorded",
    "shim.container.cgroup",
    "shim.container.cloned",
    "shim.container.created",
    "shim.container.recorded",
    "shim.container.runs",
    "shim.exec.cloned",
    "shim.exec.runs",
    "shim.ending.reaped",
    "shim.ending.drained",
    "shim.ending.recorded",
    "shim.ending.announced",
    "shim.delete.forgotten",
    "shim.stop.killed",
    "shim.stop.ended",
];

/// The points of an image's way into the store. The crash tests of images go through them.
pub const IMAGE_POINTS: &[&str] = &[
    "image.blob.part",
    "image.blob.whole",
    "image.layer.unpacked",
    "image.layer.recorded",
    "image.added",
    "image.settled",
];

/// Reaches the point `$name`: `Ok` unless a test has ordered otherwise.
#[macro_export]
macro_rules! failpoint {
    ($name:literal) => {{
        const {
            assert!(
                $crate::failpoint::is_listed($name),
                "a failpoint's name must be in POINTS"
            )
        };
        if cfg!(debug_assertions) {
            $crate::failpoint::reach($name)
        } else {
            $crate::Result::Ok(())
        }
    }};
}

/// Whether `name` is one of [`POINTS`] or [`IMAGE_POINTS`].
pub const fn is_listed(name: &str) -> bool {
    contains(POINTS, name) || contains(IMAGE_POINTS, name)
}

const fn contains(points: &[&str], name: &str) -> bool {
    let mut index = 0;
    while index < points.len() {
        if equal(points[index].as_bytes(), name.as_bytes()) {
            return true;
        }
        index += 1;
    }
    false
}

const fn equal(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut index = 0;
    while index < a.len() {
        if a[index] != b[index] {
            return false;
        }
        index += 1;
    }
    true
}

/// What [`failpoint!`](crate::failpoint!) calls.
pub fn reach(point: &'static str) -> Result<()> {
    static ORDERS: OnceLock<Option<Orders>> = OnceLock::new();
    let orders = ORDERS.get_or_init(|| std::env::var(VARIABLE).ok().map(|text| Orders::parse(&text)));
    orders.as_ref().map_or(Ok(()), |orders| orders.obey(point))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Error,
    Delay(Duration),
    Kill,
}

/// What was ordered, and how often each point was reached.
#[derive(Debug, Default)]
struct Orders {
    actions: HashMap<(String, u32), Action>,
    trace: Option<Mutex<File>>,
    reached: Mutex<HashMap<&'static str, u32>>,
}

impl Orders {
    /// Panics at what it does not understand: a test that orders nothing would prove nothing.
    fn parse(text: &str) -> Orders {
        let mut orders = Orders::default();
        for order in text.split(';').filter(|order| !order.is_empty()) {
            let (place, action) = order
                .split_once('=')
                .unwrap_or_else(|| panic!("{VARIABLE}: {order:?}: POINT=ACTION is expected"));
            if place == "trace" {
                let file = File::options().append(true).create(true).open(action);
                orders.trace = Some(Mutex::new(file.unwrap_or_else(|e| panic!("{VARIABLE}: {action}: {e}"))));
                continue;
            }
            let (point, occurrence) = match place.split_once('@') {
                Some((point, number)) => (point, number.parse().unwrap_or(0)),
                None => (place, 1),
            };
            assert!(
                is_listed(point) && occurrence > 0,
                "{VARIABLE}: {place:?} is no failpoint; see sys::failpoint::POINTS"
            );
            let action = Action::parse(action)
                .unwrap_or_else(|| panic!("{VARIABLE}: {action:?}: error, kill or delay(MILLISECONDS) is expected"));
            orders.actions.insert((point.to_owned(), occurrence), action);
        }
        orders
    }

    fn obey(&self, point: &'static str) -> Result<()> {
        let occurrence = {
            let mut reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
            let occurrence = reached.entry(point).or_insert(0);
            *occurrence += 1;
            *occurrence
        };
        if let Some(trace) = &self.trace {
            // One write, so that two processes' lines do not mix.
            let line = format!("{point}\n");
            let written = trace
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .write_all(line.as_bytes());
            written.map_err(|e| Error::new("write(trace)", Errno::from_io_error(&e).unwrap_or(Errno::IO)))?;
        }
        match self.actions.get(&(point.to_owned(), occurrence)) {
            None => Ok(()),
            Some(Action::Error) => Err(Error::new(format_args!("failpoint {point}"), Errno::IO)),
            Some(Action::Delay(time)) => {
                std::thread::sleep(*time);
                Ok(())
            }
            Some(Action::Kill) => {
                let killed = rustix::process::kill_process(rustix::process::getpid(), Signal::KILL);
                killed.map_err(|e| Error::new("kill(getpid(), SIGKILL)", e))
            }
        }
    }
}

impl Action {
    fn parse(text: &str) -> Option<Action> {
        match text {
            "error" => Some(Action::Error),
            "kill" => Some(Action::Kill),
            _ => {
                let milliseconds = text.strip_prefix("delay(")?.strip_suffix(')')?.parse().ok()?;
                Some(Action::Delay(Duration::from_millis(milliseconds)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn orders_are_carried_out_when_their_time_has_come() {
        let directory = tempfile::tempdir().unwrap();
        let trace = directory.path().join("trace");
        let orders = Orders::parse(&format!(
            "record.written@2=error;record.renamed=delay(20);trace={}",
            trace.display()
        ));
        assert_eq!(orders.obey("record.written"), Ok(()));
        let error = orders.obey("record.written").unwrap_err();
        assert_eq!(
            error.to_string(),
            "failpoint record.written: Input/output error (os error 5)"
        );
        assert_eq!(orders.obey("record.written"), Ok(()));
        let began = std::time::Instant::now();
        assert_eq!(orders.obey("record.renamed"), Ok(()));
        assert!(began.elapsed() >= Duration::from_millis(20));
        let text = std::fs::read_to_string(trace).unwrap();
        assert_eq!(text.lines().filter(|l| *l == "record.written").count(), 3);
    }

    #[test]
    fn points_are_named_once() {
        let names: std::collections::BTreeSet<_> = POINTS.iter().collect();
        assert_eq!(names.len(), POINTS.len());
        assert!(!is_listed("sandbox.nowhere"));
        assert_eq!(crate::failpoint!("record.written"), Ok(()));
    }

    #[test]
    #[should_panic(expected = "is no failpoint")]
    fn a_point_that_is_not_there_is_not_ordered() {
        Orders::parse("sandbox.nowhere=kill");
    }
}
