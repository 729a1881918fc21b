//! Whole decisions: status, events, number.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscalerCondition;
use serde_json::{Value, json};

use super::*;
use crate::hpa::fixtures::{NOW, ago, pod};
use crate::hpa::samples::Unavailable;

const SETTINGS: Settings = Settings {
    tolerance: 0.1,
    downscale_stabilization: Duration::from_secs(300),
    timing: Timing {
        cpu_initialization_period: SignedDuration::from_secs(300),
        initial_readiness_delay: SignedDuration::from_secs(30),
    },
};

/// What the new number met with.
#[derive(Clone, Copy, PartialEq)]
enum Write {
    Done,
    Refused,
}

/// An autoscaler of 1 to 10 pods by an external metric that shall be 100 each,
/// over time.
struct Case {
    autoscaler: HorizontalPodAutoscaler,
    scale: Scale,
    answers: Vec<Answer>,
    controlling: Vec<ObjectKey>,
    history: History,
    now: Moment,
    write: Write,
}

fn queue(name: &str) -> Value {
    json!({"type": "External", "external": {"metric": {"name": name}, "target": {"type": "AverageValue", "averageValue": "100"}}})
}

fn cpu() -> Value {
    json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}})
}

fn value(units: i64) -> Answer {
    Answer::Values(Ok(vec![units * 1000]))
}

fn down() -> Answer {
    Answer::Values(Err(Unavailable::new("it is down")))
}

impl Case {
    fn new(replicas: i32, answer: Answer) -> Self {
        let autoscaler = json!({
            "metadata": {"name": "hpa", "namespace": "ns"},
            "spec": {"minReplicas": 1, "maxReplicas": 10, "metrics": [queue("queue")],
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}},
        });
        Self {
            autoscaler: serde_json::from_value(autoscaler).unwrap(),
            scale: Scale { replicas, status_replicas: replicas, selector: "app=web".into() },
            answers: vec![answer],
            controlling: vec![ObjectKey::new("ns", "hpa")],
            history: History::default(),
            now: Moment { wall: NOW, steady: Duration::ZERO },
            write: Write::Done,
        }
    }

    fn limits(mut self, min: i32, max: i32) -> Self {
        self.autoscaler.spec.min_replicas = Some(min);
        self.autoscaler.spec.max_replicas = max;
        self
    }

    fn metrics(mut self, metrics: Value, answers: Vec<Answer>) -> Self {
        self.autoscaler.spec.metrics = serde_json::from_value(metrics).unwrap();
        self.answers = answers;
        self
    }

    /// A look some seconds later. What it wants happens, and its status is the
    /// autoscaler's.
    fn look(&mut self, seconds: u64) -> Report {
        self.now.steady += Duration::from_secs(seconds);
        self.now.wall += SignedDuration::from_secs(seconds as i64);
        let pods: Vec<_> = (0..self.scale.status_replicas).map(|n| pod(&format!("p{n}")).build()).collect();
        let observed = Observed {
            autoscaler: &self.autoscaler,
            scale: &self.scale,
            pods: &pods,
            controlling: &self.controlling,
            answers: &self.answers,
        };
        let decision = decide(&observed, &mut self.history, &SETTINGS, self.now);
        let report = match decision.rescale.clone() {
            None => decision.kept(),
            Some(_) if self.write == Write::Refused => decision.refused("not now"),
            Some(rescale) => {
                self.scale.replicas = rescale.to;
                self.scale.status_replicas = rescale.to;
                decision.rescaled()
            }
        };
        self.autoscaler.status = Some(report.status.clone());
        report
    }
}

/// `Type=Status/Reason`, in order.
fn conditions(report: &Report) -> Vec<String> {
    let told =
        |c: &HorizontalPodAutoscalerCondition| format!("{}={}/{}", c.type_, c.status, c.reason.as_deref().unwrap());
    report.status.conditions.iter().flatten().map(told).collect()
}

fn message<'a>(report: &'a Report, kind: &str) -> &'a str {
    let mut all = report.status.conditions.iter().flatten();
    all.find(|condition| condition.type_ == kind).and_then(|condition| condition.message.as_deref()).unwrap()
}

/// `Reason: message`, in order.
fn events(report: &Report) -> Vec<String> {
    report.events.iter().map(|event| format!("{}: {}", event.reason, event.message)).collect()
}

#[test]
fn a_metric_above_its_target_brings_more_pods() {
    let mut case = Case::new(2, value(400));
    let report = case.look(0);
    assert_eq!(
        conditions(&report),
        [
            "AbleToScale=True/SucceededRescale",
            "ScalingActive=True/ValidMetricFound",
            "ScalingLimited=False/DesiredWithinRange"
        ]
    );
    assert_eq!(events(&report), ["SuccessfulRescale: New size: 4; reason: external metric queue(nil) above target"]);
    assert_eq!(message(&report, "AbleToScale"), "the HPA controller was able to update the target scale to 4");
    assert_eq!(
        message(&report, "ScalingActive"),
        "the HPA was able to successfully calculate a replica count from external metric queue(nil)"
    );
    let status = &report.status;
    assert_eq!((status.current_replicas, status.desired_replicas), (Some(2), 4));
    assert_eq!(status.last_scale_time, Some(Time(NOW)));
    assert_eq!(
        serde_json::to_value(&status.current_metrics).unwrap(),
        json!([{"type": "External", "external": {"metric": {"name": "queue"}, "current": {"averageValue": "200"}}}])
    );
    assert!(!report.failed);
}

#[test]
fn a_number_that_stays_is_only_told() {
    let mut case = Case::new(4, value(400));
    let report = case.look(0);
    assert_eq!(
        conditions(&report),
        [
            "AbleToScale=True/ReadyForNewScale",
            "ScalingActive=True/ValidMetricFound",
            "ScalingLimited=False/DesiredWithinRange"
        ]
    );
    assert!(events(&report).is_empty());
    assert_eq!((report.status.current_replicas, report.status.desired_replicas), (Some(4), 4));
    assert_eq!(report.status.last_scale_time, None);
    let first = report.status.clone();
    assert_eq!(case.look(15).status, first, "nothing is written for ever");
}

#[test]
fn a_scale_down_waits_for_the_window_and_says_so() {
    let mut case = Case::new(4, value(100));
    let report = case.look(0);
    assert_eq!(conditions(&report)[0], "AbleToScale=True/ScaleDownStabilized");
    assert_eq!(report.status.desired_replicas, 4);
    assert_eq!(case.look(299).status.desired_replicas, 4);
    let report = case.look(2);
    assert_eq!(events(&report), ["SuccessfulRescale: New size: 1; reason: All metrics below target"]);
    assert_eq!(report.status.desired_replicas, 1);
}

#[test]
fn a_clock_that_is_set_moves_no_window() {
    let mut case = Case::new(4, value(100));
    case.look(0);
    case.now.wall += SignedDuration::from_hours(24);
    assert_eq!(case.look(100).status.desired_replicas, 4);
    case.now.wall -= SignedDuration::from_hours(48);
    assert_eq!(case.look(201).status.desired_replicas, 1);
}

#[test]
fn the_limits_count_without_metrics() {
    let mut case = Case::new(1, down()).limits(3, 5);
    let report = case.look(0);
    assert_eq!(
        events(&report),
        ["SuccessfulRescale: New size: 3; reason: Current number of replicas below Spec.MinReplicas"]
    );
    assert_eq!(conditions(&report), ["AbleToScale=True/SucceededRescale"]);
    assert_eq!((report.status.current_replicas, report.status.current_metrics), (Some(1), None));
    let mut case = Case::new(9, down()).limits(3, 5);
    assert_eq!(
        events(&case.look(0)),
        ["SuccessfulRescale: New size: 5; reason: Current number of replicas above Spec.MaxReplicas"]
    );
}

#[test]
fn limits_are_told_when_they_change_the_number() {
    let mut case = Case::new(5, value(2000));
    let report = case.look(0);
    assert_eq!(conditions(&report)[2], "ScalingLimited=True/TooManyReplicas");
    assert_eq!(message(&report, "ScalingLimited"), "the desired replica count is more than the maximum replica count");
    assert_eq!(report.status.desired_replicas, 10);
    let mut case = Case::new(3, value(10)).limits(2, 10);
    case.autoscaler.spec.behavior =
        serde_json::from_value(json!({"scaleDown": {"stabilizationWindowSeconds": 0}})).unwrap();
    let report = case.look(0);
    assert_eq!(conditions(&report)[2], "ScalingLimited=True/TooFewReplicas");
    assert_eq!(report.status.desired_replicas, 2);
}

#[test]
fn zero_that_somebody_else_brought_about_turns_scaling_off() {
    for min in [0, 1] {
        let report = Case::new(0, value(500)).limits(min, 10).look(0);
        assert_eq!(conditions(&report), ["AbleToScale=True/SucceededGetScale", "ScalingActive=False/ScalingDisabled"]);
        assert_eq!(
            message(&report, "ScalingActive"),
            "scaling is disabled since the replica count of the target is zero"
        );
        assert_eq!((report.status.current_replicas, report.status.desired_replicas), (None, 0));
        assert!(report.events.is_empty() && !report.failed);
    }
}

#[test]
fn zero_that_metrics_brought_about_is_left_by_metrics() {
    let mut case = Case::new(1, value(0)).limits(0, 10);
    let report = case.look(400);
    assert_eq!(events(&report), [] as [&str; 0], "the first look holds what it finds");
    let report = case.look(400);
    assert_eq!(events(&report), ["SuccessfulRescale: New size: 0; reason: All metrics below target"]);
    assert_eq!(conditions(&report).last().unwrap(), "ScaledToZero=True/ScaledToZero");
    let report = case.look(15);
    assert!(report.events.is_empty());
    assert_eq!((report.status.current_replicas, report.status.desired_replicas), (None, 0));
    case.answers = vec![value(250)];
    let report = case.look(15);
    assert_eq!(events(&report), ["SuccessfulRescale: New size: 3; reason: external metric queue(nil) above target"]);
    assert_eq!(conditions(&report).last().unwrap(), "ScaledToZero=False/NotScaledToZero");
}

/// One that metrics have brought to zero.
fn asleep(case: Case) -> Case {
    let mut case = case.limits(0, 10);
    case.look(400);
    case.look(400);
    assert_eq!(case.scale.replicas, 0);
    case
}

#[test]
fn a_minimum_above_zero_ends_zero() {
    let mut case = asleep(Case::new(1, value(0))).limits(2, 10);
    assert_eq!(
        events(&case.look(15)),
        ["SuccessfulRescale: New size: 2; reason: Current number of replicas below Spec.MinReplicas"]
    );
}

#[test]
fn who_wakes_it_by_hand_may_make_it_zero_for_good() {
    let mut case = asleep(Case::new(1, value(0)));
    case.scale = Scale { replicas: 1, status_replicas: 1, ..case.scale };
    case.answers = vec![value(100)];
    assert!(conditions(&case.look(15)).contains(&"ScaledToZero=False/NotScaledToZero".to_owned()));
    case.scale = Scale { replicas: 0, status_replicas: 0, ..case.scale };
    assert!(conditions(&case.look(15)).contains(&"ScalingActive=False/ScalingDisabled".to_owned()));
}

#[test]
fn metrics_of_pods_bring_zero_about_and_leave_it_to_others_or_to_the_minimum() {
    let used = |cpu: i64| {
        let sample = crate::hpa::samples::Sample { at: NOW, window: SignedDuration::from_secs(1), milli: cpu };
        Answer::Pods(Ok(BTreeMap::from([("p0".to_owned(), sample)])))
    };
    let mean = json!([{"type": "Pods", "pods": {"metric": {"name": "rps"}, "target": {"type": "AverageValue", "averageValue": "10"}}}]);
    let mut case = asleep(Case::new(1, used(0)).metrics(mean, vec![used(0)]));
    assert_eq!(case.autoscaler.status.as_ref().unwrap().conditions.as_ref().unwrap().last().unwrap().status, "True");
    case.answers = vec![down()];
    let report = case.look(15);
    assert!(conditions(&report).contains(&"ScalingActive=False/ScalingDisabled".to_owned()));
    assert!(!report.failed);
    let mut case = case.limits(1, 10);
    assert_eq!(
        events(&case.look(15)),
        ["SuccessfulRescale: New size: 1; reason: Current number of replicas below Spec.MinReplicas"]
    );
}

#[test]
fn an_autoscaler_that_never_knew_zero_says_nothing_of_it() {
    let report = Case::new(2, value(400)).look(0);
    assert!(!conditions(&report).iter().any(|condition| condition.starts_with("ScaledToZero")));
}

#[test]
fn without_a_metric_nothing_changes_and_everything_is_said() {
    let mut case = Case::new(3, down());
    case.autoscaler.status = Some(HorizontalPodAutoscalerStatus { desired_replicas: 3, ..Default::default() });
    let report = case.look(0);
    let cause = "unable to get external metric ns/queue/nil: it is down";
    assert_eq!(
        conditions(&report),
        ["AbleToScale=True/SucceededGetScale", "ScalingActive=False/FailedGetExternalMetric"]
    );
    assert_eq!(message(&report, "ScalingActive"), format!("the HPA was unable to compute the replica count: {cause}"));
    let whole = "invalid metrics (1 invalid out of 1), first error is: failed to get queue external metric value: \
                 failed to get queue external metric: ";
    assert_eq!(
        events(&report),
        [format!("FailedGetExternalMetric: {cause}"), format!("FailedComputeMetricsReplicas: {whole}{cause}")]
    );
    assert_eq!(serde_json::to_value(&report.status.current_metrics).unwrap(), json!([{"type": ""}]));
    assert_eq!((report.status.current_replicas, report.status.desired_replicas), (Some(3), 3));
    assert!(report.failed);
}

#[test]
fn the_metric_that_asks_for_most_wins() {
    let metrics = json!([queue("one"), queue("two"), queue("three")]);
    let mut case = Case::new(4, down()).metrics(metrics, vec![value(500), value(700), value(300)]);
    assert_eq!(
        events(&case.look(0)),
        ["SuccessfulRescale: New size: 7; reason: external metric two(nil) above target"]
    );
}

#[test]
fn a_metric_that_fails_prevents_only_fewer_pods() {
    let metrics = json!([queue("one"), queue("two")]);
    let mut case = Case::new(4, down()).metrics(metrics.clone(), vec![down(), value(700)]);
    let report = case.look(0);
    assert_eq!(
        events(&report),
        [
            "FailedGetExternalMetric: unable to get external metric ns/one/nil: it is down",
            "SuccessfulRescale: New size: 7; reason: external metric two(nil) above target"
        ]
    );
    assert!(conditions(&report).contains(&"ScalingActive=True/ValidMetricFound".to_owned()));
    assert_eq!(
        report.status.current_metrics.as_ref().unwrap().iter().map(|one| one.type_.as_str()).collect::<Vec<_>>(),
        ["", "External"]
    );
    let mut case = Case::new(4, down()).metrics(metrics, vec![value(100), down()]);
    let report = case.look(400);
    assert!(conditions(&report).contains(&"ScalingActive=False/FailedGetExternalMetric".to_owned()));
    assert!(
        events(&report)[1].starts_with("FailedComputeMetricsReplicas: invalid metrics (1 invalid out of 2), first")
    );
    assert_eq!(case.scale.replicas, 4);
}

#[test]
fn a_scale_must_select_pods_and_nobody_elses() {
    let mut case = Case::new(2, value(400));
    case.scale.selector = String::new();
    let report = case.look(0);
    assert_eq!(
        events(&report),
        ["SelectorRequired: selector is required", "FailedComputeMetricsReplicas: selector is required"]
    );
    assert_eq!(conditions(&report)[1], "ScalingActive=False/InvalidSelector");
    assert_eq!(message(&report, "ScalingActive"), "the HPA target's scale is missing a selector");

    case.scale.selector = "a b".into();
    let report = case.look(15);
    assert!(
        message(&report, "ScalingActive")
            .starts_with("couldn't convert selector into a corresponding internal selector object: ")
    );

    case.scale.selector = "app=web".into();
    case.controlling.push(ObjectKey::new("ns", "other"));
    let report = case.look(15);
    let words = "pods by selector app=web are controlled by multiple HPAs: [{hpa ns} {other ns}]";
    assert_eq!(
        events(&report),
        [format!("AmbiguousSelector: {words}"), format!("FailedComputeMetricsReplicas: {words}")]
    );
    assert_eq!(conditions(&report)[1], "ScalingActive=False/AmbiguousSelector");
    assert_eq!(case.scale.replicas, 2);
}

#[test]
fn a_scale_that_cannot_be_written_is_told_and_tried_again() {
    let mut case = Case::new(2, value(400));
    case.write = Write::Refused;
    let report = case.look(0);
    assert_eq!(conditions(&report)[0], "AbleToScale=False/FailedUpdateScale");
    assert_eq!(message(&report, "AbleToScale"), "the HPA controller was unable to update the target scale: not now");
    assert_eq!(
        events(&report),
        ["FailedRescale: New size: 4; reason: external metric queue(nil) above target; error: not now"]
    );
    assert!(report.failed);
    case.write = Write::Done;
    assert_eq!(case.look(1).status.desired_replicas, 4);
}

#[test]
fn a_scale_that_cannot_be_read_leaves_the_rest_as_it_was() {
    let mut case = Case::new(2, value(400));
    case.look(0);
    let report = without_scale(&case.autoscaler, "deployments.apps \"web\" not found", case.now);
    assert_eq!(conditions(&report)[0], "AbleToScale=False/FailedGetScale");
    assert_eq!(
        message(&report, "AbleToScale"),
        "the HPA controller was unable to get the target's current scale: deployments.apps \"web\" not found"
    );
    assert_eq!(events(&report), ["FailedGetScale: deployments.apps \"web\" not found"]);
    assert_eq!((report.status.current_replicas, report.status.desired_replicas), (Some(2), 4));
}

#[test]
fn pods_on_their_way_are_waited_for() {
    let case = Case::new(2, value(200)).metrics(json!([cpu()]), vec![down()]);
    let pods = [pod("p0").build(), pod("p1").phase("Pending").ready(false, ago(5)).build()];
    let observed = |pods| Observed {
        autoscaler: &case.autoscaler,
        scale: &case.scale,
        pods,
        controlling: &case.controlling,
        answers: &case.answers,
    };
    let unsettled = |pods| decide(&observed(pods), &mut History::default(), &SETTINGS, case.now).kept().unsettled;
    assert!(unsettled(&pods[..]));
    assert!(!unsettled(&pods[..1]));
}
