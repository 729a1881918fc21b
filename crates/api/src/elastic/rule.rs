//! Which rule of sleep holds for a pod: its own label, the oldest policy that
//! selects it, or its namespace's label.

use std::sync::Arc;
use std::time::Duration;

use super::{IDLE_AFTER_LABEL, NEVER, SleepPolicy, duration};
use crate::selector::{Labels, Selector};

/// What holds for a pod.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Rule<'a> {
    /// It stays awake.
    Awake,
    /// By a label, after so long without activity.
    After(Duration),
    /// What the policy says.
    Policy(&'a SleepPolicy),
}

/// The rule for a pod with these labels. `policies` are those of its namespace.
/// A label that is no duration is as if it were not there.
pub fn rule<'a>(pod: &Labels, namespace: Option<&Labels>, policies: &'a [Arc<SleepPolicy>]) -> Rule<'a> {
    if let Some(label) = pod.get(IDLE_AFTER_LABEL) {
        if label == NEVER {
            return Rule::Awake;
        }
        if let Some(after) = duration::parse(label) {
            return Rule::After(after);
        }
    }
    if let Some(policy) = chosen(pod, policies) {
        return Rule::Policy(policy);
    }
    let label = namespace.and_then(|labels| labels.get(IDLE_AFTER_LABEL));
    label.and_then(|label| duration::parse(label)).map_or(Rule::Awake, Rule::After)
}

/// The oldest policy that selects the pod; of two of one age, the first by name.
fn chosen<'a>(pod: &Labels, policies: &'a [Arc<SleepPolicy>]) -> Option<&'a SleepPolicy> {
    let selects = |policy: &&Arc<SleepPolicy>| match &policy.spec.selector {
        None => true,
        selector => Selector::from_label_selector(selector.as_ref()).is_ok_and(|selector| selector.matches(pod)),
    };
    let age = |policy: &&Arc<SleepPolicy>| {
        (policy.metadata.creation_timestamp.as_ref().map(|time| time.0), policy.metadata.name.clone())
    };
    let alive = policies.iter().filter(|policy| policy.metadata.deletion_timestamp.is_none());
    alive.filter(selects).min_by_key(age).map(|policy| &**policy)
}
