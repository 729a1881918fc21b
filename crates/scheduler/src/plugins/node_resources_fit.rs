//! NodeResourcesFit: what the pod asks for must be left on the node; nodes
//! with more left score higher (LeastAllocated over CPU and memory).

use std::borrow::Cow;

use crate::event::Event;
use crate::intern::Symbol;
use crate::node::NodeFacts;
use crate::plugin::{MAX_SCORE, Plugin, Rejection, Sieve, View, Waiting};
use crate::pod::Shape;
use crate::resources::Resources;
use crate::snapshot::{NodeId, Snapshot};

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct NodeResourcesFit;

impl Plugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn filters(&self, _shape: &Shape) -> bool {
        true
    }

    fn filter(&self, snapshot: &Snapshot, shape: &Shape, sieve: &mut Sieve<'_>) {
        let wanted = &shape.usage.requests;
        let scalars: Vec<(Symbol, &str, i64)> =
            wanted.scalars.iter().map(|(name, amount)| (snapshot.strings.find(name), &**name, *amount)).collect();
        let columns = &snapshot.columns;
        sieve.keep(|node| {
            let row = node.index();
            let mut lacking = Lacking::default();
            if columns.used_pods[row] + 1 > columns.allocatable_pods[row] {
                lacking.reasons.push("Too many pods".into());
            }
            lacking.check(wanted.milli_cpu, columns.allocatable_cpu[row], columns.used_cpu[row], || {
                "Insufficient cpu".into()
            });
            lacking.check(wanted.memory, columns.allocatable_memory[row], columns.used_memory[row], || {
                "Insufficient memory".into()
            });
            lacking.check(
                wanted.ephemeral_storage,
                columns.allocatable_storage[row],
                columns.used_storage[row],
                || "Insufficient ephemeral-storage".into(),
            );
            for (symbol, name, amount) in &scalars {
                let scalar = columns.scalars[row].iter().find(|scalar| scalar.name == *symbol);
                let (allocatable, used) = scalar.map_or((0, 0), |scalar| (scalar.allocatable, scalar.used));
                lacking.check(*amount, allocatable, used, || format!("Insufficient {name}").into());
            }
            (!lacking.reasons.is_empty())
                .then_some(Rejection { unresolvable: lacking.forever, reasons: lacking.reasons })
        });
    }

    fn scores(&self, _shape: &Shape) -> bool {
        true
    }

    fn score(&self, snapshot: &Snapshot, shape: &Shape, nodes: &[NodeId], scores: &mut [i64]) {
        let columns = &snapshot.columns;
        for (node, score) in nodes.iter().zip(scores) {
            let row = node.index();
            let cpu = left(columns.scored_cpu[row] + shape.usage.scored_milli_cpu, columns.allocatable_cpu[row]);
            let memory = left(columns.scored_memory[row] + shape.usage.scored_memory, columns.allocatable_memory[row]);
            *score = match (cpu, memory) {
                (Some(cpu), Some(memory)) => (cpu + memory) / 2,
                (Some(one), None) | (None, Some(one)) => one,
                (None, None) => 0,
            };
        }
    }

    fn hint(&self, _view: View<'_>, pod: &Waiting<'_>, event: &Event) -> bool {
        let wanted = &pod.class.shape.0.usage.requests;
        match event {
            Event::NodeAdded(node) => fits_empty(wanted, node),
            Event::NodeUpdated { old, new } => fits_empty(wanted, new) && offers_more(wanted, old, new),
            Event::PodDeleted(deleted) => deleted.has_place,
            Event::PodUpdated { old, new } => {
                (&*new.uid == pod.uid || new.has_place) && takes_less(wanted, &old.usage.requests, &new.usage.requests)
            }
            _ => false,
        }
    }
}

#[derive(Default)]
struct Lacking {
    reasons: Vec<Cow<'static, str>>,
    /// More than the node ever has.
    forever: bool,
}

impl Lacking {
    fn check(&mut self, wanted: i64, allocatable: i64, used: i64, reason: impl FnOnce() -> Cow<'static, str>) {
        if wanted > 0 && wanted > allocatable - used {
            self.reasons.push(reason());
            self.forever |= wanted > allocatable;
        }
    }
}

/// Percent of a resource that stays free; none if the node has nothing of it.
fn left(requested: i64, allocatable: i64) -> Option<i64> {
    if allocatable == 0 {
        return None;
    }
    let free = allocatable - requested;
    Some(match free.checked_mul(MAX_SCORE) {
        _ if free < 0 => 0,
        Some(product) => product / allocatable,
        // Beyond 90 petabytes; wide division is too slow for every node.
        None => (i128::from(free) * i128::from(MAX_SCORE) / i128::from(allocatable)) as i64,
    })
}

fn fits_empty(wanted: &Resources, node: &NodeFacts) -> bool {
    let offered = &node.allocatable.resources;
    node.allocatable.pods >= 1
        && wanted.milli_cpu <= offered.milli_cpu
        && wanted.memory <= offered.memory
        && wanted.ephemeral_storage <= offered.ephemeral_storage
        && wanted.scalars.iter().all(|(name, amount)| *amount <= offered.scalar(name))
}

fn offers_more(wanted: &Resources, old: &NodeFacts, new: &NodeFacts) -> bool {
    new.allocatable.pods > old.allocatable.pods
        || takes_less(wanted, &new.allocatable.resources, &old.allocatable.resources)
}

/// True if `after` is less than `before` in something that is wanted.
fn takes_less(wanted: &Resources, before: &Resources, after: &Resources) -> bool {
    (wanted.milli_cpu > 0 && before.milli_cpu > after.milli_cpu)
        || (wanted.memory > 0 && before.memory > after.memory)
        || (wanted.ephemeral_storage > 0 && before.ephemeral_storage > after.ephemeral_storage)
        || wanted.scalars.iter().any(|(name, amount)| *amount > 0 && before.scalar(name) > after.scalar(name))
}
