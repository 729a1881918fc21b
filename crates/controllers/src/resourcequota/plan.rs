//! What a quota's status must say.

use std::time::Duration;

use api::amounts::Amounts;
use api::quantity::Written;
use api::quota::{Evaluator, scopes};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

/// What is in a quota's namespace.
pub(super) struct Found {
    pub(super) pods: Vec<Value>,
    pub(super) services: Vec<Value>,
    pub(super) claims: Vec<Value>,
}

/// The new status, or `None` if it says so already. `count` gives the number
/// of objects of a group and plural; `None` while it is not known.
pub(super) fn status(
    quota: &Value,
    found: &Found,
    count: &dyn Fn(&str, &str) -> Option<usize>,
    now: Timestamp,
) -> Option<Value> {
    let hard = Amounts::read(&quota["spec"]["hard"]);
    let before = Amounts::read(&quota["status"]["used"]);
    let mut used = before.masked(hard.names());
    let scopes = scopes(&quota["spec"]);
    let kinds =
        [(Evaluator::Pods, &found.pods), (Evaluator::Services, &found.services), (Evaluator::Claims, &found.claims)];
    for (evaluator, objects) in kinds {
        let names: Vec<&str> = hard.names().filter(|name| evaluator.counts(name)).collect();
        if names.is_empty() {
            continue;
        }
        let mut total = Amounts::default();
        for name in &names {
            total.set(*name, Written::ZERO);
        }
        let counted = objects.iter().filter(|object| scopes.iter().all(|scope| evaluator.in_scope(scope, object)));
        for object in counted {
            total.add(&evaluator.usage(object, now));
        }
        used.0.extend(total.masked(names).0);
    }
    for name in hard.names() {
        let Some((group, plural)) = Evaluator::counted_by(name) else { continue };
        // Under a scope nothing is counted that no scope can select.
        let number = if scopes.is_empty() { count(group, plural) } else { Some(0) };
        if let Some(number) = number {
            used.set(name, Written::from_i64(i64::try_from(number).unwrap_or(i64::MAX)));
        }
    }
    let status = &quota["status"];
    let measured = status["hard"].is_object() && status["used"].is_object();
    let same = measured && Amounts::read(&status["hard"]) == hard && before == used;
    (!same).then(|| json!({"hard": hard.to_value(), "used": used.to_value()}))
}

/// When the next pod that is being deleted stops being charged.
pub(super) fn next_release(pods: &[Value], now: Timestamp) -> Option<Duration> {
    let end = |pod: &Value| {
        let metadata = &pod["metadata"];
        let deleted: Timestamp = metadata["deletionTimestamp"].as_str()?.parse().ok()?;
        let grace = metadata["deletionGracePeriodSeconds"].as_i64()?.clamp(0, i64::from(i32::MAX));
        // Charged up to and with this second.
        Some(deleted + SignedDuration::from_secs(grace + 1))
    };
    let next = pods.iter().filter_map(end).filter(|end| *end > now).min()?;
    Duration::try_from(next.duration_since(now)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(cpu: &str, phase: &str) -> Value {
        json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}, "status": {"phase": phase}})
    }

    fn measure(quota: &Value, pods: Vec<Value>) -> Option<Value> {
        let found = Found { pods, services: Vec::new(), claims: Vec::new() };
        let count = |_: &str, plural: &str| (plural == "secrets").then_some(3);
        status(quota, &found, &count, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn what_lives_is_summed_and_written_once() {
        let hard = json!({"pods": "5", "requests.cpu": "2", "count/secrets": "9", "services": "1"});
        let mut quota = json!({"spec": {"hard": hard}});
        let pods = vec![pod("300m", "Running"), pod("200m", "Pending"), pod("1", "Succeeded")];
        let written = measure(&quota, pods.clone()).expect("a first measurement");
        let used = json!({"count/secrets": "3", "pods": "2", "requests.cpu": "500m", "services": "0"});
        assert_eq!(written, json!({"hard": hard, "used": used}));
        quota["status"] = written;
        assert_eq!(measure(&quota, pods), None);
    }

    #[test]
    fn what_cannot_be_counted_yet_keeps_its_number() {
        let mut quota = json!({"spec": {"hard": {"count/jobs.batch": "1", "pods": "1"}}});
        assert_eq!(measure(&quota, vec![]).unwrap()["used"], json!({"pods": "0"}));
        quota["status"] = json!({"hard": {}, "used": {"count/jobs.batch": "1", "gone": "4"}});
        assert_eq!(measure(&quota, vec![]).unwrap()["used"], json!({"count/jobs.batch": "1", "pods": "0"}));
    }

    #[test]
    fn scopes_select_what_is_measured() {
        let quota = json!({"spec": {"hard": {"pods": "5"}, "scopes": ["BestEffort"]}});
        assert_eq!(measure(&quota, vec![pod("1", ""), pod("0", "")]).unwrap()["used"], json!({"pods": "1"}));
    }

    #[test]
    fn a_deleted_pod_is_looked_at_again_when_its_grace_is_over() {
        let pod = json!({"metadata": {"deletionTimestamp": "1970-01-01T00:00:10Z", "deletionGracePeriodSeconds": 30}});
        assert_eq!(next_release(&[pod], Timestamp::UNIX_EPOCH), Some(Duration::from_secs(41)));
        assert_eq!(next_release(&[json!({"metadata": {}})], Timestamp::UNIX_EPOCH), None);
    }
}
