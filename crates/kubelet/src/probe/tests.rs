//! Thresholds, order between probes, and rest while a pod sleeps.

use api::types::api::core::v1 as core;
use containers::runtime::ContainerId;
use serde_json::json;

use super::*;
use crate::plan::tests::{observe, pod};

fn prober(container: serde_json::Value) -> (Prober, core::Pod) {
    let pod = pod(json!({"containers": [container]}));
    let mut prober = Prober::default();
    prober.sync(&pod, &observe(&pod, Some(true), &["c=running"]));
    (prober, pod)
}

fn id() -> ContainerId {
    ContainerId("c-0".into())
}

fn feed(prober: &mut Prober, kind: Kind, ok: bool) -> bool {
    let outcome = if ok { Outcome::Success } else { Outcome::Failure("no".into()) };
    prober.record(Finished { id: id(), kind, outcome }).expect("a probe").changed
}

#[tokio::test]
async fn thresholds_count_results_in_a_row() {
    let (mut prober, _pod) =
        prober(json!({"name": "c", "readinessProbe": {"exec": {}, "successThreshold": 2, "failureThreshold": 2}}));
    assert_eq!(prober.results()[&id()].readiness, Some(Verdict::Failure));
    assert!(!feed(&mut prober, Kind::Readiness, true));
    assert!(!feed(&mut prober, Kind::Readiness, false));
    assert!(!feed(&mut prober, Kind::Readiness, true));
    assert!(feed(&mut prober, Kind::Readiness, true));
    assert!(!feed(&mut prober, Kind::Readiness, false));
    assert!(feed(&mut prober, Kind::Readiness, false));
}

#[tokio::test]
async fn other_probes_wait_for_the_startup_probe() {
    let (mut prober, _pod) = prober(json!({"name": "c", "startupProbe": {"exec": {}, "failureThreshold": 2},
        "livenessProbe": {"exec": {}, "initialDelaySeconds": 60, "failureThreshold": 1}}));
    let due = |p: &Prober| p.probes.iter().filter(|x| p.may_run(x)).map(|x| x.kind).collect::<Vec<_>>();
    assert_eq!(due(&prober), [Kind::Startup]);
    assert!(feed(&mut prober, Kind::Startup, true));
    assert_eq!(due(&prober), [Kind::Liveness]);
    assert!(feed(&mut prober, Kind::Liveness, false));
    assert_eq!(due(&prober), [], "a failed liveness probe waits for the next container");
}

#[tokio::test]
async fn a_sleeping_pod_is_not_probed_and_the_first_probe_after_waits_its_period() {
    let (mut prober, _pod) = prober(json!({"name": "c", "readinessProbe": {"exec": {}, "periodSeconds": 7}}));
    assert!(prober.next_due().is_some());
    prober.pause();
    assert_eq!(prober.next_due(), None);
    prober.resume();
    let wait = prober.next_due().expect("due") - Instant::now();
    assert!(wait > Duration::from_secs(6) && wait <= Duration::from_secs(7), "{wait:?}");
}

#[tokio::test]
async fn a_container_of_a_former_run_stays_as_the_api_shows_it() {
    let pod = pod(json!({"containers": [{"name": "c", "startupProbe": {"exec": {}}, "readinessProbe": {"exec": {}}}]}));
    let observed = observe(&pod, Some(true), &["c=running"]);
    let status: core::PodStatus = serde_json::from_value(json!({"containerStatuses": [
        {"name": "c", "containerID": "darter://c-0", "ready": true, "started": true, "image": "", "imageID": "", "restartCount": 0}]})).expect("a status");
    let mut prober = Prober::default();
    prober.adopt(&observed, &status, "darter");
    prober.sync(&pod, &observed);
    let results = prober.results()[&id()];
    assert_eq!((results.startup, results.readiness), (Some(Verdict::Success), Some(Verdict::Success)));
}
