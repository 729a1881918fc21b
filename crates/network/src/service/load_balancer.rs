//! Gives Services of type LoadBalancer the addresses of the nodes. The rules
//! that make the addresses work are the proxy's. A Service with a class of its
//! own is left to whoever serves that class.

use api::types::api::core::v1::{Node, Service, ServicePort};
use client::{Action, Client, ClientError, Controller, Informer, ObjectKey, Patch, WatchParams};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Key under which all Services are looked at: two that want one port of the
/// nodes are decided together.
const ALL: &str = "load balancers";

/// The controller; one per cluster.
pub struct ServiceLoadBalancers {
    client: Client,
}

impl ServiceLoadBalancers {
    /// Over this client; it writes `services/status`.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// Keeps the addresses current until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let (services, first) = Informer::<Service>::new(self.client.all(), WatchParams::default());
        let (nodes, second) = Informer::<Node>::new(self.client.all(), WatchParams::default());
        let reconcile = {
            let (client, services, nodes) = (self.client, services.clone(), nodes.clone());
            move |_key: ObjectKey| {
                let (client, services, nodes) = (client.clone(), services.list(), nodes.list());
                async move {
                    for (service, addresses) in plan(&services, &node_addresses(&nodes)) {
                        write(&client, &service, &addresses).await?;
                    }
                    Ok::<_, ClientError>(Action::Done)
                }
            }
        };
        let controller = Controller::new("service-lb", reconcile)
            .watches(&services, |delta| {
                let relevant = [Some(delta.object()), delta.old()].into_iter().flatten().any(|s| concerns(s));
                relevant.then(|| ObjectKey::cluster(ALL))
            })
            .watches(&nodes, |delta| {
                let before = delta.old().and_then(|node| node_address(node));
                let after = node_address(delta.object());
                (delta.old().is_none() || before != after).then(|| ObjectKey::cluster(ALL))
            });
        tokio::join!(first.run(shutdown.clone()), second.run(shutdown.clone()), controller.run(shutdown));
    }
}

fn is_balanced(service: &Service) -> bool {
    service
        .spec
        .as_ref()
        .is_some_and(|spec| spec.type_.as_deref() == Some("LoadBalancer") && spec.load_balancer_class.is_none())
        && service.metadata.deletion_timestamp.is_none()
}

fn addresses(service: &Service) -> Vec<String> {
    let ingress = service.status.as_ref().and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref());
    ingress.into_iter().flatten().filter_map(|ingress| ingress.ip.clone()).collect()
}

fn concerns(service: &Service) -> bool {
    is_balanced(service) || !addresses(service).is_empty()
}

/// The address under which a ready node takes connections.
fn node_address(node: &Node) -> Option<String> {
    let status = node.status.as_ref()?;
    let ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
    let excluded = node
        .metadata
        .labels
        .as_ref()
        .is_some_and(|labels| labels.contains_key("node.kubernetes.io/exclude-from-external-load-balancers"));
    let of_type = |kind: &str| {
        let found = status.addresses.iter().flatten().find(|address| address.type_ == kind);
        found.map(|address| address.address.clone())
    };
    (ready && !excluded).then(|| of_type("ExternalIP").or_else(|| of_type("InternalIP")))?
}

fn node_addresses(nodes: &[Arc<Node>]) -> Vec<String> {
    let found: BTreeSet<_> = nodes.iter().filter_map(|node| node_address(node)).collect();
    found.into_iter().collect()
}

fn port_of(port: &ServicePort) -> (String, i32) {
    (port.protocol.clone().unwrap_or_else(|| "TCP".into()), port.port)
}

/// Services whose addresses must change, with the new ones. Of two that want
/// the same port the older gets it; the other waits.
fn plan(services: &[Arc<Service>], nodes: &[String]) -> Vec<(Arc<Service>, Vec<String>)> {
    let mut services: Vec<_> = services.iter().filter(|service| concerns(service)).cloned().collect();
    services.sort_by_key(|service| {
        let metadata = &service.metadata;
        (metadata.creation_timestamp.clone().map(|time| time.0), metadata.namespace.clone(), metadata.name.clone())
    });
    let mut taken = BTreeSet::new();
    let mut changes = Vec::new();
    for service in services {
        let ports: Vec<_> = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten()).map(port_of).collect();
        let free = is_balanced(&service) && ports.iter().all(|port| !taken.contains(port));
        let wanted = if free { nodes.to_vec() } else { Vec::new() };
        if free {
            taken.extend(ports);
        }
        // Addresses of a Service with a class are its implementation's.
        let foreign = service
            .spec
            .as_ref()
            .is_some_and(|spec| spec.type_.as_deref() == Some("LoadBalancer") && spec.load_balancer_class.is_some());
        if !foreign && addresses(&service) != wanted {
            changes.push((service, wanted));
        }
    }
    changes
}

async fn write(client: &Client, service: &Arc<Service>, addresses: &[String]) -> Result<(), ClientError> {
    let Some(name) = service.metadata.name.as_deref() else { return Ok(()) };
    let ingress: Vec<_> = addresses.iter().map(|address| json!({"ip": address, "ipMode": "VIP"})).collect();
    let ingress = if ingress.is_empty() { json!(null) } else { json!(ingress) };
    let status = json!({"status": {"loadBalancer": {"ingress": ingress}}});
    match client.of(&**service).patch_status(name, &Patch::Merge(status)).await {
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, port: i32, created: &str, address: Option<&str>) -> Arc<Service> {
        let ingress = address.map(|ip| json!([{"ip": ip, "ipMode": "VIP"}]));
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "namespace": "default", "creationTimestamp": created},
                "spec": {"type": "LoadBalancer", "ports": [{"port": port}]},
                "status": {"loadBalancer": {"ingress": ingress}},
            }))
            .unwrap(),
        )
    }

    fn planned(services: &[Arc<Service>]) -> Vec<(String, Vec<String>)> {
        let nodes = ["192.0.2.1".to_owned()];
        plan(services, &nodes).into_iter().map(|(s, a)| (s.metadata.name.clone().unwrap(), a)).collect()
    }

    #[test]
    fn a_load_balancer_gets_the_nodes_addresses_once() {
        let fresh = service("web", 80, "2026-01-01T00:00:00Z", None);
        assert_eq!(planned(&[fresh]), [("web".to_owned(), vec!["192.0.2.1".to_owned()])]);
        let settled = service("web", 80, "2026-01-01T00:00:00Z", Some("192.0.2.1"));
        assert_eq!(planned(&[settled]), []);
    }

    #[test]
    fn of_two_that_want_one_port_the_older_gets_it() {
        let younger = service("b", 80, "2026-01-02T00:00:00Z", Some("192.0.2.1"));
        let older = service("a", 80, "2026-01-01T00:00:00Z", None);
        assert_eq!(
            planned(&[younger, older]),
            [("a".to_owned(), vec!["192.0.2.1".to_owned()]), ("b".to_owned(), vec![])]
        );
    }

    #[test]
    fn a_service_that_stops_being_a_load_balancer_loses_its_addresses() {
        let mut service = (*service("web", 80, "2026-01-01T00:00:00Z", Some("192.0.2.1"))).clone();
        service.spec.as_mut().unwrap().type_ = Some("ClusterIP".into());
        assert_eq!(planned(&[Arc::new(service.clone())]), [("web".to_owned(), vec![])]);
        service.spec.as_mut().unwrap().type_ = Some("LoadBalancer".into());
        service.spec.as_mut().unwrap().load_balancer_class = Some("other".into());
        assert_eq!(planned(&[Arc::new(service)]), []);
    }
}
