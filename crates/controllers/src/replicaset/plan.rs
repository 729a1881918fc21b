//! How many pods to make or which to delete, and the status. Reads no clock
//! and asks nobody.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::pods;

/// Pods made or deleted in one go, as upstream's BurstReplicas.
const BURST_PODS: usize = 500;
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const REPLICA_FAILURE: &str = "ReplicaFailure";

/// What to do about the number of pods.
#[derive(Debug, PartialEq)]
pub(super) enum Scale {
    /// It is right.
    Keep,
    /// Make this many.
    Create(usize),
    /// Delete these.
    Delete(Vec<Arc<Pod>>),
}

/// `active` are the set's own pods, `related` all pods of the sets that have
/// the same owner.
pub(super) fn scale(set: &ReplicaSet, mut active: Vec<Arc<Pod>>, related: &[Arc<Pod>], now: Timestamp) -> Scale {
    let wanted = wanted(set);
    if active.len() < wanted {
        return Scale::Create((wanted - active.len()).min(BURST_PODS));
    }
    let surplus = (active.len() - wanted).min(BURST_PODS);
    if surplus == 0 {
        return Scale::Keep;
    }
    if surplus < active.len() {
        let mut on_node: HashMap<&str, usize> = HashMap::new();
        for pod in related.iter().filter(|pod| pods::is_active(pod)) {
            *on_node.entry(pods::node(pod)).or_default() += 1;
        }
        let rank = |pod: &Pod| on_node.get(pods::node(pod)).copied().unwrap_or(0);
        active.sort_by(|a, b| goes_first(a, b, &rank, now));
    }
    active.truncate(surplus);
    Scale::Delete(active)
}

pub(super) fn wanted(set: &ReplicaSet) -> usize {
    let replicas = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    usize::try_from(replicas).unwrap_or(0)
}

/// Less: is deleted earlier. Upstream's ActivePodsWithRanks.
fn goes_first(a: &Pod, b: &Pod, rank: &impl Fn(&Pod) -> usize, now: Timestamp) -> Ordering {
    let placed = |pod: &Pod| !pods::node(pod).is_empty();
    let phase = |pod: &Pod| match pods::phase(pod) {
        "Unknown" => 1,
        "Running" => 2,
        _ => 0,
    };
    let cost = |pod: &Pod| -> i32 {
        let annotations = pod.metadata.annotations.as_ref();
        annotations.and_then(|all| all.get(DELETION_COST)).and_then(|cost| cost.parse().ok()).unwrap_or(0)
    };
    placed(a)
        .cmp(&placed(b))
        .then_with(|| phase(a).cmp(&phase(b)))
        .then_with(|| pods::is_ready(a).cmp(&pods::is_ready(b)))
        .then_with(|| cost(a).cmp(&cost(b)))
        .then_with(|| rank(b).cmp(&rank(a)))
        .then_with(|| younger(a, b, pods::ready_since(a), pods::ready_since(b), now))
        .then_with(|| pods::most_restarts(b).cmp(&pods::most_restarts(a)))
        .then_with(|| younger(a, b, created(a), created(b), now))
}

fn created(pod: &Pod) -> Option<Timestamp> {
    pod.metadata.creation_timestamp.as_ref().map(|time| time.0)
}

/// The younger first, but ages of one power of two are alike and the uid
/// decides: so that scaling down does not always hit the newest node.
fn younger(a: &Pod, b: &Pod, time_a: Option<Timestamp>, time_b: Option<Timestamp>, now: Timestamp) -> Ordering {
    let (time_a, time_b) = match (time_a, time_b) {
        (a, b) if a == b => return Ordering::Equal,
        (None, _) => return Ordering::Less,
        (_, None) => return Ordering::Greater,
        (Some(a), Some(b)) => (a, b),
    };
    let magnitude = |time: Timestamp| {
        let age = now.duration_since(time).as_nanos();
        u128::try_from(age).ok().and_then(u128::checked_ilog2).map_or(-1, i64::from)
    };
    magnitude(time_a).cmp(&magnitude(time_b)).then_with(|| a.metadata.uid.cmp(&b.metadata.uid))
}

/// What the status says about a failure to make or delete pods.
pub(super) struct Failure {
    pub(super) message: String,
}

/// The status, and when it will change by time alone.
pub(super) fn status(
    set: &ReplicaSet,
    active: &[Arc<Pod>],
    terminating: usize,
    failure: Option<&Failure>,
    now: Timestamp,
) -> (ReplicaSetStatus, Option<Timestamp>) {
    let spec = set.spec.clone().unwrap_or_default();
    let template = spec.template.as_ref().and_then(|template| template.metadata.as_ref());
    let labels = template.and_then(|metadata| metadata.labels.clone()).unwrap_or_default();
    let is_labeled = |pod: &Pod| {
        let its = pod.metadata.labels.as_ref();
        labels.iter().all(|(key, value)| its.and_then(|its| its.get(key)) == Some(value))
    };
    let from: Vec<_> =
        active.iter().filter_map(|pod| pods::available_from(pod, spec.min_ready_seconds.unwrap_or(0))).collect();
    let ready = active.iter().filter(|pod| pods::is_ready(pod)).count();
    let mut conditions = set.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let known = conditions.iter().any(|condition| condition.type_ == REPLICA_FAILURE);
    match failure {
        None => conditions.retain(|condition| condition.type_ != REPLICA_FAILURE),
        Some(failure) if !known => conditions.push(ReplicaSetCondition {
            type_: REPLICA_FAILURE.into(),
            status: "True".into(),
            reason: Some(if active.len() < wanted(set) { "FailedCreate" } else { "FailedDelete" }.into()),
            message: Some(failure.message.clone()),
            last_transition_time: Some(Time(now)),
        }),
        Some(_) => {}
    }
    let status = ReplicaSetStatus {
        replicas: count(active.len()),
        fully_labeled_replicas: some(active.iter().filter(|pod| is_labeled(pod)).count()),
        ready_replicas: some(ready),
        available_replicas: some(from.iter().filter(|from| **from <= now).count()),
        terminating_replicas: Some(count(terminating)),
        observed_generation: set.metadata.generation,
        conditions: (!conditions.is_empty()).then_some(conditions),
    };
    (status, from.into_iter().filter(|from| *from > now).min())
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// Zero is left out, as upstream's encoding does.
fn some(number: usize) -> Option<i32> {
    (number > 0).then(|| count(number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(name: &str, node: &str, phase: &str, ready: bool, extra: Value) -> Arc<Pod> {
        let mut value = json!({
            "metadata": {"name": name, "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"nodeName": node, "containers": []},
            "status": {"phase": phase, "conditions": [{
                "type": "Ready", "status": if ready { "True" } else { "False" },
                "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
        });
        for (path, extra) in extra.as_object().unwrap() {
            *value.pointer_mut(path).unwrap() = extra.clone();
        }
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn set(replicas: i32, min_ready: i32) -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": {"name": "s", "generation": 3},
            "spec": {"replicas": replicas, "minReadySeconds": min_ready, "selector": {},
                "template": {"metadata": {"labels": {"app": "a"}}}},
        }))
        .unwrap()
    }

    fn now() -> Timestamp {
        "2026-01-01T01:00:00Z".parse().unwrap()
    }

    #[test]
    fn the_least_useful_pods_go_first() {
        let cost = |cost: &str| json!({"/metadata": {"name": cost, "uid": cost, "annotations": {DELETION_COST: cost}}});
        let since = |time: &str| json!({"/status/conditions/0/lastTransitionTime": time});
        let ordered = [
            pod("unplaced", "", "Pending", false, json!({})),
            pod("pending", "a", "Pending", false, json!({})),
            pod("unready", "a", "Running", false, json!({})),
            pod("-1", "a", "Running", true, cost("-1")),
            pod("crowded", "b", "Running", true, json!({})),
            pod("young", "a", "Running", true, since("2026-01-01T00:59:00Z")),
            pod("old", "a", "Running", true, json!({})),
        ];
        let mut related = ordered.to_vec();
        related.extend((0..9).map(|n| pod(&format!("r{n}"), "b", "Running", true, json!({}))));
        let shuffled: Vec<_> = [3, 6, 0, 5, 2, 4, 1].map(|n: usize| ordered[n].clone()).into();
        for keep in 1..ordered.len() {
            let expected: Vec<_> = ordered[..ordered.len() - keep].to_vec();
            let plan = scale(&set(keep as i32, 0), shuffled.clone(), &related, now());
            assert_eq!(plan, Scale::Delete(expected));
        }
    }

    #[test]
    fn bursts_are_bounded() {
        assert_eq!(scale(&set(10_000, 0), Vec::new(), &[], now()), Scale::Create(BURST_PODS));
        assert_eq!(scale(&set(0, 0), Vec::new(), &[], now()), Scale::Keep);
        let many = (0..600).map(|n| pod(&n.to_string(), "a", "Running", true, json!({}))).collect();
        assert!(matches!(scale(&set(0, 0), many, &[], now()), Scale::Delete(pods) if pods.len() == BURST_PODS));
    }

    #[test]
    fn status_counts_available_pods_and_says_when_the_next_one_is() {
        let pods = [
            pod("a", "n", "Running", true, json!({"/status/conditions/0/lastTransitionTime": "2026-01-01T00:59:50Z"})),
            pod("b", "n", "Running", true, json!({"/status/conditions/0/lastTransitionTime": "2026-01-01T00:59:55Z"})),
            pod("c", "n", "Running", false, json!({})),
        ];
        let (status, next) = status(&set(3, 8), &pods, 2, None, now());
        assert_eq!(status.ready_replicas, Some(2));
        assert_eq!(status.available_replicas, Some(1));
        assert_eq!(status.terminating_replicas, Some(2));
        assert_eq!(status.observed_generation, Some(3));
        assert_eq!(next, Some("2026-01-01T01:00:03Z".parse().unwrap()));
    }

    #[test]
    fn a_failure_stays_in_the_status_until_it_is_over() {
        let failure = Failure { message: "no".into() };
        let mut set = set(3, 0);
        set.status = Some(status(&set, &[], 0, Some(&failure), now()).0);
        let condition = &set.status.as_ref().unwrap().conditions.as_ref().unwrap()[0];
        assert_eq!(condition.reason.as_deref(), Some("FailedCreate"));
        assert_eq!(
            status(&set, &[], 0, Some(&Failure { message: "other".into() }), now()).0,
            *set.status.as_ref().unwrap()
        );
        assert_eq!(status(&set, &[], 0, None, now()).0.conditions, None);
    }
}
