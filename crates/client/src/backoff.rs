//! Delays between attempts: exponential, bounded, with jitter. It only
//! computes; waiting is the caller's.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// A number in `0.0..1.0` that differs from call to call. Not for secrets.
pub fn random() -> f64 {
    // The standard hasher is seeded by the system and differs per instance.
    let bits = RandomState::new().build_hasher().finish();
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// Exponential delays from `first` up to `limit`, each lengthened by a random
/// part of itself.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    limit: Duration,
    /// Largest part of the delay that is added.
    jitter: f64,
    attempts: u32,
}

impl Backoff {
    /// Doubling from `first` to `limit`, up to half longer by chance.
    pub fn new(first: Duration, limit: Duration) -> Self {
        Self { first, limit, jitter: 0.5, attempts: 0 }
    }

    /// How many delays were given since the last reset.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// The next delay.
    pub fn next_delay(&mut self) -> Duration {
        let delay = exponential(self.first, self.limit, self.attempts);
        self.attempts = self.attempts.saturating_add(1);
        delay.mul_f64(1.0 + self.jitter * random())
    }

    /// It worked: start from the first delay again.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }
}

/// `first * 2^attempts`, at most `limit`.
pub fn exponential(first: Duration, limit: Duration, attempts: u32) -> Duration {
    let factor = 2u32.checked_pow(attempts).unwrap_or(u32::MAX);
    first.checked_mul(factor).map_or(limit, |delay| delay.min(limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_limit() {
        let first = Duration::from_millis(5);
        let limit = Duration::from_secs(1000);
        let delays: Vec<_> = [0, 1, 2, 10, 17, 18, 40, 90].map(|n| exponential(first, limit, n).as_millis()).into();
        assert_eq!(delays, [5, 10, 20, 5120, 655_360, 1_000_000, 1_000_000, 1_000_000]);
    }

    #[test]
    fn jitter_only_lengthens_and_is_bounded() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        for attempt in 0..50 {
            let base = exponential(Duration::from_millis(100), Duration::from_secs(1), attempt);
            let delay = backoff.next_delay();
            assert!(delay >= base && delay <= base.mul_f64(1.5), "{attempt}: {delay:?}");
        }
        backoff.reset();
        assert!(backoff.next_delay() < Duration::from_millis(151));
    }
}
