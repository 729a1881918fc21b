//! The HorizontalPodAutoscaler against an API server in this process, under its
//! own service account. The tests play the controllers that make pods, and
//! those who serve metrics.

#![allow(clippy::unwrap_used, missing_docs, unreachable_pub, reason = "tests")]

#[path = "horizontal/cluster.rs"]
mod cluster;
#[path = "horizontal/metered.rs"]
mod metered;

use std::time::Duration;

use serde_json::json;

use cluster::{Cluster, condition, external, quick, slow};

const DEPLOYMENT: (&str, &str) = ("apps/v1", "Deployment");
const EXAMPLE: &str = include_str!("../../../examples/autoscale.yaml");

#[tokio::test]
async fn the_example_grows_holds_and_shrinks_with_its_load() {
    let mut config = quick();
    config.downscale_stabilization = Duration::ZERO;
    let cluster = Cluster::start(config).await;
    cluster.metrics.serve_custom();
    cluster.metrics.cpu("80m");
    cluster.metrics.object("ingresses.networking.k8s.io", "main-route", "requests-per-second", "350");
    // The window of the example would make this test a minute longer.
    let example = EXAMPLE.replace("stabilizationWindowSeconds: 60", "stabilizationWindowSeconds: 0");
    cli::apply::manifest(&cluster.admin, &example, "test").await.unwrap();
    cluster.play("deployments", "nginx", "app=nginx").await;

    // 350 requests in all are 4 pods' at 100 each; 80 of 100 thousandths of a
    // CPU are 1.6 times the half, so 2.
    let grown = cluster.until("nginx", |hpa| hpa["status"]["desiredReplicas"] == 4).await;
    assert_eq!(condition(&grown, "ScalingActive")["reason"], "ValidMetricFound");
    let told = "the HPA was able to successfully calculate a replica count from \
                external metric requests-per-second(nil)";
    assert_eq!(condition(&grown, "ScalingActive")["message"], told);
    cluster
        .event("SuccessfulRescale", "New size: 4; reason: external metric requests-per-second(nil) above target")
        .await;

    cluster.metrics.cpu("50m");
    let held = cluster
        .until("nginx", |hpa| {
            condition(hpa, "AbleToScale")["reason"] == "ReadyForNewScale"
                && hpa["status"]["currentMetrics"][0]["resource"]["current"]["averageUtilization"] == 50
        })
        .await;
    assert_eq!(held["status"]["currentReplicas"], 4);
    assert_eq!(held["status"]["currentMetrics"][1]["object"]["current"], json!({"averageValue": "87500m"}));

    // The CPU of 15 of 100 would be 2 pods', the requests are none.
    cluster.metrics.cpu("15m");
    cluster.metrics.object("ingresses.networking.k8s.io", "main-route", "requests-per-second", "0");
    let shrunk = cluster.until("nginx", |hpa| hpa["status"]["currentReplicas"] == 1).await;
    assert_eq!(shrunk["status"]["desiredReplicas"], 1);
    cluster.event("SuccessfulRescale", "New size: 2; reason: All metrics below target").await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_custom_kind_with_a_scale_is_scaled_to_zero_and_back() {
    let mut config = quick();
    config.downscale_stabilization = Duration::ZERO;
    let cluster = Cluster::start(config).await;
    cluster.metrics.external("queue", "0");
    cluster.define_workers().await;
    cluster
        .create(
            "example.com/v1",
            "workers",
            json!({"apiVersion": "example.com/v1", "kind": "Worker", "metadata": {"name": "crew"},
                "spec": {"replicas": 2}, "status": {"replicas": 2, "selector": "app=crew"}}),
        )
        .await;
    cluster.play("workers", "crew", "app=crew").await;
    cluster.autoscale("crew", ("example.com/v1", "Worker"), 0, json!([external("queue", "AverageValue", "10")])).await;

    let asleep = cluster.until("crew", |hpa| condition(hpa, "ScaledToZero")["status"] == "True").await;
    assert_eq!(asleep["status"]["desiredReplicas"], 0);
    cluster.until("crew", |hpa| hpa["status"]["currentReplicas"].is_null()).await;
    cluster.metrics.external("queue", "25");
    let awake = cluster.until("crew", |hpa| hpa["status"]["currentReplicas"] == 3).await;
    assert_eq!(condition(&awake, "ScaledToZero")["reason"], "NotScaledToZero");
    cluster.stop().await;
}

#[tokio::test]
async fn whatever_nobody_serves_fails_in_upstreams_words() {
    let cluster = Cluster::start(slow()).await;
    cluster.deploy("web", 1).await;
    let selector = json!({"matchLabels": {"verb": "GET"}});
    let pods = json!({"type": "Pods", "pods": {"metric": {"name": "rps", "selector": selector}, "target": {"type": "AverageValue", "averageValue": "1"}}});
    let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}});
    let object = json!({"type": "Object", "object": {"metric": {"name": "rps"}, "target": {"type": "Value", "value": "1"},
        "describedObject": {"apiVersion": "v1", "kind": "Service", "name": "web"}}});
    cluster.autoscale("web", DEPLOYMENT, 1, json!([external("Queue|a b", "Value", "1"), cpu, pods, object])).await;
    for (reason, message) in [
        (
            "FailedGetExternalMetric",
            "unable to get external metric default/Queue|a b/nil: unable to fetch metrics from external metrics API: \
             the server could not find the requested resource (get Queue|a b.external.metrics.k8s.io)",
        ),
        (
            "FailedGetResourceMetric",
            "failed to get cpu utilization: unable to get metrics for resource cpu: unable to fetch metrics from \
             resource metrics API: the server could not find the requested resource (get pods.metrics.k8s.io)",
        ),
        (
            "FailedGetPodsMetric",
            "unable to get metric rps: unable to fetch metrics from custom metrics API: no custom metrics API \
             (custom.metrics.k8s.io) registered",
        ),
        (
            "FailedGetObjectMetric",
            "unable to get metric rps: Service on default web/unable to fetch metrics from custom metrics API: no \
             custom metrics API (custom.metrics.k8s.io) registered",
        ),
    ] {
        cluster.event(reason, message).await;
    }
    let told = cluster.until("web", |hpa| !hpa["status"]["currentMetrics"].is_null()).await;
    assert_eq!(told["status"]["currentMetrics"], json!([{"type": ""}, {"type": ""}, {"type": ""}, {"type": ""}]));
    assert_eq!(condition(&told, "ScalingActive")["reason"], "FailedGetExternalMetric");
    cluster.stop().await;
}

#[tokio::test]
async fn two_autoscalers_over_the_same_pods_both_stand_still_until_one_goes() {
    let cluster = Cluster::start(slow()).await;
    cluster.metrics.external("queue", "10");
    cluster.deploy("web", 1).await;
    for name in ["one", "two"] {
        let metrics = json!([external("queue", "AverageValue", "10")]);
        cluster.autoscale_target(name, ("apps/v1", "Deployment", "web"), 1, metrics).await;
    }
    for name in ["one", "two"] {
        let told = cluster.until(name, |hpa| condition(hpa, "ScalingActive")["reason"] == "AmbiguousSelector").await;
        let words = "pods by selector app=web are controlled by multiple HPAs: [{one default} {two default}]";
        assert_eq!(condition(&told, "ScalingActive")["message"], words);
    }
    cluster.remove("two").await;
    cluster.until("one", |hpa| condition(hpa, "ScalingActive")["reason"] == "ValidMetricFound").await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_target_that_is_missing_or_of_no_known_kind_is_told() {
    let cluster = Cluster::start(slow()).await;
    let metrics = || json!([external("queue", "AverageValue", "10")]);
    for (name, version, kind, words) in [
        ("missing", "apps/v1", "Deployment", "deployments.apps \"missing\" not found"),
        ("strange", "apps/v1", "Strange", "no matches for kind \"Strange\" in group \"apps\""),
        ("settings", "v1", "ConfigMap", "the server could not find the requested resource"),
        ("version", "a/b/c", "Deployment", "unexpected GroupVersion string: a/b/c"),
    ] {
        cluster.autoscale(name, (version, kind), 1, metrics()).await;
        let told = cluster.until(name, |hpa| condition(hpa, "AbleToScale")["status"] == "False").await;
        assert_eq!(condition(&told, "AbleToScale")["reason"], "FailedGetScale");
        let message = format!("the HPA controller was unable to get the target's current scale: {words}");
        assert_eq!(condition(&told, "AbleToScale")["message"], message);
    }
    cluster.stop().await;
}

#[tokio::test]
async fn a_target_that_appears_is_seen_by_its_pods() {
    let cluster = Cluster::start(slow()).await;
    cluster.metrics.external("queue", "40");
    cluster.autoscale("late", DEPLOYMENT, 1, json!([external("queue", "AverageValue", "10")])).await;
    cluster.until("late", |hpa| condition(hpa, "AbleToScale")["reason"] == "FailedGetScale").await;
    cluster.deploy("late", 1).await;
    cluster.until("late", |hpa| hpa["status"]["desiredReplicas"] == 4).await;
    cluster.stop().await;
}

#[tokio::test]
async fn pods_that_come_bring_a_look_before_the_period_ends() {
    let cluster = Cluster::start(slow()).await;
    cluster.metrics.external("queue", "10");
    cluster.deploy("web", 1).await;
    cluster.autoscale("web", DEPLOYMENT, 1, json!([external("queue", "AverageValue", "10")])).await;
    cluster.until("web", |hpa| condition(hpa, "AbleToScale")["reason"] == "ReadyForNewScale").await;
    cluster.metrics.external("queue", "30");
    cluster.pod("web-extra", "app=web").await;
    cluster.until("web", |hpa| hpa["status"]["desiredReplicas"] == 3).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_new_specification_is_looked_at_at_once() {
    let cluster = Cluster::start(slow()).await;
    cluster.metrics.external("queue", "30");
    cluster.deploy("web", 1).await;
    cluster.autoscale("web", DEPLOYMENT, 1, json!([external("queue", "AverageValue", "10")])).await;
    cluster.until("web", |hpa| hpa["status"]["desiredReplicas"] == 3).await;
    cluster.patch("web", json!({"spec": {"minReplicas": 5}})).await;
    cluster.until("web", |hpa| hpa["status"]["desiredReplicas"] == 5).await;
    cluster.event("SuccessfulRescale", "New size: 5; reason: Current number of replicas below Spec.MinReplicas").await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_scale_that_others_write_as_well_is_written_all_the_same() {
    let cluster = Cluster::start(slow()).await;
    cluster.metrics.external("queue", "30");
    cluster.metrics.refuse_scale(409, "Conflict", "somebody else wrote", 2);
    cluster.deploy("web", 1).await;
    cluster.autoscale("web", DEPLOYMENT, 1, json!([external("queue", "AverageValue", "10")])).await;
    let told = cluster.until("web", |hpa| hpa["status"]["desiredReplicas"] == 3).await;
    assert_eq!(condition(&told, "AbleToScale")["reason"], "SucceededRescale");
    cluster.stop().await;
}

#[tokio::test]
async fn a_scale_that_is_refused_is_told_and_tried_again() {
    let cluster = Cluster::start(slow()).await;
    cluster.metrics.external("queue", "30");
    cluster.metrics.refuse_scale(403, "Forbidden", "not you", 1);
    cluster.deploy("web", 1).await;
    cluster.autoscale("web", DEPLOYMENT, 1, json!([external("queue", "AverageValue", "10")])).await;
    let told = cluster.until("web", |hpa| condition(hpa, "AbleToScale")["status"] == "False").await;
    assert_eq!(condition(&told, "AbleToScale")["reason"], "FailedUpdateScale");
    let reason = "external metric queue(nil) above target";
    cluster.event("FailedRescale", &format!("New size: 3; reason: {reason}; error: not you")).await;
    cluster.until("web", |hpa| hpa["status"]["desiredReplicas"] == 3).await;
    cluster.stop().await;
}
