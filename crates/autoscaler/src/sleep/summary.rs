//! A policy's status, added up from what its nodes and Sleepers say. Pure.

use std::collections::BTreeMap;

use api::elastic::{
    Freed, Phase, Rung, RungCounts, SleepPolicy, SleepPolicyStatus, Sleeper, Transition, WakeFigures, WakeHistogram,
};
use api::quantity;
use api::types::apimachinery::pkg::api::resource::Quantity;
use api::types::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use jiff::Timestamp;

use super::plan::all_wakes;

/// The status without the nodes' own entries.
pub(super) fn summary(policy: &SleepPolicy, sleepers: &[&Sleeper], now: Timestamp) -> SleepPolicyStatus {
    let before = policy.status.clone().unwrap_or_default();
    let mut pods = RungCounts::default();
    let mut wakes: BTreeMap<Rung, WakeHistogram> = BTreeMap::new();
    let (mut cpu_milli, mut memory) = (0_u64, 0_u64);
    let mut last: Option<Transition> = None;
    let mut later = |transition: &Transition| {
        if last.as_ref().is_none_or(|last| last.time.0 < transition.time.0) {
            last = Some(transition.clone());
        }
    };
    for node in &before.nodes {
        pods.add(node.pods);
        cpu_milli += node.freed_cpu_milli;
        memory += node.freed_memory_bytes;
        for from in &node.wakes {
            wakes.entry(from.rung).or_default().merge(&from.buckets);
        }
        node.last_transition.iter().for_each(&mut later);
    }
    for sleeper in sleepers {
        let Some(status) = &sleeper.status else { continue };
        if status.phase == Phase::Gone {
            pods.gone += u32::try_from(sleeper.spec.replicas).unwrap_or(0);
        }
        wakes.entry(Rung::Gone).or_default().merge(&all_wakes(&status.nodes));
        step(sleeper).iter().for_each(&mut later);
    }
    wakes.retain(|_, histogram| histogram.count() > 0);
    let figures = wakes.iter().map(|(rung, histogram)| {
        let at = |quantile| histogram.quantile(quantile).unwrap_or_default().min(api::elastic::duration::LONGEST);
        WakeFigures { rung: *rung, count: histogram.count(), p50: at(0.5), p90: at(0.9), p99: at(0.99) }
    });
    SleepPolicyStatus {
        observed_generation: policy.metadata.generation,
        pods: Some(pods),
        wakes: figures.collect(),
        freed: Some(Freed { cpu: amount(format!("{cpu_milli}m")), memory: amount(memory.to_string()) }),
        last_transition: last,
        nodes: Vec::new(),
        conditions: conditions(policy, &before.conditions, &wakes, now),
    }
}

fn amount(text: String) -> Quantity {
    Quantity(quantity::canonical(&text).unwrap_or(text))
}

/// The Sleeper's latest step as a change of rung.
fn step(sleeper: &Sleeper) -> Option<Transition> {
    let status = sleeper.status.as_ref()?;
    let (from, to) = match status.phase {
        Phase::Gone => (Rung::Frozen, Rung::Gone),
        Phase::Rising => (Rung::Gone, Rung::Hot),
        Phase::Falling | Phase::Awake => return None,
    };
    let target = &sleeper.spec.target_ref;
    Some(Transition {
        time: status.since.clone()?,
        of: format!("{}/{}", target.kind, target.name),
        from,
        to,
        reason: status.reason.clone().unwrap_or_default(),
    })
}

fn conditions(
    policy: &SleepPolicy,
    before: &[Condition],
    wakes: &BTreeMap<Rung, WakeHistogram>,
    now: Timestamp,
) -> Vec<Condition> {
    let condition = |kind: &str, status: &str, reason: &str, message: String| {
        let same = before.iter().find(|condition| condition.type_ == kind && condition.status == status);
        Condition {
            type_: kind.into(),
            status: status.into(),
            reason: reason.into(),
            message,
            observed_generation: policy.metadata.generation,
            last_transition_time: same.map_or(Time(now), |condition| condition.last_transition_time.clone()),
        }
    };
    let not_offered: Vec<String> = policy
        .status
        .iter()
        .flat_map(|status| &status.nodes)
        .flat_map(|node| node.not_offered.iter().map(move |what| format!("{}: {what}", node.name)))
        .collect();
    let ready = match not_offered.is_empty() {
        true => condition("Ready", "True", "InForce", "The policy is in force".into()),
        false => condition("Ready", "True", "RungsMissing", format!("Not on every node: {}", not_offered.join("; "))),
    };
    let Some(objective) = policy.spec.first_response.map(|response| response.p99) else { return vec![ready] };
    let worst = wakes
        .iter()
        .filter_map(|(rung, histogram)| Some((*rung, histogram.quantile(0.99)?)))
        .max_by_key(|(_, p99)| *p99);
    let met = match worst {
        None => condition("ObjectiveMet", "Unknown", "NoWakes", "Nothing has been woken yet".into()),
        Some((rung, p99)) if p99 <= objective => {
            condition("ObjectiveMet", "True", "Measured", format!("The slowest rung, {rung}, answers within {p99:?}"))
        }
        Some((rung, p99)) => {
            let message = format!(
                "Wakes from {rung} took up to {p99:?}, more than {objective:?}; the rung is left out where it was missed"
            );
            condition("ObjectiveMet", "False", "Missed", message)
        }
    };
    vec![ready, met]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn policy(status: &serde_json::Value) -> SleepPolicy {
        let object = json!({
            "metadata": {"name": "p", "namespace": "n", "generation": 3},
            "spec": {"idleAfter": "10s", "firstResponse": {"p99": "50ms"}},
            "status": status,
        });
        serde_json::from_value(object).expect("a policy")
    }

    fn node(name: &str, frozen: u32, le: &str) -> serde_json::Value {
        json!({"name": name, "pods": {"hot": 1, "frozen": frozen}, "freedCpuMilli": 150, "freedMemoryBytes": 1024,
               "wakes": [{"rung": "Frozen", "buckets": [{"le": le, "count": 10}]}],
               "lastTransition": {"time": "2026-01-01T00:00:00Z", "of": "web", "from": "Hot", "to": "Frozen", "reason": "Idle"}})
    }

    #[test]
    fn nodes_add_up_and_wakes_become_quantiles() {
        let policy = policy(&json!({"nodes": [node("a", 2, "1ms"), node("b", 3, "3ms")]}));
        let sum = summary(&policy, &[], Timestamp::UNIX_EPOCH);
        let pods = sum.pods.expect("counts");
        assert_eq!((pods.hot, pods.frozen, pods.gone), (2, 5, 0));
        let freed = sum.freed.expect("what is freed");
        assert_eq!((freed.cpu.0.as_str(), freed.memory.0.as_str()), ("300m", "2048"));
        let frozen = &sum.wakes[0];
        assert_eq!((frozen.count, frozen.p50.as_millis(), frozen.p99.as_millis()), (20, 1, 3));
        let met = sum.conditions.iter().find(|c| c.type_ == "ObjectiveMet").expect("the condition");
        assert_eq!(met.status, "True");
        assert_eq!(sum.observed_generation, Some(3));
    }

    #[test]
    fn a_condition_keeps_its_time_while_its_status_stays() {
        let first = policy(&json!({"nodes": [node("a", 1, "1ms")]}));
        let mut status = summary(&first, &[], Timestamp::UNIX_EPOCH);
        status.nodes = first.status.clone().expect("a status").nodes;
        let second = SleepPolicy { status: Some(status.clone()), ..first };
        let again = summary(&second, &[], "2026-02-01T00:00:00Z".parse().expect("a time"));
        assert_eq!(again.conditions, status.conditions);
    }

    #[test]
    fn an_objective_that_is_missed_shows_with_the_rung() {
        let policy = policy(&json!({"nodes": [node("a", 1, "100ms")]}));
        let sum = summary(&policy, &[], Timestamp::UNIX_EPOCH);
        let met = sum.conditions.iter().find(|c| c.type_ == "ObjectiveMet").expect("the condition");
        assert_eq!((met.status.as_str(), met.reason.as_str()), ("False", "Missed"));
        assert!(met.message.contains("Frozen"), "{}", met.message);
    }

    #[test]
    fn replicas_at_zero_count_as_gone() {
        let object = json!({
            "metadata": {"name": "deployment.web", "namespace": "n"},
            "spec": {"targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}, "policy": "p", "replicas": 2},
            "status": {"phase": "Gone", "since": "2026-01-02T00:00:00Z", "reason": "LongIdle",
                       "nodes": [{"name": "a", "wakes": [{"le": "50ms", "count": 4}]}]},
        });
        let sleeper: Sleeper = serde_json::from_value(object).expect("a Sleeper");
        let sum = summary(&policy(&json!({"nodes": [node("a", 1, "1ms")]})), &[&sleeper], Timestamp::UNIX_EPOCH);
        assert_eq!(sum.pods.expect("counts").gone, 2);
        assert_eq!(sum.last_transition.expect("one").of, "Deployment/web");
        assert_eq!(
            sum.wakes.iter().map(|w| (w.rung, w.count)).collect::<Vec<_>>(),
            [(Rung::Frozen, 10), (Rung::Gone, 4)]
        );
    }
}
