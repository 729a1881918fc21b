//! Variables that tell a container where Services are: `NAME_SERVICE_HOST` and
//! the forms that Docker once linked (`envvars.FromServices`, 1.36).

use std::collections::BTreeMap;
use std::sync::Arc;

use api::types::api::core::v1 as core;

/// Variables of the Services of this namespace, and of `default/kubernetes`,
/// which is always there. Headless Services have none.
pub(super) fn variables(services: &[Arc<core::Service>], namespace: &str, links: bool) -> BTreeMap<String, String> {
    let mut chosen: BTreeMap<&str, &core::Service> = BTreeMap::new();
    for service in services {
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let of = service.metadata.namespace.as_deref().unwrap_or_default();
        if cluster_ip(service).is_none() {
            continue;
        }
        if of == namespace && links {
            chosen.insert(name, service);
        } else if of == "default" && name == "kubernetes" {
            chosen.entry(name).or_insert(service);
        }
    }
    let mut all = BTreeMap::new();
    for (name, service) in chosen {
        add(&mut all, name, service);
    }
    all
}

fn cluster_ip(service: &core::Service) -> Option<&str> {
    let spec = service.spec.as_ref()?;
    let ip = spec.cluster_ip.as_deref()?;
    (!ip.is_empty() && ip != "None" && spec.type_.as_deref() != Some("ExternalName")).then_some(ip)
}

fn upper(name: &str) -> String {
    name.replace('-', "_").to_uppercase()
}

fn add(all: &mut BTreeMap<String, String>, name: &str, service: &core::Service) {
    let Some(ip) = cluster_ip(service) else { return };
    let ports = service.spec.as_ref().and_then(|s| s.ports.as_deref()).unwrap_or_default();
    let prefix = upper(name);
    let Some(first) = ports.first() else { return };
    all.insert(format!("{prefix}_SERVICE_HOST"), ip.into());
    all.insert(format!("{prefix}_SERVICE_PORT"), first.port.to_string());
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    for (index, port) in ports.iter().enumerate() {
        if let Some(named) = port.name.as_deref().filter(|n| !n.is_empty()) {
            all.insert(format!("{prefix}_SERVICE_PORT_{}", upper(named)), port.port.to_string());
        }
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let scheme = protocol.to_lowercase();
        let url = format!("{scheme}://{host}:{}", port.port);
        if index == 0 {
            all.insert(format!("{prefix}_PORT"), url.clone());
        }
        let base = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_uppercase());
        all.insert(format!("{base}_PROTO"), scheme);
        all.insert(format!("{base}_PORT"), port.port.to_string());
        all.insert(format!("{base}_ADDR"), ip.into());
        all.insert(base, url);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn services_of_the_namespace_and_the_api_server_are_named() {
        let service = |ns: &str, name: &str, ip: &str, ports: serde_json::Value| {
            let value = json!({"metadata": {"namespace": ns, "name": name}, "spec": {"clusterIP": ip, "ports": ports}});
            Arc::new(serde_json::from_value::<core::Service>(value).expect("a service"))
        };
        let list = [
            service("a", "web-front", "None", json!([{"port": 80}])),
            service(
                "a",
                "db",
                "10.0.0.9",
                json!([{"name": "sql", "port": 5432}, {"name": "admin", "port": 99, "protocol": "UDP"}]),
            ),
            service("b", "other", "10.0.0.8", json!([{"port": 1}])),
            service("default", "kubernetes", "10.0.0.1", json!([{"name": "https", "port": 443}])),
        ];
        let env = variables(&list, "a", true);
        assert_eq!(env["DB_SERVICE_PORT_ADMIN"], "99");
        assert_eq!(env["DB_PORT"], "tcp://10.0.0.9:5432");
        assert_eq!(env["DB_PORT_99_UDP"], "udp://10.0.0.9:99");
        assert_eq!(env["KUBERNETES_SERVICE_HOST"], "10.0.0.1");
        assert!(!env.keys().any(|k| k.starts_with("WEB") || k.starts_with("OTHER")));
        let env = variables(&list, "a", false);
        assert!(!env.keys().any(|k| k.starts_with("DB")));
        assert_eq!(env["KUBERNETES_SERVICE_PORT"], "443");
    }
}
