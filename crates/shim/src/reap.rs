//! Signals and children: the shim is the parent of all that runs in the pod, and of its orphans.

use std::os::fd::OwnedFd;

use jiff::Timestamp;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::diary;
use crate::event::Event;
use crate::failure::Result;

const SIGHUP: i32 = 1;
const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;
const SIGCHLD: i32 = 17;

/// Children reaped before everything else gets its turn: ten thousand orphans may end at once.
const BATCH: usize = 128;

/// Blocks the signals that the shim takes itself. To be called before anything is started.
pub fn take_signals() -> Result<OwnedFd> {
    Ok(sys::signalfd::block(&[SIGCHLD, SIGTERM, SIGINT, SIGHUP])?)
}

/// Reaps every child as it ends and tells `events`; the signals that would end another program are noted and ignored,
/// because only the runtime decides when a pod ends. Runs until the state machine is gone.
pub async fn run(signals: AsyncFd<OwnedFd>, events: mpsc::UnboundedSender<Event>) {
    while !events.is_closed() {
        let Ok(mut ready) = signals.readable().await else {
            return;
        };
        loop {
            match sys::signalfd::next(signals.get_ref()) {
                Ok(Some(SIGCHLD)) => {}
                Ok(Some(signal)) => diary::note(format_args!(
                    "signal {signal} ignored: a pod ends by the runtime's request, or by SIGKILL to its processes"
                )),
                Ok(None) => break,
                Err(e) => {
                    diary::note(format_args!("{e}"));
                    break;
                }
            }
        }
        // Several ends may have come as one signal, so all of them are looked for; a signal that comes meanwhile makes the
        // descriptor readable again.
        ready.clear_ready();
        while reap_batch(&events) == BATCH {
            tokio::task::yield_now().await;
        }
    }
}

fn reap_batch(events: &mpsc::UnboundedSender<Event>) -> usize {
    for n in 0..BATCH {
        match sys::pidfd::reap() {
            Ok(Some((pid, end))) => {
                let at = Timestamp::now();
                if events.send(Event::Ended { pid, end, at }).is_err() {
                    return n;
                }
            }
            Ok(None) => return n,
            Err(e) => {
                diary::note(format_args!("{e}"));
                return n;
            }
        }
    }
    BATCH
}
