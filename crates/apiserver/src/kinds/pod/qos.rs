//! Quality of service of a pod. What a node makes of it is not known here.

use api::quantity::Quantity;
use serde_json::Value;

use crate::object;

const COMPUTE: [&str; 2] = ["cpu", "memory"];

/// The class by requests and limits: the pod's own when it has any, else those
/// of all its containers (`ComputePodQOS`, 1.36).
pub(super) fn class(pod: &Value) -> &'static str {
    let own = object::at(pod, "spec.resources");
    if own.is_object() {
        return of([own].into_iter());
    }
    let containers = object::items(pod, "spec.initContainers").iter().chain(object::items(pod, "spec.containers"));
    of(containers.map(|container| object::at(container, "resources")))
}

fn of<'a>(all: impl Iterator<Item = &'a Value>) -> &'static str {
    let (mut any, mut guaranteed) = (false, true);
    for resources in all {
        for name in COMPUTE {
            let (request, limit) = (amount(resources, "requests", name), amount(resources, "limits", name));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && request.as_ref().is_none_or(|request| Some(request) == limit.as_ref());
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

fn amount(resources: &Value, list: &str, name: &str) -> Option<Quantity> {
    let text = resources.get(list)?.get(name)?.as_str()?;
    text.parse().ok().filter(|quantity: &Quantity| !quantity.is_zero())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn resources_of_the_pod_decide_before_those_of_its_containers() {
        let full = json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}});
        let half = json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "1Gi"}});
        let pod = |own: Value, container: Value| json!({"spec": {"resources": own, "containers": [{"resources": container}]}});
        for (pod, expected) in [
            (pod(Value::Null, Value::Null), "BestEffort"),
            (pod(Value::Null, full.clone()), "Guaranteed"),
            (pod(Value::Null, half.clone()), "Burstable"),
            (pod(full.clone(), Value::Null), "Guaranteed"),
            (pod(half.clone(), full.clone()), "Burstable"),
            (pod(json!({"requests": {"cpu": "1"}}), Value::Null), "Burstable"),
            (pod(Value::Null, json!({"requests": {"cpu": "0"}})), "BestEffort"),
        ] {
            assert_eq!(class(&pod), expected, "{pod}");
        }
    }
}
