//! How long wakes took, in buckets that are the same everywhere, so that the
//! nodes' figures add up.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::duration;

/// Upper bounds of the buckets, microseconds, inclusive: six a decade, 50 us to
/// 20 s. What took longer is counted above the last.
pub const BOUNDS_US: [u64; 34] = [
    50, 70, 100, 150, 200, 300, 500, 700, 1000, 1500, 2000, 3000, 5000, 7000, 10_000, 15_000, 20_000, 30_000, 50_000,
    70_000, 100_000, 150_000, 200_000, 300_000, 500_000, 700_000, 1_000_000, 1_500_000, 2_000_000, 3_000_000,
    5_000_000, 7_000_000, 10_000_000, 20_000_000,
];

/// Counts of wakes by how long they took.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(from = "Vec<WakeBucket>", into = "Vec<WakeBucket>")]
pub struct WakeHistogram {
    counts: [u64; BOUNDS_US.len() + 1],
}

/// One bucket that is not empty, as written in a status.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WakeBucket {
    /// Upper bound, `700us`; `+Inf` above the last.
    pub le: String,
    /// Wakes in this bucket alone.
    pub count: u64,
}

const UNBOUNDED: &str = "+Inf";

impl Default for WakeHistogram {
    fn default() -> Self {
        Self { counts: [0; BOUNDS_US.len() + 1] }
    }
}

impl WakeHistogram {
    /// Counts one wake.
    pub fn record(&mut self, took: Duration) {
        self.counts[Self::bucket(took)] += 1;
    }

    /// The place of a duration among [`BOUNDS_US`]; their number for longer ones.
    pub fn bucket(took: Duration) -> usize {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        BOUNDS_US.partition_point(|bound| *bound < us)
    }

    /// Adds another's counts.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(other.counts) {
            *mine = mine.saturating_add(theirs);
        }
    }

    /// Number of wakes.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Wakes in the buckets that lie wholly within `limit`.
    pub fn count_up_to(&self, limit: Duration) -> u64 {
        let us = u64::try_from(limit.as_micros()).unwrap_or(u64::MAX);
        let within = BOUNDS_US.partition_point(|bound| *bound <= us);
        self.counts[..within].iter().sum()
    }

    /// Upper bound of the bucket in which the quantile (0 to 1) lies: never
    /// shorter than it was. `None` without wakes; [`Duration::MAX`] above the
    /// last bound.
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank"
        )]
        let rank = ((count as f64 * quantile).ceil() as u64).clamp(1, count);
        let mut below = 0;
        let place = self.counts.iter().position(|in_bucket| {
            below += in_bucket;
            below >= rank
        })?;
        Some(BOUNDS_US.get(place).map_or(Duration::MAX, |us| Duration::from_micros(*us)))
    }
}

impl From<WakeHistogram> for Vec<WakeBucket> {
    fn from(histogram: WakeHistogram) -> Self {
        let bounds = BOUNDS_US.iter().map(|us| duration::format(Duration::from_micros(*us))).chain([UNBOUNDED.into()]);
        let filled = bounds.zip(histogram.counts).filter(|(_, count)| *count > 0);
        filled.map(|(le, count)| WakeBucket { le, count }).collect()
    }
}

impl From<Vec<WakeBucket>> for WakeHistogram {
    /// A bound that is none of ours counts in the next higher one.
    fn from(buckets: Vec<WakeBucket>) -> Self {
        let mut histogram = Self::default();
        for bucket in buckets {
            let bound = duration::parse(&bucket.le);
            let place = bound.map_or(BOUNDS_US.len(), Self::bucket);
            histogram.counts[place] = histogram.counts[place].saturating_add(bucket.count);
        }
        histogram
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(ms: impl IntoIterator<Item = u64>) -> WakeHistogram {
        let mut histogram = WakeHistogram::default();
        for ms in ms {
            histogram.record(Duration::from_millis(ms));
        }
        histogram
    }

    #[test]
    fn quantiles_are_never_shorter_than_what_was_measured() {
        let histogram = of(1..=100);
        assert_eq!(histogram.quantile(0.5), Some(Duration::from_millis(50)));
        assert_eq!(histogram.quantile(0.99), Some(Duration::from_millis(100)));
        assert_eq!(histogram.quantile(0.0), Some(Duration::from_millis(1)));
        assert_eq!(histogram.count_up_to(Duration::from_millis(60)), 50);
        assert_eq!(of([]).quantile(0.5), None);
        assert_eq!(of([60_000]).quantile(0.5), Some(Duration::MAX));
    }

    #[test]
    fn a_histogram_reads_back_from_a_status_and_adds_up() {
        let mut histogram = of([1, 2, 2, 40, 90_000]);
        let buckets: Vec<WakeBucket> = histogram.clone().into();
        assert_eq!(buckets.iter().map(|b| b.le.as_str()).collect::<Vec<_>>(), ["1ms", "2ms", "50ms", "+Inf"]);
        assert_eq!(WakeHistogram::from(buckets), histogram);
        histogram.merge(&of([1]));
        assert_eq!(histogram.count(), 6);
    }
}
