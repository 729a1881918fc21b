//! When a look is due. What happened is seen at once where nothing depends on
//! metrics; metrics need time to follow a change of size, so that no event
//! brings two changes by them closer together than the sample period.

use std::time::Duration;

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscalerSpec;

use super::memory::Memory;

/// First wait after a look that failed; doubles up to the period.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// Events that come in less than this are one.
const SETTLE: Duration = Duration::from_secs(1);

/// From one look to the next if nothing happens.
pub(crate) fn next(period: Duration, failures: u32) -> Duration {
    match failures.checked_sub(1) {
        None => period,
        Some(before) => client::backoff::exponential(RETRY_FIRST, period, before).min(period),
    }
}

/// How long a look has still to wait; none if it is due. A specification that
/// has not been looked at is looked at now.
pub(crate) fn hold(
    memory: &Memory,
    spec: &HorizontalPodAutoscalerSpec,
    period: Duration,
    now: Duration,
) -> Option<Duration> {
    let (looked, seen) = memory.looked.as_ref()?;
    if seen != spec {
        return None;
    }
    let settled = *looked + SETTLE.min(period);
    let followed = memory.rescaled.map_or(Duration::ZERO, |rescaled| rescaled + period);
    settled.max(followed).checked_sub(now).filter(|wait| !wait.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(15);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_look_that_failed_is_repeated_sooner_but_not_for_ever() {
        let waits: Vec<_> = (0..7).map(|failures| next(PERIOD, failures).as_secs()).collect();
        assert_eq!(waits, [15, 1, 2, 4, 8, 15, 15]);
        assert_eq!(next(Duration::from_millis(200), 1), Duration::from_millis(200));
    }

    #[test]
    fn looks_wait_for_metrics_to_follow_a_change_unless_the_specification_changed() {
        let spec = HorizontalPodAutoscalerSpec { max_replicas: 3, ..Default::default() };
        let mut memory = Memory::default();
        assert_eq!(hold(&memory, &spec, PERIOD, at(100)), None, "never looked at");
        memory.looked = Some((at(100), spec.clone()));
        assert_eq!(hold(&memory, &spec, PERIOD, at(100)), Some(at(1)));
        assert_eq!(hold(&memory, &spec, PERIOD, at(101)), None);
        memory.rescaled = Some(at(100));
        assert_eq!(hold(&memory, &spec, PERIOD, at(103)), Some(at(12)));
        assert_eq!(hold(&memory, &spec, PERIOD, at(115)), None);
        let other = HorizontalPodAutoscalerSpec { max_replicas: 4, ..Default::default() };
        assert_eq!(hold(&memory, &other, PERIOD, at(100)), None);
    }
}
