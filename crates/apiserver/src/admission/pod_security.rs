//! PodSecurity: pods keep to the level that their namespace's labels name
//! (enforce), and workloads and pods that would not get a warning. What the
//! levels forbid is in [`checks`]; what labels say, in [`policy`].
//!
//! TODO-coverage: the `audit` mode is read and checked for form, and recorded
//! nowhere UNTIL there is an audit log.

mod checks;
mod policy;

use std::collections::{BTreeMap, BTreeSet};

use api::status::Status;
use futures_util::future::BoxFuture;
use serde_json::Value;

use self::policy::{Level, Policy, Rung};
use super::{Operation, Plugin, Request};
use crate::object::{self, Meta};
use crate::pipeline::write;

/// Pods of a namespace that are looked at when its level is raised
/// (`defaultNamespaceMaxPodsToCheck`, upstream 1.36).
const PODS_TO_CHECK: usize = 3000;
/// Subresources of pods that change nothing a level is about.
const IGNORED: [&str; 8] = ["exec", "attach", "binding", "eviction", "log", "portforward", "proxy", "status"];

pub(super) struct PodSecurity;

impl Plugin for PodSecurity {
    fn handles(&self, request: &Request<'_>) -> bool {
        if request.operation == Operation::Delete {
            return false;
        }
        let name = &request.resource.collection.group_resource;
        match (name.group.as_str(), name.resource.as_str()) {
            ("", "namespaces") => request.subresource.is_empty(),
            ("", "pods") => !IGNORED.contains(&request.subresource),
            _ => request.subresource.is_empty() && template_path(&name.group, &name.resource).is_some(),
        }
    }

    fn validate<'a>(&'a self, request: &'a mut Request<'_>, object: &'a Value) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            if request.is("", "namespaces") {
                return namespace(request, object).await;
            }
            let policy = policy_of(request).await?;
            let name = &request.resource.collection.group_resource;
            match template_path(&name.group, &name.resource) {
                Some(path) => {
                    warn(request, &policy, object::at(object, path));
                    Ok(())
                }
                None => pod(request, &policy, object),
            }
        })
    }
}

/// Where kinds that make pods have their template.
fn template_path(group: &str, plural: &str) -> Option<&'static str> {
    match (group, plural) {
        ("", "podtemplates") => Some("template"),
        ("", "replicationcontrollers")
        | ("apps", "replicasets" | "deployments" | "statefulsets" | "daemonsets")
        | ("batch", "jobs") => Some("spec.template"),
        ("batch", "cronjobs") => Some("spec.jobTemplate.spec.template"),
        _ => None,
    }
}

async fn policy_of(request: &Request<'_>) -> Result<Policy, Status> {
    let namespaces = request.core.collection("", "namespaces")?;
    let found = write::current(request.core, &namespaces.key("", request.namespace)).await?;
    let labels = found.map(|namespace| namespace.object.meta("labels").clone()).unwrap_or_default();
    Ok(Policy::read(&labels).0)
}

fn pod(request: &mut Request<'_>, policy: &Policy, pod: &Value) -> Result<(), Status> {
    if request.old.is_some_and(|old| !is_significant(pod, old)) {
        return Ok(());
    }
    let found = checks::violations(policy.enforce, pod);
    if !found.is_empty() {
        let why = format!("violates PodSecurity \"{}\": {}", policy.enforce, checks::details(&found));
        return Err(request.forbid(&why));
    }
    warn(request, policy, pod);
    Ok(())
}

fn warn(request: &mut Request<'_>, policy: &Policy, pod: &Value) {
    let found = checks::violations(policy.warn, pod);
    if !found.is_empty() {
        let text = format!("would violate PodSecurity \"{}\": {}", policy.warn, checks::details(&found));
        request.warnings.push(text);
    }
}

/// True if containers came, went, or run another image.
fn is_significant(pod: &Value, old: &Value) -> bool {
    let image = |container: &Value| container["image"].clone();
    let fixed = ["spec.containers", "spec.initContainers"].iter().any(|list| {
        let (new, old) = (object::items(pod, list), object::items(old, list));
        new.len() != old.len() || new.iter().zip(old).any(|(new, old)| image(new) != image(old))
    });
    let before = object::items(old, "spec.ephemeralContainers");
    fixed
        || object::items(pod, "spec.ephemeralContainers").iter().any(|new| {
            let same = before.iter().find(|old| old["name"] == new["name"]);
            same.is_none_or(|old| image(old) != image(new))
        })
}

/// Labels must be readable; a raised level warns about the pods that are there.
async fn namespace(request: &mut Request<'_>, namespace: &Value) -> Result<(), Status> {
    let (policy, errors) = Policy::read(namespace.meta("labels"));
    let old = request.old.map(|old| Policy::read(old.meta("labels")));
    if !errors.is_empty() {
        let causes = errors.into_causes();
        let known = old.as_ref().is_some_and(|_| {
            let before = request.old.map(|old| Policy::read(old.meta("labels")).1.into_causes());
            before.as_ref() == Some(&causes)
        });
        if !known {
            return Err(Status::invalid("", "Namespace", namespace.name(), causes));
        }
    }
    let Some((old, _)) = old else { return Ok(()) };
    let (new, old) = (policy.enforce, old.enforce);
    let raised = new != old && new.level != Level::Privileged && (new.version != old.version || new.level > old.level);
    if raised {
        let warnings = existing(request, namespace.name(), new).await?;
        request.warnings.extend(warnings);
    }
    Ok(())
}

async fn existing(request: &Request<'_>, namespace: &str, rung: Rung) -> Result<Vec<String>, Status> {
    let all = request.objects("", "pods", namespace).await?;
    let total = all.len();
    let mut by_reason: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let ordered = one_of_each_owner_first(all);
    let checked = ordered.len().min(PODS_TO_CHECK);
    for pod in ordered.iter().take(PODS_TO_CHECK) {
        let found = checks::violations(rung, pod);
        if !found.is_empty() {
            by_reason.entry(checks::reasons(&found)).or_default().push(pod.name().to_owned());
        }
    }
    let mut warnings = Vec::new();
    if checked < total {
        warnings.push(format!(
            "new PodSecurity enforce level only checked against the first {checked} of {total} existing pods"
        ));
    }
    if !by_reason.is_empty() {
        warnings.push(format!(
            "existing pods in namespace \"{namespace}\" violate the new PodSecurity enforce level \"{rung}\""
        ));
    }
    let mut lines: Vec<String> = by_reason.into_iter().map(|(reason, names)| line(&reason, &names)).collect();
    lines.sort();
    warnings.extend(lines);
    Ok(warnings)
}

fn line(reason: &str, names: &[String]) -> String {
    let first = names.iter().min().map(String::as_str).unwrap_or_default();
    match names.len() {
        0 | 1 => format!("{first}: {reason}"),
        2 => format!("{first} (and 1 other pod): {reason}"),
        many => format!("{first} (and {} other pods): {reason}", many - 1),
    }
}

/// Pods of one owner are alike, so the others are looked at last.
fn one_of_each_owner_first(pods: Vec<Value>) -> Vec<Value> {
    let mut owners = BTreeSet::new();
    let (mut first, mut rest) = (Vec::new(), Vec::new());
    for pod in pods {
        let references = pod.meta("ownerReferences").as_array().into_iter().flatten();
        let owner = references.filter(|one| one["controller"] == true).find_map(|one| one["uid"].as_str());
        match owner {
            Some(uid) if !owners.insert(uid.to_owned()) => rest.push(pod),
            _ => first.push(pod),
        }
    }
    first.append(&mut rest);
    first
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_a_change_of_containers_is_looked_at_again() {
        let pod = json!({"spec": {"containers": [{"name": "c", "image": "a"}]}});
        let mut new = pod.clone();
        new["metadata"] = json!({"labels": {"a": "b"}});
        assert!(!is_significant(&new, &pod));
        new["spec"]["ephemeralContainers"] = json!([{"name": "e", "image": "x"}]);
        assert!(is_significant(&new, &pod));
        assert!(!is_significant(&new, &new));
    }

    #[test]
    fn pods_with_the_same_reasons_share_a_line() {
        let names = ["b".to_owned(), "a".to_owned(), "c".to_owned()];
        assert_eq!(line("privileged", &names[..1]), "b: privileged");
        assert_eq!(line("privileged", &names[..2]), "a (and 1 other pod): privileged");
        assert_eq!(line("privileged", &names), "a (and 2 other pods): privileged");
    }
}
