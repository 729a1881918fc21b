//! DefaultPreemption: when no node does, finds the one where removing less
//! important pods makes room at the least cost. It chooses; deleting them is
//! the run loop's work.

use std::cmp::Reverse;
use std::sync::Arc;

use crate::evaluate::{Candidate, Diagnosis, Evaluator, Lives, World};
use crate::objects::Objects;
use crate::plugin::{Plugin, Rejection};
use crate::snapshot::{NodeId, PodRow, Snapshot};

/// At least so many nodes with victims are compared, if there are as many.
const MIN_CANDIDATES: usize = 100;
/// And at least this part of the nodes, in percent.
const MIN_CANDIDATES_PERCENT: usize = 10;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct DefaultPreemption;

impl Plugin for DefaultPreemption {
    fn name(&self) -> &'static str {
        "DefaultPreemption"
    }
}

/// What can be done for a pod that no node fits.
#[derive(Debug)]
pub enum Preemption {
    /// The pod may not preempt, for this reason; its nomination stays.
    NotEligible(&'static str),
    /// It would not help, for this reason; a nomination is void.
    Useless(String),
    /// These pods go, and the pod is nominated for their node.
    Chosen(Victims),
}

/// Pods that make room, and where.
#[derive(Debug)]
pub struct Victims {
    /// The node.
    pub node: NodeId,
    /// At least one, the most important first.
    pub pods: Vec<PodRow>,
    /// How many of them a disruption budget protects.
    pub violations: usize,
}

/// Chooses the victims for a pod that `diagnosis` speaks of.
pub fn preempt(evaluator: &mut Evaluator, world: &mut World<'_>, pod: &Candidate, diagnosis: &Diagnosis) -> Preemption {
    if let Some(reason) = ineligible(world.snapshot, pod, diagnosis) {
        return Preemption::NotEligible(reason);
    }
    let nodes = diagnosis.resolvable(world.snapshot);
    let mut failures = Diagnosis {
        node_count: diagnosis.node_count,
        absent: Some(Rejection::unresolvable("Preemption is not helpful for scheduling")),
        ..Diagnosis::default()
    };
    let wanted = (nodes.len() * MIN_CANDIDATES_PERCENT / 100).max(MIN_CANDIDATES);
    let mut found: Vec<Victims> = Vec::new();
    let lives = evaluator.lives_for(world.snapshot, world.objects, &pod.class).unwrap_or_default();
    for node in nodes {
        let mut trial = Trial { evaluator, world: &mut *world, pod, lives: lives.clone(), node };
        match trial.select_victims() {
            Ok(victims) => {
                found.push(victims);
                if found.len() >= wanted && found.iter().any(|victims| victims.violations == 0) {
                    break;
                }
            }
            Err(rejection) => failures.rejections.push((node, Arc::new(rejection))),
        }
    }
    match found.into_iter().min_by_key(cost) {
        Some(victims) => Preemption::Chosen(victims),
        None => Preemption::Useless(failures.message()),
    }
}

fn ineligible(snapshot: &Snapshot, pod: &Candidate, diagnosis: &Diagnosis) -> Option<&'static str> {
    if pod.class.never_preempts {
        return Some("not eligible due to preemptionPolicy=Never.");
    }
    let node = snapshot.node(pod.nominated.as_deref()?)?;
    if diagnosis.of_node(node).or(diagnosis.refused.as_ref()).is_none_or(|rejection| rejection.unresolvable) {
        return None;
    }
    let mut pods = snapshot.columns.pods[node.index()].iter().map(|id| snapshot.pod(*id));
    pods.any(|other| other.preempted && other.class.priority < pod.class.priority)
        .then_some("not eligible due to a terminating pod on the nominated node.")
}

/// Upstream's order of candidates: fewest protected pods, least greatest
/// priority, least sum of priorities, fewest pods, latest start.
fn cost(victims: &Victims) -> (usize, i32, i64, usize, Reverse<i64>) {
    let pods = &victims.pods;
    let greatest = pods.iter().map(|pod| pod.class.priority).max().unwrap_or(i32::MIN);
    let sum = pods.iter().map(|pod| i64::from(pod.class.priority) + i64::from(i32::MAX) + 1).sum();
    let important = pods.iter().filter(|pod| pod.class.priority == greatest);
    let start = important.map(|pod| pod.start.unwrap_or(i64::MAX)).min().unwrap_or(i64::MAX);
    (victims.violations, greatest, sum, pods.len(), Reverse(start))
}

struct Trial<'a, 'w> {
    evaluator: &'a Evaluator,
    world: &'a mut World<'w>,
    pod: &'a Candidate,
    lives: Lives,
    node: NodeId,
}

impl Trial<'_, '_> {
    /// Takes all less important pods off, then lets as many as possible stay,
    /// protected ones and then important ones first. The snapshot is as before
    /// when it returns.
    fn select_victims(&mut self) -> Result<Victims, Rejection> {
        let mut potential: Vec<PodRow> = self.world.snapshot.columns.pods[self.node.index()]
            .iter()
            .map(|id| self.world.snapshot.pod(*id))
            .filter(|other| other.class.priority < self.pod.class.priority)
            .cloned()
            .collect();
        if potential.is_empty() {
            return Err(Rejection::unresolvable("No preemption victims found for incoming pod"));
        }
        for other in &potential {
            self.shift(other, false);
        }
        if let Err(rejection) = self.fits() {
            for other in &potential {
                self.shift(other, true);
            }
            return Err(rejection);
        }
        potential.sort_by_key(importance);
        let (protected, free) = split_by_budgets(potential, self.world.objects);
        let protected_count = protected.len();
        let mut violations = 0;
        let mut pods = Vec::new();
        for (index, other) in protected.into_iter().chain(free).enumerate() {
            self.shift(&other, true);
            if self.fits().is_err() {
                self.shift(&other, false);
                violations += usize::from(index < protected_count);
                pods.push(other);
            }
        }
        for other in &pods {
            self.shift(other, true);
        }
        pods.sort_by_key(importance);
        if pods.is_empty() {
            return Err(Rejection::unresolvable("No preemption victims found for incoming pod"));
        }
        Ok(Victims { node: self.node, pods, violations })
    }

    fn fits(&mut self) -> Result<(), Rejection> {
        let result = self.evaluator.trial(self.world, self.pod, &self.lives, self.node);
        result.map_err(|(_, rejection)| rejection)
    }

    fn shift(&mut self, other: &PodRow, added: bool) {
        self.world.snapshot.shift(&other.class, &other.usage, self.node, if added { 1 } else { -1 });
        let view = self.world.view();
        self.lives.pod_changed(view, &self.pod.class, &other.class, self.node, added);
    }
}

/// Greater priority first, then the longer running.
fn importance(pod: &PodRow) -> (Reverse<i32>, i64) {
    (Reverse(pod.class.priority), pod.start.unwrap_or(i64::MAX))
}

/// Pods whose removal a disruption budget forbids, and the others; each budget
/// is used up in the given order.
fn split_by_budgets(pods: Vec<PodRow>, objects: &Objects) -> (Vec<PodRow>, Vec<PodRow>) {
    let mut budgets: Vec<_> =
        objects.budgets().map(|(namespace, budget)| (namespace, budget, budget.allowed)).collect();
    pods.into_iter().partition(|pod| {
        let mut violated = false;
        if pod.class.labels.is_empty() {
            return false;
        }
        for (namespace, budget, allowed) in &mut budgets {
            let covers = **namespace == *pod.key.namespace
                && !budget.selector.is_empty()
                && budget.selector.matches(&*pod.class.labels);
            if covers && !budget.disrupted.iter().any(|name| **name == *pod.key.name) {
                *allowed -= 1;
                violated |= *allowed < 0;
            }
        }
        violated
    })
}
