//! LimitRanger: containers get the namespace's default requests and limits, and
//! pods and claims stay within its minimum, maximum and ratio.

use api::amounts::Amounts;
use api::amounts::pod::{pod_limits, pod_requests};
use api::quantity::Written;
use api::status::Status;
use futures_util::future::BoxFuture;
use serde_json::Value;

use super::{Operation, Plugin, Request};
use crate::object::{self, Meta, as_map};

/// Says which values of a pod are not its author's.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";

pub(super) struct LimitRanger;

impl Plugin for LimitRanger {
    fn handles(&self, request: &Request<'_>) -> bool {
        // The containers of a pod that exists cannot change but by a resize.
        let pod = request.is("", "pods") && request.operation == Operation::Create
            || request.is_sub("", "pods", "resize") && request.operation == Operation::Update;
        let claim = request.is("", "persistentvolumeclaims") && request.operation != Operation::Delete;
        (pod || claim) && request.old.is_none_or(|old| !old.deleting())
    }

    fn mutate<'a>(&'a self, request: &'a mut Request<'_>, object: &'a mut Value) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            if request.resource.kind() == "Pod" {
                for range in request.all_in_namespace("limitranges").await? {
                    fill_in(object, &range);
                }
            }
            Ok(())
        })
    }

    fn validate<'a>(&'a self, request: &'a mut Request<'_>, object: &'a Value) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            let is_pod = request.resource.kind() == "Pod";
            for range in request.all_in_namespace("limitranges").await? {
                let errors = if is_pod { pod_errors(object, &range) } else { claim_errors(object, &range) };
                if !errors.is_empty() {
                    return Err(request.forbid(&aggregate(errors)));
                }
            }
            Ok(())
        })
    }
}

/// Several errors as Go joins them: each once, in brackets.
fn aggregate(mut errors: Vec<String>) -> String {
    if errors.len() == 1 {
        return errors.swap_remove(0);
    }
    let mut listed: Vec<String> = Vec::new();
    for error in errors {
        if !listed.contains(&error) {
            listed.push(error);
        }
    }
    if listed.len() == 1 { listed.swap_remove(0) } else { format!("[{}]", listed.join(", ")) }
}

fn limits<'a>(range: &'a Value, kind: &'a str) -> impl Iterator<Item = &'a Value> {
    object::items(range, "spec.limits").iter().filter(move |limit| limit["type"] == kind)
}

fn fill_in(pod: &mut Value, range: &Value) {
    let (mut requests, mut caps) = (Amounts::default(), Amounts::default());
    for limit in limits(range, "Container") {
        requests.0.extend(Amounts::read(&limit["defaultRequest"]).0);
        caps.0.extend(Amounts::read(&limit["default"]).0);
    }
    let mut set = Vec::new();
    for (list, called) in [("containers", "container"), ("initContainers", "init container")] {
        let spec = object::map_mut(pod, "spec");
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let name = object::text(container, "name").to_owned();
            for (field, what, defaults) in [("requests", "request", &requests), ("limits", "limit", &caps)] {
                let added = complete(container, field, defaults);
                if !added.is_empty() {
                    set.push(format!("{} {what} for {called} {name}", added.join(", ")));
                }
            }
        }
    }
    if !set.is_empty() {
        let annotations = object::metadata(pod).entry("annotations").or_insert(Value::Null);
        let text = format!("LimitRanger plugin set: {}", set.join("; "));
        as_map(annotations).insert(ANNOTATION.to_owned(), text.into());
    }
}

/// Adds the defaults that the list does not have; returns their names.
fn complete(container: &mut Value, field: &str, defaults: &Amounts) -> Vec<String> {
    if defaults.0.is_empty() {
        return Vec::new();
    }
    let resources = object::map_mut(container, "resources");
    let list = as_map(resources.entry(field).or_insert(Value::Null));
    let mut added = Vec::new();
    for (name, amount) in &defaults.0 {
        if !list.contains_key(name) {
            list.insert(name.clone(), amount.to_string().into());
            added.push(name.clone());
        }
    }
    added
}

fn pod_errors(pod: &Value, range: &Value) -> Vec<String> {
    let mut errors = Vec::new();
    for limit in object::items(range, "spec.limits") {
        match object::text(limit, "type") {
            "Container" => {
                let lists = ["spec.containers", "spec.initContainers"];
                for container in lists.iter().flat_map(|list| object::items(pod, list)) {
                    let read = |field: &str| Amounts::read(&container["resources"][field]);
                    Bounds { kind: "Container", requests: read("requests"), limits: read("limits") }
                        .check(limit, &mut errors);
                }
            }
            "Pod" => {
                // The overhead is not the author's to answer for.
                let mut plain = pod.clone();
                object::map_mut(&mut plain, "spec").remove("overhead");
                Bounds { kind: "Pod", requests: pod_requests(&plain), limits: pod_limits(&plain) }
                    .check(limit, &mut errors);
            }
            _ => {}
        }
    }
    errors
}

fn claim_errors(claim: &Value, range: &Value) -> Vec<String> {
    let mut errors = Vec::new();
    let requests = Amounts::read(object::at(claim, "spec.resources.requests"));
    let kind = "PersistentVolumeClaim";
    for limit in limits(range, kind) {
        let bounds = Bounds { kind, requests: requests.clone(), limits: Amounts::default() };
        for (name, enforced) in &Amounts::read(&limit["min"]).0 {
            bounds.minimum(name, enforced, &mut errors);
        }
        for (name, enforced) in &Amounts::read(&limit["max"]).0 {
            let start = format!("maximum {name} usage per {kind} is {enforced}");
            match requests.get(name) {
                None => errors.push(format!("{start}.  No request is specified")),
                Some(asked) if asked > enforced => errors.push(format!("{start}, but request is {asked}")),
                Some(_) => {}
            }
        }
    }
    errors
}

/// What is held against an item of a LimitRange.
struct Bounds {
    kind: &'static str,
    requests: Amounts,
    limits: Amounts,
}

impl Bounds {
    fn check(&self, limit: &Value, errors: &mut Vec<String>) {
        for (name, enforced) in &Amounts::read(&limit["min"]).0 {
            self.minimum(name, enforced, errors);
        }
        for (name, enforced) in &Amounts::read(&limit["max"]).0 {
            self.maximum(name, enforced, errors);
        }
        for (name, enforced) in &Amounts::read(&limit["maxLimitRequestRatio"]).0 {
            self.ratio(name, enforced, errors);
        }
    }

    fn minimum(&self, name: &str, enforced: &Written, errors: &mut Vec<String>) {
        let start = format!("minimum {name} usage per {} is {enforced}", self.kind);
        match (self.requests.get(name), self.limits.get(name)) {
            (None, _) => errors.push(format!("{start}.  No request is specified")),
            (Some(request), _) if request < enforced => errors.push(format!("{start}, but request is {request}")),
            (_, Some(limit)) if limit < enforced => errors.push(format!("{start}, but limit is {limit}")),
            _ => {}
        }
    }

    fn maximum(&self, name: &str, enforced: &Written, errors: &mut Vec<String>) {
        let start = format!("maximum {name} usage per {} is {enforced}", self.kind);
        match (self.requests.get(name), self.limits.get(name)) {
            (_, None) => errors.push(format!("{start}.  No limit is specified")),
            (_, Some(limit)) if limit > enforced => errors.push(format!("{start}, but limit is {limit}")),
            (Some(request), _) if request > enforced => errors.push(format!("{start}, but request is {request}")),
            _ => {}
        }
    }

    fn ratio(&self, name: &str, enforced: &Written, errors: &mut Vec<String>) {
        let start = format!("{name} max limit to request ratio per {} is {enforced}", self.kind);
        let some = |amounts: &Amounts| amounts.get(name).filter(|amount| !amount.is_zero()).map(Written::as_f64);
        match (some(&self.requests), some(&self.limits)) {
            (None, _) => errors.push(format!("{start}, but no request is specified or request is 0")),
            (_, None) => errors.push(format!("{start}, but no limit is specified or limit is 0")),
            (Some(request), Some(limit)) if limit / request > enforced.as_f64() => {
                errors.push(format!("{start}, but provided ratio is {:.6}", limit / request));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn range(limit: Value) -> Value {
        json!({"spec": {"limits": [limit]}})
    }

    #[test]
    fn containers_get_the_defaults_they_lack_and_the_pod_says_so() {
        let mut pod = json!({"metadata": {}, "spec": {"containers": [
            {"name": "c", "resources": {"requests": {"cpu": "1"}}}, {"name": "d"}]}});
        let limits =
            json!({"type": "Container", "defaultRequest": {"cpu": "100m"}, "default": {"cpu": "2", "memory": "1Gi"}});
        fill_in(&mut pod, &range(limits));
        let container = &pod["spec"]["containers"][0]["resources"];
        assert_eq!(*container, json!({"requests": {"cpu": "1"}, "limits": {"cpu": "2", "memory": "1Gi"}}));
        assert_eq!(
            pod["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: cpu, memory limit for container c; cpu request for container d; cpu, memory limit for container d"
        );
    }

    #[test]
    fn containers_and_pods_stay_within_bounds() {
        let pod = json!({"spec": {"containers": [
            {"name": "c", "resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "2"}}}]}});
        let check = |limit: Value| pod_errors(&pod, &range(limit));
        assert_eq!(
            check(json!({"type": "Container", "min": {"cpu": "200m", "memory": "1Mi"}})),
            [
                "minimum cpu usage per Container is 200m, but request is 100m",
                "minimum memory usage per Container is 1Mi.  No request is specified"
            ]
        );
        assert_eq!(
            check(json!({"type": "Pod", "max": {"cpu": "1"}})),
            ["maximum cpu usage per Pod is 1, but limit is 2"]
        );
        assert_eq!(
            check(json!({"type": "Container", "maxLimitRequestRatio": {"cpu": "3"}})),
            ["cpu max limit to request ratio per Container is 3, but provided ratio is 20.000000"]
        );
        assert!(check(json!({"type": "Container", "max": {"cpu": "2"}})).is_empty());
    }

    #[test]
    fn several_errors_are_listed_once_each() {
        assert_eq!(aggregate(vec!["a".into()]), "a");
        assert_eq!(aggregate(vec!["a".into(), "b".into(), "a".into()]), "[a, b]");
    }
}
