//! From what metrics ask for to what is allowed: stabilisation over recent
//! recommendations, then rates and limits. Upstream's `normalizeDesiredReplicas`
//! and its form with behaviors. It computes no recommendation.

use std::time::Duration;

use super::behavior::{Behavior, Rules, Select, Unit};
use super::history::{Edge, History, Span};

/// The numbers around a recommendation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Replicas now.
    pub(crate) current: i32,
    /// At least.
    pub(crate) min: i32,
    /// At most.
    pub(crate) max: i32,
}

/// A reason and a message, as conditions carry them.
pub(crate) type Words = (&'static str, &'static str);

/// What became of a recommendation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Normalized {
    /// How many replicas there shall be.
    pub(crate) replicas: i32,
    /// Why one can scale: of AbleToScale, which is True.
    pub(crate) able: Words,
    /// Whether rates or limits changed it: of ScalingLimited.
    pub(crate) limited: bool,
    /// By what.
    pub(crate) limit: Words,
}

const READY: Words = ("ReadyForNewScale", "recommended size matches current size");
const HELD_UP: Words = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
);
const HELD_DOWN: Words = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
);
const WITHIN: Words = ("DesiredWithinRange", "the desired count is within the acceptable range");
const TOO_FAST_UP: Words =
    ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const TOO_FAST_DOWN: Words =
    ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate");
const TOO_MANY: Words = ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const TOO_FEW: Words = ("TooFewReplicas", "the desired replica count is less than the minimum replica count");

/// Without behavior a look at most doubles the number, or brings it to this.
const FREE_REPLICAS: i32 = 4;

fn normalized(recommended: i32, stable: i32, held: Words, (replicas, limit): (i32, Words)) -> Normalized {
    let able = if stable == recommended { READY } else { held };
    Normalized { replicas, able, limited: replicas != stable, limit }
}

/// For an autoscaler without `spec.behavior`. Notes the recommendation.
pub(crate) fn plain(
    history: &mut History,
    limits: Limits,
    recommended: i32,
    window: Duration,
    now: Duration,
) -> Normalized {
    let span = Span { now, length: window, edge: Edge::Inside };
    let stable = history.highest(span).map_or(recommended, |highest| highest.max(recommended));
    history.recommend(recommended, now);
    let rate = limits.current.saturating_mul(2).max(FREE_REPLICAS);
    let (most, reason) = if limits.max > rate { (rate, TOO_FAST_UP) } else { (limits.max, TOO_MANY) };
    let limited = if stable < limits.min {
        (limits.min, TOO_FEW)
    } else if stable > most {
        (most, reason)
    } else {
        (stable, WITHIN)
    };
    normalized(recommended, stable, HELD_UP, limited)
}

/// For an autoscaler with `spec.behavior`. Notes the recommendation.
pub(crate) fn with_behavior(
    history: &mut History,
    limits: Limits,
    recommended: i32,
    behavior: &Behavior,
    now: Duration,
) -> Normalized {
    let span = |length| Span { now, length, edge: Edge::Outside };
    let least = history.lowest(span(behavior.up.window)).map_or(recommended, |lowest| lowest.min(recommended));
    let most = history.highest(span(behavior.down.window)).map_or(recommended, |highest| highest.max(recommended));
    let stable = limits.current.max(least).min(most);
    history.recommend(recommended, now);
    let held = if recommended >= limits.current { HELD_DOWN } else { HELD_UP };
    normalized(recommended, stable, held, rated(history, limits, stable, behavior, now))
}

/// The number within the rates of the behavior and the limits.
fn rated(history: &History, limits: Limits, stable: i32, behavior: &Behavior, now: Duration) -> (i32, Words) {
    if stable > limits.current {
        let rate = most_allowed(history, limits.current, &behavior.up, now).max(limits.current);
        let (most, reason) = if limits.max > rate { (rate, TOO_FAST_UP) } else { (limits.max, TOO_MANY) };
        if stable > most {
            return (most, reason);
        }
    } else if stable < limits.current {
        let rate = least_allowed(history, limits.current, &behavior.down, now).min(limits.current);
        let (least, reason) = if limits.min < rate { (rate, TOO_FAST_DOWN) } else { (limits.min, TOO_FEW) };
        if stable < least {
            return (least, reason);
        }
    }
    (stable, WITHIN)
}

fn narrow(replicas: i64) -> i32 {
    i32::try_from(replicas).unwrap_or(if replicas < 0 { i32::MIN } else { i32::MAX })
}

/// How many there were when the policy's period began.
fn at_start(history: &History, current: i32, period: Duration, now: Duration) -> i64 {
    let span = Span { now, length: period, edge: Edge::Outside };
    i64::from(current) - history.added(span) + history.removed(span)
}

fn most_allowed(history: &History, current: i32, rules: &Rules, now: Duration) -> i32 {
    let allowed = rules.policies.iter().map(|policy| {
        let start = at_start(history, current, policy.period, now);
        narrow(match policy.unit {
            Unit::Pods => start + i64::from(policy.value),
            // Up, or the rate might allow no change at all for ever.
            Unit::Percent => (start as f64 * (1.0 + f64::from(policy.value) / 100.0)).ceil() as i64,
        })
    });
    match rules.select {
        Select::Disabled => current,
        Select::Min => allowed.min().unwrap_or(i32::MAX),
        Select::Max => allowed.max().unwrap_or(i32::MIN),
    }
}

fn least_allowed(history: &History, current: i32, rules: &Rules, now: Duration) -> i32 {
    let allowed = rules.policies.iter().map(|policy| {
        let start = at_start(history, current, policy.period, now);
        narrow(match policy.unit {
            Unit::Pods => start - i64::from(policy.value),
            Unit::Percent => (start as f64 * (1.0 - f64::from(policy.value) / 100.0)) as i64,
        })
    });
    match rules.select {
        Select::Disabled => current,
        Select::Min => allowed.max().unwrap_or(i32::MIN),
        Select::Max => allowed.min().unwrap_or(i32::MAX),
    }
}

#[cfg(test)]
mod tests;
