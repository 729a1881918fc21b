//! What calls for a look before the sample period is over. When the look is
//! made is `pace`'s business.

use client::{Delta, ObjectKey};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Pod;

use super::grouping::{phase, ready_condition};
use super::memory::Memories;

/// An autoscaler came, went or says something else. What is written about it
/// calls for nothing.
pub(crate) fn of_autoscaler(delta: &Delta<HorizontalPodAutoscaler>) -> Option<ObjectKey> {
    let object = delta.object();
    let news = delta.old().is_none_or(|old| old.spec != object.spec);
    news.then(|| ObjectKey::of(&**object))
}

/// The autoscalers that a pod's change concerns: when pods come or go, and
/// while a number could not be told or waits for pods, when they get ready.
pub(crate) fn of_pod(delta: &Delta<Pod>, memories: &Memories) -> Vec<ObjectKey> {
    let new = (!matches!(delta, Delta::Deleted(_))).then(|| delta.object());
    let old = if let Delta::Deleted(old) = delta { Some(old) } else { delta.old() };
    let (was, is) = (old.map(|pod| Facts::of(pod)), new.map(|pod| Facts::of(pod)));
    let counted = |facts: &Option<Facts>| facts.as_ref().is_some_and(|facts| facts.counts);
    let came_or_went = counted(&was) != counted(&is);
    let relabelled = matches!((old, new), (Some(old), Some(new)) if old.metadata.labels != new.metadata.labels);
    if was == is && !relabelled {
        return Vec::new();
    }
    let namespace = delta.object().metadata.namespace.as_deref().unwrap_or_default();
    memories.keys(namespace, |memory| {
        let waits = memory.failures > 0 || memory.unsettled;
        let concerns = |pod: Option<&std::sync::Arc<Pod>>| pod.is_some_and(|pod| memory.concerns(pod));
        (came_or_went || relabelled || waits) && (concerns(old) || concerns(new))
    })
}

/// What matters of a pod.
#[derive(PartialEq)]
struct Facts {
    /// Neither finished nor on its way out.
    counts: bool,
    phase: String,
    ready: Option<String>,
}

impl Facts {
    fn of(pod: &Pod) -> Self {
        let phase = phase(pod).to_owned();
        let ended = matches!(phase.as_str(), "Failed" | "Succeeded");
        let counts = pod.metadata.deletion_timestamp.is_none() && !ended;
        Self { counts, phase, ready: ready_condition(pod).map(|condition| condition.status.clone()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hpa::fixtures::{ago, pod};
    use api::selector::Selector;

    fn memories(failures: u32) -> Memories {
        let memories = Memories::default();
        for (name, selector) in [("web", Some("app=web")), ("api", Some("app=api")), ("new", None)] {
            memories.with(&ObjectKey::new("ns", name), "", |memory| {
                memory.selector = selector.map(|text| Selector::parse(text).unwrap());
                memory.failures = failures;
            });
        }
        memories
    }

    fn names(delta: &Delta<Pod>, failures: u32) -> Vec<String> {
        of_pod(delta, &memories(failures)).iter().map(|key| key.name.to_string()).collect()
    }

    #[test]
    fn a_pod_that_comes_or_goes_concerns_those_who_may_control_it() {
        let web = || pod("a").label("app", "web");
        assert_eq!(names(&Delta::Added(web().build()), 0), ["new", "web"]);
        assert_eq!(names(&Delta::Deleted(web().build()), 0), ["new", "web"]);
        assert_eq!(names(&Delta::Updated { old: web().build(), new: web().deleted().build() }, 0), ["new", "web"]);
        assert!(names(&Delta::Updated { old: web().build(), new: web().build() }, 1).is_empty());
        let relabelled = Delta::Updated { old: web().build(), new: pod("a").label("app", "api").build() };
        assert_eq!(names(&relabelled, 0), ["api", "new", "web"]);
    }

    #[test]
    fn readiness_concerns_those_who_wait_for_it() {
        let web = || pod("a").label("app", "web");
        let ready = Delta::Updated { old: web().ready(false, ago(9)).build(), new: web().build() };
        assert!(names(&ready, 0).is_empty());
        assert_eq!(names(&ready, 1), ["new", "web"]);
    }
}
