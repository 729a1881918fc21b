//! Counters under upstream's metric names. Exposing them is the binary's work.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::queue::QueueCounts;

/// Upper bounds of the duration histograms, in seconds: 0.1 ms, doubled.
const BUCKETS: usize = 18;

/// What the scheduler counts. All numbers only grow.
#[derive(Debug, Default)]
pub struct Counters {
    /// Pods bound.
    pub scheduled_attempts: AtomicU64,
    /// Tries that found no node.
    pub unschedulable_attempts: AtomicU64,
    /// Tries that broke.
    pub error_attempts: AtomicU64,
    /// Searches for pods to remove.
    pub preemption_attempts: AtomicU64,
    /// Of these, those that chose some.
    pub preemptions: AtomicU64,
    /// Pods chosen.
    pub preemption_victims: AtomicU64,
    /// Time of decisions.
    pub algorithm: Histogram,
    /// Time from the queue to the binding's end.
    pub end_to_end: Histogram,
}

/// A histogram of durations.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    count: AtomicU64,
    sum_nanos: AtomicU64,
}

impl Histogram {
    /// Adds one duration.
    pub fn observe(&self, duration: std::time::Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        for (index, bucket) in self.buckets.iter().enumerate() {
            if nanos <= 100_000 << index {
                bucket.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.sum_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    fn write(&self, out: &mut String, name: &str, help: &str) -> std::fmt::Result {
        writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram")?;
        for (index, bucket) in self.buckets.iter().enumerate() {
            let bound = f64::from(1_u32 << index) * 0.0001;
            writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {}", bucket.load(Ordering::Relaxed))?;
        }
        let count = self.count.load(Ordering::Relaxed);
        let sum = self.sum_nanos.load(Ordering::Relaxed) as f64 / 1e9;
        writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {count}\n{name}_sum {sum}\n{name}_count {count}")
    }
}

impl Counters {
    /// Adds one.
    pub fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// The Prometheus text of all counters and of the queue.
    pub fn text(&self, queue: QueueCounts) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        self.write(&mut out, queue).expect("a String takes any text");
        out
    }

    fn write(&self, out: &mut String, queue: QueueCounts) -> std::fmt::Result {
        let name = "scheduler_schedule_attempts_total";
        writeln!(out, "# HELP {name} Number of attempts to schedule pods, by the result.\n# TYPE {name} counter")?;
        for (result, counter) in [
            ("scheduled", &self.scheduled_attempts),
            ("unschedulable", &self.unschedulable_attempts),
            ("error", &self.error_attempts),
        ] {
            writeln!(
                out,
                "{name}{{profile=\"default-scheduler\",result=\"{result}\"}} {}",
                counter.load(Ordering::Relaxed)
            )?;
        }
        let name = "scheduler_pending_pods";
        writeln!(out, "# HELP {name} Number of pending pods, by the queue type.\n# TYPE {name} gauge")?;
        for (kind, count) in [
            ("active", queue.active),
            ("backoff", queue.backoff),
            ("unschedulable", queue.unschedulable),
            ("gated", queue.gated),
        ] {
            writeln!(out, "{name}{{queue=\"{kind}\"}} {count}")?;
        }
        let name = "scheduler_preemption_attempts_total";
        writeln!(out, "# HELP {name} Total preemption attempts in the cluster till now.\n# TYPE {name} counter")?;
        writeln!(out, "{name} {}", self.preemption_attempts.load(Ordering::Relaxed))?;
        self.algorithm.write(
            out,
            "scheduler_scheduling_algorithm_duration_seconds",
            "Scheduling algorithm latency in seconds.",
        )?;
        self.end_to_end.write(
            out,
            "scheduler_pod_scheduling_sli_duration_seconds",
            "Time from a pod entering the queue to its binding.",
        )
    }
}
