//! Requests and limits of containers: none below zero, no request above its
//! limit (`validateResourceRequirements`, 1.36). Names are not judged.

use api::amounts::Amounts;
use serde_json::Value;

use crate::field::{Errors, Path};
use crate::object;

/// All containers of a pod, in the order in which upstream checks them.
pub(super) fn validate(pod: &Value, errors: &mut Errors) {
    let spec = Path::new("spec");
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        let path = spec.child(list);
        let containers = object::at(pod, "spec").get(list).and_then(Value::as_array);
        for (index, container) in containers.into_iter().flatten().enumerate() {
            let item = path.index(index);
            requirements(object::at(container, "resources"), &item.child("resources"), errors);
        }
    }
}

fn requirements(resources: &Value, path: &Path<'_>, errors: &mut Errors) {
    let lists = ["limits", "requests"].map(|list| Amounts::read(resources.get(list).unwrap_or(&Value::Null)));
    for (name, list) in ["limits", "requests"].into_iter().zip(&lists) {
        let path = path.child(name);
        for (resource, amount) in &list.0 {
            if amount.signum() < 0 {
                let value = Value::from(amount.to_string());
                errors.invalid(&path.key(resource), &value, "must be greater than or equal to 0");
            }
        }
    }
    let [limits, requests] = lists;
    let place = path.child("requests");
    for (resource, request) in &requests.0 {
        let shared = may_be_overcommitted(resource);
        let value = Value::from(request.to_string());
        match limits.get(resource) {
            Some(limit) if !shared && request != limit => {
                errors.invalid(&place, &value, &format!("must be equal to {resource} limit of {limit}"));
            }
            Some(limit) if request > limit => {
                errors.invalid(&place, &value, &format!("must be less than or equal to {resource} limit of {limit}"));
            }
            None if !shared => {
                errors.required(&path.child("limits"), "Limit must be set for non overcommitable resources");
            }
            _ => {}
        }
    }
}

/// Kubernetes' own resources but huge pages.
fn may_be_overcommitted(resource: &str) -> bool {
    let own = !resource.contains('/') || resource.contains("kubernetes.io/");
    own && !resource.starts_with("hugepages-")
}

#[cfg(test)]
mod tests {
    use api::status::StatusCause;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_request_is_at_most_its_limit_and_equal_where_nothing_is_shared() {
        let check = |requests: Value, limits: Value| {
            let resources = json!({"requests": requests, "limits": limits});
            let mut errors = Errors::new();
            validate(&json!({"spec": {"containers": [{"resources": resources}]}}), &mut errors);
            errors.into_causes().iter().map(StatusCause::line).collect::<Vec<_>>()
        };
        let none: [&str; 0] = [];
        assert_eq!(check(json!({"cpu": "1"}), json!({"cpu": "1000m"})), none);
        assert_eq!(check(json!({"cpu": "1"}), Value::Null), none);
        assert_eq!(
            check(json!({"cpu": "900m"}), json!({"cpu": "200m"})),
            [
                "spec.containers[0].resources.requests: Invalid value: \"900m\": must be less than or equal to cpu limit of 200m"
            ]
        );
        assert_eq!(
            check(json!({"example.com/gpu": "1"}), json!({"example.com/gpu": "2"})),
            [
                "spec.containers[0].resources.requests: Invalid value: \"1\": must be equal to example.com/gpu limit of 2"
            ]
        );
        assert_eq!(
            check(json!({"hugepages-2Mi": "2Mi"}), Value::Null),
            ["spec.containers[0].resources.limits: Required value: Limit must be set for non overcommitable resources"]
        );
        assert_eq!(
            check(json!({"cpu": "-1"}), Value::Null),
            ["spec.containers[0].resources.requests[cpu]: Invalid value: \"-1\": must be greater than or equal to 0"]
        );
    }
}
