//! Changes of pods, each with what the API says to it.

use api::status::StatusCause;
use serde_json::json;

use super::*;

fn pod(spec: Value) -> Value {
    let class = qos::class(&json!({"spec": spec}));
    json!({"metadata": {"name": "p"}, "spec": spec, "status": {"qosClass": class}})
}

fn said(rule: fn(&Value, &Value, &mut Errors), new: &Value, old: &Value) -> Vec<String> {
    let mut errors = Errors::new();
    rule(new, old, &mut errors);
    let lines = errors.into_causes().iter().map(StatusCause::line).collect::<Vec<_>>();
    lines.iter().map(|line| line.replace(UPDATABLE, "…").replace('\n', " ")).collect()
}

#[test]
fn an_update_changes_images_deadline_tolerations_and_nothing_else() {
    let old = pod(json!({"containers": [{"name": "c", "image": "a"}], "activeDeadlineSeconds": 9,
        "terminationGracePeriodSeconds": -1, "tolerations": [{"key": "k", "tolerationSeconds": 1}]}));
    let change = |edit: fn(&mut Value)| {
        let mut new = old.clone();
        edit(&mut new["spec"]);
        said(main, &new, &old)
    };
    let none: [&str; 0] = [];
    assert_eq!(change(|_| {}), none);
    assert_eq!(change(|s| s["containers"][0]["image"] = "b".into()), none);
    assert_eq!(change(|s| s["activeDeadlineSeconds"] = 3.into()), none);
    assert_eq!(change(|s| s["terminationGracePeriodSeconds"] = 1.into()), none);
    assert_eq!(change(|s| s["tolerations"] = json!([{"key": "k", "tolerationSeconds": 5}, {"key": "more"}])), none);
    let other = "spec: Forbidden: pod updates may not change fields other than … @@ spec";
    assert_eq!(change(|s| s["hostname"] = "h".into()), [format!("{other}.hostname")]);
    assert_eq!(change(|s| s["containers"][0]["command"] = json!(["x"])), [format!("{other}.containers[0].command")]);
    assert_eq!(
        change(|s| s["tolerations"] = json!([])),
        ["spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"]
    );
    assert_eq!(
        change(|s| s["activeDeadlineSeconds"] = 10.into()),
        ["spec.activeDeadlineSeconds: Invalid value: 10: must be less than or equal to previous value"]
    );
    assert_eq!(
        change(|s| s["containers"] = json!([])),
        ["spec.containers: Forbidden: pod updates may not add or remove containers"]
    );
    assert_eq!(change(|s| s["containers"][0]["image"] = "".into()), ["spec.containers[0].image: Required value"]);
}

#[test]
fn a_gated_pod_may_be_placed_more_narrowly() {
    let term = |values: Value| {
        json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        {"nodeSelectorTerms": [{"matchExpressions": values}]}}})
    };
    let old = pod(json!({"containers": [{"name": "c", "image": "a"}], "schedulingGates": [{"name": "g"}],
        "nodeSelector": {"a": "1"}, "affinity": term(json!([{"key": "x"}]))}));
    let change = |edit: &dyn Fn(&mut Value)| {
        let mut new = old.clone();
        edit(&mut new["spec"]);
        said(main, &new, &old)
    };
    let none: [&str; 0] = [];
    assert_eq!(change(&|s| s["nodeSelector"]["b"] = "2".into()), none);
    assert_eq!(change(&|s| s["affinity"] = term(json!([{"key": "x"}, {"key": "y"}]))), none);
    assert_eq!(change(&|s| s["schedulingGates"] = json!([])), none);
    assert_eq!(change(&|s| s["nodeSelector"] = json!({})).len(), 1);
    assert_eq!(change(&|s| s["affinity"] = term(json!([{"key": "y"}]))).len(), 1);
    assert_eq!(
        change(&|s| s["schedulingGates"] = json!([{"name": "g"}, {"name": "h"}])),
        ["spec.schedulingGates[1].name: Forbidden: only deletion is allowed, but found new scheduling gate 'h'"]
    );
}

#[test]
fn a_resize_changes_cpu_and_memory_within_the_class() {
    let resources =
        |request: &str, limit: &str| json!({"requests": {"cpu": request}, "limits": {"cpu": limit, "memory": "64Mi"}});
    let old = pod(json!({"containers": [{"name": "c", "image": "a", "resources": resources("50m", "100m")}],
        "initContainers": [{"name": "i", "image": "a"}, {"name": "s", "image": "a", "restartPolicy": "Always"}]}));
    let change = |edit: &dyn Fn(&mut Value)| {
        let mut new = old.clone();
        edit(&mut new["spec"]);
        said(resize, &new, &old)
    };
    let none: [&str; 0] = [];
    assert_eq!(change(&|s| s["containers"][0]["resources"] = resources("80m", "200m")), none);
    assert_eq!(change(&|s| s["initContainers"][1]["resources"] = json!({"requests": {"cpu": "1"}})), none);
    assert_eq!(change(&|s| s["resources"] = json!({"requests": {"cpu": "1"}})), none);
    let full = json!({"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "100m", "memory": "64Mi"}});
    assert_eq!(
        said(
            resize,
            &pod(json!({"containers": [{"name": "c", "image": "a", "resources": full}]})),
            &pod(json!({"containers": [{"name": "c", "image": "a", "resources": resources("50m", "100m")}]}))
        ),
        ["spec: Invalid value: \"Burstable\": Pod QOS Class may not change as a result of resizing"]
    );
    assert_eq!(
        change(&|s| s["containers"][0]["resources"] = json!({"requests": {"cpu": "80m"}, "limits": {"cpu": "1"}})),
        ["spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed"]
    );
    assert_eq!(
        change(&|s| s["initContainers"][0]["resources"] = json!({"requests": {"cpu": "1"}})),
        ["spec: Forbidden: resources for non-sidecar init containers are immutable"]
    );
    assert_eq!(
        change(&|s| s["containers"][0]["name"] = "d".into()),
        ["spec.containers[0].name: Forbidden: containers may not be renamed or reordered on resize"]
    );
    assert_eq!(
        change(&|s| s["containers"][0]["resources"]["requests"]["example.com/gpu"] = "1".into()),
        ["spec: Forbidden: only cpu and memory resources are mutable"]
    );
}
