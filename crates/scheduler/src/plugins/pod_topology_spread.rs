//! PodTopologySpread: keeps the counts of matching pods in the domains of a
//! label (zones, nodes) close to each other. Pods of a service or workload
//! that state no constraint are spread a little by default.

mod domains;

use crate::event::{Event, EventPod};
use crate::node::NodeFacts;
use crate::objects::Workload;
use crate::plugin::{Live, MAX_SCORE, Plugin, Rejection, View, Waiting};
use crate::pod::{ClassFacts, SpreadConstraint};
use crate::snapshot::NodeId;

use api::selector::Selector;
use domains::Domains;

/// Label of a node's own name.
const HOSTNAME: &str = "kubernetes.io/hostname";
/// Label of a node's zone.
const ZONE: &str = "topology.kubernetes.io/zone";
/// Greatest wanted differences by default (upstream's system defaulting).
const DEFAULT_SKEWS: [(&str, i32); 2] = [(HOSTNAME, 3), (ZONE, 5)];

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct PodTopologySpread;

impl Plugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn live(&self, view: View<'_>, class: &ClassFacts) -> Result<Option<Box<dyn Live>>, Rejection> {
        let stated = !class.spread.is_empty();
        let constraints = if stated { class.spread.clone() } else { default_constraints(view, class) };
        let (hard, soft): (Vec<_>, Vec<_>) = constraints.into_iter().partition(|constraint| constraint.hard);
        if hard.is_empty() && soft.is_empty() {
            return Ok(None);
        }
        let build = |constraints: Vec<SpreadConstraint>, all_keys: bool| {
            let keys: Vec<String> = constraints.iter().map(|constraint| constraint.topology_key.clone()).collect();
            let required: &[String] = if all_keys { &keys } else { &[] };
            constraints.into_iter().map(|constraint| Domains::new(view, class, constraint, required)).collect()
        };
        Ok(Some(Box::new(Spread { hard: build(hard, true), soft: build(soft, stated), stated })))
    }

    fn hint(&self, _view: View<'_>, pod: &Waiting<'_>, event: &Event) -> bool {
        let hard = || pod.class.spread.iter().filter(|constraint| constraint.hard);
        let selects = |other: &ClassFacts| hard().any(|constraint| constraint.selector.matches(&*other.labels));
        let involved = |other: &EventPod| {
            *other.uid == *pod.uid || (other.has_place && other.class.namespace == pod.class.namespace)
        };
        match event {
            Event::PodAdded(other) | Event::PodDeleted(other) => involved(other) && selects(&other.class),
            Event::PodUpdated { old, new } if involved(new) => {
                let tolerates_more =
                    *new.uid == *pod.uid && old.class.shape.0.tolerations != new.class.shape.0.tolerations;
                let differs = |constraint: &SpreadConstraint| {
                    constraint.selector.matches(&*old.class.labels) != constraint.selector.matches(&*new.class.labels)
                };
                (tolerates_more && hard().any(|constraint| constraint.honor_taints)) || hard().any(differs)
            }
            Event::NodeAdded(node) | Event::NodeDeleted(node) => has_keys(node, hard()),
            Event::NodeUpdated { old, new } => {
                let matches = has_keys(new, hard());
                let moved = || {
                    hard().any(|constraint| {
                        old.labels.get(&constraint.topology_key) != new.labels.get(&constraint.topology_key)
                    })
                };
                matches != has_keys(old, hard()) || (matches && (moved() || old.taints != new.taints))
            }
            _ => false,
        }
    }
}

fn has_keys<'a>(node: &NodeFacts, mut constraints: impl Iterator<Item = &'a SpreadConstraint>) -> bool {
    constraints.all(|constraint| node.labels.contains_key(&constraint.topology_key))
}

/// What a pod's services and its controller select, softly spread.
fn default_constraints(view: View<'_>, class: &ClassFacts) -> Vec<SpreadConstraint> {
    let mut selector = Selector::everything();
    for labels in view.objects.services_of(&class.namespace, &class.labels) {
        selector.and(&Selector::from_map(labels));
    }
    let controller = class.owner.as_ref().and_then(|owner| {
        let kind = Workload::parse(&owner.api_version, &owner.kind)?;
        view.objects.workload(kind, &class.namespace, &owner.name)
    });
    if let Some(controller) = controller {
        selector.and(controller);
    }
    if selector.is_everything() {
        return Vec::new();
    }
    let constraint = |(key, skew): (&str, i32)| SpreadConstraint {
        max_skew: skew,
        topology_key: key.to_owned(),
        hard: false,
        selector: selector.clone(),
        min_domains: 1,
        honor_affinity: true,
        honor_taints: false,
    };
    DEFAULT_SKEWS.map(constraint).into()
}

/// Counts for one class.
#[derive(Clone, Debug)]
struct Spread {
    hard: Vec<Domains>,
    soft: Vec<Domains>,
    /// Stated by the pod: nodes must have every key to take part.
    stated: bool,
}

impl Live for Spread {
    fn filter(&self, _view: View<'_>, class: &ClassFacts, node: NodeId) -> Option<Rejection> {
        for domains in &self.hard {
            let Some(count) = domains.count_at(node) else {
                return Some(Rejection::unresolvable(
                    "node(s) didn't match pod topology spread constraints (missing required label)",
                ));
            };
            let itself = i64::from(domains.constraint.selector.matches(&*class.labels));
            if count + itself - domains.least() > i64::from(domains.constraint.max_skew) {
                return Some(Rejection::resolvable("node(s) didn't match pod topology spread constraints"));
            }
        }
        None
    }

    fn pod_changed(&mut self, _view: View<'_>, class: &ClassFacts, other: &ClassFacts, node: NodeId, added: bool) {
        for domains in self.hard.iter_mut().chain(&mut self.soft) {
            domains.pod_changed(class, other, node, if added { 1 } else { -1 });
        }
    }

    fn score(&self, _view: View<'_>, _class: &ClassFacts, nodes: &[NodeId], scores: &mut [i64]) -> bool {
        if self.soft.is_empty() {
            return false;
        }
        let ignored = |node: NodeId| self.stated && self.soft.iter().any(|domains| domains.count_at(node).is_none());
        let taking_part = nodes.iter().filter(|node| !ignored(**node)).count();
        let mut sums = vec![0.0_f64; nodes.len()];
        for domains in &self.soft {
            let by_node = domains.constraint.topology_key == HOSTNAME;
            let size = if by_node {
                taking_part
            } else {
                domains.distinct(nodes.iter().copied().filter(|node| !ignored(*node)))
            };
            let weight = ((size + 2) as f64).ln();
            let skew = f64::from(domains.constraint.max_skew - 1);
            for (node, sum) in nodes.iter().zip(&mut sums) {
                let count = if by_node { domains.count_on(*node) } else { domains.count_at(*node) };
                if let Some(count) = count {
                    *sum += count as f64 * weight + skew;
                }
            }
        }
        for (sum, score) in sums.iter().zip(scores.iter_mut()) {
            *score = sum.round() as i64;
        }
        let counted = || nodes.iter().zip(scores.iter()).filter(|(node, _)| !ignored(**node)).map(|(_, score)| *score);
        let greatest = counted().max().unwrap_or(0);
        let least = counted().min().unwrap_or(0);
        for (node, score) in nodes.iter().zip(scores.iter_mut()) {
            *score = match greatest {
                _ if ignored(*node) => 0,
                0 => MAX_SCORE,
                _ => MAX_SCORE * (greatest + least - *score) / greatest,
            };
        }
        true
    }

    fn copy(&self) -> Box<dyn Live> {
        Box::new(self.clone())
    }
}
