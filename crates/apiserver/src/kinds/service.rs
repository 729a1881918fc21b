//! Services: defaults, what a type allows, validation and columns. Addresses
//! and ports are taken by [`crate::hooks`] between validation and commit.

use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::object::{self, Meta, Object, as_map, default, default_text, map_mut};
use crate::strategy::{Column, Part, Strategy, Write};
use crate::table;
use crate::validation::names::NameRule;

/// Seconds of ClientIP affinity.
const AFFINITY_SECONDS: u32 = 3 * 60 * 60;

pub(super) struct Service;

/// `spec.type`.
pub(crate) fn kind(service: &Value) -> &str {
    object::text(service, "spec.type")
}

/// True if the service has (or gets) a cluster address.
pub(crate) fn needs_address(service: &Value) -> bool {
    matches!(kind(service), "ClusterIP" | "NodePort" | "LoadBalancer")
        && object::text(service, "spec.clusterIP") != "None"
}

/// True if its ports get node ports.
pub(crate) fn needs_node_ports(service: &Value) -> bool {
    match kind(service) {
        "NodePort" => true,
        "LoadBalancer" => object::at(service, "spec.allocateLoadBalancerNodePorts").as_bool().unwrap_or(true),
        _ => false,
    }
}

/// True if the service needs a port for its health check.
pub(crate) fn needs_health_port(service: &Value) -> bool {
    kind(service) == "LoadBalancer" && object::text(service, "spec.externalTrafficPolicy") == "Local"
}

fn external(kind: &str) -> bool {
    matches!(kind, "NodePort" | "LoadBalancer")
}

fn spec_text(spec: &Object, field: &str) -> String {
    spec.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
}

impl Strategy for Service {
    fn default(&self, object: &mut Value) {
        let spec = map_mut(object, "spec");
        default_text(spec, "sessionAffinity", "None");
        if spec["sessionAffinity"] == "None" {
            spec.remove("sessionAffinityConfig");
        } else if spec["sessionAffinity"] == "ClientIP" {
            let config = as_map(spec.entry("sessionAffinityConfig").or_insert(Value::Null));
            let client = as_map(config.entry("clientIP").or_insert(Value::Null));
            default(client, "timeoutSeconds", AFFINITY_SECONDS);
        }
        default_text(spec, "type", "ClusterIP");
        for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
            let port = as_map(port);
            default_text(port, "protocol", "TCP");
            let unset = match port.get("targetPort") {
                None | Some(Value::Null) => true,
                Some(Value::Number(number)) => number.as_i64() == Some(0),
                Some(Value::String(text)) => text.is_empty(),
                Some(_) => false,
            };
            if unset && let Some(number) = port.get("port").cloned() {
                port.insert("targetPort".to_owned(), number);
            }
        }
        let kind = spec_text(spec, "type");
        if external(&kind) {
            default_text(spec, "externalTrafficPolicy", "Cluster");
        }
        if kind != "ExternalName" {
            default_text(spec, "internalTrafficPolicy", "Cluster");
        }
        if kind == "LoadBalancer" {
            default(spec, "allocateLoadBalancerNodePorts", true);
        }
    }

    fn prepare_create(&self, service: &mut Value, _write: &mut Write<'_>) {
        as_map(service).insert("status".to_owned(), json!({"loadBalancer": {}}));
        drop_type_fields(service, None);
        normalize_addresses(service, None);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, write: &mut Write<'_>) {
        if write.part != Part::Main {
            return;
        }
        keep_allocated(new, old);
        drop_type_fields(new, Some(old));
        normalize_addresses(new, Some(old));
        if kind(new) != "LoadBalancer" {
            as_map(new).insert("status".to_owned(), json!({"loadBalancer": {}}));
        }
    }

    fn validate_create(&self, service: &Value, errors: &mut Errors) {
        validate(service, errors);
    }

    fn validate_update(&self, new: &Value, old: &Value, part: Part, errors: &mut Errors) {
        if part == Part::Status {
            return;
        }
        let spec = Path::new("spec");
        let fixed = |service: &Value| matches!(kind(service), "ClusterIP" | "NodePort" | "LoadBalancer");
        let (was, is) = (object::text(old, "spec.clusterIP"), object::text(new, "spec.clusterIP"));
        if fixed(old) && fixed(new) && !was.is_empty() && was != is {
            let ips = spec.child("clusterIPs");
            errors.invalid(&ips.index(0), &Value::from([is].to_vec()), "may not change once set");
        }
        validate(new, errors);
    }

    fn name_rule(&self) -> NameRule {
        NameRule::Label1035
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn returns_deleted(&self) -> bool {
        true
    }

    fn selectable(&self) -> &'static [&'static str] {
        &["spec.clusterIP", "spec.type"]
    }

    fn columns(&self) -> Vec<Column> {
        table::headings("", "services").map(<[Column]>::to_vec).unwrap_or_else(table::name_and_age)
    }

    fn cells(&self, service: &Value, now: i64) -> Vec<Value> {
        let first = object::items(service, "spec.clusterIPs").first().and_then(Value::as_str);
        let selector = api::selector::Selector::from_value_map(object::at(service, "spec.selector")).to_string();
        let or_none = |text: &str| Value::from(if text.is_empty() { "<none>" } else { text });
        vec![
            service.name().into(),
            kind(service).into(),
            or_none(first.unwrap_or_default()),
            external_address(service).into(),
            or_none(&ports(service)),
            table::age_cell(service, now),
            or_none(&selector),
        ]
    }
}

fn ports(service: &Value) -> String {
    let text = |port: &Value| {
        let protocol = port["protocol"].as_str().unwrap_or_default();
        match port["nodePort"].as_i64() {
            Some(node) if node > 0 => format!("{}:{node}/{protocol}", port["port"]),
            _ => format!("{}/{protocol}", port["port"]),
        }
    };
    object::items(service, "spec.ports").iter().map(text).collect::<Vec<_>>().join(",")
}

fn external_address(service: &Value) -> String {
    let mut own: Vec<String> =
        object::items(service, "spec.externalIPs").iter().filter_map(Value::as_str).map(str::to_owned).collect();
    match kind(service) {
        "ExternalName" => return object::text(service, "spec.externalName").to_owned(),
        "LoadBalancer" => {
            let text = |one: &Value| one["ip"].as_str().or(one["hostname"].as_str()).unwrap_or_default().to_owned();
            let ingress: Vec<String> = object::items(service, "status.loadBalancer.ingress").iter().map(text).collect();
            if own.is_empty() && ingress.is_empty() {
                return "<pending>".to_owned();
            }
            own.splice(0..0, ingress);
        }
        _ => {}
    }
    if own.is_empty() { "<none>".to_owned() } else { own.join(",") }
}

/// What was allocated stays if the client left it out and the type still needs it.
fn keep_allocated(new: &mut Value, old: &Value) {
    let had_address = needs_address(old);
    let (needs_address, needs_ports, health) = (needs_address(new), needs_node_ports(new), needs_health_port(new));
    let spec = map_mut(new, "spec");
    if had_address && needs_address && spec_text(spec, "clusterIP").is_empty() {
        let given = spec.get("clusterIPs").and_then(Value::as_array).is_some_and(|all| !all.is_empty());
        if !given {
            spec.insert("clusterIP".to_owned(), object::at(old, "spec.clusterIP").clone());
            spec.insert("clusterIPs".to_owned(), object::at(old, "spec.clusterIPs").clone());
        }
    }
    if needs_node_ports(old) && needs_ports {
        let before = object::items(old, "spec.ports");
        let key = |port: &Value| (port["protocol"].clone(), port["port"].clone());
        for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
            if port["nodePort"].as_i64().unwrap_or(0) == 0
                && let Some(same) = before.iter().find(|one| key(one) == key(port))
                && let Some(number) = same.get("nodePort").cloned()
            {
                as_map(port).insert("nodePort".to_owned(), number);
            }
        }
    }
    if needs_health_port(old) && health && spec.get("healthCheckNodePort").and_then(Value::as_i64).unwrap_or(0) == 0 {
        spec.insert("healthCheckNodePort".to_owned(), object::at(old, "spec.healthCheckNodePort").clone());
    }
}

/// A change of type drops what the new type does not have and the client left
/// as it was.
fn drop_type_fields(new: &mut Value, old: Option<&Value>) {
    let is = kind(new).to_owned();
    let Some(old) = old else { return };
    let was = kind(old).to_owned();
    if was == is {
        return;
    }
    let same = |new: &Value, path: &str| object::at(new, path) == object::at(old, path);
    let drop = |new: &mut Value, fields: &[&str]| {
        for field in fields {
            if same(new, &format!("spec.{field}")) {
                map_mut(new, "spec").remove(*field);
            }
        }
    };
    if is == "ExternalName" {
        drop(new, &["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"]);
    }
    if external(&was) && !external(&is) {
        let before = object::items(old, "spec.ports").to_vec();
        for port in map_mut(new, "spec").get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
            if before.iter().any(|one| one["nodePort"] == port["nodePort"]) {
                as_map(port).remove("nodePort");
            }
        }
        drop(new, &["externalTrafficPolicy"]);
    }
    if was == "LoadBalancer" && is != "LoadBalancer" {
        drop(new, &["healthCheckNodePort", "allocateLoadBalancerNodePorts", "loadBalancerClass"]);
    }
    if was == "ExternalName" {
        drop(new, &["externalName"]);
    }
}

/// `clusterIP` and `clusterIPs` say the same; families follow.
fn normalize_addresses(service: &mut Value, old: Option<&Value>) {
    if kind(service) == "ExternalName" {
        return;
    }
    let headless_unselected = object::text(service, "spec.clusterIP") == "None"
        && object::at(service, "spec.selector").as_object().is_none_or(serde_json::Map::is_empty);
    let spec = map_mut(service, "spec");
    let single = spec_text(spec, "clusterIP");
    let many = spec.get("clusterIPs").and_then(Value::as_array).cloned().unwrap_or_default();
    let first = many.first().and_then(Value::as_str).unwrap_or_default().to_owned();
    let was = old.map(|old| object::text(old, "spec.clusterIP").to_owned()).unwrap_or_default();
    if !single.is_empty() && (many.is_empty() || (first == was && single != was)) {
        spec.insert("clusterIPs".to_owned(), json!([single]));
    } else if single.is_empty() && !many.is_empty() && old.is_none() {
        spec.insert("clusterIP".to_owned(), first.into());
    }
    if headless_unselected {
        default(spec, "ipFamilyPolicy", "RequireDualStack");
        default(spec, "ipFamilies", json!(["IPv4", "IPv6"]));
    }
    default_text(spec, "ipFamilyPolicy", "SingleStack");
    if spec.get("ipFamilies").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        spec.insert("ipFamilies".to_owned(), json!(["IPv4"]));
    }
}

fn validate(service: &Value, errors: &mut Errors) {
    let spec_path = Path::new("spec");
    let kind = kind(service);
    let headless = object::text(service, "spec.clusterIP") == "None";
    let ports = object::items(service, "spec.ports");
    let ports_path = spec_path.child("ports");
    if ports.is_empty() && !headless && kind != "ExternalName" {
        errors.required(&ports_path, "");
    }
    match kind {
        "LoadBalancer" if headless => {
            errors.invalid_text(
                &spec_path.child("clusterIPs").index(0),
                "None",
                "may not be set to 'None' for LoadBalancer services",
            );
        }
        "NodePort" if headless => {
            errors.invalid_text(
                &spec_path.child("clusterIPs").index(0),
                "None",
                "may not be set to 'None' for NodePort services",
            );
        }
        "ExternalName" => {
            let name = object::text(service, "spec.externalName");
            let path = spec_path.child("externalName");
            if !object::text(service, "spec.clusterIP").is_empty() {
                let given = object::items(service, "spec.clusterIPs").to_vec();
                errors.forbidden(&spec_path.child("clusterIPs"), "may not be set for ExternalName services");
                drop(given);
            }
            if name.is_empty() {
                errors.required(&path, "");
            } else {
                for message in api::names::dns1123_subdomain(name.strip_suffix('.').unwrap_or(name)) {
                    errors.invalid_text(&path, name, &message);
                }
            }
        }
        "ClusterIP" | "NodePort" | "LoadBalancer" => {}
        other => {
            let supported = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
            errors.not_supported(&spec_path.child("type"), &other.into(), &supported);
        }
    }
    let mut names: Vec<&str> = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let path = ports_path.index(index);
        validate_port(port, &path, ports.len() > 1, kind, headless, errors);
        let name = port["name"].as_str().unwrap_or_default();
        if !name.is_empty() {
            if names.contains(&name) {
                errors.duplicate(&path.child("name"), &name.into());
            }
            names.push(name);
        }
    }
    for (index, port) in ports.iter().enumerate() {
        let same = |one: &&Value| one["port"] == port["port"] && one["protocol"] == port["protocol"];
        if ports[..index].iter().any(|one| same(&one)) {
            let mut key = json!({"port": port["port"], "protocol": port["protocol"]});
            if let Some(key) = key.as_object_mut() {
                key.retain(|_, value| !value.is_null());
            }
            errors.duplicate(&ports_path.index(index), &key);
        }
    }
    let affinity = object::text(service, "spec.sessionAffinity");
    if !matches!(affinity, "None" | "ClientIP") {
        errors.not_supported(&spec_path.child("sessionAffinity"), &affinity.into(), &["ClientIP", "None"]);
    }
    let selector = object::at(service, "spec.selector");
    crate::validation::metadata::labels(selector, &spec_path.child("selector"), errors);
}

fn validate_port(port: &Value, path: &Path<'_>, named: bool, kind: &str, headless: bool, errors: &mut Errors) {
    let name = port["name"].as_str().unwrap_or_default();
    if name.is_empty() {
        if named {
            errors.required(&path.child("name"), "");
        }
    } else {
        for message in api::names::dns1123_label(name) {
            errors.invalid_text(&path.child("name"), name, &message);
        }
    }
    let number = port["port"].as_i64().unwrap_or(0);
    for message in api::names::port_number(number) {
        errors.invalid(&path.child("port"), &number.into(), &message);
    }
    let protocol = port["protocol"].as_str().unwrap_or_default();
    if protocol.is_empty() {
        errors.required(&path.child("protocol"), "");
    } else if !matches!(protocol, "TCP" | "UDP" | "SCTP") {
        errors.not_supported(&path.child("protocol"), &protocol.into(), &["SCTP", "TCP", "UDP"]);
    }
    match &port["targetPort"] {
        Value::Number(target) => {
            for message in api::names::port_number(target.as_i64().unwrap_or(0)) {
                errors.invalid(&path.child("targetPort"), &port["targetPort"], &message);
            }
        }
        Value::String(target) => {
            for message in api::names::port_name(target) {
                errors.invalid_text(&path.child("targetPort"), target, &message);
            }
        }
        _ => {}
    }
    if headless && kind == "ClusterIP" && port["nodePort"].as_i64().unwrap_or(0) != 0
        || kind == "ClusterIP" && port["nodePort"].as_i64().unwrap_or(0) != 0
    {
        errors.forbidden(&path.child("nodePort"), "may not be used when `type` is 'ClusterIP'");
    }
}
