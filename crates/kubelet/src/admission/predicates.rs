//! Whether a pod that was bound to this node belongs here: what the scheduler
//! checks as well, for pods that were bound by hand (`AdmissionCheck`, 1.36).
//! Room for its requests is not looked at.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::node_selector::NodeSelection;
use api::types::api::core::v1 as core;

use crate::spec;

/// The node as far as pods select it.
pub(crate) struct Place<'a> {
    /// Name.
    pub(crate) name: &'a str,
    /// Labels.
    pub(crate) labels: &'a BTreeMap<String, String>,
    /// Taints.
    pub(crate) taints: &'a [core::Taint],
}

/// A predicate that failed: its name, and why.
pub(super) struct Failed(pub(super) &'static str, pub(super) &'static str);

/// The name of the predicate that a newer look at the node may satisfy.
pub(super) const NODE_AFFINITY: &str = "NodeAffinity";

/// The first predicate that fails.
pub(super) fn first_failed(pod: &core::Pod, place: &Place<'_>, others: &[&Arc<core::Pod>]) -> Option<Failed> {
    let spec = spec::spec(pod);
    if !NodeSelection::of_pod(spec).matches(place.name, place.labels) {
        return Some(Failed(NODE_AFFINITY, "node(s) didn't match Pod's node affinity/selector"));
    }
    if ports_taken(pod, others) {
        return Some(Failed("NodePorts", "node(s) didn't have free ports for the requested pod ports"));
    }
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let mut untolerated =
        place.taints.iter().filter(|t| t.effect == "NoExecute").filter(|t| !tolerated(t, tolerations));
    if untolerated.next().is_some() && !spec::is_static(pod) {
        return Some(Failed("TaintToleration", "node(s) had taints that the pod didn't tolerate"));
    }
    None
}

/// A port of the machine: address, empty for all of them; protocol; number.
type HostPort<'a> = (&'a str, &'a str, i32);

fn host_ports(pod: &core::Pod) -> impl Iterator<Item = HostPort<'_>> {
    let sidecars = spec::init_containers(pod).iter().filter(|c| spec::is_sidecar(c));
    let ports = spec::main_containers(pod).iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    ports.filter_map(|port| {
        let number = port.host_port.filter(|number| *number > 0)?;
        let address = port.host_ip.as_deref().filter(|ip| *ip != "0.0.0.0").unwrap_or_default();
        Some((address, port.protocol.as_deref().unwrap_or("TCP"), number))
    })
}

fn ports_taken(pod: &core::Pod, others: &[&Arc<core::Pod>]) -> bool {
    let collide =
        |a: HostPort<'_>, b: HostPort<'_>| (a.1, a.2) == (b.1, b.2) && (a.0 == b.0 || a.0.is_empty() || b.0.is_empty());
    host_ports(pod).any(|own| others.iter().any(|other| host_ports(other).any(|taken| collide(own, taken))))
}

fn tolerated(taint: &core::Taint, tolerations: &[core::Toleration]) -> bool {
    tolerations.iter().any(|toleration| {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let (key, value, effect) = (text(&toleration.key), text(&toleration.value), text(&toleration.effect));
        if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
            return false;
        }
        match toleration.operator.as_deref().unwrap_or_default() {
            "" | "Equal" => value == taint.value.clone().unwrap_or_default(),
            "Exists" => true,
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plan::tests::pod;

    fn check(spec: Value, others: &[Value], taints: Value) -> Option<&'static str> {
        let labels = [("zone".to_owned(), "a".to_owned())].into();
        let taints: Vec<core::Taint> = serde_json::from_value(taints).expect("taints");
        let others: Vec<Arc<core::Pod>> = others.iter().map(|spec| Arc::new(pod(spec.clone()))).collect();
        let place = Place { name: "n", labels: &labels, taints: &taints };
        first_failed(&pod(spec), &place, &others.iter().collect::<Vec<_>>()).map(|failed| failed.0)
    }

    #[test]
    fn a_pod_needs_the_nodes_labels_free_ports_and_tolerance() {
        let port = |port: Value| json!({"containers": [{"name": "c", "ports": [port]}]});
        let none = json!([]);
        assert_eq!(check(json!({"containers": [], "nodeSelector": {"zone": "a"}}), &[], none.clone()), None);
        assert_eq!(
            check(json!({"containers": [], "nodeSelector": {"zone": "b"}}), &[], none.clone()),
            Some("NodeAffinity")
        );
        let tcp = port(json!({"containerPort": 1, "hostPort": 80}));
        let udp = port(json!({"containerPort": 1, "hostPort": 80, "protocol": "UDP"}));
        let local = port(json!({"containerPort": 1, "hostPort": 80, "hostIP": "127.0.0.1"}));
        let other = port(json!({"containerPort": 1, "hostPort": 80, "hostIP": "127.0.0.2"}));
        assert_eq!(check(tcp.clone(), std::slice::from_ref(&udp), none.clone()), None);
        assert_eq!(check(tcp.clone(), std::slice::from_ref(&local), none.clone()), Some("NodePorts"));
        assert_eq!(check(other, std::slice::from_ref(&local), none.clone()), None);
        assert_eq!(check(port(json!({"containerPort": 80})), std::slice::from_ref(&tcp), none), None);
        let taint = json!([{"key": "k", "effect": "NoExecute"}]);
        assert_eq!(check(json!({"containers": []}), &[], taint.clone()), Some("TaintToleration"));
        let tolerant = json!({"containers": [], "tolerations": [{"key": "k", "operator": "Exists"}]});
        assert_eq!(check(tolerant, &[], taint), None);
        assert_eq!(check(json!({"containers": []}), &[], json!([{"key": "k", "effect": "NoSchedule"}])), None);
    }
}
