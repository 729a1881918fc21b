//! How long a pod may stay on its node. Pure.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod, Taint};

use crate::taints::tolerates;
use crate::{pods, taints};

/// What becomes of a pod.
#[derive(Debug, PartialEq)]
pub(super) enum Fate {
    /// As long as taints and tolerations stay as they are.
    Stays,
    /// Until this instant.
    LeavesAt(Timestamp),
    /// Now.
    Leaves,
}

/// The time of a pod runs from when the last of the taints was put on, or from
/// when the pod was bound if that was later.
pub(super) fn fate(pod: &Pod, node: Option<&Node>, now: Timestamp) -> Fate {
    let Some(node) = node else { return Fate::Stays };
    if pod.metadata.deletion_timestamp.is_some() || pods::is_finished(pod) {
        return Fate::Stays;
    }
    let taints: Vec<&Taint> = taints::of(node).iter().filter(|taint| taint.effect == "NoExecute").collect();
    if taints.is_empty() {
        return Fate::Stays;
    }
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    let mut used = Vec::new();
    for taint in &taints {
        match tolerations.iter().find(|toleration| tolerates(toleration, taint)) {
            Some(toleration) => used.push(toleration),
            None => return Fate::Leaves,
        }
    }
    let Some(seconds) = used.iter().filter_map(|toleration| toleration.toleration_seconds).min() else {
        return Fate::Stays;
    };
    if seconds <= 0 {
        return Fate::Leaves;
    }
    let added = taints.iter().filter_map(|taint| taint.time_added.as_ref()).map(|time| time.0).max();
    let bound = pods::condition(pod, "PodScheduled").and_then(|condition| condition.last_transition_time.as_ref());
    let since = added.into_iter().chain(bound.map(|time| time.0)).max().unwrap_or(now);
    match since.checked_add(SignedDuration::from_secs(seconds)) {
        Ok(until) if until > now => Fate::LeavesAt(until),
        Ok(_) => Fate::Leaves,
        Err(_) => Fate::Stays,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(taints: Value, tolerations: Value, expected: Fate) {
        let node: Node = serde_json::from_value(json!({"spec": {"taints": taints}})).unwrap();
        let pod: Pod = serde_json::from_value(json!({"spec": {"containers": [], "tolerations": tolerations}})).unwrap();
        let now = "2026-01-01T00:00:10Z".parse().unwrap();
        assert_eq!(fate(&pod, Some(&node), now), expected, "{taints} {tolerations}");
    }

    #[test]
    fn pods_stay_as_long_as_they_tolerate_every_taint() {
        let taint = json!([{"key": "k", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"}]);
        let for_seconds = |seconds: i64| json!([{"key": "k", "operator": "Exists", "tolerationSeconds": seconds}]);
        check(taint.clone(), json!([]), Fate::Leaves);
        check(taint.clone(), json!([{"operator": "Exists"}]), Fate::Stays);
        check(taint.clone(), for_seconds(15), Fate::LeavesAt("2026-01-01T00:00:15Z".parse().unwrap()));
        check(taint.clone(), for_seconds(5), Fate::Leaves);
        check(taint.clone(), for_seconds(0), Fate::Leaves);
        check(json!([{"key": "k", "effect": "NoSchedule"}]), json!([]), Fate::Stays);
        let two = json!([{"key": "k", "effect": "NoExecute"}, {"key": "other", "effect": "NoExecute"}]);
        check(two, for_seconds(500), Fate::Leaves);
    }
}
