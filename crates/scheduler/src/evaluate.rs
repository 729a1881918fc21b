//! The decision: which node a pod goes to, or why none does. A function of
//! view, pod, nominations and seed. Work is kept per shape (one row a node)
//! and per class, and catches up by the snapshot's log, so that equal pods
//! cost one row each instead of all of them.

mod lives;
mod rows;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::nominations::Nominations;
use crate::objects::Objects;
use crate::plugin::{MAX_SCORE, Normalize, Rejection, Restriction, View};
use crate::plugins::{PluginSet, Registry};
use crate::pod::Class;
use crate::snapshot::{NodeId, Snapshot};

use lives::LiveCache;
pub use lives::Lives;
use rows::RowCache;

/// A pod to decide about.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// `metadata.uid`.
    pub uid: Arc<str>,
    /// Its class.
    pub class: Class,
    /// `status.nominatedNodeName`, looked at first.
    pub nominated: Option<Arc<str>>,
}

/// What a decision reads. The snapshot is changed for trials and restored.
pub struct World<'a> {
    /// Nodes and pods on them.
    pub snapshot: &'a mut Snapshot,
    /// Other objects.
    pub objects: &'a Objects,
    /// Pods that others are making room for.
    pub nominations: &'a Nominations,
}

impl World<'_> {
    /// What rules may read.
    pub fn view(&self) -> View<'_> {
        View { snapshot: self.snapshot, objects: self.objects }
    }
}

/// Why no node does.
#[derive(Clone, Debug, Default)]
pub struct Diagnosis {
    /// Nodes that exist.
    pub node_count: usize,
    /// Each node that was looked at with its rejection.
    pub rejections: Vec<(NodeId, Arc<Rejection>)>,
    /// What the nodes that were not looked at get.
    pub absent: Option<Rejection>,
    /// A rule refused before any node was looked at.
    pub refused: Option<Rejection>,
    /// A refusal that ended the cycle before all rules were heard.
    pub aborted: bool,
    /// Rules that rejected something.
    pub plugins: PluginSet,
}

impl Diagnosis {
    /// Upstream's message, without the part about preemption.
    pub fn message(&self) -> String {
        let mut message = format!("0/{} nodes are available:", self.node_count);
        if let Some(refused) = &self.refused {
            message.push(' ');
            message.push_str(&refused.reasons.join(", "));
            message.push('.');
            return message;
        }
        let mut histogram: BTreeMap<&str, usize> = BTreeMap::new();
        for (_, rejection) in &self.rejections {
            for reason in &rejection.reasons {
                *histogram.entry(reason).or_default() += 1;
            }
        }
        let absent_count = self.node_count.saturating_sub(self.rejections.len());
        for reason in self.absent.iter().filter(|_| absent_count > 0).flat_map(|absent| &absent.reasons) {
            *histogram.entry(reason).or_default() += absent_count;
        }
        let mut parts: Vec<String> = histogram.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        parts.sort_unstable();
        if !parts.is_empty() {
            message.push(' ');
            message.push_str(&parts.join(", "));
            message.push('.');
        }
        message
    }

    /// Nodes where removing pods may help.
    pub fn resolvable(&self, snapshot: &Snapshot) -> Vec<NodeId> {
        match &self.refused {
            Some(refused) if refused.unresolvable => Vec::new(),
            Some(_) => snapshot.node_ids().collect(),
            None => {
                self.rejections.iter().filter(|(_, rejection)| !rejection.unresolvable).map(|(node, _)| *node).collect()
            }
        }
    }

    /// What this node was rejected for, if it was looked at.
    pub fn of_node(&self, node: NodeId) -> Option<&Rejection> {
        self.rejections.iter().find(|(other, _)| *other == node).map(|(_, rejection)| &**rejection)
    }
}

/// Decides. Keeps derived work between decisions.
#[derive(Debug)]
pub struct Evaluator {
    registry: Arc<Registry>,
    rows: RowCache,
    lives: LiveCache,
    random: Random,
    feasible: Vec<NodeId>,
    totals: Vec<i64>,
    scratch: Vec<i64>,
}

impl Evaluator {
    /// Ties are broken by a sequence that the seed starts.
    pub fn new(registry: Arc<Registry>, seed: u64) -> Self {
        Self {
            registry,
            rows: RowCache::default(),
            lives: LiveCache::default(),
            random: Random(seed),
            feasible: Vec::new(),
            totals: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// The rules.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// The node for a pod. The snapshot is as before when it returns.
    pub fn decide(&mut self, world: &mut World<'_>, pod: &Candidate) -> Result<NodeId, Diagnosis> {
        let node_count = world.snapshot.nodes().len();
        let mut diagnosis = Diagnosis { node_count, ..Diagnosis::default() };
        let restriction = self.restrict(world.view(), &pod.class, &mut diagnosis)?;
        let mut lives = match self.lives.take(&self.registry, world.view(), &pod.class) {
            Ok(lives) => lives,
            Err((plugin, rejection)) => {
                diagnosis.plugins.insert(plugin);
                diagnosis.aborted = rejection.unresolvable;
                diagnosis.refused = Some(rejection);
                return Err(diagnosis);
            }
        };
        let decided = self.decide_among(world, pod, &mut lives, restriction.as_deref(), &mut diagnosis);
        self.lives.give_back(&pod.class, lives);
        decided.ok_or(diagnosis)
    }

    /// Nodes by name, none for all.
    fn restrict(
        &self,
        view: View<'_>,
        class: &Class,
        diagnosis: &mut Diagnosis,
    ) -> Result<Option<Vec<Arc<str>>>, Diagnosis> {
        let mut names: Option<Vec<Arc<str>>> = None;
        let mut restricting = PluginSet::default();
        for (index, rule) in self.registry.plugins.iter().enumerate() {
            match rule.plugin.restrict(view, class) {
                Restriction::All => {}
                Restriction::Names(list) => {
                    restricting.insert(index);
                    names = Some(match names {
                        Some(names) => names.into_iter().filter(|name| list.contains(name)).collect(),
                        None => list,
                    });
                }
                Restriction::Reject(rejection) => {
                    diagnosis.plugins.insert(index);
                    diagnosis.aborted = true;
                    diagnosis.refused = Some(rejection);
                    return Err(std::mem::take(diagnosis));
                }
            }
        }
        if names.is_some() {
            let plugins = self.registry.names(restricting);
            diagnosis.plugins = restricting;
            if names.as_ref().is_some_and(Vec::is_empty) {
                let text = match plugins.as_slice() {
                    [one] => format!("node(s) didn't satisfy plugin {one}"),
                    all => format!("node(s) didn't satisfy plugin(s) [{}] simultaneously", all.join(" ")),
                };
                diagnosis.aborted = true;
                diagnosis.refused = Some(Rejection::unresolvable(text));
                return Err(std::mem::take(diagnosis));
            }
            diagnosis.absent =
                Some(Rejection::unresolvable(format!("node(s) didn't satisfy plugin(s) [{}]", plugins.join(" "))));
        }
        Ok(names)
    }

    fn decide_among(
        &mut self,
        world: &mut World<'_>,
        pod: &Candidate,
        lives: &mut Lives,
        names: Option<&[Arc<str>]>,
        diagnosis: &mut Diagnosis,
    ) -> Option<NodeId> {
        if let Some(node) = pod.nominated.as_ref().and_then(|name| world.snapshot.node(name))
            && self.trial(world, pod, lives, node).is_ok()
        {
            return Some(node);
        }
        self.rows.refresh(&self.registry, world.snapshot, &pod.class.shape.0);
        self.find_feasible(world, pod, lives, names, diagnosis);
        match self.feasible.as_slice() {
            [] => None,
            [one] => Some(*one),
            _ => {
                self.total(world.view(), pod, lives);
                Some(self.best())
            }
        }
    }

    fn find_feasible(
        &mut self,
        world: &mut World<'_>,
        pod: &Candidate,
        lives: &Lives,
        names: Option<&[Arc<str>]>,
        diagnosis: &mut Diagnosis,
    ) {
        let mut feasible = std::mem::take(&mut self.feasible);
        feasible.clear();
        let rows = self.rows.get(&pod.class.shape.0);
        let mut rejected: Vec<(NodeId, u16)> = Vec::new();
        match names {
            None => rows.split(&mut feasible, |node, rejection| rejected.push((node, rejection))),
            Some(names) => {
                for node in names.iter().filter_map(|name| world.snapshot.node(name)) {
                    match rows.rejection(node) {
                        None => feasible.push(node),
                        Some(rejection) => rejected.push((node, rejection)),
                    }
                }
            }
        }
        let mut late: Vec<(NodeId, Arc<Rejection>)> = Vec::new();
        if !lives.is_empty() {
            feasible.retain(|&node| match lives.filter(world.view(), &pod.class, node) {
                None => true,
                Some((plugin, rejection)) => {
                    diagnosis.plugins.insert(plugin);
                    late.push((node, share(&late, rejection)));
                    false
                }
            });
        }
        if !world.nominations.is_empty() {
            let mut kept = Vec::with_capacity(feasible.len());
            for &node in &feasible {
                let name = world.snapshot.columns.name[node.index()].clone();
                if world.nominations.yields_to(&name, &pod.uid, pod.class.priority).next().is_none() {
                    kept.push(node);
                    continue;
                }
                match self.trial(world, pod, lives, node) {
                    Ok(()) => kept.push(node),
                    Err((plugin, rejection)) => {
                        diagnosis.plugins.insert(plugin);
                        late.push((node, share(&late, rejection)));
                    }
                }
            }
            feasible = kept;
        }
        if feasible.is_empty() {
            let rows = self.rows.get(&pod.class.shape.0);
            for (node, rejection) in rejected {
                let (plugin, rejection) = rows.explain(rejection);
                diagnosis.plugins.insert(*plugin);
                diagnosis.rejections.push((node, rejection.clone()));
            }
            diagnosis.rejections.extend(late);
        }
        self.feasible = feasible;
    }

    /// Whether one node does, by the columns as they are now and as they would
    /// be with the nominated pods that this one must yield to.
    pub fn trial(
        &self,
        world: &mut World<'_>,
        pod: &Candidate,
        lives: &Lives,
        node: NodeId,
    ) -> Result<(), (usize, Rejection)> {
        let name = world.snapshot.columns.name[node.index()].clone();
        let yields: Vec<Class> = world.nominations.yields_to(&name, &pod.uid, pod.class.priority).cloned().collect();
        if !yields.is_empty() {
            let mut lives = lives.clone();
            for class in &yields {
                world.snapshot.shift(class, &class.shape.0.usage, node, 1);
                lives.pod_changed(world.view(), &pod.class, class, node, true);
            }
            let result = self.check(world.view(), pod, &lives, node);
            for class in &yields {
                world.snapshot.shift(class, &class.shape.0.usage, node, -1);
            }
            result?;
        }
        self.check(world.view(), pod, lives, node)
    }

    fn check(&self, view: View<'_>, pod: &Candidate, lives: &Lives, node: NodeId) -> Result<(), (usize, Rejection)> {
        if let Some(rejected) = rows::check_row(&self.registry, view.snapshot, &pod.class.shape.0, node) {
            return Err(rejected);
        }
        lives.filter(view, &pod.class, node).map_or(Ok(()), Err)
    }

    /// A copy of the state of the rules that look beyond one node, for trials;
    /// none if one of them refuses the pod.
    pub fn lives_for(&mut self, snapshot: &Snapshot, objects: &Objects, class: &Class) -> Option<Lives> {
        let lives = self.lives.take(&self.registry, View { snapshot, objects }, class).ok()?;
        let copy = lives.clone();
        self.lives.give_back(class, lives);
        Some(copy)
    }

    /// Weighted sums of the scores of the feasible nodes.
    fn total(&mut self, view: View<'_>, pod: &Candidate, lives: &Lives) {
        let rows = self.rows.get(&pod.class.shape.0);
        self.totals.clear();
        self.totals.extend(self.feasible.iter().map(|node| rows.plain(*node)));
        for (normalize, weight, column) in rows.normalized() {
            let greatest = i64::from(self.feasible.iter().map(|node| column[node.index()]).max().unwrap_or(0));
            if greatest == 0 {
                // Nothing to tell apart: every node gets the same.
                continue;
            }
            for (node, total) in self.feasible.iter().zip(&mut self.totals) {
                let score = MAX_SCORE * i64::from(column[node.index()]) / greatest;
                let score = if normalize == Normalize::ByGreatestReversed { MAX_SCORE - score } else { score };
                *total += weight * score;
            }
        }
        self.scratch.clear();
        self.scratch.resize(self.feasible.len(), 0);
        for (weight, live) in lives.scorers(&self.registry) {
            if live.score(view, &pod.class, &self.feasible, &mut self.scratch) {
                for (total, score) in self.totals.iter_mut().zip(&self.scratch) {
                    *total += weight * score;
                }
            }
        }
    }

    /// Feasible nodes of the last decision with their totals; none if there
    /// were fewer than two. For `what if` questions and for comparing.
    pub fn last_totals(&self) -> impl Iterator<Item = (NodeId, i64)> + '_ {
        let scored = if self.feasible.len() > 1 { self.totals.as_slice() } else { &[] };
        self.feasible.iter().copied().zip(scored.iter().copied())
    }

    /// One of the nodes with the best total, by chance.
    fn best(&mut self) -> NodeId {
        let best = self.totals.iter().copied().max().unwrap_or(0);
        let ties = self.totals.iter().filter(|total| **total == best).count();
        let chosen = self.random.below(ties);
        let mut tied = self.feasible.iter().zip(&self.totals).filter(|(_, total)| **total == best);
        *tied.nth(chosen).expect("the chosen number is below the number of ties").0
    }
}

/// Equal rejections of many nodes are kept once.
fn share(known: &[(NodeId, Arc<Rejection>)], rejection: Rejection) -> Arc<Rejection> {
    match known.last() {
        Some((_, last)) if **last == rejection => last.clone(),
        _ => Arc::new(rejection),
    }
}

/// SplitMix64: small, seeded, good enough to spread ties.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`, which is at least 1.
    fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }
}
