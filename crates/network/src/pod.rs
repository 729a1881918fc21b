//! The node's side of pod networking: one interface pair and one address per
//! pod, routed. Every packet of a pod passes the node's IP stack, also between
//! two pods of the node, so Services, policy and activity see all of them in
//! the same hooks and no bridge module is involved.
//!
//! ```text
//!   pod: eth0 10.42.0.7/32            node: darter0 10.42.0.1/32
//!        default via 10.42.0.1 ── veth ──   10.42.0.7 dev dt…
//! ```
//!
//! Nothing is written to disk: a pod's identity and address stand in the alias
//! of its interface, written last, so an interface without alias is an
//! unfinished one. Both vanish together with a reboot. This module knows no
//! Kubernetes object and no Service.

mod rules;
#[cfg(test)]
mod tests;

use crate::cidr::Cidr;
use crate::netlink::route::{self, Mac, Route, VethEnd};
use crate::netlink::{Messages, NetlinkError, Protocol, Socket, namespace, nftables};
use nftables::{Batch, Family};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

pub use rules::{HostPort, TransportProtocol};

/// Longest pod identity, bytes: an alias holds 255 and carries an address and
/// an interface name besides.
pub const POD_ID_LIMIT: usize = 200;
/// Name of the interface inside the pod.
pub const POD_INTERFACE: &str = "eth0";
/// Kernel's limit on interface names, bytes.
const INTERFACE_NAME_LIMIT: usize = 15;

/// What a pod network is made of. Two networks on one machine need different
/// interfaces, tables and ranges.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PodNetworkConfig {
    /// The node's own interface, which holds its address in the pod range; at
    /// most 15 bytes.
    pub interface: String,
    /// The nftables table for masquerading and host ports.
    pub table: String,
    /// This node's pods; IPv4, /30 or larger.
    pub pod_cidr: Cidr,
    /// All nodes' pods: packets that stay inside keep their source address.
    pub cluster_cidr: Cidr,
    /// Cluster addresses of Services. Given, they are routed into this node
    /// even when it has no default route.
    pub service_cidr: Option<Cidr>,
    /// Largest packet, bytes.
    pub mtu: u32,
    /// The node's network namespace; the caller's own if absent.
    pub namespace: Option<PathBuf>,
}

impl PodNetworkConfig {
    /// `darter0` in the caller's namespace with packets of 1500 bytes.
    pub fn new(pod_cidr: Cidr, cluster_cidr: Cidr) -> Self {
        Self {
            interface: "darter0".into(),
            table: "darter-pods".into(),
            pod_cidr,
            cluster_cidr,
            service_cidr: None,
            mtu: 1500,
            namespace: None,
        }
    }
}

/// Why a pod network could not be set up or changed.
#[derive(thiserror::Error, Debug)]
pub enum PodNetworkError {
    /// The configuration cannot work.
    #[error("{field} of the pod network is unusable: {reason}")]
    Config {
        /// The field's name.
        field: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The interface's name belongs to something else; it was not touched.
    #[error("interface {interface} exists and is not ours")]
    Taken {
        /// The name.
        interface: String,
    },
    /// Pods would get addresses that this machine has given to something else.
    #[error("{range} holds {address}, which interface {interface} of this machine has; give the pods another range")]
    RangeTaken {
        /// The cluster's range of pod addresses.
        range: Cidr,
        /// The address that is in it.
        address: IpAddr,
        /// Who has it.
        interface: String,
    },
    /// The pod's identity is longer than [`POD_ID_LIMIT`] or holds a `|`.
    #[error("pod identity {id:?} cannot be kept")]
    PodId {
        /// The identity.
        id: String,
    },
    /// The pod's network namespace could not be opened.
    #[error("cannot open the network namespace {path} of pod {id}")]
    PodNamespace {
        /// The pod.
        id: String,
        /// Where it should be.
        path: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// Every address of the range is in use. Helps to retry after a pod is gone.
    #[error("no free address is left in {range}")]
    Exhausted {
        /// The node's range.
        range: Cidr,
    },
    /// A host port is taken by another pod.
    #[error("host port {port} is taken by pod {owner}")]
    HostPortTaken {
        /// The port.
        port: u16,
        /// Who has it.
        owner: IpAddr,
    },
    /// The kernel did not do its part; a half-made pod interface was removed.
    #[error("cannot {step}{}", pod.as_ref().map(|pod| format!(" of pod {pod}")).unwrap_or_default())]
    Kernel {
        /// What was being done.
        step: &'static str,
        /// For which pod, if for one.
        pod: Option<String>,
        /// The cause.
        #[source]
        source: NetlinkError,
    },
}

/// A pod's place in the network.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attachment {
    /// The pod's addresses, one per IP family.
    pub addresses: Vec<IpAddr>,
    /// The node's address as the pod sees it, its default gateway.
    pub gateway: IpAddr,
    /// The interface at the node's end.
    pub interface: String,
}

/// The network of one node's pods. All calls block for well under 10 ms.
pub struct PodNetwork {
    config: PodNetworkConfig,
    gateway: IpAddr,
    group: u32,
    state: Mutex<State>,
}

struct State {
    route: Socket,
    netfilter: Socket,
    pods: BTreeMap<String, Pod>,
    host_ports: rules::HostPorts,
    next: u32,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Pod {
    address: IpAddr,
    interface: String,
}

fn kernel(step: &'static str, pod: Option<&str>) -> impl FnOnce(NetlinkError) -> PodNetworkError {
    let pod = pod.map(str::to_owned);
    move |source| PodNetworkError::Kernel { step, pod, source }
}

fn hash(parts: &[&str]) -> u64 {
    // Only names and link addresses derive from it; both are found again by
    // alias, so it may change between versions.
    let mut hasher = DefaultHasher::new();
    parts.hash(&mut hasher);
    hasher.finish()
}

fn mac_of_address(address: IpAddr) -> Mac {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            [0x0a, 0x58, a, b, c, d]
        }
        IpAddr::V6(_) => mac_of_hash(hash(&[&address.to_string()])),
    }
}

fn mac_of_hash(hash: u64) -> Mac {
    let [a, b, c, d, ..] = hash.to_be_bytes();
    [0x0a, 0x59, a, b, c, d]
}

impl PodNetwork {
    /// Sets the node's side up, or adopts what an earlier run left: interface,
    /// routes, forwarding, rules, and the pods that are attached. Needs
    /// `CAP_NET_ADMIN`, and `CAP_SYS_ADMIN` to enter namespaces.
    pub fn open(config: PodNetworkConfig) -> Result<Self, PodNetworkError> {
        let gateway = check(&config)?;
        let group = (u32::try_from(hash(&[&config.interface]) >> 33).unwrap_or(1)).max(1);
        let step = "set up the node's pod network";
        let (route, netfilter) = namespace::within(config.namespace.as_deref(), || {
            namespace::set("ipv4/ip_forward", "1")?;
            Ok((Socket::open(Protocol::Route)?, Socket::open(Protocol::Netfilter)?))
        })
        .map_err(kernel(step, None))?;
        let mut state =
            State { route, netfilter, pods: BTreeMap::new(), host_ports: rules::HostPorts::default(), next: 0 };
        state.own_interface(&config, gateway, group)?;
        state.adopt(&config, group)?;
        state.host_ports = rules::install(&mut state.netfilter, &config).map_err(kernel(step, None))?;
        Ok(Self { config, gateway, group, state: Mutex::new(state) })
    }

    /// The node's own address in the pod range.
    pub fn gateway(&self) -> IpAddr {
        self.gateway
    }

    /// Gives a pod an interface and an address. A pod that has one keeps it, so
    /// calling again after a crash is safe. On an error nothing is left behind.
    pub fn attach(&self, id: &str, netns: &Path, host_ports: &[HostPort]) -> Result<Attachment, PodNetworkError> {
        if id.is_empty() || id.len() > POD_ID_LIMIT || id.contains('|') {
            return Err(PodNetworkError::PodId { id: id.to_owned() });
        }
        let mut state = self.state();
        if let Some(pod) = state.pods.get(id) {
            return Ok(self.attachment(pod));
        }
        let pod = Pod {
            address: state.free_address(&self.config, self.gateway)?,
            interface: format!("dt{:012x}", hash(&[&self.config.interface, id]) >> 16),
        };
        let made = state.make(id, &pod, netns, self).and_then(|()| {
            let claim = state.host_ports.claim(pod.address, host_ports)?;
            claim.add(&self.config).commit(&mut state.netfilter).map_err(kernel("map the host ports", Some(id)))?;
            state.host_ports.record(claim);
            Ok(())
        });
        if let Err(error) = made {
            let mut messages = Messages::new();
            route::delete_link(&mut messages, &pod.interface);
            if let Err(leftover) = state.route.request(messages)
                && !leftover.is_absent()
            {
                tracing::warn!(pod = id, err = %leftover, "cannot remove a half-made pod interface");
            }
            return Err(error);
        }
        let attachment = self.attachment(&pod);
        state.pods.insert(id.to_owned(), pod);
        Ok(attachment)
    }

    /// Takes a pod's interface, address and host ports away. A pod that is not
    /// attached is no error.
    pub fn detach(&self, id: &str) -> Result<(), PodNetworkError> {
        self.state().detach(&self.config, id)
    }

    /// What a pod got, if it is attached.
    pub fn attached(&self, id: &str) -> Option<Attachment> {
        self.state().pods.get(id).map(|pod| self.attachment(pod))
    }

    /// Detaches every pod that is not in `live`; gives their identities.
    pub fn reconcile(&self, live: &BTreeSet<String>) -> Result<Vec<String>, PodNetworkError> {
        let mut state = self.state();
        let gone: Vec<_> = state.pods.keys().filter(|id| !live.contains(*id)).cloned().collect();
        for id in &gone {
            state.detach(&self.config, id)?;
        }
        Ok(gone)
    }

    /// Chains of other programs that drop forwarded packets unless told
    /// otherwise, as `family table chain`. Pods cannot reach anything beyond
    /// the node past such a chain; it is reported and never changed.
    pub fn forwarding_obstacles(&self) -> Result<Vec<String>, PodNetworkError> {
        nftables::forward_drops(&mut self.state().netfilter).map_err(kernel("look for rules that drop", None))
    }

    /// Removes all interfaces, routes, addresses and rules of this network.
    pub fn teardown(self) -> Result<(), PodNetworkError> {
        let step = "remove the node's pod network";
        let mut state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        Batch::remove(Family::Ipv4, &self.config.table).commit(&mut state.netfilter).map_err(kernel(step, None))?;
        let links = route::links(&mut state.route).map_err(kernel(step, None))?;
        let mut messages = Messages::new();
        for link in links.iter().filter(|link| link.group == self.group) {
            route::delete_link(&mut messages, &link.name);
        }
        route::delete_unreachable(&mut messages, &self.config.pod_cidr);
        match state.route.request(messages) {
            Err(error) if !error.is_absent() => Err(kernel(step, None)(error)),
            _ => Ok(()),
        }
    }

    fn attachment(&self, pod: &Pod) -> Attachment {
        Attachment { addresses: vec![pod.address], gateway: self.gateway, interface: pod.interface.clone() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is recorded after the kernel made it, so the map is
        // right even if a holder panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn alias(&self, id: &str, address: IpAddr) -> String {
        format!("{}|{id}|{address}", self.config.interface)
    }
}

fn check(config: &PodNetworkConfig) -> Result<IpAddr, PodNetworkError> {
    let unusable = |field, reason| Err(PodNetworkError::Config { field, reason });
    if config.interface.is_empty() || config.interface.len() > INTERFACE_NAME_LIMIT {
        return unusable("interface", "a name has 1 to 15 bytes");
    }
    if !config.pod_cidr.address().is_ipv4() || !config.cluster_cidr.address().is_ipv4() {
        return unusable("pod_cidr", "only IPv4 is served");
    }
    if config.pod_cidr.prefix() > 30 {
        return unusable("pod_cidr", "it must hold at least four addresses");
    }
    if !config.cluster_cidr.contains(config.pod_cidr.address()) {
        return unusable("pod_cidr", "it must lie in cluster_cidr");
    }
    let Some(gateway) = config.pod_cidr.nth(1) else {
        return unusable("pod_cidr", "it must hold at least four addresses");
    };
    Ok(gateway)
}

impl State {
    /// Makes or adopts the node's own interface.
    fn own_interface(&mut self, config: &PodNetworkConfig, gateway: IpAddr, group: u32) -> Result<(), PodNetworkError> {
        let step = "make the node's pod interface";
        let link = route::link(&mut self.route, &config.interface).map_err(kernel(step, None))?;
        if link.as_ref().is_some_and(|link| link.group != group) {
            return Err(PodNetworkError::Taken { interface: config.interface.clone() });
        }
        self.check_range(config, link.as_ref().map(|link| link.index))?;
        if link.is_none() {
            let mut messages = Messages::new();
            let mac = mac_of_address(gateway);
            // A bridge without ports: it only has to hold an address.
            route::add_bridge(&mut messages, &config.interface, mac, config.mtu, group);
            self.route.request(messages).map_err(kernel(step, None))?;
        }
        let link = route::link(&mut self.route, &config.interface)
            .map_err(kernel(step, None))?
            .ok_or_else(|| PodNetworkError::Taken { interface: config.interface.clone() })?;
        let mut messages = Messages::new();
        route::set_up(&mut messages, link.index);
        route::add_address(&mut messages, link.index, gateway, 32);
        // An address without a pod is refused at once instead of leaving by
        // the default route.
        route::add_unreachable(&mut messages, &config.pod_cidr);
        if let Some(services) = config.service_cidr.filter(|range| range.address().is_ipv4()) {
            route::add_route(
                &mut messages,
                &Route {
                    destination: Some((services.address(), services.prefix())),
                    gateway: None,
                    index: link.index,
                    source: Some(gateway),
                },
            );
        }
        self.route.request(messages).map_err(kernel(step, None))
    }

    /// Another network of this machine in the same range, such as that of a
    /// second cluster, would take our pods' packets.
    fn check_range(&mut self, config: &PodNetworkConfig, own: Option<u32>) -> Result<(), PodNetworkError> {
        let step = "list the machine's addresses";
        let addresses = route::addresses(&mut self.route).map_err(kernel(step, None))?;
        let taken =
            |&(index, address, _): &(u32, IpAddr, u8)| Some(index) != own && config.cluster_cidr.contains(address);
        let Some((index, address, _)) = addresses.into_iter().find(taken) else { return Ok(()) };
        let links = route::links(&mut self.route).map_err(kernel(step, None))?;
        let interface = links.into_iter().find(|link| link.index == index).map(|link| link.name).unwrap_or_default();
        Err(PodNetworkError::RangeTaken { range: config.cluster_cidr, address, interface })
    }

    /// Learns from the kernel which pods are attached and removes unfinished
    /// interfaces.
    fn adopt(&mut self, config: &PodNetworkConfig, group: u32) -> Result<(), PodNetworkError> {
        let step = "find the attached pods";
        let links = route::links(&mut self.route).map_err(kernel(step, None))?;
        let mut unfinished = Messages::new();
        for link in links.into_iter().filter(|link| link.group == group && link.name != config.interface) {
            let mut parts = link.alias.split('|');
            let pod = match (parts.next(), parts.next(), parts.next().map(str::parse)) {
                (Some(network), Some(id), Some(Ok(address))) if network == config.interface => Some((id, address)),
                _ => None,
            };
            match pod {
                Some((id, address)) => {
                    self.next = self.next.max(offset(config, address));
                    self.pods.insert(id.to_owned(), Pod { address, interface: link.name.clone() });
                }
                None => route::delete_link(&mut unfinished, &link.name),
            }
        }
        self.route.request(unfinished).map_err(kernel(step, None))
    }

    /// The next unused address after the one given out last: an address rests
    /// as long as possible before another pod gets it.
    fn free_address(&mut self, config: &PodNetworkConfig, gateway: IpAddr) -> Result<IpAddr, PodNetworkError> {
        let used: BTreeSet<_> = self.pods.values().map(|pod| pod.address).collect();
        let size = 1_u64 << (32 - u32::from(config.pod_cidr.prefix()));
        // The first address names the range and the last is its broadcast.
        let usable = u32::try_from(size.saturating_sub(2)).unwrap_or(u32::MAX);
        for step in 1..=usable {
            let index = (self.next.wrapping_add(step - 1) % usable) + 1;
            match config.pod_cidr.nth(index) {
                Some(address) if address != gateway && !used.contains(&address) => {
                    self.next = index;
                    return Ok(address);
                }
                _ => {}
            }
        }
        Err(PodNetworkError::Exhausted { range: config.pod_cidr })
    }

    fn make(&mut self, id: &str, pod: &Pod, netns: &Path, network: &PodNetwork) -> Result<(), PodNetworkError> {
        let file = File::open(netns).map_err(|source| PodNetworkError::PodNamespace {
            id: id.to_owned(),
            path: netns.display().to_string(),
            source,
        })?;
        let step = "make the interface";
        let near = VethEnd { name: &pod.interface, mac: mac_of_hash(hash(&[id])) };
        let far = VethEnd { name: POD_INTERFACE, mac: mac_of_address(pod.address) };
        let mut messages = Messages::new();
        route::add_veth(&mut messages, &near, &far, file.as_fd(), network.config.mtu, network.group);
        self.route.request(messages).map_err(kernel(step, Some(id)))?;
        let (address, gateway, near_mac) = (pod.address, network.gateway, near.mac);
        namespace::inside(netns, || inside_pod(address, gateway, near_mac))
            .map_err(kernel("set up the inside", Some(id)))?;

        let link = route::link(&mut self.route, &pod.interface).map_err(kernel(step, Some(id)))?;
        let index = link.map_or(0, |link| link.index);
        let mut messages = Messages::new();
        route::add_neighbour(&mut messages, index, pod.address, far.mac);
        route::add_route(
            &mut messages,
            &Route { destination: Some((pod.address, 32)), gateway: None, index, source: Some(network.gateway) },
        );
        route::dress_veth(&mut messages, &pod.interface, &network.alias(id, pod.address));
        self.route.request(messages).map_err(kernel("route to the interface", Some(id)))
    }

    fn detach(&mut self, config: &PodNetworkConfig, id: &str) -> Result<(), PodNetworkError> {
        let Some(pod) = self.pods.get(id).cloned() else {
            return Ok(());
        };
        let claim = self.host_ports.of(pod.address);
        claim.remove(config).commit(&mut self.netfilter).map_err(kernel("unmap the host ports", Some(id)))?;
        self.host_ports.forget(&claim);
        let mut messages = Messages::new();
        route::delete_link(&mut messages, &pod.interface);
        match self.route.request(messages) {
            // The namespace was removed first and took the pair along.
            Err(error) if !error.is_absent() => return Err(kernel("remove the interface", Some(id))(error)),
            _ => {}
        }
        self.pods.remove(id);
        Ok(())
    }
}

/// Distance of an address from the start of the node's range.
fn offset(config: &PodNetworkConfig, address: IpAddr) -> u32 {
    match (config.pod_cidr.address(), address) {
        (IpAddr::V4(first), IpAddr::V4(address)) => address.to_bits().saturating_sub(Ipv4Addr::to_bits(first)),
        _ => 0,
    }
}

/// Sets up loopback, address and default route on a thread in the pod.
fn inside_pod(address: IpAddr, gateway: IpAddr, gateway_mac: Mac) -> Result<(), NetlinkError> {
    let mut socket = Socket::open(Protocol::Route)?;
    let index = route::link(&mut socket, POD_INTERFACE)?.map_or(0, |link| link.index);
    let mut messages = Messages::new();
    route::set_up(&mut messages, route::LOOPBACK);
    route::add_address(&mut messages, index, address, 32);
    route::set_up(&mut messages, index);
    route::add_neighbour(&mut messages, index, gateway, gateway_mac);
    route::add_route(&mut messages, &Route { destination: None, gateway: Some(gateway), index, source: None });
    socket.request(messages)
}
