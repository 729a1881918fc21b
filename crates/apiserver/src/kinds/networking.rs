//! Endpoints, slices, ingresses and policies.

use serde_json::{Value, json};

use crate::object::{self, as_map, default, default_text, map_mut};

type Columns = &'static [(&'static str, &'static str, i32, fn(&Value) -> Value)];

/// Items shown in one cell.
const SHOWN: usize = 3;

fn protocols(ports: Option<&mut Value>) {
    for port in ports.and_then(Value::as_array_mut).into_iter().flatten() {
        default_text(as_map(port), "protocol", "TCP");
    }
}

pub(super) fn endpoints(object: &mut Value) {
    for subset in object.get_mut("subsets").and_then(Value::as_array_mut).into_iter().flatten() {
        protocols(subset.get_mut("ports"));
    }
}

pub(super) fn endpoint_slice(object: &mut Value) {
    for port in object.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        let port = as_map(port);
        default(port, "name", "");
        default_text(port, "protocol", "TCP");
    }
}

pub(super) fn ingress_class(object: &mut Value) {
    let parameters = map_mut(object, "spec").get_mut("parameters").filter(|one| one.is_object());
    if let Some(parameters) = parameters {
        default_text(as_map(parameters), "scope", "Cluster");
    }
}

pub(super) fn policy(object: &mut Value) {
    let spec = map_mut(object, "spec");
    for rules in ["ingress", "egress"] {
        for rule in spec.get_mut(rules).and_then(Value::as_array_mut).into_iter().flatten() {
            protocols(rule.get_mut("ports"));
        }
    }
    if spec.get("policyTypes").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        let egress = spec.get("egress").and_then(Value::as_array).is_some_and(|rules| !rules.is_empty());
        spec.insert("policyTypes".to_owned(), if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) });
    }
}

fn shortened(mut all: Vec<String>, empty: &str) -> Value {
    if all.is_empty() {
        return empty.into();
    }
    let more = all.len().saturating_sub(SHOWN);
    all.truncate(SHOWN);
    let text = all.join(",");
    if more > 0 { format!("{text} + {more} more...").into() } else { text.into() }
}

pub(super) const ENDPOINTS_COLUMNS: Columns = &[("Endpoints", "string", 0, |endpoints| {
    let mut all = Vec::new();
    for subset in object::items(endpoints, "subsets") {
        let ports = object::items(subset, "ports");
        for address in object::items(subset, "addresses") {
            let ip = address["ip"].as_str().unwrap_or_default();
            if ports.is_empty() {
                all.push(ip.to_owned());
            }
            all.extend(ports.iter().map(|port| format!("{ip}:{}", port["port"])));
        }
    }
    shortened(all, "<none>")
})];

pub(super) const SLICE_COLUMNS: Columns = &[
    ("AddressType", "string", 0, |slice| slice["addressType"].clone()),
    ("Ports", "string", 0, |slice| {
        let ports = object::items(slice, "ports");
        let text =
            |port: &Value| port.get("port").filter(|port| !port.is_null()).map_or("*".to_owned(), Value::to_string);
        shortened(ports.iter().map(text).collect(), "<unset>")
    }),
    ("Endpoints", "string", 0, |slice| {
        let endpoints = object::items(slice, "endpoints").iter();
        let addresses = endpoints.flat_map(|endpoint| object::items(endpoint, "addresses"));
        shortened(addresses.filter_map(Value::as_str).map(str::to_owned).collect(), "<unset>")
    }),
];

pub(super) const INGRESS_COLUMNS: Columns =
    &[
        ("Class", "string", 0, |ingress| {
            let class = object::text(ingress, "spec.ingressClassName");
            if class.is_empty() { "<none>".into() } else { class.into() }
        }),
        ("Hosts", "string", 0, |ingress| {
            let hosts = object::items(ingress, "spec.rules").iter().filter_map(|rule| rule["host"].as_str());
            shortened(hosts.filter(|host| !host.is_empty()).map(str::to_owned).collect(), "*")
        }),
        ("Address", "string", 0, |ingress| {
            let text = |one: &Value| one["ip"].as_str().or(one["hostname"].as_str()).unwrap_or_default().to_owned();
            let all: Vec<String> = object::items(ingress, "status.loadBalancer.ingress").iter().map(text).collect();
            all.join(",").into()
        }),
        ("Ports", "string", 0, |ingress| {
            if object::items(ingress, "spec.tls").is_empty() { "80".into() } else { "80, 443".into() }
        }),
    ];

pub(super) const POLICY_COLUMNS: Columns = &[("Pod-Selector", "string", 0, |policy| {
    let selector = api::selector::Selector::from_value(object::at(policy, "spec.podSelector"));
    let text = selector.map(|selector| selector.to_string()).unwrap_or_default();
    if text.is_empty() { "<none>".into() } else { text.into() }
})];
