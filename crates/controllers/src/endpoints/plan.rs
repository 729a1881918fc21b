//! What a Service's Endpoints object has to say. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::pods;
use crate::services::{HEADLESS_LABEL, addresses, find_port, has_cluster_ip, has_endpoint, hostname, target};

/// Addresses in one object at most.
const CAPACITY_ADDRESSES: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MANAGED_BY_LABEL: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";

/// The object to write, or none if `current` says it already.
pub(super) fn plan(service: &Service, pods: &[Arc<Pod>], current: Option<&Endpoints>) -> Option<Endpoints> {
    let (subsets, is_truncated) = truncate(subsets(service, pods));
    let mut wanted = current.cloned().unwrap_or_else(|| Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        },
        subsets: None,
    });
    wanted.subsets = (!subsets.is_empty()).then_some(subsets);
    wanted.metadata.labels = Some(labels(service));
    let annotations = wanted.metadata.annotations.get_or_insert_default();
    annotations.remove(OVER_CAPACITY);
    if is_truncated {
        annotations.insert(OVER_CAPACITY.into(), "truncated".into());
    }
    wanted.metadata.annotations.take_if(|annotations| annotations.is_empty());
    (current != Some(&wanted)).then_some(wanted)
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS_LABEL);
    if !service.spec.as_ref().is_some_and(has_cluster_ip) {
        labels.insert(HEADLESS_LABEL.into(), String::new());
    }
    labels.insert(MANAGED_BY_LABEL.into(), MANAGER.into());
    labels
}

/// By address and pod: several pods may share a node's address.
type Addresses = BTreeMap<(String, String), (bool, EndpointAddress)>;
/// Number first: an entry without ports has the number 0 and sorts first.
type Port = (i32, Option<String>, Option<String>, Option<String>);

fn subsets(service: &Service, pods: &[Arc<Pod>]) -> Vec<EndpointSubset> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let publish = spec.publish_not_ready_addresses == Some(true);
    let ports = spec.ports.as_deref().unwrap_or_default();
    let mut by_port: BTreeMap<Port, Addresses> = BTreeMap::new();
    for pod in pods {
        if !has_endpoint(pod) || (pod.metadata.deletion_timestamp.is_some() && !publish) {
            continue;
        }
        let Some(address) = address(service, pod) else { continue };
        let ready = publish || pods::is_ready(pod);
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let mut add = |port: Port| {
            let key = (address.ip.clone(), uid.clone());
            by_port.entry(port).or_default().insert(key, (ready, address.clone()));
        };
        if ports.is_empty() && spec.cluster_ip.as_deref() == Some("None") {
            add((0, None, None, None));
        }
        for port in ports {
            if let Some(number) = find_port(pod, port) {
                add((number, port.name.clone(), port.protocol.clone(), port.app_protocol.clone()));
            }
        }
    }
    // Ports with the same addresses stand together.
    let mut grouped: Vec<(Addresses, Vec<EndpointPort>)> = Vec::new();
    for ((number, name, protocol, app_protocol), addresses) in by_port {
        let at = grouped.iter().position(|(known, _)| known.keys().eq(addresses.keys()) && *known == addresses);
        let at = at.unwrap_or_else(|| {
            grouped.push((addresses, Vec::new()));
            grouped.len() - 1
        });
        if number > 0 {
            grouped[at].1.push(EndpointPort { port: number, name, protocol, app_protocol });
        }
    }
    grouped.into_iter().map(|(addresses, ports)| subset(addresses, ports)).collect()
}

fn subset(addresses: Addresses, mut ports: Vec<EndpointPort>) -> EndpointSubset {
    ports.sort_by_key(port_order);
    let (ready, not_ready): (Vec<_>, Vec<_>) = addresses.into_values().partition(|(ready, _)| *ready);
    let list = |addresses: Vec<(bool, EndpointAddress)>| {
        let list: Vec<_> = addresses.into_iter().map(|(_, address)| address).collect();
        (!list.is_empty()).then_some(list)
    };
    EndpointSubset {
        addresses: list(ready),
        not_ready_addresses: list(not_ready),
        ports: (!ports.is_empty()).then_some(ports),
    }
}

/// Upstream orders ports by a hash of their Go form. The same order here means
/// that neither rewrites what the other wrote.
fn port_order(port: &EndpointPort) -> u128 {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let app_protocol = port.app_protocol.as_deref().unwrap_or("<nil>");
    let form = format!(
        "(v1.EndpointPort){{Name:(string){} Port:(int32){} Protocol:(v1.Protocol){} AppProtocol:(*string){app_protocol}}}",
        text(&port.name),
        port.port,
        text(&port.protocol),
    );
    fnv128a(form.as_bytes())
}

/// FNV-1a, 128 bits.
fn fnv128a(bytes: &[u8]) -> u128 {
    const START: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    bytes.iter().fold(START, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(PRIME))
}

/// The pod's address of the Service's first family.
fn address(service: &Service, pod: &Pod) -> Option<EndpointAddress> {
    let spec = service.spec.as_ref()?;
    let all = addresses(pod);
    let wants_ipv6 = match (spec.ip_families.as_deref(), spec.cluster_ip.as_deref()) {
        (Some([first, ..]), _) => first == "IPv6",
        (_, Some(ip)) if !ip.is_empty() && ip != "None" => ip.contains(':'),
        _ => all.first().is_some_and(|ip| ip.is_ipv6()),
    };
    let ip = all.into_iter().find(|ip| ip.is_ipv6() == wants_ipv6)?;
    Some(EndpointAddress {
        ip: ip.to_string(),
        node_name: Some(pods::node(pod).to_owned()),
        hostname: hostname(pod, service),
        target_ref: Some(target(pod)),
    })
}

/// Cuts to the capacity: not ready addresses first, each subset by its share.
fn truncate(mut subsets: Vec<EndpointSubset>) -> (Vec<EndpointSubset>, bool) {
    let count = |addresses: &Option<Vec<EndpointAddress>>| addresses.as_ref().map_or(0, Vec::len);
    let ready: usize = subsets.iter().map(|subset| count(&subset.addresses)).sum();
    let not_ready: usize = subsets.iter().map(|subset| count(&subset.not_ready_addresses)).sum();
    if ready + not_ready <= CAPACITY_ADDRESSES {
        return (subsets, false);
    }
    let cuts_ready = ready > CAPACITY_ADDRESSES;
    let (room, total) = if cuts_ready { (CAPACITY_ADDRESSES, ready) } else { (CAPACITY_ADDRESSES - ready, not_ready) };
    let mut left = room;
    for subset in &mut subsets {
        if cuts_ready {
            subset.not_ready_addresses = None;
        }
        let list = if cuts_ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
        if let Some(addresses) = list {
            let share = (addresses.len() * room).div_ceil(total).min(left);
            addresses.truncate(share);
            left -= addresses.len();
        }
        list.take_if(|addresses| addresses.is_empty());
    }
    (subsets, true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, ip: &str, ready: bool) -> Arc<Pod> {
        let ready = if ready { "True" } else { "False" };
        let value = json!({
            "metadata": {"name": name, "uid": name},
            "spec": {"nodeName": "n", "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 80, "protocol": "TCP"}]}]},
            "status": {"podIPs": [{"ip": ip}], "conditions": [{"type": "Ready", "status": ready}]},
        });
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn service() -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": "s", "namespace": "n", "labels": {"a": "b"}},
            "spec": {"clusterIP": "10.0.0.1", "ipFamilies": ["IPv4"], "ports": [
                {"name": "w", "port": 1, "targetPort": "web", "protocol": "TCP"},
                {"name": "x", "port": 2, "targetPort": 81, "protocol": "TCP"}]},
        }))
        .unwrap()
    }

    #[test]
    fn ports_with_the_same_addresses_stand_together_and_nothing_is_written_twice() {
        let pods = [pod("b", "10.1.0.2", true), pod("a", "10.1.0.1", false)];
        let made = plan(&service(), &pods, None).unwrap();
        let subsets = made.subsets.as_ref().unwrap();
        assert_eq!(subsets.len(), 1);
        assert_eq!(subsets[0].ports.as_ref().unwrap().len(), 2);
        assert_eq!(subsets[0].addresses.as_ref().unwrap()[0].ip, "10.1.0.2");
        assert_eq!(subsets[0].not_ready_addresses.as_ref().unwrap()[0].ip, "10.1.0.1");
        assert_eq!(made.metadata.labels.as_ref().unwrap()[MANAGED_BY_LABEL], MANAGER);
        assert_eq!(plan(&service(), &pods, Some(&made)), None);
    }

    #[test]
    fn a_thousand_addresses_are_the_most() {
        let pods: Vec<_> = (0..1200).map(|n| pod(&n.to_string(), &format!("10.1.{}.{}", n / 250, n % 250), n % 2 == 0)).collect();
        let made = plan(&service(), &pods, None).unwrap();
        let subset = &made.subsets.as_ref().unwrap()[0];
        assert_eq!(subset.addresses.as_ref().unwrap().len(), 600);
        assert_eq!(subset.not_ready_addresses.as_ref().unwrap().len(), 400);
        assert_eq!(made.metadata.annotations.as_ref().unwrap()[OVER_CAPACITY], "truncated");
    }
}
