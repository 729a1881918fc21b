//! What EndpointSlices and Endpoints have in common: which pods stand behind a
//! Service, under which ports, and which Services a change concerns.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use client::{Delta, Informer, ObjectKey};
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::pods;

pub(crate) const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// The specification, if pods stand behind the Service at all.
pub(crate) fn selecting(service: &Service) -> Option<&ServiceSpec> {
    let spec = service.spec.as_ref()?;
    let selects = spec.selector.as_ref().is_some_and(|selector| !selector.is_empty());
    (selects && spec.type_.as_deref() != Some("ExternalName")).then_some(spec)
}

fn matches(selector: &BTreeMap<String, String>, labels: Option<&BTreeMap<String, String>>) -> bool {
    selector.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
}

/// The pods that the Service selects, by name.
pub(crate) fn selected(pods: &Informer<Pod>, namespace: &str, spec: &ServiceSpec) -> Vec<Arc<Pod>> {
    let empty = BTreeMap::new();
    let selector = spec.selector.as_ref().unwrap_or(&empty);
    let mut pods = pods.in_namespace(namespace);
    pods.retain(|pod| matches(selector, pod.metadata.labels.as_ref()));
    pods
}

/// Not finished, and with an address.
pub(crate) fn has_endpoint(pod: &Pod) -> bool {
    !pods::is_finished(pod) && !addresses(pod).is_empty()
}

/// The pod's addresses; what is none is left out.
pub(crate) fn addresses(pod: &Pod) -> Vec<IpAddr> {
    let ips = pod.status.iter().flat_map(|status| status.pod_ips.iter().flatten());
    ips.filter_map(|ip| ip.ip.parse().ok()).collect()
}

/// Whether the pod is known in the Service's domain by its host name.
pub(crate) fn hostname(pod: &Pod, service: &Service) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let hostname = spec.hostname.clone().filter(|name| !name.is_empty())?;
    (spec.subdomain == service.metadata.name).then_some(hostname)
}

/// A reference to the pod, as endpoints carry it.
pub(crate) fn target(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".into()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

/// The Service has an address of its own.
pub(crate) fn has_cluster_ip(spec: &ServiceSpec) -> bool {
    spec.cluster_ip.as_deref().is_some_and(|ip| !ip.is_empty() && ip != "None")
}

/// The pod's port for a port of the Service; none if it has no port of that name.
pub(crate) fn find_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    let name = match port.target_port.as_ref()? {
        IntOrString::Int(number) => return Some(*number),
        IntOrString::String(name) => name,
    };
    let spec = pod.spec.as_ref()?;
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    let protocol = |protocol: &Option<String>| protocol.clone().unwrap_or_else(|| "TCP".into());
    let found = ports
        .filter(|candidate| candidate.name.as_ref() == Some(name))
        .find(|candidate| protocol(&candidate.protocol) == protocol(&port.protocol));
    found.map(|port| port.container_port)
}

/// The Services that select the pod, or did before the change.
pub(crate) fn of_pod(delta: &Delta<Pod>, services: &Informer<Service>) -> Vec<ObjectKey> {
    let pod = delta.object();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut labels = vec![pod.metadata.labels.as_ref()];
    labels.extend(delta.old().map(|old| old.metadata.labels.as_ref()).filter(|old| *old != labels[0]));
    let mut services = services.in_namespace(namespace);
    services.retain(|service| {
        selecting(service)
            .and_then(|spec| spec.selector.as_ref())
            .is_some_and(|selector| labels.iter().any(|labels| matches(selector, *labels)))
    });
    services.iter().map(|service| ObjectKey::of(&**service)).collect()
}

/// The Services with pods on a node that came, went or changed its zone.
pub(crate) fn of_node(delta: &Delta<Node>, pods: &Informer<Pod>, services: &Informer<Service>) -> Vec<ObjectKey> {
    if let Delta::Updated { old, new } = delta
        && zone(old) == zone(new)
    {
        return Vec::new();
    }
    let name = delta.object().metadata.name.as_deref().unwrap_or_default();
    let mut keys: Vec<_> = pods
        .list()
        .into_iter()
        .filter(|pod| pods::node(pod) == name)
        .flat_map(|pod| of_pod(&Delta::Added(pod), services))
        .collect();
    keys.sort();
    keys.dedup();
    keys
}

/// The node's zone.
pub(crate) fn zone(node: &Node) -> Option<&String> {
    node.metadata.labels.as_ref()?.get("topology.kubernetes.io/zone").filter(|zone| !zone.is_empty())
}
