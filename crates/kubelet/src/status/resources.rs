//! Resource fields of the status.

use std::collections::BTreeMap;

use api::types::api::core::v1 as core;
use api::types::apimachinery::pkg::api::resource::Quantity;

use super::Input;
use crate::observe::Observed;
use crate::resources::{self, List};
use crate::spec;

/// What can be resized.
const RESIZABLE: [&str; 2] = ["cpu", "memory"];

fn none_if_empty(list: List) -> Option<List> {
    (!list.is_empty()).then_some(list)
}

/// What a container is given: what it was allotted, and while it runs what is
/// in force of that.
pub(super) fn of_container(
    input: &Input<'_>,
    container: &core::Container,
    observed: &Observed,
) -> Option<core::ResourceRequirements> {
    let mut given = container.resources.clone()?;
    if let Some(actual) = input.actual.container(&container.name).filter(|_| observed.running()) {
        in_force(&mut given.requests, actual.requests.as_ref());
        in_force(&mut given.limits, actual.limits.as_ref());
    }
    let empty = |list: &Option<List>| list.as_ref().is_none_or(BTreeMap::is_empty);
    (!(empty(&given.limits) && empty(&given.requests))).then_some(given)
}

fn in_force(list: &mut Option<List>, actual: Option<&List>) {
    let Some(list) = list else { return };
    for name in RESIZABLE {
        if let Some(amount) = actual.and_then(|actual| actual.get(name)) {
            list.insert(name.to_owned(), amount.clone());
        }
    }
}

/// What the pod as a whole is given: resources in force, and the requests that
/// it was admitted with (`convertToAPIPodLevelResourcesStatus`, 1.36).
pub(super) fn of_pod(input: &Input<'_>) -> (Option<core::ResourceRequirements>, Option<BTreeMap<String, Quantity>>) {
    let pod = input.pod;
    let allotted = resources::pod_requests(pod);
    let (requests, limits) = if spec::status(pod).phase.as_deref() == Some("Running") {
        running(input)
    } else {
        (allotted.clone(), resources::pod_limits(pod))
    };
    let both = core::ResourceRequirements {
        requests: none_if_empty(requests),
        limits: none_if_empty(limits),
        ..core::ResourceRequirements::default()
    };
    let resources = (both.requests.is_some() || both.limits.is_some()).then_some(both);
    (resources, none_if_empty(allotted))
}

/// Of a pod that the API shows as running: limits are those that its cgroup
/// has. Memory that is requested is in no cgroup: what was shown stays.
fn running(input: &Input<'_>) -> (List, List) {
    let actual = input.actual.apply(input.pod.clone());
    let shown = input.old.resources.as_ref().filter(|_| input.old.phase.as_deref() == Some("Running"));
    let mut requests = resources::pod_requests(&actual);
    let before = shown.and_then(|r| r.requests.as_ref()).and_then(|list| list.get("memory"));
    if let Some(before) = before {
        requests.insert("memory".to_owned(), before.clone());
    }
    let mut limits = resources::pod_limits(&actual);
    let cgroup = resources::of_pod_cgroup(&actual);
    for (name, set) in [("cpu", cgroup.cpu_quota_us.is_some()), ("memory", cgroup.memory_limit_bytes.is_some())] {
        if set {
            continue;
        }
        limits.remove(name);
        if let Some(before) = shown.and_then(|r| r.limits.as_ref()).and_then(|list| list.get(name)) {
            limits.insert(name.to_owned(), before.clone());
        }
    }
    (requests, limits)
}
