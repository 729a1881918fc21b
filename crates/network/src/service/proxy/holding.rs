//! What the proxy holds: the queue, what is wanted, and what the kernel does.
//! It writes no rules.

use super::super::layout::{self, HoldQueue};
use super::super::plan::PlannedService;
use super::ServiceProxyConfig;
use crate::hold::{Fate, Hold, HoldError, Holder, Holding, Holds, Place};
use crate::netlink::expression::Queueing;
use crate::netlink::queue::{self, PacketQueue};
use crate::netlink::{Protocol, Socket, namespace};
use client::ObjectKey;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Packet queues that are tried, upwards from the configured one, until one is
/// free: one per cluster on the machine.
const QUEUE_ATTEMPTS: u16 = 64;

/// A queue for held packets, and how rules reach it.
pub(in super::super) struct OpenQueue {
    queue: PacketQueue,
    queueing: Queueing,
}

impl OpenQueue {
    /// Takes a queue, and finds out how this kernel's rules reach it.
    pub(in super::super) fn open(config: &ServiceProxyConfig) -> Result<Self, HoldError> {
        let (mut socket, queue) = namespace::within(config.namespace.as_deref(), || {
            Ok((Socket::open(Protocol::Netfilter)?, PacketQueue::open(config.first_queue, QUEUE_ATTEMPTS)?))
        })
        .map_err(|source| HoldError::Queue { step: "take a packet queue", source })?;
        let queueing = queue::probe(&mut socket, &format!("{}-probe", config.table), queue.number())?;
        Ok(Self { queue, queueing })
    }
}

/// What a transaction wrote.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Transaction {
    /// The table anew, so that the kernel dropped what waited.
    WholeTable,
    /// What changed.
    Difference,
}

/// What the loop holds, and for whom.
pub(super) struct Hands {
    holder: Holder,
    holding: Holding,
    /// Held by the former run's rules, until it is known what is wanted.
    former: BTreeMap<Place, Hold>,
    /// As last taken from the channel.
    wanted: Option<Arc<Holds>>,
    /// In the plans.
    planned: Holds,
    /// What changed since the last transaction that the kernel took.
    pending: BTreeMap<Place, Fate>,
}

impl Hands {
    /// Starts to hold; gives where the rules send held packets.
    pub(super) fn new(
        OpenQueue { queue, queueing }: OpenQueue,
        go_on_mark: u32,
        holding: Holding,
        former: BTreeMap<Place, Hold>,
    ) -> Result<(Self, HoldQueue), HoldError> {
        let holder = Holder::start(queue, go_on_mark, &holding, former.keys().copied())?;
        let hands = Self { holder, holding, former, wanted: None, planned: Holds::new(), pending: BTreeMap::new() };
        Ok((hands, HoldQueue { queueing, go_on_mark }))
    }

    /// How a Service is to be held.
    pub(super) fn of(&self, service: &ObjectKey, plan: &PlannedService) -> Option<Hold> {
        match &self.wanted {
            Some(wanted) => wanted.get(service).copied(),
            None => layout::places(plan).find_map(|place| self.former.get(&place).copied()),
        }
    }

    /// Takes what is wanted now, and notes the Services for which that is
    /// something else than the plans have.
    pub(super) fn look(&mut self, touched: &mut BTreeSet<ObjectKey>) {
        let wanted = {
            let wanted = self.holding.wanted.borrow_and_update();
            if !wanted.has_changed() && (self.wanted.is_some() || wanted.is_empty()) {
                return;
            }
            wanted.clone()
        };
        touched.extend(
            wanted.iter().filter(|(key, hold)| self.planned.get(key) != Some(hold)).map(|(key, _)| key.clone()),
        );
        touched.extend(self.planned.keys().filter(|key| !wanted.contains_key(key)).cloned());
        self.wanted = Some(wanted);
        self.former.clear();
    }

    /// Comes back when something else is wanted; for ever if nobody says so any
    /// more.
    pub(super) async fn change(&mut self) {
        if self.holding.wanted.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        // It is looked at together with other changes.
        self.holding.wanted.mark_changed();
    }

    /// Takes down how a Service is planned to be held.
    pub(super) fn plan(&mut self, service: &ObjectKey, hold: Option<Hold>) {
        match hold {
            Some(hold) => self.planned.insert(service.clone(), hold),
            None => self.planned.remove(service),
        };
    }

    /// Comes before a transaction.
    pub(super) fn before(&mut self, mut fates: BTreeMap<Place, Fate>) {
        self.pending.append(&mut fates);
        self.holder.prepare(&self.pending);
    }

    /// Comes after a transaction that the kernel took.
    pub(super) fn after(&mut self, transaction: Transaction) {
        if transaction == Transaction::WholeTable {
            self.holder.clear();
        }
        self.holder.settle(&std::mem::take(&mut self.pending));
        self.holding.applied.send_if_modified(|applied| {
            let changed = **applied != self.planned;
            if changed {
                *applied = Arc::new(self.planned.clone());
            }
            changed
        });
    }

    /// How many packets are held.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.holder.waiting()
    }
}
