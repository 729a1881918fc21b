//! Which addresses of a Service lead to which endpoints on this node. Pure; it
//! knows the API's rules (traffic policies, readiness, hints) and nothing of
//! nftables.

use crate::cidr::Cidr;
use crate::hold::Hold;
use crate::pod::TransportProtocol;
use api::types::api::core::v1::{Service, ServicePort};
use api::types::api::discovery::v1::{Endpoint, EndpointSlice};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

/// Seconds of client affinity unless the Service says otherwise
/// (`DefaultClientIPServiceAffinitySeconds` of the API).
const AFFINITY_SECONDS: u32 = 10_800;

/// What the rules depend on besides Services and endpoints.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct NodeFacts {
    /// This node's name.
    pub(super) name: String,
    /// Its `topology.kubernetes.io/zone` label.
    pub(super) zone: Option<String>,
}

/// An address and port of a pod.
pub(super) type Target = (Ipv4Addr, u16);

/// Endpoints that share a frontend's connections.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Endpoints {
    /// Those for connections from anywhere in the cluster.
    pub(super) cluster: BTreeSet<Target>,
    /// Those on this node.
    pub(super) local: BTreeSet<Target>,
}

/// Where connections to a frontend may go.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Reach {
    /// A cluster address under the policy `Cluster`.
    InternalCluster,
    /// A cluster address under the policy `Local`.
    InternalLocal,
    /// An address for the outside under the policy `Cluster`.
    ExternalCluster,
    /// An address for the outside under the policy `Local`.
    ExternalLocal,
}

/// What a connection is addressed to.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Frontend {
    /// One address.
    Address(Ipv4Addr, u16),
    /// Every address of the node.
    NodePort(u16),
}

/// One port of a Service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct PlannedPort {
    /// The port's name, empty if it has none.
    pub(super) name: String,
    /// Transport protocol.
    pub(super) protocol: TransportProtocol,
    /// What leads here, and how far it may reach.
    pub(super) frontends: BTreeMap<Frontend, Reach>,
    /// Clients that may use the load balancer's addresses; all if absent.
    pub(super) source_ranges: BTreeMap<Frontend, Vec<Cidr>>,
    /// Where it leads.
    pub(super) endpoints: Endpoints,
    /// Endpoints on this node that may be reached from themselves.
    pub(super) on_this_node: BTreeSet<Ipv4Addr>,
    /// How long a client keeps its endpoint, in seconds.
    pub(super) affinity: Option<u32>,
}

/// A Service that gets rules.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct PlannedService {
    /// Its addresses inside the cluster.
    pub(super) cluster_addresses: BTreeSet<Ipv4Addr>,
    /// Its ports.
    pub(super) ports: Vec<PlannedPort>,
    /// Whether new connections to its TCP and UDP ports wait.
    pub(super) hold: Option<Hold>,
}

/// Plans one Service; `None` if it needs no rules (headless, an external name,
/// or left to another proxy). It is not held yet: that is no property of the
/// Service.
pub(super) fn plan(service: &Service, slices: &[Arc<EndpointSlice>], node: &NodeFacts) -> Option<PlannedService> {
    let spec = service.spec.as_ref()?;
    let labels = service.metadata.labels.as_ref();
    if spec.type_.as_deref() == Some("ExternalName")
        || labels.is_some_and(|labels| labels.contains_key("service.kubernetes.io/service-proxy-name"))
    {
        return None;
    }
    let addresses = spec.cluster_ips.clone().or_else(|| Some(vec![spec.cluster_ip.clone()?])).unwrap_or_default();
    let cluster_addresses = ipv4(&addresses);
    if cluster_addresses.is_empty() {
        return None;
    }
    let ports = spec.ports.iter().flatten();
    let ports = ports.filter_map(|port| plan_port(service, port, &cluster_addresses, slices, node)).collect();
    Some(PlannedService { cluster_addresses, ports, hold: None })
}

fn ipv4(addresses: &[String]) -> BTreeSet<Ipv4Addr> {
    addresses.iter().filter_map(|address| address.parse().ok()).collect()
}

fn number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port != 0)
}

fn plan_port(
    service: &Service,
    port: &ServicePort,
    cluster_addresses: &BTreeSet<Ipv4Addr>,
    slices: &[Arc<EndpointSlice>],
    node: &NodeFacts,
) -> Option<PlannedPort> {
    let spec = service.spec.as_ref()?;
    let protocol = TransportProtocol::parse(port.protocol.as_deref().unwrap_or_default())?;
    let number_inside = number(port.port)?;
    let internal = match spec.internal_traffic_policy.as_deref() {
        Some("Local") => Reach::InternalLocal,
        _ => Reach::InternalCluster,
    };
    let external = match spec.external_traffic_policy.as_deref() {
        Some("Local") => Reach::ExternalLocal,
        _ => Reach::ExternalCluster,
    };
    let mut frontends = BTreeMap::new();
    for address in ipv4(spec.external_ips.as_deref().unwrap_or_default()) {
        frontends.insert(Frontend::Address(address, number_inside), external);
    }
    let balanced = spec.type_.as_deref() == Some("LoadBalancer");
    let mut source_ranges = BTreeMap::new();
    let ranges: Vec<Cidr> =
        spec.load_balancer_source_ranges.iter().flatten().filter_map(|range| range.parse().ok()).collect();
    let ingress = service.status.as_ref().and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref());
    for ingress in ingress.into_iter().flatten().filter(|_| balanced) {
        let Some(address) = ingress.ip.as_ref().and_then(|ip| ip.parse::<Ipv4Addr>().ok()) else { continue };
        // A balancer that is a proxy sends to the node's port itself.
        if ingress.ip_mode.as_deref() == Some("Proxy") {
            continue;
        }
        let frontend = Frontend::Address(address, number_inside);
        if spec.load_balancer_source_ranges.as_ref().is_some_and(|ranges| !ranges.is_empty()) {
            source_ranges.insert(frontend.clone(), ranges.clone());
        }
        frontends.insert(frontend, external);
    }
    for address in cluster_addresses {
        frontends.insert(Frontend::Address(*address, number_inside), internal);
    }
    if let Some(node_port) = port.node_port.and_then(number) {
        frontends.insert(Frontend::NodePort(node_port), external);
    }
    let name = port.name.clone().unwrap_or_default();
    let all = usable(slices, &name);
    let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let configured = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref()?.timeout_seconds);
        configured.and_then(|seconds| u32::try_from(seconds).ok()).unwrap_or(AFFINITY_SECONDS)
    });
    let on_this_node = all.iter().filter(|e| e.is_on(node)).map(|e| e.target.0).collect();
    Some(PlannedPort {
        name,
        protocol,
        frontends,
        source_ranges,
        endpoints: choose(&all, node),
        on_this_node,
        affinity,
    })
}

/// One endpoint with what decides about its use.
struct Candidate<'a> {
    target: Target,
    ready: bool,
    serving: bool,
    terminating: bool,
    endpoint: &'a Endpoint,
}

impl Candidate<'_> {
    fn is_on(&self, node: &NodeFacts) -> bool {
        self.endpoint.node_name.as_ref() == Some(&node.name)
    }
}

fn usable<'a>(slices: &'a [Arc<EndpointSlice>], port_name: &str) -> Vec<Candidate<'a>> {
    let mut found: BTreeMap<Target, Candidate<'a>> = BTreeMap::new();
    for slice in slices.iter().filter(|slice| slice.address_type == "IPv4") {
        let ports = slice.ports.iter().flatten();
        let port = ports
            .filter(|port| port.name.as_deref().unwrap_or_default() == port_name)
            .find_map(|port| port.port.and_then(number));
        let Some(port) = port else { continue };
        for endpoint in slice.endpoints.iter().flatten() {
            let Some(address) = endpoint.addresses.first().and_then(|address| address.parse::<Ipv4Addr>().ok()) else {
                continue;
            };
            let conditions = endpoint.conditions.as_ref();
            let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
            let candidate = Candidate {
                target: (address, port),
                ready,
                serving: conditions.and_then(|c| c.serving).unwrap_or(ready),
                terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
                endpoint,
            };
            // While an endpoint moves between slices it stands in two; the
            // better word counts.
            match found.get(&candidate.target) {
                Some(known) if known.ready || !candidate.ready => {}
                _ => {
                    found.insert(candidate.target, candidate);
                }
            }
        }
    }
    found.into_values().collect()
}

/// Ready ones; if there are none, those that still serve while they end.
fn ready_or_ending<'a, 'b>(candidates: impl Iterator<Item = &'b Candidate<'a>> + Clone) -> Vec<&'b Candidate<'a>>
where
    'a: 'b,
{
    let ready: Vec<_> = candidates.clone().filter(|candidate| candidate.ready).collect();
    if !ready.is_empty() {
        return ready;
    }
    candidates.filter(|candidate| candidate.serving && candidate.terminating).collect()
}

fn choose(all: &[Candidate<'_>], node: &NodeFacts) -> Endpoints {
    let cluster = ready_or_ending(all.iter());
    let local = ready_or_ending(all.iter().filter(|candidate| candidate.is_on(node)));
    let targets = |candidates: Vec<&Candidate<'_>>| candidates.iter().map(|candidate| candidate.target).collect();
    Endpoints { cluster: targets(near(cluster, node)), local: targets(local) }
}

/// Follows the slices' hints, if every ready endpoint has one and one of them
/// is for this node or zone (`topologyModeFromHints` of upstream's proxy).
fn near<'a, 'b>(candidates: Vec<&'b Candidate<'a>>, node: &NodeFacts) -> Vec<&'b Candidate<'a>> {
    let for_node = |candidate: &Candidate<'_>| {
        let hints = candidate.endpoint.hints.as_ref().and_then(|hints| hints.for_nodes.as_ref());
        hints.map(|nodes| nodes.iter().any(|hint| hint.name == node.name))
    };
    let for_zone = |candidate: &Candidate<'_>| {
        let hints = candidate.endpoint.hints.as_ref().and_then(|hints| hints.for_zones.as_ref());
        hints.map(|zones| zones.iter().any(|hint| Some(&hint.name) == node.zone.as_ref()))
    };
    let ready: Vec<_> = candidates.iter().filter(|candidate| candidate.ready).collect();
    for hint in [&for_node as &dyn Fn(&Candidate<'_>) -> Option<bool>, &for_zone] {
        let all_hinted = !ready.is_empty() && ready.iter().all(|candidate| hint(candidate).is_some());
        let one_is_here = ready.iter().any(|candidate| hint(candidate) == Some(true));
        if all_hinted && one_is_here {
            return candidates.into_iter().filter(|candidate| hint(candidate) == Some(true)).collect();
        }
    }
    candidates
}
