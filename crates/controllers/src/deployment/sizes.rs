//! The arithmetic: surge, unavailability, shares.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::plan::is_rolling;
use super::sets::{DESIRED_REPLICAS, MAX_REPLICAS, replicas_of};
use crate::intstr::{Round, scaled};

pub(super) fn desired(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// Surge and unavailability, resolved. Both zero would never make progress, so
/// one pod may then be unavailable.
fn bounds(deployment: &Deployment) -> (i32, i32) {
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.clone()).unwrap_or_default();
    let total = desired(deployment);
    let resolve = |value: Option<IntOrString>, round| value.and_then(|value| scaled(&value, total, round)).unwrap_or(0);
    let surge = resolve(rolling.max_surge, Round::Up);
    let unavailable = resolve(rolling.max_unavailable, Round::Down);
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

pub(super) fn max_surge(deployment: &Deployment) -> i32 {
    if is_rolling(deployment) { bounds(deployment).0 } else { 0 }
}

pub(super) fn max_unavailable(deployment: &Deployment) -> i32 {
    let total = desired(deployment);
    if !is_rolling(deployment) || total == 0 { 0 } else { bounds(deployment).1.min(total) }
}

/// The size for the newest set: as large as the surge allows.
pub(super) fn new_size(deployment: &Deployment, sum: i32, current: i32) -> i32 {
    let total = desired(deployment);
    if !is_rolling(deployment) {
        return total;
    }
    let room = total + max_surge(deployment) - sum;
    if room <= 0 { current } else { current + room.min(total - current) }
}

/// How much of `to_add` (negative: to take away) falls to this set, by its
/// share of the whole before the change.
pub(super) fn proportion(set: &ReplicaSet, deployment: &Deployment, to_add: i32, added: i32) -> i32 {
    if replicas_of(set) == 0 || to_add == 0 || to_add == added {
        return 0;
    }
    let (fraction, allowed) = (fraction(set, deployment), to_add - added);
    if to_add > 0 { fraction.min(allowed) } else { fraction.max(allowed) }
}

fn fraction(set: &ReplicaSet, deployment: &Deployment) -> i32 {
    let size = replicas_of(set);
    if desired(deployment) == 0 {
        return -size;
    }
    let before = match number(set, MAX_REPLICAS) {
        Some(before) if before != 0 => before,
        _ => deployment.status.as_ref().and_then(|status| status.replicas).unwrap_or(0),
    };
    if before == 0 {
        return 0;
    }
    let now = desired(deployment) + max_surge(deployment);
    let exact = f64::from(size) * f64::from(now) / f64::from(before);
    // Bounded by the replica counts, which are 32 bits.
    #[expect(clippy::cast_possible_truncation, reason = "a float to integer cast saturates")]
    let rounded = exact.round() as i32;
    rounded - size
}

/// A count in an annotation; negative or no number is as good as none.
pub(super) fn number(set: &ReplicaSet, annotation: &str) -> Option<i32> {
    let text = set.metadata.annotations.as_ref()?.get(annotation)?;
    text.parse().ok().filter(|number| *number >= 0)
}

/// The newest set has all replicas, and they are available.
pub(super) fn is_saturated(deployment: &Deployment, set: &ReplicaSet) -> bool {
    let total = desired(deployment);
    let available = set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0);
    replicas_of(set) == total && number(set, DESIRED_REPLICAS) == Some(total) && available == total
}
