//! The table beside the pods' interfaces: source addresses of packets that
//! leave the cluster, host ports, and the guard of 127.0.0.0/8. Services have a
//! table of their own.

use super::{PodNetworkConfig, PodNetworkError};
use crate::netlink::expression::{Data, End, Expression, Meta, Register, Verdict};
use crate::netlink::nftables::{self, Batch, Chain, Family, Hook, HookedAt, RuleSet, Set, SetKind, types};
use crate::netlink::{NetlinkError, Socket};
use crate::rule::{destination, destination_port, in_range, loopback, outside_range, source, was_redirected};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

const HOST_PORTS: &str = "host-ports";
const HOST_PORTS_OF_ADDRESS: &str = "host-ports-of-address";
const HAIRPINS: &str = "hairpins";
const NAT_CHAIN: &str = "host-port-nat";

/// Before the Services' chains (dstnat, -100).
const HOST_PORT_PRIORITY: i32 = -105;
const RAW_PRIORITY: i32 = -300;
const SOURCE_NAT_PRIORITY: i32 = 100;
/// `lo` in every namespace.
const LOOPBACK_INDEX: u32 = 1;

/// A transport protocol that has ports.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum TransportProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl TransportProtocol {
    /// By Kubernetes' name; an absent name means TCP there.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "TCP" | "" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }

    /// The number in the IP header.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

/// A port of the node that leads to a pod.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct HostPort {
    /// Only on this address of the node; on all of them if absent.
    pub host_address: Option<Ipv4Addr>,
    /// The node's port.
    pub host_port: u16,
    /// The transport protocol.
    pub protocol: TransportProtocol,
    /// The pod's port.
    pub pod_port: u16,
}

fn field(port: u16) -> [u8; 4] {
    let [a, b] = port.to_be_bytes();
    [a, b, 0, 0]
}

impl HostPort {
    fn place(&self) -> (&'static str, Vec<u8>) {
        let tail = [[self.protocol.number(), 0, 0, 0], field(self.host_port)].concat();
        match self.host_address.filter(|address| !address.is_unspecified()) {
            None => (HOST_PORTS, tail),
            Some(address) => (HOST_PORTS_OF_ADDRESS, [address.octets().to_vec(), tail].concat()),
        }
    }
}

/// Which host ports lead where.
#[derive(Default)]
pub(super) struct HostPorts {
    taken: BTreeMap<(&'static str, Vec<u8>), (IpAddr, Data)>,
}

/// Host ports of one pod.
pub(super) struct Claim {
    address: IpAddr,
    ports: Vec<((&'static str, Vec<u8>), Data)>,
}

impl HostPorts {
    /// Checks that the ports are free.
    pub(super) fn claim(&self, address: IpAddr, ports: &[HostPort]) -> Result<Claim, PodNetworkError> {
        let mut claimed = Vec::new();
        for port in ports {
            let place = port.place();
            if let Some((owner, _)) = self.taken.get(&place) {
                return Err(PodNetworkError::HostPortTaken { port: port.host_port, owner: *owner });
            }
            let target = [crate::netlink::route::octets(address), field(port.pod_port).to_vec()].concat();
            claimed.push((place, Data::Value(target)));
        }
        Ok(Claim { address, ports: claimed })
    }

    /// The ports of an attached pod.
    pub(super) fn of(&self, address: IpAddr) -> Claim {
        let mine = self.taken.iter().filter(|(_, (owner, _))| *owner == address);
        Claim { address, ports: mine.map(|(place, (_, target))| (place.clone(), target.clone())).collect() }
    }

    pub(super) fn record(&mut self, claim: Claim) {
        let address = claim.address;
        self.taken.extend(claim.ports.into_iter().map(|(place, target)| (place, (address, target))));
    }

    pub(super) fn forget(&mut self, claim: &Claim) {
        for (place, _) in &claim.ports {
            self.taken.remove(place);
        }
    }
}

impl Claim {
    pub(super) fn add(&self, config: &PodNetworkConfig) -> Batch {
        let mut batch = Batch::new(Family::Ipv4, &config.table);
        for ((set, key), target) in &self.ports {
            batch.add_elements(set, &[(key, Some(target))]);
        }
        if !self.ports.is_empty() {
            batch.add_elements(HAIRPINS, &[(&self.hairpin(), None)]);
        }
        batch
    }

    pub(super) fn remove(&self, config: &PodNetworkConfig) -> Batch {
        let mut batch = Batch::new(Family::Ipv4, &config.table);
        for ((set, key), _) in &self.ports {
            batch.delete_elements(set, &[(key, None)]);
        }
        if !self.ports.is_empty() {
            batch.delete_elements(HAIRPINS, &[(&self.hairpin(), None)]);
        }
        batch
    }

    fn hairpin(&self) -> Vec<u8> {
        crate::netlink::route::octets(self.address).repeat(2)
    }
}

/// Writes the table anew around the host ports that it holds already, in one
/// transaction, and gives them.
pub(super) fn install(socket: &mut Socket, config: &PodNetworkConfig) -> Result<HostPorts, NetlinkError> {
    let mut rules = plan(config);
    let mut host_ports = HostPorts::default();
    for set in [HOST_PORTS, HOST_PORTS_OF_ADDRESS] {
        for found in nftables::elements(socket, Family::Ipv4, &config.table, set, None)? {
            let Some(target) = found.value else { continue };
            let Some(octets) = target.get(..4).and_then(|octets| <[u8; 4]>::try_from(octets).ok()) else { continue };
            let address = IpAddr::from(octets);
            let target = Data::Value(target);
            if let Some(set) = rules.sets.get_mut(set) {
                set.elements.insert(found.key.clone(), Some(target.clone()));
            }
            if let Some(set) = rules.sets.get_mut(HAIRPINS) {
                set.elements.insert(octets.repeat(2), None);
            }
            host_ports.taken.insert((set, found.key), (address, target));
        }
    }
    Batch::replace(Family::Ipv4, &config.table, &rules).commit(socket)?;
    Ok(host_ports)
}

const A: Register = Register(0);
const B: Register = Register(1);
const C: Register = Register(2);
const TARGET_ADDRESS: Register = Register(4);
const TARGET_PORT: Register = Register(5);

fn base(kind: &'static str, hook: Hook, priority: i32, rules: Vec<Vec<Expression>>) -> Chain {
    Chain { hooked: Some(HookedAt { kind, hook, priority }), rules }
}

fn plan(config: &PodNetworkConfig) -> RuleSet {
    let target = Some((types::concat(&[types::IPV4_ADDRESS, types::PORT]), 8));
    let any = SetKind {
        key: types::concat(&[types::PROTOCOL, types::PORT]),
        key_length: 8,
        value: target,
        ..SetKind::default()
    };
    let of_address = SetKind {
        key: types::concat(&[types::IPV4_ADDRESS, types::PROTOCOL, types::PORT]),
        key_length: 12,
        value: target,
        ..SetKind::default()
    };
    let pairs = SetKind {
        key: types::concat(&[types::IPV4_ADDRESS, types::IPV4_ADDRESS]),
        key_length: 8,
        ..SetKind::default()
    };
    let sets = [(HOST_PORTS, any), (HOST_PORTS_OF_ADDRESS, of_address), (HAIRPINS, pairs)];

    let redirect = vec![
        vec![
            destination(A),
            Expression::Meta(Meta::TransportProtocol, B),
            destination_port(C),
            Expression::Map(HOST_PORTS_OF_ADDRESS.into(), A, TARGET_ADDRESS),
            Expression::DestinationNat(TARGET_ADDRESS, TARGET_PORT),
        ],
        vec![
            Expression::IsLocal(End::Destination, A),
            Expression::Meta(Meta::TransportProtocol, A),
            destination_port(B),
            Expression::Map(HOST_PORTS.into(), A, TARGET_ADDRESS),
            Expression::DestinationNat(TARGET_ADDRESS, TARGET_PORT),
        ],
    ];
    let enter = vec![vec![Expression::Verdict(Verdict::Jump(NAT_CHAIN.into()))]];

    let mut hairpin = was_redirected(A).to_vec();
    hairpin.extend([source(A), destination(B), Expression::In(HAIRPINS.into(), A), Expression::Masquerade]);
    let mut from_loopback = was_redirected(A).to_vec();
    from_loopback.push(source(A));
    from_loopback.extend(in_range(A, &loopback()));
    from_loopback.push(Expression::Masquerade);
    let mut leaving = vec![source(A)];
    leaving.extend(in_range(A, &config.pod_cidr));
    leaving.push(destination(A));
    leaving.extend(outside_range(A, &config.cluster_cidr));
    leaving.push(Expression::Masquerade);

    // Pod interfaces may carry packets from 127.0.0.0/8 (a local process using
    // a host port); nothing may come in addressed to it.
    let mut guard = vec![
        Expression::Meta(Meta::IncomingInterface, A),
        Expression::NotEqual(A, LOOPBACK_INDEX.to_ne_bytes().to_vec()),
        destination(A),
    ];
    guard.extend(in_range(A, &loopback()));
    guard.push(Expression::Verdict(Verdict::Drop));

    let chains = [
        (NAT_CHAIN, Chain { hooked: None, rules: redirect }),
        ("nat-prerouting", base("nat", Hook::Prerouting, HOST_PORT_PRIORITY, enter.clone())),
        ("nat-output", base("nat", Hook::Output, HOST_PORT_PRIORITY, enter)),
        ("nat-postrouting", base("nat", Hook::Postrouting, SOURCE_NAT_PRIORITY, vec![hairpin, from_loopback, leaving])),
        ("loopback-guard", base("filter", Hook::Prerouting, RAW_PRIORITY, vec![guard])),
    ];
    RuleSet {
        sets: sets.into_iter().map(|(name, kind)| (name.into(), Set { kind, elements: BTreeMap::new() })).collect(),
        chains: chains.into_iter().map(|(name, chain)| (name.into(), chain)).collect(),
    }
}
