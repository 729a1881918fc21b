//! Following Services and EndpointSlices and keeping the kernel's table equal
//! to the plan. It decides nothing about where a connection goes.

mod holding;

pub(super) use holding::OpenQueue;

use self::holding::{Hands, Transaction};
use super::layout::{self, Surroundings};
use super::plan::{self, Frontend, NodeFacts, PlannedService, Target};
use super::table::{Difference, Table};
use crate::cidr::Cidr;
use crate::hold::{Hold, HoldError, Holding, Place};
use crate::netlink::conntrack::{self, Connection};
use crate::netlink::nftables::{self, Batch, Family, RuleSet, Set, Size};
use crate::netlink::{NetlinkError, Protocol, Socket, namespace};
use crate::pod::TransportProtocol;
use api::error::Chain;
use api::types::api::core::v1::{Node, Service};
use api::types::api::discovery::v1::EndpointSlice;
use client::{Client, Delta, Informer, ObjectKey, WatchParams};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Label of a slice that names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const ZONE: &str = "topology.kubernetes.io/zone";
/// Wait after the kernel refused a change, doubled each time up to the limit.
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// How long elements that nothing leads to any more stay if no other change
/// takes them away: longer than any packet is on its way through the rules.
const REMOVAL_DELAY: Duration = Duration::from_secs(1);
/// Changes taken into one transaction at most, so that a flood of changes does
/// not keep the first one waiting.
const CHANGES_PER_TRANSACTION: usize = 1000;

/// What the Services' table is made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceProxyConfig {
    /// The nftables table.
    pub table: String,
    /// This node's name.
    pub node_name: String,
    /// This node's pods.
    pub pod_cidr: Cidr,
    /// All pods.
    pub cluster_cidr: Cidr,
    /// Mark bit that asks for masquerading; upstream's is 0x4000.
    pub masquerade_mark: u32,
    /// First `nfnetlink_queue` number to try for held packets. A restarted
    /// process should find the same one free: until it has written its rules,
    /// those of the former run send packets there.
    pub first_queue: u16,
    /// Mark bit of first packets that were held and do not wait again; they
    /// carry it on to the endpoint's interface.
    pub go_on_mark: u32,
    /// The node's network namespace; the caller's own if absent.
    pub namespace: Option<PathBuf>,
}

impl ServiceProxyConfig {
    /// Table `darter` in the caller's namespace.
    pub fn new(node_name: impl Into<String>, pod_cidr: Cidr, cluster_cidr: Cidr) -> Self {
        Self {
            table: "darter".into(),
            node_name: node_name.into(),
            pod_cidr,
            cluster_cidr,
            masquerade_mark: 0x4000,
            first_queue: 3500,
            go_on_mark: 0x0400_0000,
            namespace: None,
        }
    }
}

/// Why the Services' rules could not be set up or removed.
#[derive(thiserror::Error, Debug)]
pub enum ServiceProxyError {
    /// The kernel did not do its part.
    #[error("cannot {step}")]
    Kernel {
        /// What was being done.
        step: &'static str,
        /// The cause.
        #[source]
        source: NetlinkError,
    },
}

/// The Services of a cluster on one node.
pub struct ServiceProxy {
    client: Client,
    config: ServiceProxyConfig,
    kernel: Kernel,
    queue: Result<OpenQueue, HoldError>,
    holding: Option<Holding>,
}

impl ServiceProxy {
    /// Opens the kernel's doors; rules are written by [`ServiceProxy::run`].
    /// Needs `CAP_NET_ADMIN`.
    pub fn new(client: Client, config: ServiceProxyConfig) -> Result<Self, ServiceProxyError> {
        let kernel = Kernel::open(&config)?;
        let queue = OpenQueue::open(&config);
        Ok(Self { client, config, kernel, queue, holding: None })
    }

    /// Whether this node can hold first packets.
    ///
    /// # Errors
    /// Why not. Retrying does not help unless another program has taken the
    /// queues.
    pub fn can_hold(&self) -> Result<(), &HoldError> {
        self.queue.as_ref().map(|_| ())
    }

    /// Holds first packets to the Services it names, if
    /// [`ServiceProxy::can_hold`]; else nothing is ever applied.
    #[must_use]
    pub fn holding(self, holding: Holding) -> Self {
        Self { holding: Some(holding), ..self }
    }

    /// Keeps the rules current until `shutdown`; they stay behind, so that
    /// Services work while this process restarts.
    pub async fn run(self, shutdown: CancellationToken) {
        let (services, first) = Informer::<Service>::new(self.client.all(), WatchParams::default());
        let (slices, second) = Informer::<EndpointSlice>::new(self.client.all(), WatchParams::labels(SERVICE_NAME));
        let name = format!("metadata.name={}", self.config.node_name);
        let (nodes, third) = Informer::<Node>::trimmed(self.client.all(), WatchParams::fields(name), |node| {
            node.status = None;
        });
        let mut sync = Sync::new(self.config, self.kernel);
        match (self.queue, self.holding) {
            (Ok(queue), Some(holding)) => sync.hold(queue, holding),
            (Err(error), Some(_)) => tracing::warn!(err = %Chain(&error), "first packets cannot be held"),
            (_, None) => {}
        }
        tokio::join!(
            first.run(shutdown.clone()),
            second.run(shutdown.clone()),
            third.run(shutdown.clone()),
            sync.run(services, slices, nodes, shutdown),
        );
    }

    /// Removes the table, if there is one.
    pub fn remove_rules(config: &ServiceProxyConfig) -> Result<(), ServiceProxyError> {
        let mut kernel = Kernel::open(config)?;
        Batch::remove(Family::Ipv4, &config.table)
            .commit(&mut kernel.socket)
            .map_err(|source| ServiceProxyError::Kernel { step: "remove the Services' rules", source })
    }
}

/// The sockets of the node's namespace.
pub(super) struct Kernel {
    table: String,
    socket: Socket,
    /// Elements that nothing leads to any more.
    removals: BTreeMap<String, Set>,
}

/// Protocol number, address (any of the node's if absent) and port, with the
/// endpoints behind them.
type Frontends = BTreeMap<(u8, Option<IpAddr>, u16), BTreeSet<(IpAddr, u16)>>;

/// A connection whose end nobody announces, and what it may lead to.
#[derive(Clone, Debug, Default)]
pub(super) struct Datagrams {
    /// Frontends that changed, with all their endpoints now.
    frontends: Frontends,
}

impl Datagrams {
    fn is_stale(&self, connection: &Connection) -> bool {
        let (address, port) = connection.original.destination;
        let protocol = connection.original.protocol;
        let endpoints = self
            .frontends
            .get(&(protocol, Some(address), port))
            .or_else(|| self.frontends.get(&(protocol, None, port)));
        endpoints.is_some_and(|endpoints| !endpoints.contains(&connection.reply.source))
    }
}

impl Kernel {
    pub(super) fn open(config: &ServiceProxyConfig) -> Result<Self, ServiceProxyError> {
        let socket = namespace::within(config.namespace.as_deref(), || Socket::open(Protocol::Netfilter))
            .map_err(|source| ServiceProxyError::Kernel { step: "reach the kernel's rules", source })?;
        Ok(Self { table: config.table.clone(), socket, removals: BTreeMap::new() })
    }

    /// Replaces the table in one transaction.
    pub(super) fn replace(&mut self, rules: &RuleSet) -> Result<Size, NetlinkError> {
        self.removals.clear();
        let batch = Batch::replace(Family::Ipv4, &self.table, rules);
        let size = batch.size();
        batch.commit(&mut self.socket)?;
        Ok(size)
    }

    /// The frontends that the rules there are hold, written by a former run.
    fn held(&mut self) -> Result<BTreeMap<Place, Hold>, NetlinkError> {
        let mut held = BTreeMap::new();
        for set in layout::FRONTEND_MAPS {
            for found in nftables::elements(&mut self.socket, Family::Ipv4, &self.table, set, None)? {
                let hold = found.chain.as_deref().and_then(layout::held_by);
                held.extend(layout::place_of(set, &found.key).zip(hold));
            }
        }
        Ok(held)
    }

    /// Applies a difference, and forgets clients of endpoints that are gone. One
    /// transaction decides where packets go; if need be, one before it adds the
    /// chains. What packets that are on their way may still come to is taken
    /// away by the next one.
    pub(super) fn update(&mut self, mut difference: Difference, sticky: bool) -> Result<Size, NetlinkError> {
        let first = Batch::update(Family::Ipv4, &self.table, &RuleSet::default(), &difference.split_off_first());
        let removals = difference.exchange_removals(std::mem::take(&mut self.removals));
        let mut batch = Batch::update(Family::Ipv4, &self.table, &difference.old, &difference.new);
        let (chains, rest) = (first.size(), batch.size());
        if sticky && !difference.gone.is_empty() {
            let found = nftables::elements(&mut self.socket, Family::Ipv4, &self.table, layout::AFFINITY_MAP, None)?;
            let stale = found.iter().filter(|element| {
                let value = element.value.as_deref().unwrap_or_default();
                layout::parse_affinity(&element.key, value).is_some_and(|place| difference.gone.contains(&place))
            });
            for element in stale {
                batch.delete_elements(layout::AFFINITY_MAP, &[(&element.key, None)]);
            }
        }
        first.commit(&mut self.socket)?;
        batch.commit(&mut self.socket)?;
        self.removals = removals;
        Ok(Size { elements: chains.elements + rest.elements, rules: chains.rules + rest.rules })
    }

    /// Removes UDP connections that lead to endpoints that are gone.
    pub(super) fn flush(&mut self, datagrams: &Datagrams) -> Result<usize, NetlinkError> {
        if datagrams.frontends.is_empty() {
            return Ok(0);
        }
        conntrack::remove(&mut self.socket, |connection| datagrams.is_stale(connection))
    }
}

/// The loop's state.
pub(super) struct Sync {
    node: NodeFacts,
    hands: Option<Hands>,
    around: Surroundings,
    go_on_mark: u32,
    table: Table,
    plans: HashMap<ObjectKey, PlannedService>,
    /// Slices of each Service.
    slices: HashMap<ObjectKey, BTreeMap<ObjectKey, Arc<EndpointSlice>>>,
    services: HashMap<ObjectKey, Arc<Service>>,
    kernel: Kernel,
    /// The kernel holds what `table` says.
    applied: bool,
}

impl Sync {
    pub(super) fn new(config: ServiceProxyConfig, kernel: Kernel) -> Self {
        let around = Surroundings {
            pod_cidr: config.pod_cidr,
            cluster_cidr: config.cluster_cidr,
            masquerade_mark: config.masquerade_mark,
            queue: None,
        };
        Self {
            hands: None,
            around,
            go_on_mark: config.go_on_mark,
            node: NodeFacts { name: config.node_name, zone: None },
            table: Table::new(around),
            plans: HashMap::new(),
            slices: HashMap::new(),
            services: HashMap::new(),
            kernel,
            applied: false,
        }
    }

    /// Starts to hold; comes before the first [`Sync::apply`].
    pub(super) fn hold(&mut self, queue: OpenQueue, holding: Holding) {
        let former = self.kernel.held().unwrap_or_else(|error| {
            tracing::warn!(err = %Chain(&error), "cannot read which Services were held");
            BTreeMap::new()
        });
        match Hands::new(queue, self.go_on_mark, holding, former) {
            Ok((hands, queue)) => {
                self.around.queue = Some(queue);
                self.table = Table::new(self.around);
                self.hands = Some(hands);
            }
            Err(error) => tracing::warn!(err = %Chain(&error), "first packets cannot be held"),
        }
    }

    /// Notes the Services that are to be held otherwise.
    pub(super) fn note_wanted(&mut self, touched: &mut BTreeSet<ObjectKey>) {
        if let Some(hands) = &mut self.hands {
            hands.look(touched);
        }
    }

    /// How many packets are held.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.hands.as_ref().map_or(0, Hands::waiting)
    }

    /// Comes back when other Services are to be held.
    async fn other_wanted(&mut self) {
        match &mut self.hands {
            Some(hands) => hands.change().await,
            None => std::future::pending().await,
        }
    }

    pub(super) async fn run(
        mut self,
        services: Informer<Service>,
        slices: Informer<EndpointSlice>,
        nodes: Informer<Node>,
        shutdown: CancellationToken,
    ) {
        let mut service_changes = services.subscribe();
        let mut slice_changes = slices.subscribe();
        let mut node_changes = nodes.subscribe();
        // Before everything is known, nothing is written: a restart must not
        // take Services away that are merely not listed yet.
        let synced = async { tokio::join!(services.synced(), slices.synced(), nodes.synced()) };
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = synced => {}
        }
        let mut touched = BTreeSet::new();
        let mut retry = FIRST_RETRY;
        let mut failed = false;
        let mut remove = false;
        loop {
            let mut more = |sync: &mut Self, touched: &mut BTreeSet<ObjectKey>| {
                sync.note_wanted(touched);
                for _change in 0..CHANGES_PER_TRANSACTION {
                    if let Some(delta) = service_changes.try_next() {
                        sync.note_service(&delta, touched);
                    } else if let Some(delta) = slice_changes.try_next() {
                        sync.note_slice(&delta, touched);
                    } else if let Some(delta) = node_changes.try_next() {
                        sync.note_node(&delta, touched);
                    } else {
                        return false;
                    }
                }
                true
            };
            let busy = more(&mut self, &mut touched);
            if failed || remove || !touched.is_empty() || !self.applied && !busy {
                remove = false;
                let changes = std::mem::take(&mut touched);
                // The kernel needs microseconds for a change, but many
                // milliseconds to list its connections.
                let applied = tokio::task::spawn_blocking(move || {
                    let result = self.apply(changes);
                    (self, result)
                });
                let result = match applied.await {
                    Ok((sync, result)) => {
                        self = sync;
                        result
                    }
                    Err(stopped) if stopped.is_cancelled() => return,
                    Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
                };
                match result {
                    Ok(size) => {
                        failed = false;
                        retry = FIRST_RETRY;
                        tracing::debug!(elements = size.elements, rules = size.rules, "service rules applied");
                    }
                    Err(error) => {
                        tracing::warn!(err = %Chain(&error), "cannot apply service rules, trying again");
                        failed = true;
                        retry = (retry * 2).min(LAST_RETRY);
                    }
                }
            }
            if busy {
                tokio::task::yield_now().await;
                continue;
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(delta) = service_changes.next() => self.note_service(&delta, &mut touched),
                Some(delta) = slice_changes.next() => self.note_slice(&delta, &mut touched),
                Some(delta) = node_changes.next() => self.note_node(&delta, &mut touched),
                () = self.other_wanted() => {}
                () = tokio::time::sleep(retry), if failed => {}
                () = tokio::time::sleep(REMOVAL_DELAY), if !self.kernel.removals.is_empty() => remove = true,
            }
        }
    }

    pub(super) fn note_service(&mut self, delta: &Delta<Service>, touched: &mut BTreeSet<ObjectKey>) {
        let key = ObjectKey::of(&**delta.object());
        match delta {
            Delta::Deleted(_) => self.services.remove(&key),
            Delta::Added(service) | Delta::Updated { new: service, .. } => {
                self.services.insert(key.clone(), service.clone())
            }
        };
        touched.insert(key);
    }

    pub(super) fn note_slice(&mut self, delta: &Delta<EndpointSlice>, touched: &mut BTreeSet<ObjectKey>) {
        let key = ObjectKey::of(&**delta.object());
        if let Some(old) = delta.old().and_then(|old| service_of(old)) {
            // The label may have changed.
            self.forget_slice(&old, &key);
            touched.insert(old);
        }
        let Some(service) = service_of(delta.object()) else { return };
        match delta {
            Delta::Deleted(_) => self.forget_slice(&service, &key),
            Delta::Added(slice) | Delta::Updated { new: slice, .. } => {
                self.slices.entry(service.clone()).or_default().insert(key, slice.clone());
            }
        }
        touched.insert(service);
    }

    fn forget_slice(&mut self, service: &ObjectKey, slice: &ObjectKey) {
        if let Some(slices) = self.slices.get_mut(service) {
            slices.remove(slice);
            if slices.is_empty() {
                self.slices.remove(service);
            }
        }
    }

    fn note_node(&mut self, delta: &Delta<Node>, touched: &mut BTreeSet<ObjectKey>) {
        let labels = delta.object().metadata.labels.as_ref();
        let zone = labels.and_then(|labels| labels.get(ZONE)).cloned();
        if zone != self.node.zone {
            self.node.zone = zone;
            touched.extend(self.services.keys().cloned());
        }
    }

    /// Plans the touched Services anew and brings the kernel there. After an
    /// error the next call writes the whole table.
    pub(super) fn apply(&mut self, touched: BTreeSet<ObjectKey>) -> Result<Size, ServiceProxyError> {
        let mut changes = Vec::new();
        let mut datagrams = Datagrams::default();
        let mut sticky = false;
        for key in touched {
            let slices: Vec<_> = self.slices.get(&key).into_iter().flat_map(BTreeMap::values).cloned().collect();
            let mut plan = self.services.get(&key).and_then(|service| plan::plan(service, &slices, &self.node));
            if let (Some(hands), Some(plan)) = (&mut self.hands, &mut plan) {
                plan.hold = hands.of(&key, plan);
            }
            let old = self.plans.get(&key);
            if old == plan.as_ref() {
                continue;
            }
            sticky |= old.is_some_and(|old| old.ports.iter().any(|port| port.affinity.is_some()));
            note_datagrams(&mut datagrams, old, plan.as_ref());
            if let Some(hands) = &mut self.hands {
                hands.plan(&key, plan.as_ref().and_then(|plan| plan.hold));
            }
            match &plan {
                Some(plan) => self.plans.insert(key.clone(), plan.clone()),
                None => self.plans.remove(&key),
            };
            changes.push((key, plan));
        }
        let mut difference = self.table.change(changes);
        if let Some(hands) = &mut self.hands {
            hands.before(std::mem::take(&mut difference.fates));
        }
        let transaction = if self.applied { Transaction::Difference } else { Transaction::WholeTable };
        let failed = |step| move |source| ServiceProxyError::Kernel { step, source };
        let size = if self.applied {
            self.applied = false;
            self.kernel.update(difference, sticky).map_err(failed("change the Services' rules"))?
        } else {
            self.kernel.replace(&self.table.whole()).map_err(failed("write the Services' rules"))?
        };
        self.applied = true;
        if let Some(hands) = &mut self.hands {
            hands.after(transaction);
        }
        match self.kernel.flush(&datagrams) {
            Ok(0) => {}
            Ok(count) => tracing::debug!(count, "connections to former endpoints removed"),
            // They time out by themselves; the rules are in place.
            Err(error) => tracing::warn!(err = %Chain(&error), "cannot remove connections to former endpoints"),
        }
        Ok(size)
    }
}

fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    Some(ObjectKey::new(slice.metadata.namespace.as_deref().unwrap_or_default(), name.as_str()))
}

/// Notes the UDP frontends of a changed Service, if connections may now lead
/// astray: endpoints or frontends came or went.
fn note_datagrams(datagrams: &mut Datagrams, old: Option<&PlannedService>, new: Option<&PlannedService>) {
    let ports = |service: Option<&PlannedService>| -> Frontends {
        let ports = service.into_iter().flat_map(|service| &service.ports);
        ports
            .filter(|port| port.protocol == TransportProtocol::Udp)
            .flat_map(|port| {
                let targets = port.endpoints.cluster.union(&port.endpoints.local);
                let targets: BTreeSet<_> =
                    targets.map(|(address, port): &Target| (IpAddr::V4(*address), *port)).collect();
                port.frontends.keys().map(move |frontend| {
                    let place = match frontend {
                        Frontend::Address(address, port) => (Some(IpAddr::V4(*address)), *port),
                        Frontend::NodePort(port) => (None, *port),
                    };
                    ((TransportProtocol::Udp.number(), place.0, place.1), targets.clone())
                })
            })
            .collect()
    };
    // New connections of a held Service went nowhere.
    let waited = old.is_some_and(|old| old.hold.is_some());
    let (old, new) = (ports(old), ports(new));
    for (frontend, targets) in &old {
        let left = new.get(frontend);
        if left.is_none_or(|left| !targets.is_subset(left)) {
            datagrams.frontends.insert(*frontend, left.cloned().unwrap_or_default());
        }
    }
    for (frontend, targets) in &new {
        // Until now packets went to the bare address.
        if !waited && !targets.is_empty() && old.get(frontend).is_none_or(BTreeSet::is_empty) {
            datagrams.frontends.insert(*frontend, targets.clone());
        }
    }
}
