//! Figures about sleep since the agent started, kept without locks, and their
//! form in the Prometheus text format.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use api::elastic::{BOUNDS_US, Rung, WakeHistogram};

/// Rungs of a pod that is there.
const RUNGS: [Rung; 4] = [Rung::Hot, Rung::Cool, Rung::Frozen, Rung::PagedOut];

/// How often pods slept and woke, how many are where, and how long waking took.
#[derive(Default)]
pub struct SleepMetrics {
    answers: [Histogram; RUNGS.len()],
    thaws: Histogram,
    /// Pods on each rung now.
    pods: [AtomicU64; RUNGS.len()],
    sleeps: AtomicU64,
    wakes: AtomicU64,
}

struct Histogram {
    counts: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: std::array::from_fn(|_| AtomicU64::new(0)), sum_us: AtomicU64::new(0) }
    }
}

impl Histogram {
    fn record(&self, took: Duration) {
        self.counts[WakeHistogram::bucket(took)].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    #[expect(clippy::cast_precision_loss, reason = "seconds for people")]
    fn write(&self, text: &mut String, name: &str, labels: &str) {
        let counts: Vec<u64> = self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let comma = if labels.is_empty() { "" } else { "," };
        let mut below = 0;
        for (bound, count) in BOUNDS_US.iter().zip(&counts) {
            below += count;
            let _infallible = writeln!(text, "{name}_bucket{{{labels}{comma}le=\"{}\"}} {below}", *bound as f64 / 1e6);
        }
        let all: u64 = counts.iter().sum();
        let sum = self.sum_us.load(Ordering::Relaxed) as f64 / 1e6;
        let braces = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let _infallible = write!(
            text,
            "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {all}\n{name}_sum{braces} {sum}\n{name}_count{braces} {all}\n"
        );
    }
}

fn place(rung: Rung) -> Option<usize> {
    RUNGS.iter().position(|one| *one == rung)
}

impl SleepMetrics {
    /// A pod that may sleep is here now.
    pub(super) fn enters(&self, rung: Rung) {
        if let Some(place) = place(rung) {
            self.pods[place].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// It is not here any more.
    pub(super) fn leaves(&self, rung: Rung) {
        if let Some(place) = place(rung) {
            self.pods[place].fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// A pod changed its rung.
    pub(super) fn moved(&self, from: Rung, to: Rung) {
        self.leaves(from);
        self.enters(to);
        match (from.is_asleep(), to.is_asleep()) {
            (false, true) => self.sleeps.fetch_add(1, Ordering::Relaxed),
            (true, false) => self.wakes.fetch_add(1, Ordering::Relaxed),
            _ => 0,
        };
    }

    /// From the kernel's report of the packet to the end of the thaw.
    pub(super) fn thawed(&self, took: Duration) {
        self.thaws.record(took);
    }

    /// From the packet to the pod's first data.
    pub(super) fn answered(&self, from: Rung, took: Duration) {
        if let Some(place) = place(from) {
            self.answers[place].record(took);
        }
    }

    /// Times that a pod fell asleep.
    pub fn sleeps(&self) -> u64 {
        self.sleeps.load(Ordering::Relaxed)
    }

    /// Pods that may sleep and are on this rung now.
    pub fn pods(&self, rung: Rung) -> u64 {
        place(rung).map_or(0, |place| self.pods[place].load(Ordering::Relaxed))
    }

    /// As the node's `/metrics` shows them.
    pub(crate) fn render(&self) -> String {
        let mut text = String::new();
        let family = |text: &mut String, name: &str, kind: &str, help: &str| {
            let _infallible = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        };
        family(&mut text, "darter_sleep_pods", "gauge", "Pods that may sleep, by the rung they are on.");
        for rung in RUNGS {
            let _infallible = writeln!(text, "darter_sleep_pods{{rung=\"{rung}\"}} {}", self.pods(rung));
        }
        family(&mut text, "darter_sleep_total", "counter", "Times that a pod fell asleep.");
        let _infallible = writeln!(text, "darter_sleep_total {}", self.sleeps());
        family(&mut text, "darter_wake_total", "counter", "Times that a pod woke.");
        let _infallible = writeln!(text, "darter_wake_total {}", self.wakes.load(Ordering::Relaxed));
        family(
            &mut text,
            "darter_thaw_seconds",
            "histogram",
            "From the report of a sleeper's first packet to the end of its thaw.",
        );
        self.thaws.write(&mut text, "darter_thaw_seconds", "");
        family(
            &mut text,
            "darter_wake_seconds",
            "histogram",
            "From a sleeper's first packet to the first data of its answer, by the rung that it left.",
        );
        for (rung, histogram) in RUNGS.iter().zip(&self.answers).filter(|(rung, _)| rung.is_asleep()) {
            histogram.write(&mut text, "darter_wake_seconds", &format!("rung=\"{rung}\""));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_of_rung_move_the_counts_and_wakes_fill_the_buckets() {
        let metrics = SleepMetrics::default();
        metrics.enters(Rung::Hot);
        metrics.moved(Rung::Hot, Rung::Frozen);
        assert_eq!((metrics.pods(Rung::Hot), metrics.pods(Rung::Frozen), metrics.sleeps()), (0, 1, 1));
        metrics.moved(Rung::Frozen, Rung::Hot);
        metrics.answered(Rung::Frozen, Duration::from_micros(600));
        let text = metrics.render();
        for line in [
            "darter_sleep_pods{rung=\"Hot\"} 1",
            "darter_wake_total 1",
            "darter_wake_seconds_bucket{rung=\"Frozen\",le=\"0.0005\"} 0",
            "darter_wake_seconds_bucket{rung=\"Frozen\",le=\"0.0007\"} 1",
            "darter_wake_seconds_count{rung=\"Frozen\"} 1",
        ] {
            assert!(text.lines().any(|one| one == line), "{line}\n{text}");
        }
    }
}
