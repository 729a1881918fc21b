//! The rules of sleep that hold for a pod on this node, every default filled in.
//! Pure; where policies and time zones come from is not known here.

use std::sync::Arc;
use std::time::Duration;

use api::elastic::{self, IdleConnections, Rule, Rung, SleepPolicy, SleepPolicySpec, WarmWindow};
use api::quantity::Quantity;
use api::selector::Labels;
use api::types::api::core::v1 as core;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::spec;

/// CPU use, in thousandths of a core, above which a pod is busy although no
/// packet comes, unless a policy says otherwise: timers of runtimes stay below.
const CPU_FLOOR_MILLI: u64 = 50;

/// What holds for one pod.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Rules {
    /// Name of the policy, in the pod's namespace; `None` if a label says so.
    pub(crate) policy: Option<Arc<str>>,
    /// Sleep after so long without activity.
    pub(crate) after: Duration,
    /// The deepest rung allowed.
    pub(crate) lowest: Rung,
    /// How fast 99 of 100 wakes must answer.
    pub(crate) objective: Option<Duration>,
    /// Times in which it stays awake.
    pub(crate) warm: Vec<(WarmWindow, TimeZone)>,
    /// What open connections without traffic mean.
    pub(crate) idle_connections: IdleConnections,
    /// CPU above this is activity, thousandths of a core.
    pub(crate) cpu_floor_milli: u64,
}

impl Rules {
    fn simple(after: Duration) -> Self {
        Self {
            policy: None,
            after,
            lowest: Rung::Frozen,
            objective: None,
            warm: Vec::new(),
            idle_connections: IdleConnections::KeepAwake,
            cpu_floor_milli: CPU_FLOOR_MILLI,
        }
    }

    fn of(name: &str, policy: &SleepPolicySpec, zone: &dyn Fn(Option<&str>) -> TimeZone) -> Self {
        let activity = policy.activity.clone().unwrap_or_default();
        let floor = activity.cpu_above.and_then(|quantity| Quantity::parse(&quantity.0).ok());
        Self {
            policy: Some(name.into()),
            lowest: policy.lowest_rung(),
            objective: policy.first_response.map(|response| response.p99),
            warm: policy.keep_warm.iter().map(|w| (w.clone(), zone(w.time_zone.as_deref()))).collect(),
            idle_connections: activity.idle_connections,
            cpu_floor_milli: floor
                .and_then(|quantity| u64::try_from(quantity.milli_value()).ok())
                .unwrap_or(CPU_FLOOR_MILLI),
            ..Self::simple(policy.idle_after)
        }
    }

    /// Whether it must stay awake now, and when that is to be asked again.
    pub(crate) fn kept_warm(&self, now: Timestamp) -> (bool, Option<Timestamp>) {
        let mut warm = false;
        let mut next: Option<Timestamp> = None;
        for (window, zone) in &self.warm {
            // The schema refuses what can't be read; if it comes through all
            // the same, the window is left out and the policy's status says so.
            let Ok((inside, boundary)) = window.at(zone, now) else { continue };
            warm |= inside;
            next = next.into_iter().chain(boundary).min();
        }
        (warm, next)
    }
}

/// The rules that hold for the pod; `None` if it stays awake.
pub(crate) fn resolve(
    pod: &core::Pod,
    namespace: Option<&Labels>,
    policies: &[Arc<SleepPolicy>],
    zone: &dyn Fn(Option<&str>) -> TimeZone,
) -> Option<Rules> {
    // On the machine's network a pod has no address by which it could be woken.
    if spec::host_network(pod) {
        return None;
    }
    let none = Labels::new();
    match elastic::rule(pod.metadata.labels.as_ref().unwrap_or(&none), namespace, policies) {
        Rule::Awake => None,
        Rule::After(after) => Some(Rules::simple(after)),
        Rule::Policy(policy) => {
            let rules = Rules::of(policy.metadata.name.as_deref().unwrap_or_default(), &policy.spec, zone);
            (rules.lowest > Rung::Hot).then_some(rules)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::elastic::IDLE_AFTER_LABEL;
    use serde_json::json;

    fn pod(labels: serde_json::Value) -> core::Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "labels": labels}})).expect("a pod")
    }

    fn policy(name: &str, created: &str, spec: serde_json::Value) -> Arc<SleepPolicy> {
        let object = json!({"metadata": {"name": name, "namespace": "n", "creationTimestamp": created}, "spec": spec});
        Arc::new(serde_json::from_value(object).expect("a policy"))
    }

    fn rules(pod: &core::Pod, namespace: Option<&Labels>, policies: &[Arc<SleepPolicy>]) -> Option<Rules> {
        resolve(pod, namespace, policies, &|_| TimeZone::UTC)
    }

    #[test]
    fn without_a_policy_nothing_sleeps() {
        assert_eq!(rules(&pod(json!({})), Some(&Labels::new()), &[]), None);
    }

    #[test]
    fn the_oldest_policy_that_selects_the_pod_counts() {
        let policies = [
            policy("young", "2026-02-01T00:00:00Z", json!({"idleAfter": "1s"})),
            policy(
                "old",
                "2026-01-01T00:00:00Z",
                json!({"idleAfter": "2s", "lowestRung": "PagedOut",
                "firstResponse": {"p99": "50ms"}, "activity": {"cpuAbove": "20m", "idleConnections": "Ignore"}}),
            ),
            policy(
                "other",
                "2025-01-01T00:00:00Z",
                json!({"idleAfter": "3s", "selector": {"matchLabels": {"a": "c"}}}),
            ),
        ];
        let found = rules(&pod(json!({"a": "b"})), None, &policies).expect("rules");
        assert_eq!(found.policy.as_deref(), Some("old"));
        assert_eq!((found.after, found.lowest), (Duration::from_secs(2), Rung::PagedOut));
        assert_eq!((found.objective, found.cpu_floor_milli), (Some(Duration::from_millis(50)), 20));
        assert_eq!(found.idle_connections, IdleConnections::Ignore);
        assert_eq!(rules(&pod(json!({"a": "c"})), None, &policies).expect("rules").policy.as_deref(), Some("other"));
    }

    #[test]
    fn a_pods_label_goes_before_policies_and_they_before_the_namespaces() {
        let policies = [policy("all", "2026-02-01T00:00:00Z", json!({"idleAfter": "1m"}))];
        let namespace = Labels::from([(IDLE_AFTER_LABEL.to_owned(), "1h".to_owned())]);
        let after = |labels, policies: &[_]| rules(&pod(labels), Some(&namespace), policies).map(|r| r.after.as_secs());
        assert_eq!(after(json!({IDLE_AFTER_LABEL: "5s"}), &policies), Some(5));
        assert_eq!(after(json!({IDLE_AFTER_LABEL: "never"}), &policies), None);
        assert_eq!(after(json!({}), &policies), Some(60));
        assert_eq!(after(json!({}), &[]), Some(3600));
        assert_eq!(after(json!({IDLE_AFTER_LABEL: "nonsense"}), &policies), Some(60));
    }

    #[test]
    fn a_policy_whose_lowest_rung_is_hot_keeps_its_pods_awake() {
        let policies = [policy("awake", "2026-02-01T00:00:00Z", json!({"idleAfter": "1m", "lowestRung": "Hot"}))];
        assert_eq!(rules(&pod(json!({})), None, &policies), None);
    }

    #[test]
    fn a_warm_window_keeps_awake_until_its_end() {
        let policies = [policy(
            "office",
            "2026-02-01T00:00:00Z",
            json!({"idleAfter": "1m", "keepWarm": [{"start": "08:00", "end": "18:00"}]}),
        )];
        let found = rules(&pod(json!({})), None, &policies).expect("rules");
        let time = |text: &str| text.parse::<Timestamp>().expect("a time");
        assert_eq!(found.kept_warm(time("2026-11-23T09:00:00Z")), (true, Some(time("2026-11-23T18:00:00Z"))));
        assert_eq!(found.kept_warm(time("2026-11-23T19:00:00Z")), (false, Some(time("2026-11-24T08:00:00Z"))));
    }
}
