//! Figures about sleep, kept without locks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets, microseconds.
const BOUNDS_US: [u64; 12] = [25, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000];

/// How often pods slept and woke, and how long waking took.
#[derive(Default)]
pub struct SleepMetrics {
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
    sleeps: AtomicU64,
    frozen: AtomicU64,
}

/// Wake latencies: from the kernel's report of the packet to the thaw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WakeHistogram {
    /// Upper bound in microseconds (inclusive, rising; the last is `None` for
    /// no bound) and the count of that bucket alone.
    pub buckets: Vec<(Option<u64>, u64)>,
    /// Sum of all latencies, microseconds.
    pub sum_us: u64,
    /// Number of wakes.
    pub count: u64,
}

impl SleepMetrics {
    pub(super) fn woke(&self, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        let index = BOUNDS_US.iter().position(|bound| us <= *bound).unwrap_or(BOUNDS_US.len());
        self.buckets[index].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    pub(super) fn slept(&self) {
        self.sleeps.fetch_add(1, Ordering::Relaxed);
        self.frozen.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn awake(&self) {
        self.frozen.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn found_frozen(&self) {
        self.frozen.fetch_add(1, Ordering::Relaxed);
    }

    /// Times that a pod fell asleep.
    pub fn sleeps(&self) -> u64 {
        self.sleeps.load(Ordering::Relaxed)
    }

    /// Pods that are frozen now.
    pub fn frozen(&self) -> u64 {
        self.frozen.load(Ordering::Relaxed)
    }

    /// Latencies of wakes by packets.
    pub fn wakes(&self) -> WakeHistogram {
        let counts: Vec<u64> = self.buckets.iter().map(|b| b.load(Ordering::Relaxed)).collect();
        let bounds = BOUNDS_US.iter().copied().map(Some).chain([None]);
        WakeHistogram {
            count: counts.iter().sum(),
            buckets: bounds.zip(counts).collect(),
            sum_us: self.sum_us.load(Ordering::Relaxed),
        }
    }
}
