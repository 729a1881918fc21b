//! Pods under quotas.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::Scope;
use crate::amounts::Amounts;
use crate::amounts::pod::{pod_limits, pod_requests};
use crate::quantity::{Quantity, Written};

const NAMES: [&str; 11] = [
    "count/pods",
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
];
/// What every container must state if a quota counts it.
const STATED: [&str; 6] = ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];
const COMPUTE: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

pub(super) fn counts(name: &str) -> bool {
    let huge = name.starts_with("hugepages-") || name.starts_with("requests.hugepages-");
    NAMES.contains(&name) || huge || is_extended_request(name)
}

/// `requests.example.com/gpu`.
fn is_extended_request(name: &str) -> bool {
    let Some(resource) = name.strip_prefix("requests.") else { return false };
    resource.starts_with("deviceclass.resource.kubernetes.io/") || is_extended(name)
}

/// A name of somebody else's domain.
fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/")
}

pub(super) fn usage(pod: &Value, now: Timestamp) -> Amounts {
    let mut usage = Amounts::default();
    usage.set("count/pods", Written::from_i64(1));
    if is_charged(pod, now) {
        usage.add(&compute(&pod_requests(pod), &pod_limits(pod)));
    }
    usage
}

fn compute(requests: &Amounts, limits: &Amounts) -> Amounts {
    let mut usage = Amounts::default();
    usage.set("pods", Written::from_i64(1));
    for name in COMPUTE {
        if let Some(amount) = requests.get(name) {
            usage.set(name, amount.clone());
            usage.set(format!("requests.{name}"), amount.clone());
        }
        if let Some(amount) = limits.get(name) {
            usage.set(format!("limits.{name}"), amount.clone());
        }
    }
    for (name, amount) in &requests.0 {
        if name.starts_with("hugepages-") {
            usage.set(name.as_str(), amount.clone());
        }
        if name.starts_with("hugepages-") || is_extended(name) {
            usage.set(format!("requests.{name}"), amount.clone());
        }
    }
    usage
}

/// Neither finished nor stuck in deletion beyond its grace.
fn is_charged(pod: &Value, now: Timestamp) -> bool {
    if matches!(pod["status"]["phase"].as_str(), Some("Failed" | "Succeeded")) {
        return false;
    }
    let metadata = &pod["metadata"];
    let deleted = metadata["deletionTimestamp"].as_str().and_then(|text| text.parse::<Timestamp>().ok());
    match (deleted, metadata["deletionGracePeriodSeconds"].as_i64()) {
        (Some(at), Some(grace)) => now <= at + SignedDuration::from_secs(grace.clamp(0, i64::from(i32::MAX))),
        _ => true,
    }
}

pub(super) fn constraints(required: &[&str], pod: &Value) -> Result<(), String> {
    let spec = &pod["spec"];
    let own = &spec["resources"];
    if ["requests", "limits"].iter().any(|list| own[*list].as_object().is_some_and(|list| !list.is_empty())) {
        return Ok(());
    }
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for container in ["containers", "initContainers"].iter().flat_map(|field| spec[*field].as_array()).flatten() {
        let resources = &container["resources"];
        let stated = compute(&Amounts::read(&resources["requests"]), &Amounts::read(&resources["limits"]));
        for name in required.iter().filter(|name| STATED.contains(*name) && stated.get(name).is_none()) {
            missing.entry(*name).or_default().insert(container["name"].as_str().unwrap_or_default());
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let text = |(name, containers): (&&str, &BTreeSet<&str>)| {
        let containers: Vec<&str> = containers.iter().copied().collect();
        format!("{name} for: {}", containers.join(","))
    };
    Err(format!("must specify {}", missing.iter().map(text).collect::<Vec<_>>().join("; ")))
}

pub(super) fn in_scope(scope: &Scope, pod: &Value) -> bool {
    let terminating = pod["spec"]["activeDeadlineSeconds"].as_i64().is_some_and(|seconds| seconds >= 0);
    match scope.name.as_str() {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => is_best_effort(pod),
        "NotBestEffort" => !is_best_effort(pod),
        "PriorityClass" => scope.admits(pod["spec"]["priorityClassName"].as_str().filter(|name| !name.is_empty())),
        "CrossNamespacePodAffinity" => looks_across_namespaces(pod),
        _ => false,
    }
}

fn is_best_effort(pod: &Value) -> bool {
    if let Some(class) = pod["status"]["qosClass"].as_str() {
        return class == "BestEffort";
    }
    let spec = &pod["spec"];
    let asks = |resources: &Value| {
        let lists = ["requests", "limits"].iter().filter_map(|list| resources[*list].as_object()).flatten();
        lists.filter(|(name, _)| matches!(name.as_str(), "cpu" | "memory")).any(|(_, amount)| {
            let parsed = amount.as_str().and_then(|text| text.parse::<Quantity>().ok());
            parsed.is_some_and(|amount| !amount.is_zero())
        })
    };
    let mut all = ["containers", "initContainers"].iter().flat_map(|field| spec[*field].as_array()).flatten();
    !asks(&spec["resources"]) && !all.any(|container| asks(&container["resources"]))
}

fn looks_across_namespaces(pod: &Value) -> bool {
    let across = |term: &Value| {
        term["namespaces"].as_array().is_some_and(|all| !all.is_empty()) || term["namespaceSelector"].is_object()
    };
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let affinity = &pod["spec"]["affinity"][*kind];
        let list = |field: &str| affinity[field].as_array().map(Vec::as_slice).unwrap_or_default();
        list("requiredDuringSchedulingIgnoredDuringExecution").iter().any(across)
            || list("preferredDuringSchedulingIgnoredDuringExecution").iter().any(|one| across(&one["podAffinityTerm"]))
    })
}
