//! Which pods' samples count: upstream's `groupPods`. How those that do not
//! count are made up for is `arithmetic`'s business.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodCondition};

use super::samples::{Sample, Samples};

/// Times during which a starting pod's CPU says nothing about load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Timing {
    /// After its start a pod's CPU counts only if it is ready and the sample
    /// was taken wholly since.
    pub(crate) cpu_initialization_period: SignedDuration,
    /// A pod that became unready this soon after its start never was ready.
    pub(crate) initial_readiness_delay: SignedDuration,
}

/// Pods by name, each in one group; `ready` is only counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Groups {
    /// Pods whose samples count.
    pub(crate) ready: usize,
    /// Their samples, if any, say nothing yet.
    pub(crate) unready: BTreeSet<String>,
    /// There is no sample of them.
    pub(crate) missing: BTreeSet<String>,
    /// On their way out or failed.
    pub(crate) ignored: BTreeSet<String>,
}

impl Groups {
    /// Takes away the samples that do not count.
    pub(crate) fn drop_uncounted(&self, samples: &mut Samples) {
        samples.retain(|name, _| !self.ignored.contains(name) && !self.unready.contains(name));
    }
}

/// Groups the pods for one metric. `cpu`: the metric is CPU, which starting
/// pods use for other things than load.
pub(crate) fn group(pods: &[Arc<Pod>], samples: &Samples, cpu: bool, timing: Timing, now: Timestamp) -> Groups {
    let mut groups = Groups::default();
    for pod in pods {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let phase = phase(pod);
        if pod.metadata.deletion_timestamp.is_some() || phase == "Failed" {
            groups.ignored.insert(name);
        } else if phase == "Pending" {
            groups.unready.insert(name);
        } else {
            match samples.get(&name) {
                None => {
                    groups.missing.insert(name);
                }
                Some(sample) if cpu && says_nothing(pod, *sample, timing, now) => {
                    groups.unready.insert(name);
                }
                Some(_) => groups.ready += 1,
            }
        }
    }
    groups
}

/// True if a CPU sample of this pod is not about load.
fn says_nothing(pod: &Pod, sample: Sample, timing: Timing, now: Timestamp) -> bool {
    let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref());
    let (Some(ready), Some(started)) = (ready_condition(pod), started) else { return true };
    let changed = ready.last_transition_time.as_ref().map_or(Timestamp::MIN, |time| time.0);
    let unready = ready.status == "False";
    if now.duration_since(started.0) < timing.cpu_initialization_period {
        unready || sample.at.duration_since(changed) < sample.window
    } else {
        unready && changed.duration_since(started.0) < timing.initial_readiness_delay
    }
}

/// The phase; empty if there is none.
pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// The Ready condition.
pub(crate) fn ready_condition(pod: &Pod) -> Option<&PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_deref()?;
    conditions.iter().find(|condition| condition.type_ == "Ready")
}

/// How many run and are ready.
pub(crate) fn count_ready(pods: &[Arc<Pod>]) -> usize {
    let ready = |pod: &Pod| ready_condition(pod).is_some_and(|condition| condition.status == "True");
    pods.iter().filter(|pod| phase(pod) == "Running" && ready(pod)).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hpa::fixtures::{NOW, ago, pod, samples};

    const TIMING: Timing = Timing {
        cpu_initialization_period: SignedDuration::from_secs(300),
        initial_readiness_delay: SignedDuration::from_secs(30),
    };

    /// The group of one pod with a sample that ends now and spans `window` seconds.
    fn group_of(pod: &Arc<Pod>, window: i64, cpu: bool) -> &'static str {
        let mut samples = samples(&[("a", 100)]);
        samples.get_mut("a").unwrap().window = SignedDuration::from_secs(window);
        let groups = group(std::slice::from_ref(pod), &samples, cpu, TIMING, NOW);
        match (groups.ready, groups.unready.len(), groups.missing.len(), groups.ignored.len()) {
            (1, 0, 0, 0) => "ready",
            (0, 1, 0, 0) => "unready",
            (0, 0, 1, 0) => "missing",
            (0, 0, 0, 1) => "ignored",
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_phase_and_the_deletion_come_before_samples() {
        for cpu in [true, false] {
            assert_eq!(group_of(&pod("a").phase("Failed").build(), 30, cpu), "ignored");
            assert_eq!(group_of(&pod("a").deleted().build(), 30, cpu), "ignored");
            assert_eq!(group_of(&pod("a").phase("Pending").build(), 30, cpu), "unready");
            assert_eq!(group_of(&pod("b").build(), 30, cpu), "missing");
        }
    }

    #[test]
    fn readiness_matters_for_cpu_alone() {
        let unready = pod("a").started(ago(100)).ready(false, ago(100)).build();
        assert_eq!(group_of(&unready, 30, true), "unready");
        assert_eq!(group_of(&unready, 30, false), "ready");
        let silent = pod("a").without_conditions().build();
        assert_eq!(group_of(&silent, 30, true), "unready");
        assert_eq!(group_of(&silent, 30, false), "ready");
    }

    #[test]
    fn a_starting_pod_counts_once_a_whole_sample_was_taken_while_it_was_ready() {
        let starting = pod("a").started(ago(60)).ready(true, ago(20)).build();
        assert_eq!(group_of(&starting, 21, true), "unready");
        assert_eq!(group_of(&starting, 20, true), "ready");
        let old = pod("a").started(ago(300)).ready(true, ago(20)).build();
        assert_eq!(group_of(&old, 3600, true), "ready");
    }

    #[test]
    fn a_pod_that_was_ready_once_counts_although_it_is_not_now() {
        let lost = pod("a").started(ago(400)).ready(false, ago(370)).build();
        assert_eq!(group_of(&lost, 30, true), "ready");
        let never = pod("a").started(ago(400)).ready(false, ago(371)).build();
        assert_eq!(group_of(&never, 30, true), "unready");
    }

    #[test]
    fn only_running_ready_pods_count_as_ready() {
        let pods = [
            pod("a").build(),
            pod("b").ready(false, ago(100)).build(),
            pod("c").phase("Pending").build(),
            pod("d").deleted().build(),
        ];
        assert_eq!(count_ready(&pods), 2);
    }
}
