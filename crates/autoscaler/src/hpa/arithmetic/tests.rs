//! Numbers by numbers.

use std::sync::Arc;

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Pod;

use super::*;
use crate::hpa::fixtures::{NOW, ago, pod, samples};
use crate::hpa::grouping::{Timing, group};

const TOLERANCES: Tolerances = Tolerances { down: 0.1, up: 0.1 };
const TIMING: Timing = Timing {
    cpu_initialization_period: SignedDuration::from_secs(300),
    initial_readiness_delay: SignedDuration::from_secs(30),
};

/// Pods `a`, `b`, … by letter: `r` ready, `p` pending, `u` unready and just
/// started, `f` failed, `d` being deleted. Each requests 1000.
fn pods(letters: &str) -> Vec<Arc<Pod>> {
    let names = 'a'..='z';
    let one = |(name, letter): (char, char)| {
        let pod = pod(&name.to_string());
        match letter {
            'p' => pod.phase("Pending").build(),
            'u' => pod.started(ago(20)).ready(false, ago(20)).build(),
            'f' => pod.phase("Failed").build(),
            'd' => pod.deleted().build(),
            _ => pod.build(),
        }
    };
    names.zip(letters.chars()).map(one).collect()
}

fn requests(pods: &[Arc<Pod>]) -> BTreeMap<String, i64> {
    pods.iter().map(|pod| (pod.metadata.name.clone().unwrap(), 1000)).collect()
}

/// Replicas, and per cent of the requests.
fn utilize(current: i32, letters: &str, values: &[(&str, i64)], target: i32) -> Result<(i32, i32), ArithmeticError> {
    let pods = pods(letters);
    let samples = samples(values);
    let groups = group(&pods, &samples, true, TIMING, NOW);
    let requests = requests(&pods);
    let aim = Aim::Utilization { target, requests: &requests };
    by_pods(current, aim, samples, &groups, TOLERANCES)
        .map(|(replicas, measure)| (replicas, measure.utilization.unwrap()))
}

/// Replicas, and the mean.
fn average(current: i32, letters: &str, values: &[(&str, i64)], target: i64) -> Result<(i32, i64), ArithmeticError> {
    let pods = pods(letters);
    let samples = samples(values);
    let groups = group(&pods, &samples, false, TIMING, NOW);
    let aim = Aim::Average { target };
    by_pods(current, aim, samples, &groups, TOLERANCES).map(|(replicas, measure)| (replicas, measure.average))
}

#[test]
fn replicas_follow_the_part_of_the_requests_that_is_used() {
    let used = |milli| [("a", milli), ("b", milli)];
    assert_eq!(utilize(2, "rr", &used(900), 50), Ok((4, 90)));
    assert_eq!(utilize(2, "rr", &used(510), 50), Ok((2, 51)), "within the tolerance");
    assert_eq!(utilize(2, "rr", &used(550), 50), Ok((2, 55)), "at its very end");
    assert_eq!(utilize(2, "rr", &used(560), 50), Ok((3, 56)));
    assert_eq!(utilize(2, "rr", &used(559), 50), Ok((2, 55)), "a part of a per cent does not exist");
    assert_eq!(utilize(2, "rr", &used(200), 50), Ok((1, 20)));
    assert_eq!(utilize(2, "rr", &used(0), 50), Ok((0, 0)));
}

#[test]
fn replicas_come_from_the_pods_that_count_not_from_the_scale() {
    assert_eq!(utilize(9, "rr", &[("a", 1000), ("b", 1000)], 50), Ok((4, 100)));
    assert_eq!(utilize(9, "rrfd", &[("a", 1000), ("b", 1000), ("c", 9000), ("d", 9000)], 50), Ok((4, 100)));
}

#[test]
fn unready_pods_damp_a_scale_up_and_do_not_matter_for_a_scale_down() {
    let hot = [("a", 1000), ("b", 1000), ("c", 1000)];
    assert_eq!(utilize(3, "rrr", &hot, 50), Ok((6, 100)));
    // 2000 of 3000 are 66 per cent: 1.32 times three.
    assert_eq!(utilize(3, "rru", &hot, 50), Ok((4, 100)));
    // 1000 of 3000 would be less than the target: no change, not a scale down.
    assert_eq!(utilize(3, "ruu", &hot, 50), Ok((3, 100)));
    assert_eq!(utilize(3, "rpp", &[("a", 1000)], 50), Ok((3, 100)));
    assert_eq!(utilize(3, "rrp", &[("a", 100), ("b", 100)], 50), Ok((1, 10)));
}

#[test]
fn missing_pods_count_as_idle_when_growing_and_as_busy_when_shrinking() {
    assert_eq!(utilize(3, "rrr", &[("a", 1000), ("b", 1000)], 50), Ok((4, 100)));
    // 100 + 100 + 1000 of 3000: 40 per cent, 0.8 times three.
    assert_eq!(utilize(3, "rrr", &[("a", 100), ("b", 100)], 50), Ok((3, 10)));
    assert_eq!(utilize(5, "rrrrr", &[("a", 100), ("b", 100), ("c", 100), ("d", 100)], 50), Ok((3, 10)));
    // A target above the request: they are taken to be at the target.
    assert_eq!(utilize(2, "rr", &[("a", 1000)], 200), Ok((2, 100)));
    // Exactly at the target nothing is made up.
    assert_eq!(utilize(2, "rr", &[("a", 500)], 50), Ok((2, 50)));
}

#[test]
fn a_number_that_moves_against_the_ratio_is_no_change() {
    // Hot, but three replicas for four that the scale has.
    assert_eq!(utilize(4, "rr", &[("a", 700)], 50).map(|found| found.0), Ok(4));
    // Idle, but more pods than the scale has.
    assert_eq!(utilize(1, "rrrr", &[("a", 100), ("b", 100), ("c", 100)], 90).map(|found| found.0), Ok(1));
}

#[test]
fn without_samples_that_count_there_is_no_number() {
    assert_eq!(utilize(2, "rr", &[], 50), Err(ArithmeticError::NoSamples));
    assert_eq!(utilize(2, "uu", &[("a", 1), ("b", 1)], 50), Err(ArithmeticError::NoSamples));
    assert_eq!(utilize(1, "r", &[("z", 100)], 50), Err(ArithmeticError::Unmatched), "another pod's");
    let pods = pods("r");
    let values = samples(&[("a", 100)]);
    let groups = group(&pods, &values, true, TIMING, NOW);
    let nothing = [("a".to_owned(), 0)].into();
    let aim = Aim::Utilization { target: 50, requests: &nothing };
    assert_eq!(by_pods(1, aim, values, &groups, TOLERANCES), Err(ArithmeticError::Unmatched), "nothing requested");
}

#[test]
fn replicas_follow_the_mean_of_the_pods() {
    assert_eq!(average(3, "rrr", &[("a", 20), ("b", 10), ("c", 10)], 10), Ok((4, 13)));
    assert_eq!(average(3, "rrr", &[("a", 12), ("b", 11), ("c", 11)], 10), Ok((3, 11)));
    assert_eq!(average(3, "rrr", &[("a", 5), ("b", 5), ("c", 5)], 10), Ok((2, 5)));
    assert_eq!(average(3, "uuu", &[("a", 20), ("b", 20), ("c", 20)], 10), Ok((6, 20)), "readiness is CPU's matter");
    assert_eq!(average(3, "rrp", &[("a", 20), ("b", 20)], 10), Ok((4, 20)));
    assert_eq!(average(3, "rrr", &[("a", 4), ("b", 4)], 10), Ok((2, 4)), "the missing one counts as at the target");
    assert_eq!(average(3, "rrr", &[], 10), Err(ArithmeticError::NoSamples));
}

#[test]
fn one_value_for_all_is_brought_to_its_target_by_the_ready_pods() {
    let by = |current, usage, target, ready| by_value(current, usage, target, TOLERANCES, || Ok(ready));
    assert_eq!(by(3, 200, 100, 3), Ok(6));
    assert_eq!(by(3, 200, 100, 1), Ok(2), "one ready pod brought it there");
    assert_eq!(by(3, 109, 100, 3), Ok(3));
    assert_eq!(by(3, 40, 100, 3), Ok(2));
    assert_eq!(by(3, 0, 100, 3), Ok(0));
    assert_eq!(by(1, i64::MAX, 1, 1), Ok(i32::MAX));
    let none = by_value(3, 200, 100, TOLERANCES, || Err(ArithmeticError::NoPods));
    assert_eq!(none, Err(ArithmeticError::NoPods));
    assert_eq!(by_value(3, 100, 100, TOLERANCES, || Err(ArithmeticError::NoPods)), Ok(3), "nobody needs to count");
}

#[test]
fn from_zero_any_value_brings_a_pod_and_none_keeps_it() {
    let by = |usage| by_value(0, usage, 100, TOLERANCES, || Err(ArithmeticError::NoPods));
    assert_eq!([by(0), by(1), by(100), by(101)], [Ok(0), Ok(1), Ok(1), Ok(2)]);
}

#[test]
fn a_value_is_shared_by_the_pods_of_the_status() {
    let by = |pods, usage| by_share(pods, usage, 100, TOLERANCES);
    assert_eq!(by(4, 800), (8, 200));
    assert_eq!(by(4, 440), (4, 110));
    assert_eq!(by(4, 441), (5, 111));
    assert_eq!(by(3, 100), (1, 34));
    assert_eq!(by(0, 250), (3, 250));
    assert_eq!(by(0, 0), (0, 0));
}

#[test]
fn tolerances_may_differ_by_direction() {
    let tolerances = Tolerances { down: 0.5, up: 0.0 };
    let by = |usage| by_value(10, usage, 100, tolerances, || Ok(10)).unwrap();
    assert_eq!([by(100), by(101), by(50), by(49)], [10, 11, 10, 5]);
}

#[test]
fn series_add_up_to_what_can_be_told() {
    assert_eq!(sum(&[100, 200, -50]), 250);
    assert_eq!(sum(&[i64::MAX, 1]), i64::MAX);
    assert_eq!(sum(&[]), 0);
}
