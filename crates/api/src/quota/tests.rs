//! What is counted of pods, services, claims and other objects.

use serde_json::json;

use super::*;

fn used(group: &str, plural: &str, object: &Value) -> Value {
    Evaluator::of(group, plural).usage(object, Timestamp::UNIX_EPOCH).to_value()
}

#[test]
fn a_pod_takes_its_requests_and_limits_until_it_has_finished() {
    let mut pod = json!({"spec": {"containers": [{"name": "c", "resources": {
        "requests": {"cpu": "400m", "example.com/gpu": "2"}, "limits": {"memory": "1Gi"}}}]}});
    let expected = json!({
        "count/pods": "1", "pods": "1", "cpu": "400m", "requests.cpu": "400m", "limits.memory": "1Gi",
        "requests.example.com/gpu": "2",
    });
    assert_eq!(used("", "pods", &pod), expected);
    pod["status"] = json!({"phase": "Succeeded"});
    assert_eq!(used("", "pods", &pod), json!({"count/pods": "1"}));
}

#[test]
fn a_pod_that_outlives_its_deletion_is_not_charged() {
    let pod = json!({"metadata": {"deletionTimestamp": "1969-12-31T23:59:00Z", "deletionGracePeriodSeconds": 30},
        "spec": {"containers": []}});
    assert_eq!(used("", "pods", &pod), json!({"count/pods": "1"}));
}

#[test]
fn containers_must_state_what_a_quota_counts() {
    let pod = json!({"spec": {"containers": [{"name": "b"}, {"name": "a"}]}});
    let evaluator = Evaluator::Pods;
    let error = evaluator.constraints(&["requests.cpu", "pods", "limits.memory"], &pod).unwrap_err();
    assert_eq!(error, "must specify limits.memory for: a,b; requests.cpu for: a,b");
    assert_eq!(evaluator.constraints(&["pods", "requests.example.com/gpu"], &pod), Ok(()));
}

#[test]
fn scopes_select_pods() {
    let pod = json!({"spec": {"activeDeadlineSeconds": 5, "priorityClassName": "high", "containers": [{"name": "c"}]}});
    let matches = |spec: Value| Evaluator::Pods.matches(&spec, ["pods"].into_iter(), &pod);
    let class = |operator: &str, values: Value| {
        json!({"scopeSelector": {"matchExpressions": [
            {"scopeName": "PriorityClass", "operator": operator, "values": values}]}})
    };
    assert!(matches(json!({"scopes": ["Terminating", "BestEffort"]})));
    assert!(!matches(json!({"scopes": ["NotTerminating"]})));
    assert!(!matches(json!({"scopes": ["CrossNamespacePodAffinity"]})));
    assert!(matches(class("In", json!(["high", "low"]))));
    assert!(!matches(class("NotIn", json!(["high"]))));
    assert!(matches(class("Exists", json!(null))));
    assert!(!matches(class("DoesNotExist", json!(null))));
}

#[test]
fn services_take_the_node_ports_they_mean_to_have() {
    let ports = json!([{"port": 1, "nodePort": 30000}, {"port": 2}]);
    let service = |fields: Value| {
        let mut service = json!({"spec": fields});
        service["spec"]["ports"] = ports.clone();
        let used = used("", "services", &service);
        (used["services.nodeports"].clone(), used["services.loadbalancers"].clone())
    };
    assert_eq!(service(json!({"type": "ClusterIP"})), ("0".into(), "0".into()));
    assert_eq!(service(json!({"type": "NodePort"})), ("2".into(), "0".into()));
    assert_eq!(service(json!({"type": "LoadBalancer"})), ("2".into(), "1".into()));
    let own = json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false});
    assert_eq!(service(own), ("1".into(), "1".into()));
}

#[test]
fn claims_take_storage_of_their_class_too() {
    let claim = json!({"spec": {"storageClassName": "fast", "resources": {"requests": {"storage": "1500m"}}}});
    let expected = json!({
        "count/persistentvolumeclaims": "1", "persistentvolumeclaims": "1", "requests.storage": "2",
        "fast.storageclass.storage.k8s.io/persistentvolumeclaims": "1",
        "fast.storageclass.storage.k8s.io/requests.storage": "2",
    });
    assert_eq!(used("", "persistentvolumeclaims", &claim), expected);
    assert!(Evaluator::Claims.counts("fast.storageclass.storage.k8s.io/requests.storage"));
}

#[test]
fn other_objects_are_counted_under_their_resource() {
    assert_eq!(used("batch", "jobs", &json!({})), json!({"count/jobs.batch": "1"}));
    assert_eq!(used("", "secrets", &json!({})), json!({"count/secrets": "1", "secrets": "1"}));
    assert_eq!(Evaluator::counted_by("count/jobs.batch"), Some(("batch", "jobs")));
    assert_eq!(Evaluator::counted_by("secrets"), Some(("", "secrets")));
    assert_eq!(Evaluator::counted_by("count/pods"), None);
    assert_eq!(Evaluator::counted_by("requests.cpu"), None);
}
