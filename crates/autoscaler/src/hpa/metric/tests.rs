//! Each kind of metric: its number, its name, its report; and how it fails.

use jiff::SignedDuration;
use serde_json::{Value, json};

use super::*;
use crate::hpa::fixtures::{NOW, pod, samples};

const TOLERANCES: Tolerances = Tolerances { down: 0.1, up: 0.1 };

fn timing() -> Timing {
    Timing {
        cpu_initialization_period: SignedDuration::from_secs(300),
        initial_readiness_delay: SignedDuration::from_secs(30),
    }
}

/// Two ready pods that request a whole CPU each, in two containers.
fn evaluate_with(replicas: i32, spec: Value, answer: &Answer) -> Result<Proposal, Failure> {
    let one = |name| pod(name).container("web", "600m").container("log", "400m").build();
    let pods = [one("a"), one("b")];
    let pods = if replicas == 0 { &pods[..0] } else { &pods[..] };
    let scene = Scene {
        namespace: "ns",
        replicas,
        status_replicas: replicas,
        pods,
        tolerances: TOLERANCES,
        timing: timing(),
        now: NOW,
    };
    evaluate(&serde_json::from_value(spec).unwrap(), answer, &scene)
}

fn check(spec: Value, answer: &Answer, replicas: i32, name: &str, status: Value) {
    let proposal = evaluate_with(2, spec, answer).unwrap();
    assert_eq!((proposal.replicas, proposal.name.as_str()), (replicas, name));
    assert_eq!(serde_json::to_value(&proposal.status).unwrap(), status);
}

fn fails(spec: Value, answer: &Answer) -> (&'static str, String, String) {
    let failure = evaluate_with(2, spec, answer).unwrap_err();
    (failure.reason, failure.cause.to_string(), format!("{}{}", failure.context, failure.cause))
}

fn of_pods(values: &[(&str, i64)]) -> Answer {
    Answer::Pods(Ok(samples(values)))
}

fn down() -> Unavailable {
    Unavailable::new("it is down")
}

#[test]
fn a_resource_is_told_in_per_cent_and_in_its_own_unit() {
    let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}});
    check(
        cpu,
        &of_pods(&[("a", 900), ("b", 700)]),
        4,
        "cpu resource utilization (percentage of request)",
        json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 80, "averageValue": "800m"}}}),
    );
    let memory = json!({"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Mi"}}});
    check(
        memory.clone(),
        &of_pods(&[("a", 3 << 30), ("b", 1 << 30)]),
        5,
        "memory resource",
        json!({"type": "Resource", "resource": {"name": "memory", "current": {"averageValue": "2147483648m"}}}),
    );
    check(
        memory,
        &of_pods(&[("a", 3000 << 20), ("b", 1000 << 20)]),
        4,
        "memory resource",
        json!({"type": "Resource", "resource": {"name": "memory", "current": {"averageValue": "2Mi"}}}),
    );
}

#[test]
fn a_container_is_told_against_its_own_request() {
    check(
        json!({"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "log",
            "target": {"type": "Utilization", "averageUtilization": 50}}}),
        &of_pods(&[("a", 400), ("b", 200)]),
        3,
        "cpu container resource utilization (percentage of request)",
        json!({"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "log",
            "current": {"averageUtilization": 75, "averageValue": "300m"}}}),
    );
}

#[test]
fn a_metric_of_pods_is_told_as_their_mean() {
    let selector = json!({"matchLabels": {"verb": "GET"}});
    check(
        json!({"type": "Pods", "pods": {"metric": {"name": "rps", "selector": selector}, "target": {"type": "AverageValue", "averageValue": "10"}}}),
        &of_pods(&[("a", 20_000), ("b", 10_500)]),
        4,
        "pods metric rps",
        json!({"type": "Pods", "pods": {"metric": {"name": "rps", "selector": selector}, "current": {"averageValue": "15250m"}}}),
    );
}

fn object(target: Value) -> Value {
    json!({"type": "Object", "object": {"metric": {"name": "rps"}, "target": target,
        "describedObject": {"apiVersion": "v1", "kind": "Service", "name": "web"}}})
}

#[test]
fn a_metric_of_an_object_is_told_whole_or_a_pod() {
    let told = |current: Value| {
        json!({"type": "Object", "object": {"metric": {"name": "rps"}, "current": current,
            "describedObject": {"apiVersion": "v1", "kind": "Service", "name": "web"}}})
    };
    let value = object(json!({"type": "Value", "value": "100"}));
    check(value, &Answer::Value(Ok(250_000)), 5, "Service metric rps", told(json!({"value": "250"})));
    let share = object(json!({"type": "AverageValue", "averageValue": "100"}));
    check(share, &Answer::Value(Ok(250_000)), 3, "external metric rps(nil)", told(json!({"averageValue": "125"})));
}

fn external(target: Value) -> Value {
    json!({"type": "External", "external": {"target": target, "metric": {"name": "queue",
        "selector": {"matchLabels": {"b": "2", "a": "1"}, "matchExpressions": [{"key": "c", "operator": "In", "values": ["x", "y"]}]}}}})
}

const SHOWN: &str = "&LabelSelector{MatchLabels:map[string]string{a: 1,b: 2,},MatchExpressions:[]LabelSelectorRequirement{LabelSelectorRequirement{Key:c,Operator:In,Values:[x y],},},}";

#[test]
fn an_external_metric_is_the_sum_of_its_series() {
    let answer = Answer::Values(Ok(vec![100_000, 150_000]));
    let name = format!("external metric queue({SHOWN})");
    let value = evaluate_with(2, external(json!({"type": "Value", "value": "100"})), &answer).unwrap();
    assert_eq!((value.replicas, value.name), (5, name.clone()));
    let current = |proposal: &MetricStatus| serde_json::to_value(&proposal.external.as_ref().unwrap().current).unwrap();
    assert_eq!(current(&value.status), json!({"value": "250"}));
    let share = evaluate_with(2, external(json!({"type": "AverageValue", "averageValue": "100"})), &answer).unwrap();
    assert_eq!((share.replicas, share.name), (3, name));
    assert_eq!(current(&share.status), json!({"averageValue": "125"}));
    let all = Answer::Values(Ok(vec![i64::MAX, i64::MAX]));
    let share = evaluate_with(2, external(json!({"type": "AverageValue", "averageValue": "1"})), &all).unwrap();
    assert_eq!((share.replicas, current(&share.status)), (i32::MAX, json!({"averageValue": "9223372036854775807m"})));
}

#[test]
fn from_zero_one_value_says_how_many() {
    let value = object(json!({"type": "Value", "value": "100"}));
    assert_eq!(evaluate_with(0, value.clone(), &Answer::Value(Ok(150_000))).unwrap().replicas, 2);
    assert_eq!(evaluate_with(0, value, &Answer::Value(Ok(0))).unwrap().replicas, 0);
    let share = object(json!({"type": "AverageValue", "averageValue": "100"}));
    assert_eq!(evaluate_with(0, share, &Answer::Value(Ok(150_000))).unwrap().replicas, 2);
}

#[test]
fn failures_are_told_in_upstreams_words() {
    let resource = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}});
    let cause = "failed to get cpu utilization: unable to get metrics for resource cpu: it is down";
    assert_eq!(
        fails(resource.clone(), &Answer::Pods(Err(down()))),
        ("FailedGetResourceMetric", cause.into(), format!("failed to get cpu resource metric value: {cause}"))
    );
    assert_eq!(
        fails(resource, &of_pods(&[])).1,
        "failed to get cpu utilization: did not receive metrics for targeted pods (pods might be unready)"
    );
    let usage = json!({"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Mi"}}});
    assert_eq!(
        fails(usage, &Answer::Pods(Err(down()))).1,
        "failed to get memory usage: unable to get metrics for resource memory: it is down"
    );
    let container = json!({"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "gone",
        "target": {"type": "Utilization", "averageUtilization": 50}}});
    let (reason, cause, whole) = fails(container, &of_pods(&[("a", 1)]));
    assert_eq!(
        (reason, cause.as_str()),
        ("FailedGetContainerResourceMetric", "failed to get cpu utilization: container gone not found in Pod a")
    );
    assert!(whole.starts_with("failed to get gone container metric value: failed to get cpu"), "{whole}");
    let pods = json!({"type": "Pods", "pods": {"metric": {"name": "rps"}, "target": {"type": "AverageValue", "averageValue": "10"}}});
    assert_eq!(
        fails(pods, &Answer::Pods(Err(down()))),
        (
            "FailedGetPodsMetric",
            "unable to get metric rps: it is down".into(),
            "failed to get pods metric value: unable to get metric rps: it is down".into()
        )
    );
}

#[test]
fn failures_of_objects_and_external_metrics_name_them() {
    let cause = "unable to get metric rps: Service on ns web/it is down";
    let value = object(json!({"type": "Value", "value": "100"}));
    assert_eq!(
        fails(value, &Answer::Value(Err(down()))),
        ("FailedGetObjectMetric", cause.into(), format!("failed to get object metric value: {cause}"))
    );
    let share = object(json!({"type": "AverageValue", "averageValue": "100"}));
    let whole = format!("failed to get object metric value: failed to get rps object metric: {cause}");
    assert_eq!(fails(share, &Answer::Value(Err(down()))).2, whole);
    let cause = format!("unable to get external metric ns/queue/{SHOWN}: it is down");
    let answer = Answer::Values(Err(down()));
    assert_eq!(
        fails(external(json!({"type": "Value", "value": "1"})), &answer),
        (
            "FailedGetExternalMetric",
            cause.clone(),
            format!("failed to get queue external metric value: failed to get external metric queue: {cause}")
        )
    );
    assert_eq!(
        fails(external(json!({"type": "AverageValue", "averageValue": "1"})), &answer).2,
        format!("failed to get queue external metric value: failed to get queue external metric: {cause}")
    );
}

#[test]
fn a_specification_that_says_nothing_fails_without_a_source() {
    let none = |spec| fails(spec, &Answer::Unasked).1;
    assert_eq!(
        none(json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization"}}})),
        "invalid resource metric source: neither an average utilization target nor an average value (usage) target was set"
    );
    let neither = "metric source: neither a value target nor an average value target was set";
    assert_eq!(none(object(json!({"type": "Value"}))), format!("invalid object {neither}"));
    assert_eq!(none(external(json!({"type": "Value"}))), format!("invalid external {neither}"));
    assert_eq!(none(json!({"type": "Other"})), "unknown metric source type \"Other\"");
    let mut unreadable = external(json!({"type": "Value", "value": "1"}));
    unreadable["external"]["metric"]["selector"]["matchExpressions"][0]["operator"] = "Is".into();
    assert_eq!(none(unreadable), "\"Is\" is not a valid label selector operator");
}
