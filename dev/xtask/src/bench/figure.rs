//! One measured number with its goal; how figures are printed and stored. It
//! does not measure.

use std::path::Path;

use serde_json::json;

use crate::check::Failure;

/// A measured number.
pub(super) struct Figure {
    /// Dotted name, `wake.frozen.p99_ms`.
    pub(super) name: String,
    /// The median of the runs, or the percentile that the name says.
    pub(super) value: f64,
    /// From docs/promises.md; `None` where none is stated.
    pub(super) goal: Option<f64>,
    /// `lower` or `higher`.
    pub(super) better: &'static str,
    /// Unit of value and goal.
    pub(super) unit: &'static str,
    /// Number of samples.
    pub(super) n: usize,
}

impl Figure {
    fn reached(&self) -> Option<bool> {
        self.goal.map(|goal| if self.better == "lower" { self.value <= goal } else { self.value >= goal })
    }
}

/// The `p`-th percentile (0 to 100) by nearest rank; NaN without samples.
pub(super) fn percentile(samples: &mut [f64], p: u32) -> f64 {
    samples.sort_by(f64::total_cmp);
    let count = samples.len();
    let rank = (count * p as usize).div_ceil(100).clamp(1, count.max(1));
    samples.get(rank - 1).copied().unwrap_or(f64::NAN)
}

/// A table for people.
pub(super) fn print(figures: &[Figure]) {
    println!("{:<34} {:>12} {:>12}  {:<8} {:>6}", "figure", "value", "goal", "unit", "n");
    for figure in figures {
        let goal = figure.goal.map_or_else(|| "-".to_owned(), |goal| format!("{goal}"));
        let verdict = match figure.reached() {
            Some(true) => "",
            Some(false) => "  not reached",
            None => "",
        };
        println!(
            "{:<34} {:>12.3} {:>12}  {:<8} {:>6}{verdict}",
            figure.name, figure.value, goal, figure.unit, figure.n
        );
    }
}

/// The JSON form that other programs read.
pub(super) fn write(bench: &str, figures: &[Figure], path: &Path) -> Result<(), Failure> {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let figures: Vec<_> = figures
        .iter()
        .map(|figure| {
            json!({"name": figure.name, "value": figure.value, "goal": figure.goal, "better": figure.better,
                   "unit": figure.unit, "n": figure.n})
        })
        .collect();
    let document = json!({"bench": bench, "machine": {"cores": cores, "kernel": kernel.trim()}, "figures": figures});
    std::fs::write(path, format!("{document:#}\n")).map_err(|source| Failure::File { path: path.to_path_buf(), source })
}

#[cfg(test)]
mod tests {
    use super::percentile;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let mut samples = vec![4.0, 1.0, 3.0, 2.0];
        assert_eq!([50, 99, 100, 1].map(|p| percentile(&mut samples, p)), [2.0, 4.0, 4.0, 1.0]);
        assert!(percentile(&mut [], 50).is_nan());
    }
}
