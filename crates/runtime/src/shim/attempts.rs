//! How often a supervisor that dies is replaced. Pure: the clock is the caller's.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// So many supervisors are started within [`WINDOW`] for one pod at most; then it is given up.
pub(crate) const MAX: usize = 12;

/// The time in which [`MAX`] counts.
pub(crate) const WINDOW: Duration = Duration::from_secs(60);

/// So many of them are started at once.
const AT_ONCE: usize = 4;

/// The pause before the next one; it doubles each time.
const PAUSE: Duration = Duration::from_millis(20);

/// The supervisors that were started lately.
#[derive(Debug, Default)]
pub(crate) struct Attempts(VecDeque<Instant>);

impl Attempts {
    /// Takes the next attempt: after which pause it is to be made. `None`: no more.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Duration> {
        while self.0.front().is_some_and(|at| now.duration_since(*at) >= WINDOW) {
            self.0.pop_front();
        }
        if self.0.len() >= MAX {
            return None;
        }
        let pause = match self.0.len().checked_sub(AT_ONCE) {
            None => Duration::ZERO,
            Some(more) => PAUSE * (1 << more),
        };
        self.0.push_back(now + pause);
        Some(pause)
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
}
