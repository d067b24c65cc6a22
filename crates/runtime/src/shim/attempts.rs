//! How often a supervisor that dies is replaced, and how soon one that can't be is tried again. Pure: the clock is the caller's.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// So many supervisors may die within [`WINDOW`] for one pod; then it is given up.
pub(crate) const MAX: usize = 12;

/// The time in which [`MAX`] counts.
pub(crate) const WINDOW: Duration = Duration::from_secs(60);

/// So many of them are replaced at once.
const AT_ONCE: usize = 4;

/// The pause before the next one; it doubles each time.
const PAUSE: Duration = Duration::from_millis(20);

/// The pause before the next try where none could be started doubles up to this.
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// After so many failures in a row a person is told: the lack will not pass by itself.
const TOLD_AFTER: u32 = 6;

/// What was tried lately.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    /// When those that died were replaced.
    deaths: VecDeque<Instant>,
    /// How many tries in a row have brought no supervisor.
    failures: u32,
}

impl Attempts {
    /// A supervisor has died: after which pause the next one is to be started. `None`: no more.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Duration> {
        while self.deaths.front().is_some_and(|at| now.duration_since(*at) >= WINDOW) {
            self.deaths.pop_front();
        }
        if self.deaths.len() >= MAX {
            return None;
        }
        let pause = match self.deaths.len().checked_sub(AT_ONCE) {
            None => Duration::ZERO,
            Some(more) => PAUSE * (1 << more),
        };
        self.deaths.push_back(now + pause);
        Some(pause)
    }

    /// None could be started: after which pause to try again.
    pub(crate) fn after_failure(&mut self) -> Duration {
        let pause = PAUSE.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX));
        self.failures = self.failures.saturating_add(1);
        pause.min(LONGEST_PAUSE)
    }

    /// True once in a row of failures.
    pub(crate) fn is_time_to_tell(&self) -> bool {
        self.failures == TOLD_AFTER
    }

    /// One runs.
    pub(crate) fn has_succeeded(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_the_limit_holds_within_the_window() {
        let begin = Instant::now();
        let mut attempts = Attempts::default();
        let pauses: Vec<_> = (0..MAX + 2)
            .map(|_| attempts.next(begin).map(|pause| pause.as_millis()))
            .collect();
        let expected = [0, 0, 0, 0, 20, 40, 80, 160, 320, 640, 1280, 2560].map(Some);
        assert_eq!(pauses[..MAX], expected);
        assert_eq!(pauses[MAX..], [None, None]);
        assert_eq!(
            attempts.next(begin + WINDOW),
            Some(PAUSE * 16),
            "all but the four first count still"
        );
        assert_eq!(attempts.next(begin + WINDOW * 2), Some(Duration::ZERO));
    }

    #[test]
    fn a_lack_is_waited_out_and_told_of_once() {
        let mut attempts = Attempts::default();
        let pauses: Vec<_> = (0..40)
            .map(|_| (attempts.after_failure(), attempts.is_time_to_tell()))
            .collect();
        assert_eq!(pauses[0], (PAUSE, false));
        assert_eq!(pauses[3].0, PAUSE * 8);
        assert!(pauses[10..].iter().all(|(pause, _)| *pause == LONGEST_PAUSE));
        assert_eq!(pauses.iter().filter(|(_, tell)| *tell).count(), 1);
        attempts.has_succeeded();
        assert_eq!(attempts.after_failure(), PAUSE);
    }
}
