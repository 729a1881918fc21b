//! The domains that one constraint makes of the nodes, and how many matching
//! pods each has. Valid until a node changes.

use std::collections::{HashMap, HashSet};

use crate::bits::NodeSet;
use crate::intern::Symbol;
use crate::plugin::View;
use crate::pod::{ClassFacts, SpreadConstraint};
use crate::snapshot::NodeId;

/// Mark of a node without the label.
const NO_DOMAIN: u32 = u32::MAX;

/// Domains and counts.
#[derive(Clone, Debug)]
pub(super) struct Domains {
    /// What makes them.
    pub(super) constraint: SpreadConstraint,
    /// Domain of each row.
    of_row: Vec<u32>,
    /// Nodes whose pods count.
    counted: NodeSet,
    /// Matching pods on counted nodes; none for a domain without such a node.
    counts: Vec<Option<i64>>,
    /// Matching pods on each node, counted or not.
    on_node: HashMap<NodeId, i64>,
    least: i64,
}

impl Domains {
    /// `required`: labels that a node must have for its pods to count.
    pub(super) fn new(view: View<'_>, class: &ClassFacts, constraint: SpreadConstraint, required: &[String]) -> Self {
        let snapshot = view.snapshot;
        let key = snapshot.strings.find(&constraint.topology_key);
        let required: Vec<Symbol> = required.iter().map(|key| snapshot.strings.find(key)).collect();
        let mut numbers: HashMap<Symbol, u32> = HashMap::new();
        let mut domains = Self {
            of_row: vec![NO_DOMAIN; snapshot.rows()],
            counted: NodeSet::default(),
            counts: Vec::new(),
            on_node: HashMap::new(),
            least: 0,
            constraint,
        };
        let shape = &class.shape.0;
        for node in snapshot.node_ids() {
            let value = snapshot.label(node, key);
            let Some(facts) = snapshot.facts(node).filter(|_| value != Symbol::NONE) else { continue };
            let domain = *numbers.entry(value).or_insert_with(|| {
                domains.counts.push(None);
                (domains.counts.len() - 1) as u32
            });
            domains.of_row[node.index()] = domain;
            let complete = required.iter().all(|key| snapshot.label(node, *key) != Symbol::NONE);
            let admitted = !domains.constraint.honor_affinity
                || shape.selection.is_everything()
                || shape.selection.matches(&facts.name, &facts.labels);
            let tolerated = !domains.constraint.honor_taints || !shape.is_repelled(&facts.taints);
            if complete && admitted && tolerated {
                domains.counted.set(node.index(), true);
                domains.counts[domain as usize].get_or_insert(0);
            }
        }
        for placement in snapshot.placements() {
            if !domains.selects(class, &placement.class) {
                continue;
            }
            for (node, count) in placement.nodes.iter().filter(|(node, _)| snapshot.nodes().contains(node.index())) {
                domains.shift(*node, i64::from(*count));
            }
        }
        domains.find_least();
        domains
    }

    /// A selector of everything counts nothing, as upstream has it.
    fn selects(&self, class: &ClassFacts, other: &ClassFacts) -> bool {
        !other.terminating
            && other.namespace == class.namespace
            && !self.constraint.selector.is_everything()
            && self.constraint.selector.matches(&*other.labels)
    }

    fn shift(&mut self, node: NodeId, by: i64) {
        *self.on_node.entry(node).or_default() += by;
        let domain = self.of_row.get(node.index()).copied().unwrap_or(NO_DOMAIN);
        if domain != NO_DOMAIN
            && self.counted.contains(node.index())
            && let Some(count) = &mut self.counts[domain as usize]
        {
            *count += by;
        }
    }

    fn find_least(&mut self) {
        let counts = || self.counts.iter().flatten();
        let enough = counts().count() >= usize::try_from(self.constraint.min_domains).unwrap_or(0);
        self.least = if enough { counts().min().copied().unwrap_or(i64::from(i32::MAX)) } else { 0 };
    }

    /// A pod came to a node (`by` 1) or left it (-1).
    pub(super) fn pod_changed(&mut self, class: &ClassFacts, other: &ClassFacts, node: NodeId, by: i64) {
        if self.selects(class, other) {
            self.shift(node, by);
            self.find_least();
        }
    }

    /// Matching pods in a node's domain; none if the node lacks the label.
    pub(super) fn count_at(&self, node: NodeId) -> Option<i64> {
        let domain = self.of_row.get(node.index()).copied().filter(|domain| *domain != NO_DOMAIN)?;
        Some(self.counts[domain as usize].unwrap_or(0))
    }

    /// Matching pods on the node itself; none if it lacks the label.
    pub(super) fn count_on(&self, node: NodeId) -> Option<i64> {
        self.count_at(node)?;
        Some(self.on_node.get(&node).copied().unwrap_or(0))
    }

    /// The count of the domain with the fewest, 0 if there are too few domains.
    pub(super) fn least(&self) -> i64 {
        self.least
    }

    /// Domains among these nodes; nodes without the label make one together.
    pub(super) fn distinct(&self, nodes: impl Iterator<Item = NodeId>) -> usize {
        let domains: HashSet<u32> = nodes.map(|node| self.of_row[node.index()]).collect();
        domains.len()
    }
}
