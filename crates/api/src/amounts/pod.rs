//! What a pod asks for in total (`component-helpers/resource`, upstream 1.36):
//! containers add up, an init container counts with the sidecars before it.

use serde_json::Value;

use super::Amounts;

/// The pod's requests, overhead included.
pub fn pod_requests(pod: &Value) -> Amounts {
    let mut total = containers(pod, "requests");
    pod_level(pod, "requests", &mut total);
    total.add(&Amounts::read(&pod["spec"]["overhead"]));
    total
}

/// The pod's limits; overhead raises those that there are.
pub fn pod_limits(pod: &Value) -> Amounts {
    let mut total = containers(pod, "limits");
    pod_level(pod, "limits", &mut total);
    let mut overhead = Amounts::read(&pod["spec"]["overhead"]);
    overhead.0.retain(|name, _| total.get(name).is_some_and(|limit| !limit.is_zero()));
    total.add(&overhead);
    total
}

/// Amounts of the pod itself take the place of its containers'.
fn pod_level(pod: &Value, list: &str, total: &mut Amounts) {
    let own = Amounts::read(&pod["spec"]["resources"][list]);
    for (name, amount) in own.0 {
        if matches!(name.as_str(), "cpu" | "memory") || name.starts_with("hugepages-") {
            total.set(name, amount);
        }
    }
}

fn containers(pod: &Value, list: &str) -> Amounts {
    let spec = &pod["spec"];
    let each = |field: &str| spec[field].as_array().map(Vec::as_slice).unwrap_or_default();
    let status = |container: &Value, statuses: &str| {
        let all = pod["status"][statuses].as_array().map(Vec::as_slice).unwrap_or_default();
        all.iter().find(|status| status["name"] == container["name"])
    };
    let mut total = Amounts::default();
    for container in each("containers") {
        total.add(&effective(container, status(container, "containerStatuses"), list));
    }
    let (mut sidecars, mut initial) = (Amounts::default(), Amounts::default());
    for container in each("initContainers") {
        if container["restartPolicy"] == "Always" {
            let own = effective(container, status(container, "initContainerStatuses"), list);
            total.add(&own);
            sidecars.add(&own);
            initial.raise(&sidecars);
        } else {
            let mut own = Amounts::read(&container["resources"][list]);
            own.add(&sidecars);
            initial.raise(&own);
        }
    }
    total.raise(&initial);
    total
}

/// While a resize is under way the greater of what is asked, allocated and
/// in force counts.
fn effective(container: &Value, status: Option<&Value>, list: &str) -> Amounts {
    let mut amounts = Amounts::read(&container["resources"][list]);
    let Some(status) = status.filter(|status| status["resources"].is_object()) else { return amounts };
    amounts.raise(&Amounts::read(&status["resources"][list]));
    if list == "requests" {
        amounts.raise(&Amounts::read(&status["allocatedResources"]));
    }
    amounts
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn container(cpu: &str) -> Value {
        json!({"name": "c", "resources": {"requests": {"cpu": cpu}, "limits": {"cpu": cpu}}})
    }

    #[test]
    fn init_containers_count_with_the_sidecars_before_them() {
        let mut sidecar = container("100m");
        sidecar["restartPolicy"] = "Always".into();
        let pod = json!({"spec": {
            "containers": [container("200m")],
            "initContainers": [container("250m"), sidecar, container("1")],
            "overhead": {"cpu": "10m", "memory": "1Mi"},
        }});
        assert_eq!(pod_requests(&pod).to_value(), json!({"cpu": "1110m", "memory": "1Mi"}));
        assert_eq!(pod_limits(&pod).to_value(), json!({"cpu": "1110m"}));
    }

    #[test]
    fn amounts_of_the_pod_replace_the_sum() {
        let pod =
            json!({"spec": {"containers": [container("200m")], "resources": {"requests": {"cpu": "2", "x.y/z": "1"}}}});
        assert_eq!(pod_requests(&pod).to_value(), json!({"cpu": "2"}));
    }
}
