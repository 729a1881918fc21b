//! TaintToleration: taints keep pods away that do not tolerate them; those
//! that would rather have no pod cost score.

use crate::event::Event;
use crate::node::{Effect, Taint};
use crate::plugin::{Normalize, Plugin, Rejection, Sieve, View, Waiting};
use crate::pod::Shape;
use crate::snapshot::{NodeId, Snapshot};

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct TaintToleration;

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn filters(&self, _shape: &Shape) -> bool {
        true
    }

    fn filter(&self, snapshot: &Snapshot, shape: &Shape, sieve: &mut Sieve<'_>) {
        let mut repelled = PerTaintSet::new(|taints| shape.is_repelled(taints));
        sieve.keep(|node| {
            repelled.of(snapshot, node).then(|| Rejection::unresolvable("node(s) had untolerated taint(s)"))
        });
    }

    fn scores(&self, _shape: &Shape) -> bool {
        true
    }

    fn score(&self, snapshot: &Snapshot, shape: &Shape, nodes: &[NodeId], scores: &mut [i64]) {
        let mut disliked = PerTaintSet::new(|taints| {
            let soft = taints.iter().filter(|taint| taint.effect == Effect::PreferNoSchedule);
            soft.filter(|taint| !shape.tolerates(taint)).count() as i64
        });
        for (node, score) in nodes.iter().zip(scores) {
            *score = disliked.of(snapshot, *node);
        }
    }

    fn normalize(&self) -> Normalize {
        Normalize::ByGreatestReversed
    }

    fn hint(&self, _view: View<'_>, pod: &Waiting<'_>, event: &Event) -> bool {
        let repelled = |taints: &[Taint]| pod.class.shape.0.is_repelled(taints);
        match event {
            Event::NodeAdded(node) => !repelled(&node.taints),
            Event::NodeUpdated { old, new } => repelled(&old.taints) && !repelled(&new.taints),
            Event::PodUpdated { new, .. } => &*new.uid == pod.uid,
            _ => false,
        }
    }
}

/// A function of a node's taints, computed once for nodes that share them.
struct PerTaintSet<T, F> {
    compute: F,
    last: Option<(u64, T)>,
    known: Vec<(u64, T)>,
}

impl<T: Copy + Default, F: Fn(&[Taint]) -> T> PerTaintSet<T, F> {
    fn new(compute: F) -> Self {
        Self { compute, last: None, known: Vec::new() }
    }

    fn of(&mut self, snapshot: &Snapshot, node: NodeId) -> T {
        let Some(set) = &snapshot.columns.taints[node.index()] else {
            return T::default();
        };
        if let Some((id, value)) = self.last
            && id == set.id
        {
            return value;
        }
        let value = match self.known.iter().find(|(id, _)| *id == set.id) {
            Some((_, value)) => *value,
            None => {
                let value = (self.compute)(set);
                self.known.push((set.id, value));
                value
            }
        };
        self.last = Some((set.id, value));
        value
    }
}
