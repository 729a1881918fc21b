//! From values to replicas: upstream's `replica_calculator`. Doubles where
//! upstream has doubles, whole numbers where it has those. What cannot be told
//! in 32 bits is the most that can.

use std::collections::BTreeMap;

use super::grouping::Groups;
use super::samples::{Sample, Samples};

/// How far a ratio may be from 1 without a change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Tolerances {
    /// Below 1.
    pub(crate) down: f64,
    /// Above 1.
    pub(crate) up: f64,
}

impl Tolerances {
    /// True if a change would be too small.
    fn hold(self, ratio: f64) -> bool {
        (1.0 - self.down) <= ratio && ratio <= (1.0 + self.up)
    }
}

/// Why samples give no number of replicas.
#[derive(thiserror::Error, Clone, Copy, Debug, PartialEq)]
pub(crate) enum ArithmeticError {
    /// The selector matches nothing.
    #[error("no pods returned by selector while calculating replica count")]
    NoPods,
    /// No sample counts.
    #[error("did not receive metrics for targeted pods (pods might be unready)")]
    NoSamples,
    /// The samples are of other pods, or nothing is requested.
    #[error("no metrics returned matched known pods")]
    Unmatched,
}

/// What the pods together should come to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Aim<'a> {
    /// This part of what they request, per cent.
    Utilization {
        /// Per cent.
        target: i32,
        /// Thousandths, by the pod's name.
        requests: &'a BTreeMap<String, i64>,
    },
    /// This much each.
    Average {
        /// Thousandths.
        target: i64,
    },
}

/// What samples come to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Measure {
    /// Of the target.
    pub(crate) ratio: f64,
    /// Per cent of the requests.
    pub(crate) utilization: Option<i32>,
    /// Thousandths a pod.
    pub(crate) average: i64,
}

impl Aim<'_> {
    fn measure(&self, samples: &Samples) -> Result<Measure, ArithmeticError> {
        match self {
            Aim::Utilization { target, requests } => utilization(samples, requests, *target),
            Aim::Average { target } => {
                let average = mean(total(samples), samples.len()).ok_or(ArithmeticError::NoSamples)?;
                Ok(Measure { ratio: average as f64 / *target as f64, utilization: None, average })
            }
        }
    }

    /// What a pod without a sample is taken to use before a scale down.
    fn assumed(&self, pod: &str) -> i64 {
        match self {
            Aim::Utilization { target, requests } => {
                let request = i128::from(requests.get(pod).copied().unwrap_or(0));
                narrow(request * i128::from((*target).max(100)) / 100)
            }
            Aim::Average { target } => *target,
        }
    }
}

fn total(samples: &Samples) -> i128 {
    samples.values().map(|sample| i128::from(sample.milli)).sum()
}

/// The mean, towards zero.
fn mean(total: i128, count: usize) -> Option<i64> {
    total.checked_div(count as i128).map(narrow)
}

fn narrow(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

/// Samples of pods that are not known do not count here.
fn utilization(samples: &Samples, requests: &BTreeMap<String, i64>, target: i32) -> Result<Measure, ArithmeticError> {
    let (mut used, mut requested, mut pods) = (0_i128, 0_i128, 0_usize);
    for (pod, sample) in samples {
        let Some(request) = requests.get(pod) else { continue };
        used += i128::from(sample.milli);
        requested += i128::from(*request);
        pods += 1;
    }
    if requested == 0 {
        return Err(ArithmeticError::Unmatched);
    }
    // Whole per cent: what is below does not exist for the ratio either.
    let percent = used * 100 / requested;
    let percent = i32::try_from(percent).unwrap_or(if percent < 0 { i32::MIN } else { i32::MAX });
    let average = mean(used, pods).ok_or(ArithmeticError::Unmatched)?;
    Ok(Measure { ratio: f64::from(percent) / f64::from(target), utilization: Some(percent), average })
}

/// Up to the next whole number of replicas.
fn ceil(replicas: f64) -> i32 {
    // A cast of a double saturates, and no number at all is 0.
    replicas.ceil() as i32
}

/// From a sample a pod. `samples` are those of the metric's source, `groups`
/// those pods grouped by them.
pub(crate) fn by_pods(
    current: i32,
    aim: Aim<'_>,
    mut samples: Samples,
    groups: &Groups,
    tolerances: Tolerances,
) -> Result<(i32, Measure), ArithmeticError> {
    groups.drop_uncounted(&mut samples);
    if samples.is_empty() {
        return Err(ArithmeticError::NoSamples);
    }
    let measure = aim.measure(&samples)?;
    let ratio = measure.ratio;
    let up_with_unready = !groups.unready.is_empty() && ratio > 1.0;
    if !up_with_unready && groups.missing.is_empty() {
        let held = tolerances.hold(ratio);
        return Ok((if held { current } else { ceil(ratio * groups.ready as f64) }, measure));
    }
    // Whoever is not known is taken to be what makes the change smaller.
    for pod in &groups.missing {
        if ratio < 1.0 {
            samples.insert(pod.clone(), made_up(aim.assumed(pod)));
        } else if ratio > 1.0 {
            samples.insert(pod.clone(), made_up(0));
        }
    }
    if up_with_unready {
        samples.extend(groups.unready.iter().map(|pod| (pod.clone(), made_up(0))));
    }
    let again = aim.measure(&samples)?.ratio;
    let turned = (ratio < 1.0 && again > 1.0) || (ratio > 1.0 && again < 1.0);
    if tolerances.hold(again) || turned {
        return Ok((current, measure));
    }
    let replicas = ceil(again * samples.len() as f64);
    let against = (again < 1.0 && replicas > current) || (again > 1.0 && replicas < current);
    Ok((if against { current } else { replicas }, measure))
}

fn made_up(milli: i64) -> Sample {
    Sample { at: jiff::Timestamp::UNIX_EPOCH, window: jiff::SignedDuration::ZERO, milli }
}

/// From one value for all pods together: `ready` pods have brought it to
/// `usage`. Without replicas, the value alone says how many.
pub(crate) fn by_value(
    current: i32,
    usage: i64,
    target: i64,
    tolerances: Tolerances,
    ready: impl FnOnce() -> Result<usize, ArithmeticError>,
) -> Result<i32, ArithmeticError> {
    let ratio = usage as f64 / target as f64;
    if current == 0 {
        return Ok(ceil(ratio));
    }
    if tolerances.hold(ratio) {
        return Ok(current);
    }
    Ok(ceil(ratio * ready()? as f64))
}

/// From one value to be shared by the pods; also what each has of it now,
/// thousandths. Without pods that is all of it.
pub(crate) fn by_share(status_replicas: i32, usage: i64, target: i64, tolerances: Tolerances) -> (i32, i64) {
    let ratio = usage as f64 / (target as f64 * f64::from(status_replicas));
    let replicas = if tolerances.hold(ratio) { status_replicas } else { ceil(usage as f64 / target as f64) };
    let share = match status_replicas {
        // Upstream divides by zero here, and what comes of it depends on the
        // machine.
        0 => usage,
        _ => (usage as f64 / f64::from(status_replicas)).ceil() as i64,
    };
    (replicas, share)
}

/// The sum of all series.
pub(crate) fn sum(values: &[i64]) -> i64 {
    narrow(values.iter().map(|value| i128::from(*value)).sum())
}

#[cfg(test)]
mod tests;
