//! What a scheduling rule may do. Each rule is a file under `plugins` that
//! implements [`Plugin`]; the order and weights of all rules are one table
//! there. Nothing here knows a particular rule.

use std::borrow::Cow;
use std::sync::Arc;

use crate::event::Event;
use crate::objects::Objects;
use crate::pod::{ClassFacts, Shape};
use crate::snapshot::{NodeId, Snapshot};

/// Best score of a node.
pub const MAX_SCORE: i64 = 100;

/// What rules may read.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// Nodes and pods on them.
    pub snapshot: &'a Snapshot,
    /// Other objects.
    pub objects: &'a Objects,
}

/// Why a node, or every node, does not do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rejection {
    /// Removing pods cannot change it (upstream's `UnschedulableAndUnresolvable`).
    pub unresolvable: bool,
    /// For people; each counts on its own.
    pub reasons: Vec<Cow<'static, str>>,
}

impl Rejection {
    /// One reason; removing pods may help.
    pub fn resolvable(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { unresolvable: false, reasons: vec![reason.into()] }
    }

    /// One reason; removing pods cannot help.
    pub fn unresolvable(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { unresolvable: true, reasons: vec![reason.into()] }
    }
}

/// The nodes that a pod can be on at all, known before any is looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Restriction {
    /// All.
    All,
    /// Only these, by name; the others are not looked at.
    Names(Vec<Arc<str>>),
    /// None.
    Reject(Rejection),
}

/// What becomes of raw scores before they are weighted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Normalize {
    /// They are within 0 to [`MAX_SCORE`].
    No,
    /// The greatest among the feasible nodes becomes [`MAX_SCORE`].
    ByGreatest,
    /// Likewise, then turned around.
    ByGreatestReversed,
}

/// Nodes still in the running, and the rejections of those that are not.
pub struct Sieve<'a> {
    nodes: Vec<NodeId>,
    reject: &'a mut dyn FnMut(NodeId, Rejection),
}

impl<'a> Sieve<'a> {
    /// Starts with these nodes; each rejected one is reported once.
    pub fn new(nodes: Vec<NodeId>, reject: &'a mut dyn FnMut(NodeId, Rejection)) -> Self {
        Self { nodes, reject }
    }

    /// Keeps the nodes for which `check` has no objection.
    pub fn keep(&mut self, mut check: impl FnMut(NodeId) -> Option<Rejection>) {
        self.nodes.retain(|&node| match check(node) {
            None => true,
            Some(rejection) => {
                (self.reject)(node, rejection);
                false
            }
        });
    }

    /// What is left.
    pub fn into_nodes(self) -> Vec<NodeId> {
        self.nodes
    }
}

/// A scheduling rule. All of it is pure: the same view gives the same answer.
///
/// A rule that looks at one node and the pod's [`Shape`] only is a *row* rule:
/// its results are kept per node and shape and made anew only for nodes that
/// changed. A rule that looks further keeps a [`Live`] state per class.
pub trait Plugin: Send + Sync + std::fmt::Debug {
    /// Upstream's name of it.
    fn name(&self) -> &'static str;

    /// Restricts the nodes by name (part of upstream's PreFilter).
    fn restrict(&self, _view: View<'_>, _class: &ClassFacts) -> Restriction {
        Restriction::All
    }

    /// True if [`Plugin::filter`] may reject a node for a pod of this shape.
    fn filters(&self, _shape: &Shape) -> bool {
        false
    }

    /// Row rule: drops nodes that do not do.
    fn filter(&self, _snapshot: &Snapshot, _shape: &Shape, _sieve: &mut Sieve<'_>) {}

    /// True if [`Plugin::score`] tells nodes apart for a pod of this shape.
    fn scores(&self, _shape: &Shape) -> bool {
        false
    }

    /// Row rule: raw scores of the nodes, in their order.
    fn score(&self, _snapshot: &Snapshot, _shape: &Shape, _nodes: &[NodeId], _scores: &mut [i64]) {}

    /// What becomes of the raw scores.
    fn normalize(&self) -> Normalize {
        Normalize::No
    }

    /// True if row scores depend on which images are on how many nodes.
    fn depends_on_images(&self) -> bool {
        false
    }

    /// State of a rule that looks beyond one node; none if it has nothing to
    /// say about pods of this class.
    fn live(&self, _view: View<'_>, _class: &ClassFacts) -> Result<Option<Box<dyn Live>>, Rejection> {
        Ok(None)
    }

    /// True if a pod of this class, once on a node, gives the rule something to
    /// say about classes that it has no state for.
    fn concerns(&self, _other: &ClassFacts) -> bool {
        false
    }

    /// True if the event may make a pod fit that this rule rejected.
    fn hint(&self, _view: View<'_>, _pod: &Waiting<'_>, _event: &Event) -> bool {
        false
    }
}

/// A pod that waits, as hints see it.
#[derive(Clone, Copy, Debug)]
pub struct Waiting<'a> {
    /// `metadata.uid`.
    pub uid: &'a str,
    /// Its class.
    pub class: &'a ClassFacts,
}

/// State of a rule for one class, kept up to date by events.
pub trait Live: Send + std::fmt::Debug {
    /// Objects to a node, given the view it was last updated to.
    fn filter(&self, view: View<'_>, class: &ClassFacts, node: NodeId) -> Option<Rejection>;

    /// A pod of class `other` came to a node or left it.
    fn pod_changed(&mut self, view: View<'_>, class: &ClassFacts, other: &ClassFacts, node: NodeId, added: bool);

    /// Scores of the feasible nodes from 0 to [`MAX_SCORE`]; false if it does
    /// not tell them apart.
    fn score(&self, _view: View<'_>, _class: &ClassFacts, _nodes: &[NodeId], _scores: &mut [i64]) -> bool {
        false
    }

    /// True if the state may be kept for the next pod of the class.
    fn is_lasting(&self) -> bool {
        true
    }

    /// A copy for a trial.
    fn copy(&self) -> Box<dyn Live>;
}
