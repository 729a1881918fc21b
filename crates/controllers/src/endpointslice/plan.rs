//! Which slices to make, change and delete so that they list the pods. Pure.
//! Endpoints stay in the slice they are in; new ones fill changed slices
//! first, then one unchanged slice if they fit, then new slices.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{MANAGED_BY_LABEL, MANAGER, SERVICE_LABEL};
use crate::services::{HEADLESS_LABEL, addresses, find_port, has_cluster_ip, has_endpoint, hostname, target, zone};
use crate::{pods, template};

/// Endpoints in a slice at most; upstream's `max-endpoints-per-slice`.
pub(super) const SLICE_ENDPOINTS: usize = 100;
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// What to write.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    pub(super) create: Vec<EndpointSlice>,
    pub(super) update: Vec<EndpointSlice>,
    /// Names.
    pub(super) delete: Vec<String>,
    /// Nodes of pods that were left out because nothing is known of them.
    pub(super) missing_nodes: BTreeSet<String>,
}

/// What is seen.
pub(super) struct Observed<'a> {
    pub(super) service: &'a Service,
    /// Those that the Service selects, by name.
    pub(super) pods: &'a [Arc<Pod>],
    /// Those of the Service that this controller manages.
    pub(super) slices: &'a [Arc<EndpointSlice>],
    pub(super) node: &'a dyn Fn(&str) -> Option<Arc<Node>>,
}

pub(super) fn plan(observed: &Observed<'_>) -> Plan {
    let families = families(observed.service);
    let mut plan = Plan::default();
    let (fitting, foreign): (Vec<_>, Vec<_>) =
        observed.slices.iter().cloned().partition(|slice| families.contains(&slice.address_type.as_str()));
    plan.delete.extend(foreign.iter().map(|slice| name(slice)));
    for family in families {
        let slices: Vec<_> = fitting.iter().filter(|slice| slice.address_type == family).cloned().collect();
        plan_family(observed, family, slices, &mut plan);
    }
    let time = trigger_time(observed);
    for slice in plan.create.iter_mut().chain(&mut plan.update) {
        let annotations = slice.metadata.annotations.get_or_insert_default();
        annotations.remove(TRIGGER_TIME);
        annotations.extend(time.map(|time| (TRIGGER_TIME.into(), time.to_string())));
        slice.metadata.annotations.take_if(|annotations| annotations.is_empty());
    }
    plan
}

/// When the newest of the states that the slices show came to be.
fn trigger_time(observed: &Observed<'_>) -> Option<Timestamp> {
    let of_pod = |pod: &Arc<Pod>| {
        let ready = pods::condition(pod, "Ready")?;
        Some(ready.last_transition_time.as_ref()?.0)
    };
    let pods = observed.pods.iter().filter_map(of_pod);
    let service = observed.service.metadata.creation_timestamp.as_ref().map(|time| time.0);
    pods.chain(service).max()
}

fn families(service: &Service) -> Vec<&'static str> {
    let spec = service.spec.clone().unwrap_or_default();
    let listed = spec.ip_families.unwrap_or_default();
    let families: Vec<_> = ["IPv4", "IPv6"].into_iter().filter(|family| listed.iter().any(|listed| listed == family)).collect();
    if !families.is_empty() {
        return families;
    }
    match spec.cluster_ip.as_deref() {
        Some(ip) if !ip.is_empty() && ip != "None" => vec![if ip.contains(':') { "IPv6" } else { "IPv4" }],
        _ => vec!["IPv4", "IPv6"],
    }
}

fn name(slice: &EndpointSlice) -> String {
    slice.metadata.name.clone().unwrap_or_default()
}

/// Endpoints of one set of ports go into slices of their own.
type Ports = Vec<(Option<String>, Option<i32>, Option<String>, Option<String>)>;

fn ports_key(ports: &[EndpointPort]) -> Ports {
    let mut key: Ports = ports
        .iter()
        .map(|port| (port.name.clone(), port.port, port.protocol.clone(), port.app_protocol.clone()))
        .collect();
    key.sort();
    key
}

/// What makes an endpoint the same one: everything else may change in place.
type Identity = (Vec<String>, Option<String>, Option<String>);

fn identity(endpoint: &Endpoint) -> Identity {
    let mut addresses = endpoint.addresses.clone();
    addresses.sort();
    let pod = endpoint.target_ref.as_ref().and_then(|target| target.name.clone());
    (addresses, endpoint.hostname.clone(), pod)
}

struct Wanted {
    ports: Vec<EndpointPort>,
    endpoints: BTreeMap<Identity, Endpoint>,
}

fn plan_family(observed: &Observed<'_>, family: &str, slices: Vec<Arc<EndpointSlice>>, plan: &mut Plan) {
    let service = observed.service;
    let (owned, strange): (Vec<_>, Vec<_>) = slices.into_iter().partition(|slice| is_owned(slice, service));
    let mut delete: Vec<Arc<EndpointSlice>> = strange;
    let mut by_ports: BTreeMap<Ports, Vec<Arc<EndpointSlice>>> = BTreeMap::new();
    let existing = owned.len() + delete.len();
    for slice in owned {
        by_ports.entry(ports_key(slice.ports.as_deref().unwrap_or_default())).or_default().push(slice);
    }
    let (mut create, mut update) = (Vec::new(), Vec::new());
    for (key, wanted) in wanted(observed, family, plan) {
        let slices = by_ports.remove(&key).unwrap_or_default();
        let packed = pack(service, family, slices, wanted);
        create.extend(packed.create);
        update.extend(packed.update);
        delete.extend(packed.delete);
    }
    delete.extend(by_ports.into_values().flatten());
    // A Service without endpoints has one empty slice.
    if existing == delete.len() && create.is_empty() {
        let empty = new_slice(service, family, Vec::new());
        let is_there = |slice: &EndpointSlice| {
            slice.endpoints.as_ref().is_none_or(Vec::is_empty)
                && slice.ports.as_ref().is_none_or(Vec::is_empty)
                && slice.metadata.labels == empty.metadata.labels
                && is_owned(slice, service)
        };
        if delete.len() == 1 && is_there(&delete[0]) {
            delete.clear();
        } else {
            create.push(empty);
        }
    }
    // Rather change a slice that would go than make one.
    delete.retain(|old| {
        if create.is_empty() || !is_owned(old, service) {
            return true;
        }
        let mut slice = create.remove(create.len() - 1);
        slice.metadata.name.clone_from(&old.metadata.name);
        slice.metadata.resource_version.clone_from(&old.metadata.resource_version);
        update.push(slice);
        false
    });
    if service.metadata.deletion_timestamp.is_none() {
        plan.create.extend(create);
    }
    plan.update.extend(update);
    plan.delete.extend(delete.iter().map(|slice| name(slice)));
}

fn is_owned(slice: &EndpointSlice, service: &Service) -> bool {
    let owners = slice.metadata.owner_references.iter().flatten();
    owners.into_iter().any(|owner| {
        Some(&owner.uid) == service.metadata.uid.as_ref() && owner.kind == "Service" && owner.api_version == "v1"
    })
}

fn wanted(observed: &Observed<'_>, family: &str, plan: &mut Plan) -> BTreeMap<Ports, Wanted> {
    let mut wanted: BTreeMap<Ports, Wanted> = BTreeMap::new();
    let publish = publishes_not_ready(observed.service);
    for pod in observed.pods.iter().filter(|pod| has_endpoint(pod)) {
        let ports = pod_ports(observed.service, pod);
        let entry = wanted.entry(ports_key(&ports)).or_insert_with(|| Wanted { ports, endpoints: BTreeMap::new() });
        let node = (observed.node)(pods::node(pod));
        if node.is_none() && !publish {
            plan.missing_nodes.insert(pods::node(pod).to_owned());
            continue;
        }
        let endpoint = endpoint(pod, node.as_deref(), observed.service, family);
        if !endpoint.addresses.is_empty() {
            entry.endpoints.insert(identity(&endpoint), endpoint);
        }
    }
    wanted
}

fn publishes_not_ready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses) == Some(true)
}

fn pod_ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    ports
        .filter_map(|port| {
            Some(EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(find_port(pod, port)?),
                protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect()
}

fn endpoint(pod: &Pod, node: Option<&Node>, service: &Service, family: &str) -> Endpoint {
    let serving = pods::is_ready(pod);
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let ready = publishes_not_ready(service) || (serving && !terminating);
    let of_family = addresses(pod).into_iter().filter(|ip| ip.is_ipv6() == (family == "IPv6"));
    Endpoint {
        addresses: of_family.map(|ip| ip.to_string()).collect(),
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        target_ref: Some(target(pod)),
        node_name: Some(pods::node(pod).to_owned()).filter(|name| !name.is_empty()),
        zone: node.and_then(zone).cloned(),
        hostname: hostname(pod, service),
        ..Endpoint::default()
    }
}

fn new_slice(service: &Service, family: &str, ports: Vec<EndpointPort>) -> EndpointSlice {
    let service_name = service.metadata.name.as_deref().unwrap_or_default();
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(template::prefix(service_name)),
            namespace: service.metadata.namespace.clone(),
            owner_references: Some(vec![template::controller_reference(service)]),
            labels: Some(labels(service)),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        ports: Some(ports),
        endpoints: Some(Vec::new()),
    }
}

/// The Service's labels and the slice's own.
fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS_LABEL);
    if !service.spec.as_ref().is_some_and(has_cluster_ip) {
        labels.insert(HEADLESS_LABEL.into(), String::new());
    }
    labels.insert(SERVICE_LABEL.into(), service.metadata.name.clone().unwrap_or_default());
    labels.insert(MANAGED_BY_LABEL.into(), MANAGER.into());
    labels
}

/// Whether labels other than the slice's own differ.
fn are_labels_changed(slice: &EndpointSlice, wanted: &BTreeMap<String, String>) -> bool {
    let foreign = |labels: &BTreeMap<String, String>| {
        let mut labels = labels.clone();
        for own in [HEADLESS_LABEL, SERVICE_LABEL, MANAGED_BY_LABEL] {
            labels.remove(own);
        }
        labels
    };
    foreign(slice.metadata.labels.as_ref().unwrap_or(&BTreeMap::new())) != foreign(wanted)
}

#[derive(Default)]
struct Packed {
    create: Vec<EndpointSlice>,
    update: Vec<EndpointSlice>,
    delete: Vec<Arc<EndpointSlice>>,
}

fn pack(service: &Service, family: &str, slices: Vec<Arc<EndpointSlice>>, wanted: Wanted) -> Packed {
    let Wanted { ports, endpoints: mut left } = wanted;
    let labels = labels(service);
    let mut packed = Packed::default();
    let mut unchanged: Vec<Arc<EndpointSlice>> = Vec::new();
    for slice in slices {
        let before = slice.endpoints.as_deref().unwrap_or_default();
        let kept: Vec<_> = before.iter().filter_map(|endpoint| left.remove(&identity(endpoint))).collect();
        let is_changed = kept.len() != before.len() || kept != before;
        if is_changed && kept.is_empty() {
            packed.delete.push(slice);
        } else if is_changed || are_labels_changed(&slice, &labels) {
            let mut slice = (*slice).clone();
            slice.endpoints = Some(kept);
            slice.metadata.labels = Some(labels.clone());
            packed.update.push(slice);
        } else {
            unchanged.push(slice);
        }
    }
    packed.update.sort_by_key(|slice| std::cmp::Reverse(slice.endpoints.as_ref().map_or(0, Vec::len)));
    for slice in &mut packed.update {
        fill(slice, &mut left);
    }
    while !left.is_empty() {
        let room = |slice: &EndpointSlice| {
            SLICE_ENDPOINTS.checked_sub(left.len() + slice.endpoints.as_ref().map_or(0, Vec::len))
        };
        // The fullest that takes all that is left.
        let best = unchanged.iter().enumerate().filter_map(|(at, slice)| room(slice).map(|room| (room, at))).min();
        match best.filter(|_| left.len() < SLICE_ENDPOINTS) {
            Some((_, at)) => {
                let mut slice = (*unchanged.remove(at)).clone();
                fill(&mut slice, &mut left);
                packed.update.push(slice);
            }
            None => {
                let mut slice = new_slice(service, family, ports.clone());
                fill(&mut slice, &mut left);
                packed.create.push(slice);
            }
        }
    }
    packed
}

fn fill(slice: &mut EndpointSlice, left: &mut BTreeMap<Identity, Endpoint>) {
    let endpoints = slice.endpoints.get_or_insert_default();
    while endpoints.len() < SLICE_ENDPOINTS {
        let Some((_, endpoint)) = left.pop_first() else { return };
        endpoints.push(endpoint);
    }
}
