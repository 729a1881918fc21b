//! Services under quotas.

use serde_json::Value;

use crate::amounts::Amounts;
use crate::quantity::Written;

pub(super) fn counts(name: &str) -> bool {
    matches!(name, "count/services" | "services" | "services.nodeports" | "services.loadbalancers")
}

pub(super) fn usage(service: &Value) -> Amounts {
    let spec = &service["spec"];
    let ports = spec["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
    let (node_ports, balancers) = match spec["type"].as_str() {
        Some("NodePort") => (ports.len(), 0),
        Some("LoadBalancer") if spec["allocateLoadBalancerNodePorts"] == false => {
            (ports.iter().filter(|port| port["nodePort"].as_i64().unwrap_or(0) != 0).count(), 1)
        }
        // Not allocated yet: what is meant counts.
        Some("LoadBalancer") => (ports.len(), 1),
        _ => (0, 0),
    };
    let mut usage = Amounts::default();
    for (name, number) in [
        ("count/services", 1),
        ("services", 1),
        ("services.nodeports", node_ports),
        ("services.loadbalancers", balancers),
    ] {
        usage.set(name, Written::from_i64(i64::try_from(number).unwrap_or(i64::MAX)));
    }
    usage
}
