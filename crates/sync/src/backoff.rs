//! How long to wait before trying again. Pure.
//!
//! Two waits, both doubling from 10 s to 300 s as Kubernetes documents them
//! (<https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#restart-policy>):
//!
//! - Between the end of a container and its next start. The first restart is at once; after that each container carries in an
//!   annotation how long to wait after *its* end, so that the series survives the engine without a file of its own. One that ran for
//!   10 minutes begins anew.
//! - Between failed attempts at a step (a pull, a create): kept in memory, for a new engine may well try at once.

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::observed::Container;

const FIRST_S: u64 = 10;
const LONGEST_S: u64 = 300;
/// A container that ran as long as this is healthy again.
const RESET_AFTER: SignedDuration = SignedDuration::from_mins(10);

/// When an exited container may be started again. `None`: at once.
pub fn restart_at(exited: &Container) -> Option<Timestamp> {
    if ran_long(exited) || exited.restart_delay_s == 0 {
        return None;
    }
    Some(
        exited
            .finished_at?
            .saturating_add(seconds(exited.restart_delay_s))
            .unwrap_or(Timestamp::MAX),
    )
}

/// What the container that follows `exited` is to wait after its own end.
pub fn delay_of_next_s(exited: &Container) -> u64 {
    if ran_long(exited) {
        FIRST_S
    } else {
        next_delay_s(exited.restart_delay_s)
    }
}

/// The delay after `delay_s` in the series 10, 20, 40, … 300.
pub fn next_delay_s(delay_s: u64) -> u64 {
    (delay_s * 2).clamp(FIRST_S, LONGEST_S)
}

/// A span of whole seconds.
pub fn seconds(seconds: u64) -> SignedDuration {
    SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX))
}

fn ran_long(exited: &Container) -> bool {
    match (exited.started_at, exited.finished_at) {
        (Some(start), Some(end)) => end.duration_since(start) >= RESET_AFTER,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exited(delay: u64, ran_s: i64) -> Container {
        let start = Timestamp::from_second(1000).unwrap();
        let end = start + SignedDuration::from_secs(ran_s);
        Container {
            restart_delay_s: delay,
            started_at: Some(start),
            finished_at: Some(end),
            ..Default::default()
        }
    }

    #[test]
    fn the_series_is_kubernetes() {
        let mut delays = vec![0];
        for _ in 0..7 {
            delays.push(delay_of_next_s(&exited(*delays.last().unwrap(), 1)));
        }
        assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(restart_at(&exited(0, 1)), None);
        assert_eq!(restart_at(&exited(40, 1)), Some(Timestamp::from_second(1041).unwrap()));
        assert_eq!(restart_at(&exited(300, 600)), None, "ten minutes of running forgive");
        assert_eq!(delay_of_next_s(&exited(300, 600)), 10);
    }
}
