//! Waiting longer after each failure: container restarts and image pulls.
//! Durations only; it starts no timer.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

/// First wait (upstream: `backOffPeriod` of restarts, 10 s).
pub(crate) const INITIAL: Duration = Duration::from_secs(10);
/// Longest wait (upstream: `MaxCrashLoopBackOff`, 5 min).
pub(crate) const MAXIMUM: Duration = Duration::from_secs(300);
/// A run that lasts this long after the last failure starts anew: twice the
/// longest wait, as upstream's `flowcontrol.Backoff` has it.
const FORGET_AFTER: Duration = Duration::from_secs(600);

/// One failing thing.
#[derive(Clone, Copy, Debug)]
struct Entry {
    delay: Duration,
    updated: SystemTime,
}

/// Back-off of the containers of one pod. Bounded by the pod's containers and
/// the images they have had.
#[derive(Clone, Debug, Default)]
pub(crate) struct Backoffs {
    entries: HashMap<(String, u64), Entry>,
}

impl Backoffs {
    /// When the container that ended at `ended` may start, and the wait that
    /// leads there; `None` if it may start now.
    pub(crate) fn waiting(
        &self,
        (name, hash): (&str, u64),
        ended: SystemTime,
        now: SystemTime,
    ) -> Option<(SystemTime, Duration)> {
        let entry = self.entries.get(&(name.to_owned(), hash))?;
        if since(ended, entry.updated) > FORGET_AFTER {
            return None;
        }
        let until = ended + entry.delay;
        (now < until).then_some((until, entry.delay))
    }

    /// Notes that the container is started again after it ended at `ended`.
    pub(crate) fn next(&mut self, name: &str, hash: u64, ended: SystemTime, now: SystemTime) {
        let entry = self.entries.entry((name.to_owned(), hash));
        entry
            .and_modify(|e| {
                let forgotten = since(ended, e.updated) > FORGET_AFTER;
                e.delay = if forgotten { INITIAL } else { (e.delay * 2).min(MAXIMUM) };
                e.updated = now;
            })
            .or_insert(Entry { delay: INITIAL, updated: now });
    }
}

fn since(later: SystemTime, earlier: SystemTime) -> Duration {
    later.duration_since(earlier).unwrap_or_default()
}

/// Back-off of one pull, counted from the last failure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PullBackoff {
    delay: Duration,
    failed: SystemTime,
}

impl PullBackoff {
    /// After the first failure.
    pub(crate) fn first(now: SystemTime) -> Self {
        Self { delay: INITIAL, failed: now }
    }

    /// After one more.
    pub(crate) fn again(self, now: SystemTime) -> Self {
        let forgotten = since(now, self.failed) > FORGET_AFTER;
        Self { delay: if forgotten { INITIAL } else { (self.delay * 2).min(MAXIMUM) }, failed: now }
    }

    /// The next attempt is allowed then.
    pub(crate) fn until(self) -> SystemTime {
        self.failed + self.delay
    }

    /// So long after its end it is worth nothing any more.
    pub(crate) fn forgotten(self, now: SystemTime) -> bool {
        since(now, self.failed) > FORGET_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
    }

    #[test]
    fn the_first_restart_is_immediate_then_waits_double_up_to_five_minutes() {
        let mut backoffs = Backoffs::default();
        assert_eq!(backoffs.waiting(("c", 1), at(0), at(0)), None);
        let mut ended = 0;
        let mut waits = Vec::new();
        backoffs.next("c", 1, at(0), at(0));
        for _ in 0..7 {
            let (until, delay) = backoffs.waiting(("c", 1), at(ended), at(ended)).expect("in back-off");
            assert_eq!(until, at(ended) + delay);
            waits.push(delay.as_secs());
            ended += delay.as_secs();
            assert_eq!(backoffs.waiting(("c", 1), at(ended - delay.as_secs()), at(ended)), None);
            backoffs.next("c", 1, at(ended), at(ended));
        }
        assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn a_run_of_more_than_ten_minutes_is_forgiven() {
        let mut backoffs = Backoffs::default();
        backoffs.next("c", 1, at(0), at(0));
        backoffs.next("c", 1, at(10), at(10));
        assert!(backoffs.waiting(("c", 1), at(20), at(20)).is_some());
        assert_eq!(backoffs.waiting(("c", 1), at(611), at(611)), None);
    }

    #[test]
    fn another_image_starts_without_wait() {
        let mut backoffs = Backoffs::default();
        backoffs.next("c", 1, at(0), at(0));
        assert_eq!(backoffs.waiting(("c", 2), at(1), at(1)), None);
    }
}
