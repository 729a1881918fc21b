//! What a namespace's conditions say after an attempt to empty it. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{NamespaceCondition, NamespaceStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Time in which finalizers are expected to be done, in seconds.
pub(super) const FINALIZER_ESTIMATE_SECONDS: i64 = 15;

/// What was seen while emptying a namespace.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Outcome {
    /// Why not all that is served is known.
    pub(super) discovery_failure: Option<String>,
    /// What could not be deleted.
    pub(super) failures: Vec<String>,
    /// Objects left, by resource and group.
    pub(super) remaining: BTreeMap<(String, String), usize>,
    /// Objects left, by finalizer.
    pub(super) finalizers: BTreeMap<String, usize>,
    /// Seconds after which it is expected to be empty.
    pub(super) estimate_seconds: i64,
    /// Only pods were looked at: the rest waits for them.
    pub(super) is_pods_only: bool,
}

struct Said {
    kind: &'static str,
    reason: &'static str,
    message: String,
    status: &'static str,
}

/// The status that says so; none if it does already.
pub(super) fn status(before: &NamespaceStatus, outcome: &Outcome, now: Timestamp) -> Option<NamespaceStatus> {
    let mut status = before.clone();
    let conditions = status.conditions.get_or_insert_default();
    let mut changed = false;
    for said in said(outcome) {
        match conditions.iter_mut().find(|condition| condition.type_ == said.kind) {
            None => {
                conditions.push(NamespaceCondition {
                    type_: said.kind.into(),
                    status: said.status.into(),
                    reason: Some(said.reason.into()),
                    message: Some(said.message),
                    last_transition_time: Some(Time(now)),
                });
                changed = true;
            }
            Some(condition) => {
                let is_same = condition.status == said.status
                    && condition.reason.as_deref() == Some(said.reason)
                    && condition.message.as_deref() == Some(&said.message);
                if !is_same {
                    if condition.status != said.status {
                        condition.last_transition_time = Some(Time(now));
                    }
                    condition.status = said.status.into();
                    condition.reason = Some(said.reason.into());
                    condition.message = Some(said.message);
                    changed = true;
                }
            }
        }
    }
    changed.then_some(status)
}

/// In upstream's order.
fn said(outcome: &Outcome) -> [Said; 5] {
    // While pods remain the totals are not known and not said.
    let totals = !outcome.is_pods_only;
    let list = |items: Vec<String>| {
        let mut items = items;
        items.sort();
        (!items.is_empty()).then(|| items.join(", "))
    };
    let remaining = outcome.remaining.iter().filter(|_| totals);
    let remaining = remaining.map(|((resource, group), count)| format!("{resource}.{group} has {count} resource instances"));
    let finalizers = outcome.finalizers.iter().filter(|_| totals);
    let finalizers = finalizers.map(|(finalizer, count)| format!("{finalizer} in {count} resource instances"));
    let failures = list(outcome.failures.clone());
    let failures = failures.map(|text| {
        format!("Failed to delete all resource types, {} remaining: {text}", outcome.failures.len())
    });
    let remaining = list(remaining.collect()).map(|text| format!("Some resources are remaining: {text}"));
    let finalizers = list(finalizers.collect())
        .map(|text| format!("Some content in the namespace has finalizers remaining: {text}"));
    [
        one(
            "NamespaceDeletionDiscoveryFailure",
            ("DiscoveryFailed", outcome.discovery_failure.clone()),
            ("ResourcesDiscovered", "All resources successfully discovered"),
        ),
        one(
            "NamespaceDeletionGroupVersionParsingFailure",
            ("GroupVersionParsingFailed", None),
            ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
        ),
        one(
            "NamespaceDeletionContentFailure",
            ("ContentDeletionFailed", failures),
            ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
        ),
        one(
            "NamespaceContentRemaining",
            ("SomeResourcesRemain", remaining),
            ("ContentRemoved", "All content successfully removed"),
        ),
        one(
            "NamespaceFinalizersRemaining",
            ("SomeFinalizersRemain", finalizers),
            ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
        ),
    ]
}

fn one(kind: &'static str, bad: (&'static str, Option<String>), good: (&'static str, &str)) -> Said {
    match bad {
        (reason, Some(message)) => Said { kind, reason, message, status: "True" },
        (_, None) => Said { kind, reason: good.0, message: good.1.into(), status: "False" },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_remains_is_named_with_counts_and_said_once() {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let outcome = Outcome {
            remaining: BTreeMap::from([(("configmaps".into(), String::new()), 2)]),
            finalizers: BTreeMap::from([("example.com/keep".into(), 2)]),
            ..Outcome::default()
        };
        let said = status(&NamespaceStatus::default(), &outcome, now).unwrap();
        let messages: Vec<_> = said.conditions.iter().flatten().filter(|condition| condition.status == "True").collect();
        assert_eq!(messages.len(), 2);
        assert_eq!(messages[0].message.as_deref(), Some("Some resources are remaining: configmaps. has 2 resource instances"));
        assert_eq!(status(&said, &outcome, now), None);
        let empty = status(&said, &Outcome::default(), now).unwrap();
        assert!(empty.conditions.iter().flatten().all(|condition| condition.status == "False"));
    }
}
