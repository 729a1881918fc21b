//! Services between namespaces of the tests' own: a node, its pods and a
//! machine outside.

use super::plan::{NodeFacts, plan};
use super::proxy::{Kernel, ServiceProxyConfig, Sync};
use crate::netlink::nftables::Size;
use crate::pod::{PodNetwork, PodNetworkConfig};
use crate::testnet::{Netns, exchange_udp};
use api::types::api::core::v1::Service;
use api::types::api::discovery::v1::EndpointSlice;
use client::Delta;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Instant;

mod held;
mod running;

const CLUSTER_ADDRESS: &str = "10.43.0.10";

struct Fixture {
    node: Netns,
    outside: Netns,
    network: PodNetwork,
    pods: Vec<(Netns, IpAddr)>,
    proxy: Sync,
    service: Option<Arc<Service>>,
    slice: Option<Arc<EndpointSlice>>,
}

fn config(node: &Netns) -> ServiceProxyConfig {
    let mut config = ServiceProxyConfig::new("here", "10.42.0.0/24".parse().unwrap(), "10.42.0.0/16".parse().unwrap());
    config.namespace = Some(node.path());
    config
}

fn proxy(node: &Netns) -> Sync {
    let config = config(node);
    let kernel = Kernel::open(&config).unwrap();
    Sync::new(config, kernel)
}

impl Fixture {
    /// A node with this many pods, each serving TCP 8080 and UDP 5353 under its
    /// name, and an empty table.
    fn new(pods: usize) -> Self {
        let node = Netns::new();
        let outside = Netns::new();
        node.cable("up", "192.0.2.1".parse().unwrap(), &outside, "192.0.2.2".parse().unwrap());
        outside.default_route("up", "192.0.2.1".parse().unwrap());
        let mut config = PodNetworkConfig::new("10.42.0.0/24".parse().unwrap(), "10.42.0.0/16".parse().unwrap());
        config.namespace = Some(node.path());
        config.service_cidr = Some("10.43.0.0/16".parse().unwrap());
        let network = PodNetwork::open(config).unwrap();
        let mut fixture =
            Self { proxy: proxy(&node), node, outside, network, pods: Vec::new(), service: None, slice: None };
        for name in ["a", "b", "c", "d"].into_iter().take(pods) {
            let pod = Netns::new();
            let address = fixture.network.attach(name, &pod.path(), &[]).unwrap().addresses[0];
            pod.serve_tcp(SocketAddr::new(address, 8080), name);
            pod.serve_udp(SocketAddr::new(address, 5353), name);
            fixture.pods.push((pod, address));
        }
        fixture.proxy.apply(BTreeSet::new()).unwrap();
        fixture
    }

    fn service(&mut self, spec: Value, status: Value) -> Size {
        let mut whole = json!({
            "clusterIP": CLUSTER_ADDRESS, "clusterIPs": [CLUSTER_ADDRESS], "type": "ClusterIP",
            "ports": [
                {"name": "web", "port": 80, "protocol": "TCP", "nodePort": 30080},
                {"name": "dns", "port": 53, "protocol": "UDP", "nodePort": 30053},
            ],
        });
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let service: Arc<Service> = Arc::new(
            serde_json::from_value(
                json!({"metadata": {"name": "s", "namespace": "n"}, "spec": whole, "status": status}),
            )
            .unwrap(),
        );
        let delta = match self.service.replace(service.clone()) {
            Some(old) => Delta::Updated { old, new: service },
            None => Delta::Added(service),
        };
        let mut touched = BTreeSet::new();
        self.proxy.note_service(&delta, &mut touched);
        self.proxy.apply(touched).unwrap()
    }

    /// Endpoints by pod index, node and conditions.
    fn endpoints(&mut self, endpoints: &[(usize, &str, Value)]) -> Size {
        let endpoints: Vec<_> = endpoints
            .iter()
            .map(|(pod, node, conditions)| {
                json!({"addresses": [self.pods[*pod].1], "nodeName": node, "conditions": conditions})
            })
            .collect();
        let slice: Arc<EndpointSlice> = Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": "s-1", "namespace": "n", "labels": {"kubernetes.io/service-name": "s"}},
                "addressType": "IPv4", "endpoints": endpoints,
                "ports": [{"name": "web", "port": 8080}, {"name": "dns", "port": 5353, "protocol": "UDP"}],
            }))
            .unwrap(),
        );
        let delta = match self.slice.replace(slice.clone()) {
            Some(old) => Delta::Updated { old, new: slice },
            None => Delta::Added(slice),
        };
        let mut touched = BTreeSet::new();
        self.proxy.note_slice(&delta, &mut touched);
        self.proxy.apply(touched).unwrap()
    }

    fn ready(&mut self, pods: &[usize]) -> Size {
        let endpoints: Vec<_> = pods.iter().map(|pod| (*pod, "here", json!({"ready": true}))).collect();
        self.endpoints(&endpoints)
    }
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// The names that answered in this many connections.
fn names(from: &Netns, to: &str, attempts: usize) -> BTreeSet<String> {
    (0..attempts).map(|_| from.ask_tcp(at(to)).unwrap().split(' ').next().unwrap().to_owned()).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn a_cluster_address_leads_to_all_endpoints_from_pods_and_from_the_node() {
    let mut fixture = Fixture::new(4);
    fixture.service(json!({}), json!({}));
    fixture.ready(&[0, 1, 2]);
    let client = &fixture.pods[3];
    assert_eq!(names(&client.0, "10.43.0.10:80", 60), set(&["a", "b", "c"]));
    assert_eq!(names(&fixture.node, "10.43.0.10:80", 60), set(&["a", "b", "c"]));
    // Pods are seen with their own address, UDP works alike.
    assert!(client.0.ask_tcp(at("10.43.0.10:80")).unwrap().contains(&format!(" {} ", client.1)));
    assert!(client.0.ask_udp(at("10.43.0.10:53")).unwrap().contains(&client.1.to_string()));
}

#[test]
fn an_endpoint_reaches_itself_through_its_service() {
    let mut fixture = Fixture::new(1);
    fixture.service(json!({}), json!({}));
    fixture.ready(&[0]);
    let (pod, address) = &fixture.pods[0];
    let answer = pod.ask_tcp(at("10.43.0.10:80")).unwrap();
    assert!(answer.starts_with("a ") && !answer.contains(&address.to_string()), "{answer}");
    pod.ask_udp(at("10.43.0.10:53")).unwrap();
}

#[test]
fn a_node_port_answers_on_every_address_of_the_node() {
    let mut fixture = Fixture::new(2);
    fixture.service(json!({"type": "NodePort"}), json!({}));
    fixture.ready(&[0, 1]);
    assert_eq!(names(&fixture.outside, "192.0.2.1:30080", 40), set(&["a", "b"]));
    assert_eq!(names(&fixture.node, "127.0.0.1:30080", 40), set(&["a", "b"]));
    assert_eq!(names(&fixture.node, "192.0.2.1:30080", 40), set(&["a", "b"]));
    assert_eq!(names(&fixture.pods[0].0, "10.42.0.1:30080", 40), set(&["a", "b"]));
    // The client's address is kept where answers pass this node anyway.
    assert!(fixture.outside.ask_tcp(at("192.0.2.1:30080")).unwrap().contains("192.0.2.2"));
    assert!(fixture.outside.ask_udp(at("192.0.2.1:30053")).unwrap().contains("192.0.2.2"));
}

#[test]
fn external_and_load_balancer_addresses_lead_in_and_source_ranges_bar() {
    let mut fixture = Fixture::new(1);
    let status = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1", "ipMode": "VIP"}]}});
    fixture.service(json!({"type": "LoadBalancer", "externalIPs": ["198.51.100.7"]}), status.clone());
    fixture.ready(&[0]);
    assert_eq!(names(&fixture.outside, "192.0.2.1:80", 2), set(&["a"]));
    assert_eq!(names(&fixture.outside, "198.51.100.7:80", 2), set(&["a"]));
    let ranges = |range: &str| json!({"type": "LoadBalancer", "loadBalancerSourceRanges": [range]});
    fixture.service(ranges("192.0.2.0/28"), status.clone());
    assert_eq!(names(&fixture.outside, "192.0.2.1:80", 2), set(&["a"]));
    fixture.service(ranges("203.0.113.0/24"), status);
    let socket = fixture.outside.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    socket.set_read_timeout(Some(std::time::Duration::from_millis(200))).unwrap();
    socket.send_to(b"hi", "192.0.2.1:53").unwrap();
    socket.recv(&mut [0; 16]).unwrap_err();
    assert_eq!(names(&fixture.node, "10.43.0.10:80", 2), set(&["a"]));
}

#[test]
fn a_service_without_endpoints_refuses_at_once_everywhere() {
    let mut fixture = Fixture::new(1);
    fixture.service(json!({"type": "NodePort"}), json!({}));
    let refused = |from: &Netns, to: &str| {
        let before = Instant::now();
        let error = from.ask_tcp(at(to)).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{to}");
        assert!(before.elapsed().as_millis() < 500, "{to}: {:?}", before.elapsed());
    };
    for to in ["10.43.0.10:80", "192.0.2.1:30080"] {
        refused(&fixture.pods[0].0, to);
        refused(&fixture.node, to);
    }
    refused(&fixture.outside, "192.0.2.1:30080");
    // A port that the Service does not have.
    fixture.ready(&[0]);
    refused(&fixture.pods[0].0, "10.43.0.10:81");
    refused(&fixture.node, "10.43.0.10:81");
    assert_eq!(names(&fixture.node, "10.43.0.10:80", 1), set(&["a"]));
}

#[test]
fn a_client_keeps_its_endpoint_under_client_affinity_until_that_is_gone() {
    let mut fixture = Fixture::new(4);
    fixture.service(json!({"sessionAffinity": "ClientIP"}), json!({}));
    fixture.ready(&[0, 1, 2]);
    let first = names(&fixture.pods[3].0, "10.43.0.10:80", 20);
    assert_eq!(first.len(), 1, "{first:?}");
    let index = ["a", "b", "c"].iter().position(|name| first.contains(*name)).unwrap();
    let rest: Vec<_> = (0..3).filter(|pod| *pod != index).collect();
    fixture.ready(&rest);
    let second = names(&fixture.pods[3].0, "10.43.0.10:80", 20);
    assert_eq!(second.len(), 1, "{second:?}");
    assert!(second.is_disjoint(&first));
    // Another endpoint's coming moves nobody.
    fixture.ready(&[0, 1, 2]);
    assert_eq!(names(&fixture.pods[3].0, "10.43.0.10:80", 20), second);
}

#[test]
fn a_local_policy_keeps_outside_clients_on_this_node_and_binds_nobody_inside() {
    let mut fixture = Fixture::new(3);
    fixture.service(json!({"type": "NodePort", "externalTrafficPolicy": "Local"}), json!({}));
    let ready = json!({"ready": true});
    fixture.endpoints(&[(0, "here", ready.clone()), (1, "elsewhere", ready.clone())]);
    assert_eq!(names(&fixture.outside, "192.0.2.1:30080", 20), set(&["a"]));
    assert_eq!(names(&fixture.pods[2].0, "192.0.2.1:30080", 40), set(&["a", "b"]));
    assert_eq!(names(&fixture.node, "127.0.0.1:30080", 40), set(&["a", "b"]));
    // None here: outside clients hear nothing, so that a balancer goes elsewhere.
    fixture.endpoints(&[(1, "elsewhere", ready)]);
    assert_eq!(names(&fixture.pods[2].0, "192.0.2.1:30080", 4), set(&["b"]));
    let socket = fixture.outside.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    socket.set_read_timeout(Some(std::time::Duration::from_millis(200))).unwrap();
    socket.send_to(b"hi", "192.0.2.1:30053").unwrap();
    socket.recv(&mut [0; 16]).unwrap_err();
}

#[test]
fn an_internal_local_policy_uses_endpoints_of_this_node_only() {
    let mut fixture = Fixture::new(3);
    fixture.service(json!({"internalTrafficPolicy": "Local"}), json!({}));
    let ready = json!({"ready": true});
    fixture.endpoints(&[(0, "here", ready.clone()), (1, "elsewhere", ready)]);
    assert_eq!(names(&fixture.pods[2].0, "10.43.0.10:80", 20), set(&["a"]));
}

#[test]
fn endpoints_that_are_ending_serve_only_while_none_is_ready() {
    let mut fixture = Fixture::new(3);
    fixture.service(json!({}), json!({}));
    let ending = json!({"ready": false, "serving": true, "terminating": true});
    fixture.endpoints(&[(0, "here", ending.clone()), (1, "here", json!({"ready": true}))]);
    assert_eq!(names(&fixture.pods[2].0, "10.43.0.10:80", 20), set(&["b"]));
    fixture.endpoints(&[(0, "here", ending), (1, "here", json!({"ready": false, "serving": false}))]);
    assert_eq!(names(&fixture.pods[2].0, "10.43.0.10:80", 4), set(&["a"]));
}

#[test]
fn datagrams_of_an_open_socket_follow_when_their_endpoint_goes() {
    let mut fixture = Fixture::new(3);
    fixture.service(json!({}), json!({}));
    fixture.ready(&[0]);
    let socket = fixture.pods[2].0.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    assert!(exchange_udp(&socket, at("10.43.0.10:53")).unwrap().starts_with("a "));
    fixture.ready(&[1]);
    assert!(exchange_udp(&socket, at("10.43.0.10:53")).unwrap().starts_with("b "));
}

#[test]
fn one_changed_endpoint_costs_its_own_elements_only() {
    let mut fixture = Fixture::new(4);
    fixture.service(json!({}), json!({}));
    fixture.ready(&[0, 1, 2]);
    // For each of two ports one endpoint replaces another under its index, and
    // one address replaces another among those that may reach themselves.
    let before = Instant::now();
    let size = fixture.ready(&[0, 1, 3]);
    println!("one endpoint replaced: {:?}", before.elapsed());
    assert_eq!(size, Size { elements: 6, rules: 0 });
    // The same again is nothing.
    assert_eq!(fixture.ready(&[0, 1, 3]), Size::default());
    assert_eq!(names(&fixture.node, "10.43.0.10:80", 60), set(&["a", "b", "d"]));
}

#[test]
fn a_restart_replaces_the_table_without_a_gap() {
    let mut fixture = Fixture::new(2);
    fixture.service(json!({"type": "NodePort"}), json!({}));
    fixture.ready(&[0]);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let asked = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let client = &fixture.pods[1].0;
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                assert!(client.ask_tcp(at("10.43.0.10:80")).unwrap().starts_with("a "));
                asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        });
        for _restart in 0..20 {
            let mut next = proxy(&fixture.node);
            let mut touched = BTreeSet::new();
            next.note_service(&Delta::Added(fixture.service.clone().unwrap()), &mut touched);
            next.note_slice(&Delta::Added(fixture.slice.clone().unwrap()), &mut touched);
            next.apply(touched).unwrap();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert!(asked.load(std::sync::atomic::Ordering::Relaxed) > 5);
}

#[test]
fn a_deleted_service_leaves_no_rule_and_teardown_no_table() {
    let mut fixture = Fixture::new(1);
    let dump = |fixture: &Fixture| {
        let sets = ["frontends", "node-ports", "endpoints", "unserved", "hairpins", "cluster-addresses"];
        fixture.node.run(|| {
            use crate::netlink::{Protocol, Socket, nftables};
            let mut socket = Socket::open(Protocol::Netfilter).unwrap();
            let count =
                |set| nftables::elements(&mut socket, nftables::Family::Ipv4, "darter", set, None).unwrap().len();
            sets.map(count)
        })
    };
    assert_eq!(dump(&fixture), [0; 6]);
    fixture.service(json!({"type": "NodePort"}), json!({}));
    fixture.ready(&[0]);
    assert_eq!(dump(&fixture), [2, 2, 2, 0, 1, 1]);
    let mut touched = BTreeSet::new();
    fixture.proxy.note_service(&Delta::Deleted(fixture.service.take().unwrap()), &mut touched);
    fixture.proxy.apply(touched).unwrap();
    // Packets on their way may still come to the endpoints.
    assert_eq!(dump(&fixture), [0, 0, 2, 0, 0, 0]);
    fixture.proxy.apply(BTreeSet::new()).unwrap();
    assert_eq!(dump(&fixture), [0; 6]);
    let config = config(&fixture.node);
    super::ServiceProxy::remove_rules(&config).unwrap();
    super::ServiceProxy::remove_rules(&config).unwrap();
    assert!(!fixture.node.inventory().contains(&"table darter".to_owned()));
}

#[test]
fn two_services_that_claim_one_address_do_not_take_it_from_each_other() {
    let mut fixture = Fixture::new(2);
    fixture.service(json!({"externalIPs": ["198.51.100.7"]}), json!({}));
    fixture.ready(&[0]);
    let other = |name: &str, key: &str, value: Value| {
        let mut object = json!({"metadata": {"name": name, "namespace": "n"}});
        object[key] = value;
        object
    };
    let service: Arc<Service> = Arc::new(
        serde_json::from_value(other(
            "t",
            "spec",
            json!({
                "clusterIP": "10.43.0.11", "externalIPs": ["198.51.100.7"], "ports": [{"name": "web", "port": 80}],
            }),
        ))
        .unwrap(),
    );
    let mut slice: EndpointSlice = (**fixture.slice.as_ref().unwrap()).clone();
    slice.metadata.name = Some("t-1".into());
    slice.metadata.labels.as_mut().unwrap().insert("kubernetes.io/service-name".into(), "t".into());
    slice.endpoints.as_mut().unwrap()[0].addresses = vec![fixture.pods[1].1.to_string()];
    let mut touched = BTreeSet::new();
    fixture.proxy.note_service(&Delta::Added(service.clone()), &mut touched);
    fixture.proxy.note_slice(&Delta::Added(Arc::new(slice)), &mut touched);
    fixture.proxy.apply(touched).unwrap();
    assert_eq!(names(&fixture.outside, "198.51.100.7:80", 4), set(&["a"]));
    assert_eq!(names(&fixture.node, "10.43.0.11:80", 4), set(&["b"]));
    // The first one's end gives it to the second.
    let mut touched = BTreeSet::new();
    fixture.proxy.note_service(&Delta::Deleted(fixture.service.take().unwrap()), &mut touched);
    fixture.proxy.apply(touched).unwrap();
    assert_eq!(names(&fixture.outside, "198.51.100.7:80", 4), set(&["b"]));
}

#[test]
fn many_services_are_written_at_once_and_changed_one_by_one() {
    let mut fixture = Fixture::new(0);
    let mut touched = BTreeSet::new();
    for index in 0..2000_u32 {
        let address = format!("10.43.{}.{}", index / 250 + 1, index % 250 + 1);
        let name = format!("s{index}");
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "n"},
            "spec": {"clusterIP": address, "ports": [{"port": 80}]},
        }))
        .unwrap();
        let endpoints: Vec<_> = (0..5)
            .map(|i| json!({"addresses": [format!("10.42.{}.{}", index / 50 + 1, (index % 50) * 5 + i)]}))
            .collect();
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "n", "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "", "port": 80}],
        }))
        .unwrap();
        fixture.proxy.note_service(&Delta::Added(Arc::new(service)), &mut touched);
        fixture.proxy.note_slice(&Delta::Added(Arc::new(slice)), &mut touched);
    }
    let before = Instant::now();
    let size = fixture.proxy.apply(touched).unwrap();
    println!("2000 services, {} elements: {:?}", size.elements, before.elapsed());
    assert_eq!(size.rules, 2);
    let mut next = Vec::new();
    for index in 0..20 {
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": {"name": "s7", "namespace": "n", "labels": {"kubernetes.io/service-name": "s7"}},
            "addressType": "IPv4", "ports": [{"name": "", "port": 80}],
            "endpoints": [{"addresses": ["10.42.9.9"]}, {"addresses": [format!("10.42.8.{index}")]}],
        }))
        .unwrap();
        let mut touched = BTreeSet::new();
        fixture.proxy.note_slice(&Delta::Added(Arc::new(slice)), &mut touched);
        let before = Instant::now();
        fixture.proxy.apply(touched).unwrap();
        next.push(before.elapsed());
    }
    next.sort();
    println!("one endpoint of 10000: p50 {:?}, max {:?}", next[10], next[19]);
}

#[test]
fn headless_services_external_names_and_foreign_proxies_get_no_rules() {
    let node = NodeFacts::default();
    for (labels, spec) in [
        (json!({}), json!({"clusterIP": "None", "ports": [{"port": 80}]})),
        (json!({}), json!({"type": "ExternalName", "externalName": "x.example"})),
        (json!({"service.kubernetes.io/service-proxy-name": "other"}), json!({"clusterIP": "10.43.0.1"})),
    ] {
        let service: Service = serde_json::from_value(json!({"metadata": {"labels": labels}, "spec": spec})).unwrap();
        assert_eq!(plan(&service, &[], &node), None);
    }
}

#[test]
fn hints_for_this_node_or_zone_are_followed_when_all_endpoints_have_them() {
    let service: Service =
        serde_json::from_value(json!({"spec": {"clusterIP": "10.43.0.1", "ports": [{"port": 80}]}})).unwrap();
    let slice = |hints: [Value; 2]| -> Vec<Arc<EndpointSlice>> {
        let [first, second] = hints;
        vec![Arc::new(
            serde_json::from_value(json!({
                "metadata": {}, "addressType": "IPv4", "ports": [{"port": 80}],
                "endpoints": [
                    {"addresses": ["10.42.0.2"], "hints": first}, {"addresses": ["10.42.0.3"], "hints": second},
                ],
            }))
            .unwrap(),
        )]
    };
    let node = NodeFacts { name: "here".into(), zone: Some("z1".into()) };
    let chosen = |hints| plan(&service, &slice(hints), &node).unwrap().ports[0].endpoints.cluster.len();
    let zone = |name: &str| json!({"forZones": [{"name": name}]});
    let on = |name: &str| json!({"forNodes": [{"name": name}], "forZones": [{"name": "z1"}]});
    assert_eq!(chosen([zone("z1"), zone("z2")]), 1);
    assert_eq!(chosen([zone("z2"), zone("z2")]), 2);
    assert_eq!(chosen([zone("z1"), json!({})]), 2);
    assert_eq!(chosen([on("here"), on("there")]), 1);
    assert_eq!(chosen([on("there"), on("there")]), 2);
}
