//! NodeAffinity: node selectors and node affinity, required and preferred.

use std::sync::Arc;

use api::node_selector::{NodeOperator, NodeRequirement, NodeTerm};

use crate::event::Event;
use crate::intern::Symbol;
use crate::node::NodeFacts;
use crate::plugin::{Normalize, Plugin, Rejection, Restriction, Sieve, View, Waiting};
use crate::pod::{ClassFacts, Shape};
use crate::snapshot::{NodeId, Snapshot};

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct NodeAffinity;

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    /// Terms that all name their nodes leave no other node to look at.
    fn restrict(&self, _view: View<'_>, class: &ClassFacts) -> Restriction {
        let Some(terms) = &class.shape.0.selection.terms else {
            return Restriction::All;
        };
        let mut names: Vec<Arc<str>> = Vec::new();
        for term in terms {
            let mut lists = term.names.iter().filter(|requirement| requirement.operator == NodeOperator::In);
            let Some(first) = lists.next() else {
                return Restriction::All;
            };
            let mut of_term: Vec<&String> = first.values.iter().collect();
            for list in lists {
                of_term.retain(|name| list.values.contains(name));
            }
            names.extend(of_term.into_iter().map(|name| Arc::from(name.as_str())));
        }
        names.sort_unstable();
        names.dedup();
        match (terms.is_empty(), names.is_empty()) {
            (true, _) => Restriction::All,
            (false, true) => Restriction::Reject(Rejection::unresolvable("pod affinity terms conflict")),
            (false, false) => Restriction::Names(names),
        }
    }

    fn filters(&self, shape: &Shape) -> bool {
        !shape.selection.is_everything()
    }

    fn filter(&self, snapshot: &Snapshot, shape: &Shape, sieve: &mut Sieve<'_>) {
        let pairs: Vec<(Symbol, Symbol)> = shape
            .selection
            .pairs
            .iter()
            .map(|(key, value)| (snapshot.strings.find(key), snapshot.strings.find(value)))
            .collect();
        let terms: Option<Vec<CompiledTerm<'_>>> = shape
            .selection
            .terms
            .as_ref()
            .map(|terms| terms.iter().map(|term| CompiledTerm::new(snapshot, term)).collect());
        sieve.keep(|node| {
            let paired = pairs.iter().all(|&(key, value)| value != Symbol::NONE && snapshot.label(node, key) == value);
            let fits =
                paired && terms.as_ref().is_none_or(|terms| terms.iter().any(|term| term.matches(snapshot, node)));
            (!fits).then(|| Rejection::unresolvable("node(s) didn't match Pod's node affinity/selector"))
        });
    }

    fn scores(&self, shape: &Shape) -> bool {
        !shape.preferred.is_empty()
    }

    fn score(&self, snapshot: &Snapshot, shape: &Shape, nodes: &[NodeId], scores: &mut [i64]) {
        let terms: Vec<_> = shape
            .preferred
            .iter()
            .map(|(weight, term)| (i64::from(*weight), CompiledTerm::new(snapshot, term)))
            .collect();
        for (node, score) in nodes.iter().zip(scores) {
            let matching = terms.iter().filter(|(_, term)| term.matches(snapshot, *node));
            *score = matching.map(|(weight, _)| weight).sum();
        }
    }

    fn normalize(&self) -> Normalize {
        Normalize::ByGreatest
    }

    fn hint(&self, _view: View<'_>, pod: &Waiting<'_>, event: &Event) -> bool {
        let selection = &pod.class.shape.0.selection;
        let fits = |node: &NodeFacts| selection.matches(&node.name, &node.labels);
        event.node().is_some_and(|(old, new)| fits(new) && !old.is_some_and(fits))
    }
}

/// A term with its keys and values looked up once for many nodes.
struct CompiledTerm<'a> {
    valid: bool,
    labels: Vec<(Symbol, Vec<Symbol>, &'a NodeRequirement)>,
    names: &'a [NodeRequirement],
}

impl<'a> CompiledTerm<'a> {
    fn new(snapshot: &Snapshot, term: &'a NodeTerm) -> Self {
        let find = |text: &String| snapshot.strings.find(text);
        let labels = term.labels.iter();
        Self {
            valid: term.valid,
            labels: labels
                .map(|requirement| (find(&requirement.key), requirement.values.iter().map(find).collect(), requirement))
                .collect(),
            names: &term.names,
        }
    }

    fn matches(&self, snapshot: &Snapshot, node: NodeId) -> bool {
        self.valid
            && self.labels.iter().all(|(key, values, requirement)| {
                let value = snapshot.label(node, *key);
                let present = value != Symbol::NONE;
                match requirement.operator {
                    NodeOperator::In => present && values.contains(&value),
                    NodeOperator::NotIn => !present || !values.contains(&value),
                    NodeOperator::Exists => present,
                    NodeOperator::DoesNotExist => !present,
                    NodeOperator::Gt(_) | NodeOperator::Lt(_) => {
                        requirement.matches(present.then(|| snapshot.strings.text(value)))
                    }
                }
            })
            && self.names.iter().all(|requirement| requirement.matches(Some(&snapshot.columns.name[node.index()])))
    }
}
