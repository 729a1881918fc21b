//! How planned Services lie in the table: which maps there are, and which
//! elements and chains a Service contributes.
//!
//! ```text
//! frontends   address . protocol . port -> goto pick-…      node-ports likewise
//! groups-…    address . protocol . port -> group            which endpoints
//! endpoints   group . index             -> address . port   index is drawn
//! affinity    group . client            -> address . port   filled by rules
//! ```
//!
//! A `pick-…` chain draws one of N endpoints; it is shared by all frontends
//! with the same N, masquerading and affinity, so its content follows from its
//! name and it never changes.
//!
//! A held frontend leads to a `hold-…` chain in place of a `pick-…` chain, behind
//! the same checks of the client, and stands among the unserved too: a packet
//! that is let out of the queue and finds no endpoint is refused there.

mod held;

pub(super) use held::held_by;

use super::plan::{Frontend, PlannedPort, PlannedService, Reach, Target};
use crate::cidr::Cidr;
use crate::hold::Place;
use crate::netlink::expression::{Data, End, Expression, Meta, Queueing, Register, Verdict};
use crate::netlink::nftables::{Chain, Hook, HookedAt, RuleSet, Set, SetKind, types};
use crate::pod::TransportProtocol;
use crate::rule::{
    destination, destination_port, in_range, is_new, outside_range, source, source_port, was_redirected,
};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::Ipv4Addr;
use std::time::Duration;

const FRONTENDS: &str = "frontends";
const NODE_PORTS: &str = "node-ports";
const ENDPOINTS: &str = "endpoints";
const AFFINITY: &str = "affinity";
const CLUSTER_ADDRESSES: &str = "cluster-addresses";
const UNSERVED: &str = "unserved";
const UNSERVED_NODE_PORTS: &str = "unserved-node-ports";
const HAIRPINS: &str = "hairpins";
const REJECT: &str = "reject";
const SERVICES: &str = "services";
const REFUSE: &str = "refuse";
/// Client affinities that are remembered at most; at more, new clients get any
/// endpoint.
const AFFINITY_LIMIT: u32 = 1 << 18;
const DESTINATION_NAT_PRIORITY: i32 = -100;
const SOURCE_NAT_PRIORITY: i32 = 100;
/// After destinations are rewritten: what still has a Service's address then
/// has no endpoint.
const REFUSE_PRIORITY: i32 = -90;

/// What the chains depend on besides Services.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Surroundings {
    /// This node's pods: answers of theirs pass this node anyway.
    pub(super) pod_cidr: Cidr,
    /// All pods: they see their peers' own addresses.
    pub(super) cluster_cidr: Cidr,
    /// Mark bit that asks for masquerading.
    pub(super) masquerade_mark: u32,
    /// Where held packets wait; nothing is held if absent.
    pub(super) queue: Option<HoldQueue>,
}

/// Where held packets wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct HoldQueue {
    /// The queue.
    pub(super) queueing: Queueing,
    /// Mark bit of packets that do not wait again.
    pub(super) go_on_mark: u32,
}

/// Name of a group of endpoints: port name, protocol number, on this node only.
pub(super) type GroupName = (String, u8, bool);

/// What one Service adds to the table.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Contribution {
    /// Set and key to value.
    pub(super) elements: BTreeMap<(&'static str, Vec<u8>), Option<Data>>,
    /// Chains by name; the name determines the content.
    pub(super) chains: BTreeMap<String, Chain>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Keyed {
    Address,
    NodePort,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Masquerade {
    Never,
    FromOutside,
    Always,
}

const A: Register = Register(0);
const B: Register = Register(1);
const C: Register = Register(2);
const GROUP: Register = Register(4);
const INDEX: Register = Register(5);
const TARGET_ADDRESS: Register = Register(8);
const TARGET_PORT: Register = Register(9);
const FLOW: Register = Register(10);
const FLOW_PORT: Register = Register(11);

fn port_field(port: u16) -> [u8; 4] {
    let [a, b] = port.to_be_bytes();
    [a, b, 0, 0]
}

fn target_value(target: &Target) -> Data {
    Data::Value([target.0.octets(), port_field(target.1)].concat())
}

impl Keyed {
    fn load(self) -> Vec<Expression> {
        match self {
            Self::Address => vec![destination(A), Expression::Meta(Meta::TransportProtocol, B), destination_port(C)],
            Self::NodePort => vec![Expression::Meta(Meta::TransportProtocol, A), destination_port(B)],
        }
    }

    /// Maps of group numbers: the frontend's own endpoints, and all of the
    /// cluster's for clients that a local policy does not bind.
    const fn groups(self, cluster: bool) -> &'static str {
        match (self, cluster) {
            (Self::Address, false) => "groups-of-frontends",
            (Self::Address, true) => "cluster-groups-of-frontends",
            (Self::NodePort, false) => "groups-of-node-ports",
            (Self::NodePort, true) => "cluster-groups-of-node-ports",
        }
    }
}

/// Maps in which a packet is looked up after another map has led it there. The
/// kernel takes each lookup from the table as it is then: what a packet on its
/// way may still come to has to outlive what led to it.
pub(super) const LOOKED_UP_LATER: [&str; 5] = [
    Keyed::Address.groups(false),
    Keyed::Address.groups(true),
    Keyed::NodePort.groups(false),
    Keyed::NodePort.groups(true),
    ENDPOINTS,
];

/// The frontends of both maps, as keys and as places.
pub(super) const FRONTEND_MAPS: [&str; 2] = [FRONTENDS, NODE_PORTS];

/// The frontend that an element of one of [`FRONTEND_MAPS`] is for.
pub(super) fn place_of(set: &str, key: &[u8]) -> Option<Place> {
    let address = match set {
        FRONTENDS => Some(Ipv4Addr::from(<[u8; 4]>::try_from(key.get(..4)?).ok()?)),
        NODE_PORTS => None,
        _ => return None,
    };
    let rest = key.get(if address.is_some() { 4 } else { 0 }..)?;
    let port = u16::from_be_bytes(rest.get(4..6)?.try_into().ok()?);
    Some(Place { protocol: *rest.first()?, address, port })
}

/// The places of a planned Service's frontends.
pub(super) fn places(service: &PlannedService) -> impl Iterator<Item = Place> + '_ {
    service.ports.iter().flat_map(|port| {
        port.frontends.keys().map(|frontend| match frontend {
            Frontend::Address(address, number) => {
                Place { protocol: port.protocol.number(), address: Some(*address), port: *number }
            }
            Frontend::NodePort(number) => Place { protocol: port.protocol.number(), address: None, port: *number },
        })
    })
}

fn frontend_key(frontend: &Frontend, protocol: u8) -> (Keyed, Vec<u8>) {
    match frontend {
        Frontend::Address(address, port) => {
            (Keyed::Address, [address.octets(), [protocol, 0, 0, 0], port_field(*port)].concat())
        }
        Frontend::NodePort(port) => (Keyed::NodePort, [[protocol, 0, 0, 0], port_field(*port)].concat()),
    }
}

/// A chain that draws an endpoint.
struct Pick {
    keyed: Keyed,
    cluster_groups: bool,
    masquerade: Masquerade,
    endpoints: usize,
    affinity: Option<u32>,
    datagrams: bool,
}

impl Pick {
    /// The endpoint follows from the sender's address and port instead of
    /// being drawn: datagrams of one socket that come before the first is on
    /// its way are each taken for a connection, and would be spread.
    fn by_flow(&self) -> bool {
        self.datagrams && self.endpoints > 1
    }

    fn name(&self) -> String {
        let keyed = match self.keyed {
            Keyed::Address => "address",
            Keyed::NodePort => "node-port",
        };
        let masquerade = match self.masquerade {
            Masquerade::Never => "",
            Masquerade::FromOutside => "-masquerade-outside",
            Masquerade::Always => "-masquerade",
        };
        let groups = if self.cluster_groups { "-cluster" } else { "" };
        let affinity = self.affinity.map(|seconds| format!("-sticky-{seconds}")).unwrap_or_default();
        let flow = if self.by_flow() { "-and-flow" } else { "" };
        format!("pick-{}-by-{keyed}{flow}{groups}{masquerade}{affinity}", self.endpoints)
    }

    fn chain(&self, around: &Surroundings) -> Chain {
        let mut rules = Vec::new();
        match self.masquerade {
            Masquerade::Never => {}
            Masquerade::Always => rules.push(mark(around)),
            Masquerade::FromOutside => {
                let mut rule = vec![source(A)];
                rule.extend(outside_range(A, &around.cluster_cidr));
                rule.extend(mark(around));
                rules.push(rule);
            }
        }
        let mut find_group = self.keyed.load();
        find_group.push(Expression::Map(self.keyed.groups(self.cluster_groups).into(), A, GROUP));
        let remember = self.affinity.map(|seconds| {
            Expression::Remember(AFFINITY.into(), GROUP, TARGET_ADDRESS, Duration::from_secs(u64::from(seconds)))
        });
        if let Some(remember) = &remember {
            let mut rule = find_group.clone();
            rule.extend([
                source(INDEX),
                Expression::Map(AFFINITY.into(), GROUP, TARGET_ADDRESS),
                remember.clone(),
                Expression::DestinationNat(TARGET_ADDRESS, TARGET_PORT),
            ]);
            rules.push(rule);
        }
        let mut rule = find_group;
        match u32::try_from(self.endpoints).unwrap_or(u32::MAX) {
            0 | 1 => rule.push(Expression::Constant(INDEX, vec![0; 4])),
            bound if self.by_flow() => {
                rule.extend([source(FLOW), source_port(FLOW_PORT), Expression::Hash(FLOW, 8, bound, INDEX)])
            }
            bound => rule.push(Expression::Random(bound, INDEX)),
        }
        rule.push(Expression::Map(ENDPOINTS.into(), GROUP, TARGET_ADDRESS));
        if let Some(remember) = remember {
            rule.extend([source(INDEX), remember]);
        }
        rule.push(Expression::DestinationNat(TARGET_ADDRESS, TARGET_PORT));
        rules.push(rule);
        Chain { hooked: None, rules }
    }
}

fn mark(around: &Surroundings) -> Vec<Expression> {
    let bit = around.masquerade_mark;
    vec![
        Expression::Meta(Meta::Mark, A),
        Expression::Bits(A, (!bit).to_ne_bytes().to_vec(), bit.to_ne_bytes().to_vec()),
        Expression::SetMeta(Meta::Mark, A),
    ]
}

fn goto(chain: &str) -> Expression {
    Expression::Verdict(Verdict::Goto(chain.into()))
}

/// What a planned Service adds; `group` numbers a group of endpoints and puts
/// them in order.
pub(super) fn contribution(
    service: &PlannedService,
    around: &Surroundings,
    mut group: impl FnMut(GroupName, &BTreeSet<Target>) -> (u32, Vec<Target>),
) -> Contribution {
    let mut out = Contribution::default();
    for address in &service.cluster_addresses {
        out.elements.insert((CLUSTER_ADDRESSES, address.octets().to_vec()), None);
    }
    for port in &service.ports {
        let protocol = port.protocol.number();
        let needs = |reach: &[Reach]| port.frontends.values().any(|found| reach.contains(found));
        let (cluster, order) = group((port.name.clone(), protocol, false), &port.endpoints.cluster);
        out.add_group(cluster, &order);
        let (local, order) = group((port.name.clone(), protocol, true), &port.endpoints.local);
        if needs(&[Reach::InternalLocal, Reach::ExternalLocal]) {
            out.add_group(local, &order);
        }
        for address in &port.on_this_node {
            out.elements.insert((HAIRPINS, address.octets().repeat(2)), None);
        }
        for (frontend, reach) in &port.frontends {
            let (keyed, key) = frontend_key(frontend, protocol);
            let entrance = Entrance { port, frontend, reach: *reach, keyed, key, cluster, local };
            match held::chain_of(service, &entrance, around) {
                Some(chain) => out.add_held(&entrance, around, chain),
                None => out.add_frontend(&entrance, around),
            }
        }
    }
    out
}

/// One frontend of a port, and the numbers of the groups behind it.
struct Entrance<'a> {
    port: &'a PlannedPort,
    frontend: &'a Frontend,
    reach: Reach,
    keyed: Keyed,
    key: Vec<u8>,
    /// All endpoints of the cluster.
    cluster: u32,
    /// Those of this node.
    local: u32,
}

impl Contribution {
    fn add_group(&mut self, group: u32, endpoints: &[Target]) {
        for (index, target) in (0_u32..).zip(endpoints) {
            let key = [group.to_ne_bytes(), index.to_ne_bytes()].concat();
            self.elements.insert((ENDPOINTS, key), Some(target_value(target)));
        }
    }

    fn add_pick(&mut self, pick: &Pick, around: &Surroundings) -> String {
        let name = pick.name();
        self.chains.entry(name.clone()).or_insert_with(|| pick.chain(around));
        name
    }

    fn add_frontend(&mut self, entrance: &Entrance<'_>, around: &Surroundings) {
        let port = entrance.port;
        let everywhere = port.endpoints.cluster.len();
        let here = port.endpoints.local.len();
        if everywhere == 0 && here == 0 {
            self.refuse(entrance, Verdict::Goto(REJECT.into()));
            return;
        }
        let pick = |cluster_groups, masquerade, endpoints| Pick {
            keyed: entrance.keyed,
            cluster_groups,
            masquerade,
            endpoints,
            affinity: port.affinity,
            datagrams: port.protocol == TransportProtocol::Udp,
        };
        let chain = match entrance.reach {
            Reach::InternalCluster => self.add_pick(&pick(false, Masquerade::FromOutside, everywhere), around),
            Reach::ExternalCluster => self.add_pick(&pick(false, Masquerade::Always, everywhere), around),
            Reach::InternalLocal if here == 0 => {
                self.refuse(entrance, Verdict::Drop);
                return;
            }
            Reach::InternalLocal => self.add_pick(&pick(false, Masquerade::FromOutside, here), around),
            Reach::ExternalLocal => self.add_local(&pick(false, Masquerade::Never, here), everywhere, around),
        };
        self.set_groups(entrance);
        self.lead(entrance, chain);
    }

    /// Says which groups of endpoints the frontend has.
    fn set_groups(&mut self, entrance: &Entrance<'_>) {
        let Entrance { keyed, key, reach, cluster, local, .. } = entrance;
        let id = |id: u32| Some(Data::Value(id.to_ne_bytes().to_vec()));
        let own = if matches!(reach, Reach::InternalLocal | Reach::ExternalLocal) { local } else { cluster };
        self.elements.insert((keyed.groups(false), key.clone()), id(*own));
        if *reach == Reach::ExternalLocal {
            self.elements.insert((keyed.groups(true), key.clone()), id(*cluster));
        }
    }

    /// Sends the frontend's new connections to a chain, if their clients may
    /// connect.
    fn lead(&mut self, entrance: &Entrance<'_>, chain: String) {
        let chain = match entrance.port.source_ranges.get(entrance.frontend) {
            Some(ranges) => self.add_firewall(ranges, &chain),
            None => chain,
        };
        let map = match entrance.keyed {
            Keyed::Address => FRONTENDS,
            Keyed::NodePort => NODE_PORTS,
        };
        self.elements.insert((map, entrance.key.clone()), Some(Data::Verdict(Verdict::Goto(chain))));
    }

    /// What becomes of new connections to the frontend that were not rewritten.
    fn refuse(&mut self, entrance: &Entrance<'_>, verdict: Verdict) {
        let map = match entrance.keyed {
            Keyed::Address => UNSERVED,
            Keyed::NodePort => UNSERVED_NODE_PORTS,
        };
        self.elements.insert((map, entrance.key.clone()), Some(Data::Verdict(verdict)));
    }

    /// Clients from outside get endpoints of this node only; pods and the node
    /// itself are not bound by the policy.
    fn add_local(&mut self, here: &Pick, everywhere: usize, around: &Surroundings) -> String {
        let cluster = |masquerade| Pick {
            cluster_groups: true,
            masquerade,
            endpoints: everywhere,
            keyed: here.keyed,
            affinity: here.affinity,
            datagrams: here.datagrams,
        };
        let for_pods = self.add_pick(&cluster(Masquerade::Never), around);
        let for_node = self.add_pick(&cluster(Masquerade::Always), around);
        let mut pods = vec![source(A)];
        pods.extend(in_range(A, &around.cluster_cidr));
        pods.push(goto(&for_pods));
        let outside = match here.endpoints {
            0 => Expression::Verdict(Verdict::Drop),
            _ => goto(&self.add_pick(here, around)),
        };
        let rules = vec![pods, vec![Expression::IsLocal(End::Source, A), goto(&for_node)], vec![outside]];
        let name = format!("local-of-{everywhere}-{}", here.name());
        self.chains.entry(name.clone()).or_insert(Chain { hooked: None, rules });
        name
    }

    fn add_firewall(&mut self, ranges: &[Cidr], next: &str) -> String {
        let mut rules: Vec<_> = ranges
            .iter()
            .filter(|range| range.address().is_ipv4())
            .map(|range| {
                let mut rule = vec![source(A)];
                rule.extend(in_range(A, range));
                rule.push(goto(next));
                rule
            })
            .collect();
        rules.push(vec![Expression::Verdict(Verdict::Drop)]);
        let mut hasher = DefaultHasher::new();
        (ranges, next).hash(&mut hasher);
        let name = format!("{}clients-{:016x}", held::prefix(next), hasher.finish());
        self.chains.entry(name.clone()).or_insert(Chain { hooked: None, rules });
        name
    }
}

fn base(kind: &'static str, hook: Hook, priority: i32, rules: Vec<Vec<Expression>>) -> Chain {
    Chain { hooked: Some(HookedAt { kind, hook, priority }), rules }
}

/// The table without any Service.
pub(super) fn skeleton(around: &Surroundings) -> RuleSet {
    let chain = |rules| Chain { hooked: None, rules };
    let mut by_address = Keyed::Address.load();
    by_address.push(Expression::VerdictMap(FRONTENDS.into(), A));
    let mut by_node_port = vec![Expression::IsLocal(End::Destination, A)];
    by_node_port.extend(Keyed::NodePort.load());
    by_node_port.push(Expression::VerdictMap(NODE_PORTS.into(), A));
    let jump = |name: &str| vec![vec![Expression::Verdict(Verdict::Jump(name.into()))]];

    let mut unserved = is_new(A).to_vec();
    unserved.extend(Keyed::Address.load());
    unserved.push(Expression::VerdictMap(UNSERVED.into(), A));
    let mut unserved_node_ports = is_new(A).to_vec();
    unserved_node_ports.push(Expression::IsLocal(End::Destination, A));
    unserved_node_ports.extend(Keyed::NodePort.load());
    unserved_node_ports.push(Expression::VerdictMap(UNSERVED_NODE_PORTS.into(), A));
    let other_ports = vec![destination(A), Expression::In(CLUSTER_ADDRESSES.into(), A), goto(REJECT)];

    let chains = [
        (SERVICES, chain(vec![by_address, by_node_port])),
        (REJECT, chain(reject())),
        (REFUSE, chain(vec![unserved, unserved_node_ports, other_ports])),
        ("nat-prerouting", base("nat", Hook::Prerouting, DESTINATION_NAT_PRIORITY, jump(SERVICES))),
        ("nat-output", base("nat", Hook::Output, DESTINATION_NAT_PRIORITY, jump(SERVICES))),
        ("nat-postrouting", base("nat", Hook::Postrouting, SOURCE_NAT_PRIORITY, masquerading(around))),
        ("refuse-prerouting", base("filter", Hook::Prerouting, REFUSE_PRIORITY, jump(REFUSE))),
        ("refuse-output", base("filter", Hook::Output, REFUSE_PRIORITY, jump(REFUSE))),
    ];
    RuleSet {
        sets: sets().into_iter().map(|(name, kind)| (name.into(), Set { kind, elements: BTreeMap::new() })).collect(),
        chains: chains.into_iter().chain(held::chains(around)).map(|(name, chain)| (name.into(), chain)).collect(),
    }
}

/// Refuses. TCP clients get a reset: the kernel limits how many times a second
/// it says "port unreachable" to one host, and none may be left without an
/// answer.
fn reject() -> Vec<Vec<Expression>> {
    let tcp = vec![
        Expression::Meta(Meta::TransportProtocol, A),
        Expression::Equal(A, vec![TransportProtocol::Tcp.number()]),
        Expression::ResetTcp,
    ];
    vec![tcp, vec![Expression::Reject]]
}

/// Answers must come back through this node: those of remote endpoints, of an
/// endpoint that reached itself, and to a loopback address.
fn masquerading(around: &Surroundings) -> Vec<Vec<Expression>> {
    let bit = around.masquerade_mark.to_ne_bytes().to_vec();
    let mut hairpin = was_redirected(A).to_vec();
    hairpin.extend([source(A), destination(B), Expression::In(HAIRPINS.into(), A), Expression::Masquerade]);
    let mut loopback = was_redirected(A).to_vec();
    loopback.push(source(A));
    loopback.extend(in_range(A, &crate::rule::loopback()));
    loopback.push(Expression::Masquerade);
    let mut remote = vec![
        Expression::Meta(Meta::Mark, A),
        Expression::Bits(A, bit.clone(), vec![0; 4]),
        Expression::Equal(A, bit),
        destination(A),
    ];
    remote.extend(outside_range(A, &around.pod_cidr));
    remote.push(Expression::Masquerade);
    vec![hairpin, loopback, remote]
}

fn sets() -> Vec<(&'static str, SetKind)> {
    let frontend = types::concat(&[types::IPV4_ADDRESS, types::PROTOCOL, types::PORT]);
    let node_port = types::concat(&[types::PROTOCOL, types::PORT]);
    let verdict = Some((types::VERDICT, 0));
    let number = Some((types::MARK, 4));
    let target = Some((types::concat(&[types::IPV4_ADDRESS, types::PORT]), 8));
    let set = |key, key_length, value| SetKind { key, key_length, value, ..SetKind::default() };
    vec![
        (FRONTENDS, set(frontend, 12, verdict)),
        (NODE_PORTS, set(node_port, 8, verdict)),
        (UNSERVED, set(frontend, 12, verdict)),
        (UNSERVED_NODE_PORTS, set(node_port, 8, verdict)),
        (Keyed::Address.groups(false), set(frontend, 12, number)),
        (Keyed::Address.groups(true), set(frontend, 12, number)),
        (Keyed::NodePort.groups(false), set(node_port, 8, number)),
        (Keyed::NodePort.groups(true), set(node_port, 8, number)),
        (ENDPOINTS, set(types::concat(&[types::MARK, types::MARK]), 8, target)),
        (
            AFFINITY,
            SetKind {
                dynamic: true,
                timeouts: true,
                size: AFFINITY_LIMIT,
                ..set(types::concat(&[types::MARK, types::IPV4_ADDRESS]), 8, target)
            },
        ),
        (CLUSTER_ADDRESSES, set(types::IPV4_ADDRESS, 4, None)),
        (held::RATES, SetKind { dynamic: true, timeouts: true, size: held::RATES_LIMIT, ..set(frontend, 12, None) }),
        (HAIRPINS, set(types::concat(&[types::IPV4_ADDRESS, types::IPV4_ADDRESS]), 8, None)),
    ]
}

/// Name of the map that rules fill with clients and their endpoints.
pub(super) const AFFINITY_MAP: &str = AFFINITY;

/// Group number and endpoint of an affinity element.
pub(super) fn parse_affinity(key: &[u8], value: &[u8]) -> Option<(u32, Target)> {
    let group = u32::from_ne_bytes(key.get(..4)?.try_into().ok()?);
    let address = Ipv4Addr::from(<[u8; 4]>::try_from(value.get(..4)?).ok()?);
    let port = u16::from_be_bytes(value.get(4..6)?.try_into().ok()?);
    Some((group, (address, port)))
}

/// Group numbers and endpoints that a contribution holds.
pub(super) fn endpoints_of(contribution: &Contribution) -> BTreeSet<(u32, Target)> {
    let endpoints = contribution.elements.iter().filter(|((set, _), _)| *set == ENDPOINTS);
    endpoints
        .filter_map(|((_, key), value)| match value {
            Some(Data::Value(value)) => parse_affinity(key, value),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::expression::QueueBy;

    #[test]
    fn that_services_can_be_held_adds_nothing_to_the_way_of_other_packets() {
        let around = Surroundings {
            pod_cidr: "10.42.0.0/24".parse().unwrap(),
            cluster_cidr: "10.42.0.0/16".parse().unwrap(),
            masquerade_mark: 0x4000,
            queue: None,
        };
        let queueing = Queueing { number: 3500, by: QueueBy::Target };
        let mut able =
            skeleton(&Surroundings { queue: Some(HoldQueue { queueing, go_on_mark: 0x0400_0000 }), ..around });
        able.chains.retain(|name, chain| held_by(name).is_none() || chain.hooked.is_some());
        assert_eq!(able, skeleton(&around));
    }

    #[test]
    fn a_frontend_is_read_back_from_its_element() {
        for (frontend, place) in [
            (
                Frontend::Address(Ipv4Addr::new(10, 43, 0, 10), 80),
                Place { protocol: 6, address: Some(Ipv4Addr::new(10, 43, 0, 10)), port: 80 },
            ),
            (Frontend::NodePort(30080), Place { protocol: 6, address: None, port: 30080 }),
        ] {
            let (keyed, key) = frontend_key(&frontend, 6);
            let set = if keyed == Keyed::Address { FRONTENDS } else { NODE_PORTS };
            assert_eq!(place_of(set, &key), Some(place));
        }
        assert_eq!(place_of(FRONTENDS, &[1, 2, 3]), None);
        assert_eq!(place_of(HAIRPINS, &[0; 8]), None);
    }
}
