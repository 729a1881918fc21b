//! The taints that a node should have, the conditions of a silent one, and how
//! fast a zone's nodes may be given up. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::taints::{BY_CONDITION, NOT_READY, UNREACHABLE, UNSCHEDULABLE, condition};

/// Silence after which a node counts as lost; upstream's
/// `node-monitor-grace-period`.
pub(super) const GRACE: Duration = Duration::from_secs(50);
/// The same for a node that has never reported; `node-startup-grace-period`.
pub(super) const STARTUP_GRACE: Duration = Duration::from_secs(60);
/// Time between two nodes of a zone that are given up; `node-eviction-rate`.
const EVICTION_INTERVAL: Duration = Duration::from_secs(10);
/// The same in a zone of which much is down; `secondary-node-eviction-rate`.
const SLOW_EVICTION_INTERVAL: Duration = Duration::from_secs(100);
/// Zones smaller than this then give up no node at all.
const LARGE_ZONE_NODES: usize = 50;
/// Part of a zone that is much; `unhealthy-zone-threshold`.
const UNHEALTHY_PART: f64 = 0.55;
/// Nodes that are down for it to count.
const UNHEALTHY_NODES: usize = 3;

const SILENT_CONDITIONS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// The conditions of a node that was not heard of for too long, if they are
/// not that yet.
pub(super) fn silent(node: &Node, now: Timestamp) -> Option<Node> {
    let mut node = node.clone();
    let before = condition(&node, "Ready").to_owned();
    let created = node.metadata.creation_timestamp.clone();
    let conditions = node.status.get_or_insert_default().conditions.get_or_insert_default();
    for kind in SILENT_CONDITIONS {
        match conditions.iter_mut().find(|condition| condition.type_ == kind) {
            Some(condition) if condition.status == "Unknown" => {}
            Some(condition) => {
                condition.status = "Unknown".into();
                condition.reason = Some("NodeStatusUnknown".into());
                condition.message = Some("Kubelet stopped posting node status.".into());
                condition.last_transition_time = Some(Time(now));
            }
            None => conditions.push(NodeCondition {
                type_: kind.into(),
                status: "Unknown".into(),
                reason: Some("NodeStatusNeverUpdated".into()),
                message: Some("Kubelet never posted node status.".into()),
                last_heartbeat_time: created.clone(),
                last_transition_time: Some(Time(now)),
            }),
        }
    }
    (before != "Unknown").then_some(node)
}

/// The node's taints after those that follow from conditions were brought up
/// to date; none if they are. `evict` is false where nothing may be given up.
pub(super) fn taints(node: &Node, evict: bool, now: Timestamp) -> Option<Vec<Taint>> {
    let taint = |key: &str, effect: &str| Taint {
        key: key.into(),
        effect: effect.into(),
        time_added: Some(Time(now)),
        value: None,
    };
    let mut wanted: Vec<Taint> = BY_CONDITION
        .iter()
        .filter(|(kind, status, _)| condition(node, kind) == *status)
        .map(|(_, _, key)| taint(key, "NoSchedule"))
        .collect();
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        wanted.push(taint(UNSCHEDULABLE, "NoSchedule"));
    }
    if evict {
        match condition(node, "Ready") {
            "False" => wanted.push(taint(NOT_READY, "NoExecute")),
            "Unknown" => wanted.push(taint(UNREACHABLE, "NoExecute")),
            _ => {}
        }
    }
    let is_ours = |taint: &Taint| match taint.effect.as_str() {
        "NoSchedule" => taint.key == UNSCHEDULABLE || BY_CONDITION.iter().any(|(_, _, key)| taint.key == *key),
        "NoExecute" => taint.key == NOT_READY || taint.key == UNREACHABLE,
        _ => false,
    };
    let is_same = |a: &Taint, b: &Taint| a.key == b.key && a.effect == b.effect;
    let before = crate::taints::of(node);
    let mut after: Vec<Taint> = before
        .iter()
        .filter(|taint| !is_ours(taint) || wanted.iter().any(|wanted| is_same(wanted, taint)))
        .cloned()
        .collect();
    wanted.retain(|wanted| !before.iter().any(|taint| is_same(wanted, taint)));
    after.extend(wanted);
    (after != before).then_some(after)
}

/// Whether giving up nodes of a zone is allowed, and how fast.
#[derive(Debug, PartialEq)]
pub(super) enum Pace {
    /// Everything is down, so it is more likely that it is us.
    Never,
    /// Not while so much of this zone is down.
    NotNow,
    /// One node in this time.
    Every(Duration),
}

/// The zone of a node, with its region.
pub(super) fn zone(node: &Node) -> String {
    let label = |key: &str| node.metadata.labels.as_ref().and_then(|labels| labels.get(key)).cloned().unwrap_or_default();
    format!("{}:{}", label("topology.kubernetes.io/region"), label("topology.kubernetes.io/zone"))
}

pub(super) fn pace<'a>(nodes: impl Iterator<Item = &'a Node>, zone_of_node: &str) -> Pace {
    let mut zones: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for node in nodes {
        let (ready, down) = zones.entry(zone(node)).or_default();
        match condition(node, "Ready") {
            "True" => *ready += 1,
            _ => *down += 1,
        }
    }
    if zones.values().all(|(ready, _)| *ready == 0) {
        return Pace::Never;
    }
    let (ready, down) = zones.get(zone_of_node).copied().unwrap_or_default();
    // Counts of nodes are small enough to be exact.
    #[expect(clippy::cast_precision_loss, reason = "counts of nodes")]
    let part = down as f64 / (ready + down).max(1) as f64;
    if ready == 0 || down < UNHEALTHY_NODES || part < UNHEALTHY_PART {
        Pace::Every(EVICTION_INTERVAL)
    } else if ready + down > LARGE_ZONE_NODES {
        Pace::Every(SLOW_EVICTION_INTERVAL)
    } else {
        Pace::NotNow
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(ready: &str, taints: serde_json::Value) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "n"},
            "spec": {"taints": taints},
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        }))
        .unwrap()
    }

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    fn keys(taints: Option<Vec<Taint>>) -> Option<Vec<String>> {
        taints.map(|taints| taints.iter().map(|taint| format!("{}:{}", taint.key, taint.effect)).collect())
    }

    #[test]
    fn taints_follow_conditions_and_leave_others_alone() {
        let foreign = json!([{"key": "mine", "effect": "NoSchedule"}, {"key": UNREACHABLE, "effect": "NoExecute"}]);
        let not_ready = node("False", foreign.clone());
        let expected = ["mine:NoSchedule", "node.kubernetes.io/not-ready:NoSchedule", "node.kubernetes.io/not-ready:NoExecute"];
        assert_eq!(keys(taints(&not_ready, true, now())), Some(expected.map(String::from).to_vec()));
        assert_eq!(keys(taints(&not_ready, false, now())), Some(expected[..2].iter().map(|key| key.to_string()).collect()));
        assert_eq!(keys(taints(&node("True", foreign), true, now())), Some(vec!["mine:NoSchedule".into()]));
        assert_eq!(taints(&node("True", json!([{"key": "mine", "effect": "NoSchedule"}])), true, now()), None);
    }

    #[test]
    fn a_silent_node_is_marked_once() {
        let marked = silent(&node("True", json!([])), now()).unwrap();
        assert_eq!(condition(&marked, "Ready"), "Unknown");
        assert_eq!(condition(&marked, "PIDPressure"), "Unknown");
        assert_eq!(silent(&marked, now()), None);
    }

    #[test]
    fn nothing_is_given_up_where_all_is_down_and_little_where_much_is() {
        let nodes = |ready: usize, down: usize| {
            let up = (0..ready).map(|_| node("True", json!([])));
            up.chain((0..down).map(|_| node("Unknown", json!([])))).collect::<Vec<_>>()
        };
        let check = |ready, down, expected| assert_eq!(pace(nodes(ready, down).iter(), ":"), expected, "{ready} {down}");
        check(0, 1, Pace::Never);
        check(1, 1, Pace::Every(EVICTION_INTERVAL));
        check(2, 3, Pace::NotNow);
        check(3, 2, Pace::Every(EVICTION_INTERVAL));
        check(20, 40, Pace::Every(SLOW_EVICTION_INTERVAL));
    }
}
