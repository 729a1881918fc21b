//! Frontends whose new connections wait in the packet queue: the chains that
//! end there, and which frontends lead to one. Who takes packets out of the
//! queue, and when, is not said here.

use super::super::plan::{Endpoints, PlannedPort};
use super::{
    A, Contribution, Entrance, HoldQueue, Keyed, PlannedService, REJECT, Reach, Surroundings, goto, in_range, source,
};
use crate::hold::Hold;
use crate::netlink::expression::{End, Expression, Meta, Verdict};
use crate::netlink::nftables::Chain;
use crate::pod::TransportProtocol;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// What the names of chains that end in the queue begin with.
const HOLDING: &str = "hold-";
const ALWAYS: &str = "hold-always";
const WHEN_UNSERVED: &str = "hold-when-unserved";

/// Set of the rates at which held frontends get new connections.
pub(super) const RATES: &str = "hold-rates";
/// Frontends whose rates are kept at most; beyond it they are not limited.
pub(super) const RATES_LIMIT: u32 = 1 << 16;
/// New connections a second, and at once, that one frontend hands to the queue;
/// more are refused by the kernel. A flood at one then leaves the thread that
/// serves the queue time for the others; no Service has room for so many.
const PER_SECOND: u64 = 2000;
const AT_ONCE: u32 = 1024;

/// How packets to a frontend are held whose element leads to this chain.
pub(in super::super) fn held_by(chain: &str) -> Option<Hold> {
    if chain.starts_with(ALWAYS) {
        return Some(Hold::Always);
    }
    chain.starts_with(HOLDING).then_some(Hold::WhenUnserved)
}

/// What the name of a chain begins with that leads to `next`, so that
/// [`held_by`] knows it.
pub(super) fn prefix(next: &str) -> String {
    match held_by(next) {
        Some(Hold::Always) => format!("{ALWAYS}-"),
        Some(Hold::WhenUnserved) => format!("{WHEN_UNSERVED}-"),
        None => String::new(),
    }
}

/// The chain in which a frontend's new connections wait, if they do.
pub(super) fn chain_of(
    service: &PlannedService,
    entrance: &Entrance<'_>,
    around: &Surroundings,
) -> Option<&'static str> {
    around.queue?;
    let endpoints = &entrance.port.endpoints;
    let (elsewhere, here) = (!endpoints.cluster.is_empty(), !endpoints.local.is_empty());
    match service.hold? {
        _ if entrance.port.protocol == TransportProtocol::Sctp => None,
        // Under this policy endpoints elsewhere serve nobody, however long a
        // client waits.
        Hold::Always if entrance.reach == Reach::InternalLocal && elsewhere && !here => None,
        Hold::Always => Some(ALWAYS),
        Hold::WhenUnserved => (!elsewhere && !here).then_some(WHEN_UNSERVED),
    }
}

/// The chains that hand packets to the queue, if there is one.
pub(super) fn chains(around: &Surroundings) -> impl Iterator<Item = (&'static str, Chain)> {
    around.queue.into_iter().flat_map(|queue| [ALWAYS, WHEN_UNSERVED].map(|name| (name, hold(&queue))))
}

/// Keeps a packet until its queue's owner decides. One that it has let go, and
/// that finds itself here again, is left to the rules that refuse; so are those
/// of a flood.
fn hold(queue: &HoldQueue) -> Chain {
    let bit = queue.go_on_mark.to_ne_bytes().to_vec();
    let let_go = vec![
        Expression::Meta(Meta::Mark, A),
        Expression::Bits(A, bit, vec![0; 4]),
        Expression::NotEqual(A, vec![0; 4]),
        Expression::Verdict(Verdict::Accept),
    ];
    let mut flooded = Keyed::Address.load();
    flooded.push(Expression::Faster(RATES.into(), A, PER_SECOND, AT_ONCE));
    flooded.push(Expression::Verdict(Verdict::Accept));
    Chain { hooked: None, rules: vec![let_go, flooded, vec![Expression::Queue(queue.queueing)]] }
}

impl Contribution {
    /// A frontend whose new connections wait in `chain`: those of clients that
    /// could connect if they did not have to wait.
    pub(super) fn add_held(&mut self, entrance: &Entrance<'_>, around: &Surroundings, chain: &'static str) {
        let endpoints = &entrance.port.endpoints;
        let served = !endpoints.cluster.is_empty();
        let chain = match entrance.reach {
            Reach::ExternalLocal if served && endpoints.local.is_empty() => self.add_held_inside(around, chain),
            _ => chain.to_owned(),
        };
        if !served {
            self.add_chains_of_first_endpoint(entrance, around);
        }
        self.lead(entrance, chain);
        // Those that are let out of the queue and find no endpoint.
        self.refuse(entrance, Verdict::Goto(REJECT.into()));
    }

    /// Has the chains ready to which the frontend leads with its first endpoint,
    /// so that it takes no other transaction.
    fn add_chains_of_first_endpoint(&mut self, entrance: &Entrance<'_>, around: &Surroundings) {
        let one = BTreeSet::from([(Ipv4Addr::UNSPECIFIED, 0)]);
        let port = PlannedPort { endpoints: Endpoints { cluster: one.clone(), local: one }, ..entrance.port.clone() };
        let mut then = Self::default();
        then.add_frontend(&Entrance { port: &port, key: entrance.key.clone(), ..*entrance }, around);
        self.chains.extend(then.chains);
    }

    /// Clients from outside get no endpoint here and do not wait for one.
    fn add_held_inside(&mut self, around: &Surroundings, chain: &'static str) -> String {
        let mut pods = vec![source(A)];
        pods.extend(in_range(A, &around.cluster_cidr));
        pods.push(goto(chain));
        let node = vec![Expression::IsLocal(End::Source, A), goto(chain)];
        let rules = vec![pods, node, vec![Expression::Verdict(Verdict::Drop)]];
        let name = format!("{chain}-inside");
        self.chains.entry(name.clone()).or_insert(Chain { hooked: None, rules });
        name
    }
}
