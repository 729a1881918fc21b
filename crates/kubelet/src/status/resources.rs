//! Resource fields of the status.

use std::collections::BTreeMap;

use api::types::api::core::v1 as core;
use api::types::apimachinery::pkg::api::resource::Quantity;

use crate::observe::Observed;
use crate::resources;

/// What a container is given.
// TODO-correctness: read the limits in force from the runtime until a resize
// in place is carried out by the agent; up to then they equal the specification.
pub(super) fn of_container(container: &core::Container, _observed: &Observed) -> Option<core::ResourceRequirements> {
    let given = container.resources.clone()?;
    let empty = |list: &Option<BTreeMap<String, Quantity>>| list.as_ref().is_none_or(BTreeMap::is_empty);
    (!(empty(&given.limits) && empty(&given.requests))).then_some(given)
}

/// What the pod as a whole is given: resources in force, and the requests that
/// it was admitted with.
pub(super) fn of_pod(pod: &core::Pod) -> (Option<core::ResourceRequirements>, Option<BTreeMap<String, Quantity>>) {
    let requests = resources::pod_requests(pod);
    let limits = resources::pod_limits(pod);
    let some = |list: BTreeMap<String, Quantity>| (!list.is_empty()).then_some(list);
    let both = core::ResourceRequirements {
        requests: some(requests.clone()),
        limits: some(limits),
        ..core::ResourceRequirements::default()
    };
    let resources = (both.requests.is_some() || both.limits.is_some()).then_some(both);
    (resources, some(requests))
}
