//! Results of the row rules per shape: for each node whether it does and what
//! it scores. Kept for the shapes used last and brought up to date by the log.

use std::collections::HashMap;
use std::sync::Arc;

use crate::plugin::{Normalize, Rejection, Sieve};
use crate::plugins::Registry;
use crate::pod::Shape;
use crate::snapshot::{Change, NodeId, Snapshot};
use crate::table::Entry;

/// Shapes kept. A cluster deploys few at a time; each costs 10 to 14 bytes a node.
const KEPT_SHAPES: usize = 64;
/// Code of a row without a node.
const ABSENT: u16 = u16::MAX;
/// Code of a row that does.
const FITS: u16 = u16::MAX - 1;
/// With so many different rejections the table is made anew.
const MAX_REJECTIONS: usize = FITS as usize;

/// Rows of the shapes used last.
#[derive(Debug, Default)]
pub(super) struct RowCache {
    shapes: HashMap<u64, Rows>,
    uses: u64,
}

/// Rows of one shape.
#[derive(Debug)]
pub(super) struct Rows {
    seen: u64,
    used: u64,
    codes: Vec<u16>,
    rejections: Vec<(usize, Arc<Rejection>)>,
    plain: Vec<i32>,
    normalized: Vec<Normalized>,
}

#[derive(Debug)]
struct Normalized {
    plugin: usize,
    normalize: Normalize,
    weight: i64,
    raw: Vec<i32>,
}

impl RowCache {
    /// Brings the rows of a shape up to date.
    pub(super) fn refresh(&mut self, registry: &Registry, snapshot: &Snapshot, shape: &Arc<Entry<Shape>>) {
        self.uses += 1;
        if !self.shapes.contains_key(&shape.id) && self.shapes.len() == KEPT_SHAPES {
            let oldest = self.shapes.iter().min_by_key(|(_, rows)| rows.used).map(|(id, _)| *id);
            if let Some(oldest) = oldest {
                self.shapes.remove(&oldest);
            }
        }
        let rows = self.shapes.entry(shape.id).or_insert_with(|| Rows::new(registry, shape));
        rows.used = self.uses;
        rows.catch_up(registry, snapshot, shape);
    }

    /// The rows that the last refresh brought up to date.
    pub(super) fn get(&self, shape: &Arc<Entry<Shape>>) -> &Rows {
        self.shapes.get(&shape.id).expect("refresh comes before get within one decision")
    }
}

impl Rows {
    fn new(registry: &Registry, shape: &Shape) -> Self {
        let rules = registry.plugins.iter().enumerate().filter(|(_, rule)| rule.plugin.scores(shape));
        let normalized = rules
            .filter(|(_, rule)| rule.plugin.normalize() != Normalize::No)
            .map(|(plugin, rule)| Normalized {
                plugin,
                normalize: rule.plugin.normalize(),
                weight: rule.weight,
                raw: Vec::new(),
            })
            .collect();
        Self { seen: 0, used: 0, codes: Vec::new(), rejections: Vec::new(), plain: Vec::new(), normalized }
    }

    fn catch_up(&mut self, registry: &Registry, snapshot: &Snapshot, shape: &Shape) {
        let end = snapshot.log.end();
        if self.seen == end && self.codes.len() == snapshot.rows() {
            return;
        }
        let fresh = self.codes.is_empty() || self.rejections.len() >= MAX_REJECTIONS / 2;
        let log = if fresh { None } else { snapshot.log.since(self.seen) };
        let images_matter = || {
            registry.plugins.iter().any(|rule| rule.plugin.depends_on_images() && rule.plugin.scores(shape))
                && shape.images.iter().any(|name| snapshot.image(name).is_some())
        };
        let mut all = false;
        let mut changed: Vec<NodeId> = Vec::new();
        match log {
            None => all = true,
            Some(log) => {
                for change in log {
                    match change {
                        Change::Node(node) | Change::Pod { node, .. } => changed.push(*node),
                        Change::Images => all |= images_matter() || self.had_images(),
                    }
                }
            }
        }
        self.codes.resize(snapshot.rows(), ABSENT);
        self.plain.resize(snapshot.rows(), 0);
        for column in &mut self.normalized {
            column.raw.resize(snapshot.rows(), 0);
        }
        if all {
            self.rejections.clear();
            self.codes.fill(ABSENT);
            changed = snapshot.node_ids().collect();
        } else {
            changed.sort_unstable();
            changed.dedup();
            changed.retain(|node| {
                let present = snapshot.nodes().contains(node.index());
                if !present {
                    self.codes[node.index()] = ABSENT;
                }
                present
            });
        }
        self.compute(registry, snapshot, shape, changed);
        self.seen = end;
    }

    /// An image that was on a node may be on none now; the scores still hold it.
    fn had_images(&self) -> bool {
        self.plain.iter().any(|score| *score != 0)
    }

    fn compute(&mut self, registry: &Registry, snapshot: &Snapshot, shape: &Shape, nodes: Vec<NodeId>) {
        for node in &nodes {
            self.codes[node.index()] = FITS;
        }
        let mut feasible = nodes;
        for (plugin, rule) in registry.plugins.iter().enumerate() {
            if feasible.is_empty() {
                return;
            }
            if rule.plugin.filters(shape) {
                let (codes, rejections) = (&mut self.codes, &mut self.rejections);
                let mut reject = |node: NodeId, rejection: Rejection| {
                    let known = rejections.iter().position(|(by, known)| *by == plugin && **known == rejection);
                    let code = known.unwrap_or_else(|| {
                        rejections.push((plugin, Arc::new(rejection)));
                        rejections.len() - 1
                    });
                    codes[node.index()] = code.min(MAX_REJECTIONS - 1) as u16;
                };
                let mut sieve = Sieve::new(feasible, &mut reject);
                rule.plugin.filter(snapshot, shape, &mut sieve);
                feasible = sieve.into_nodes();
            }
        }
        self.score(registry, snapshot, shape, &feasible);
    }

    fn score(&mut self, registry: &Registry, snapshot: &Snapshot, shape: &Shape, nodes: &[NodeId]) {
        for node in nodes {
            self.plain[node.index()] = 0;
        }
        let mut scores = vec![0; nodes.len()];
        for (plugin, rule) in registry.plugins.iter().enumerate() {
            if !rule.plugin.scores(shape) {
                continue;
            }
            scores.fill(0);
            rule.plugin.score(snapshot, shape, nodes, &mut scores);
            match self.normalized.iter_mut().find(|column| column.plugin == plugin) {
                Some(column) => {
                    for (node, score) in nodes.iter().zip(&scores) {
                        column.raw[node.index()] = *score as i32;
                    }
                }
                None => {
                    for (node, score) in nodes.iter().zip(&scores) {
                        self.plain[node.index()] += (rule.weight * score) as i32;
                    }
                }
            }
        }
    }

    /// Feasible nodes into `feasible`, the others with the number of their
    /// rejection into `rejected`.
    pub(super) fn split(&self, feasible: &mut Vec<NodeId>, mut rejected: impl FnMut(NodeId, u16)) {
        for (row, &code) in self.codes.iter().enumerate() {
            match code {
                FITS => feasible.push(NodeId(row as u32)),
                ABSENT => {}
                code => rejected(NodeId(row as u32), code),
            }
        }
    }

    /// Number of the rejection of an existing node; none if it does.
    pub(super) fn rejection(&self, node: NodeId) -> Option<u16> {
        Some(self.codes[node.index()]).filter(|code| *code != FITS)
    }

    /// The rule and the rejection behind a number.
    pub(super) fn explain(&self, code: u16) -> &(usize, Arc<Rejection>) {
        &self.rejections[usize::from(code)]
    }

    /// Weighted sum of the scores that need no other node.
    pub(super) fn plain(&self, node: NodeId) -> i64 {
        i64::from(self.plain[node.index()])
    }

    /// Raw scores that are normalised over the feasible nodes, with weights.
    pub(super) fn normalized(&self) -> impl Iterator<Item = (Normalize, i64, &[i32])> + '_ {
        self.normalized.iter().map(|column| (column.normalize, column.weight, column.raw.as_slice()))
    }
}

/// The first row rule that rejects one node as its columns are now.
pub(super) fn check_row(
    registry: &Registry,
    snapshot: &Snapshot,
    shape: &Shape,
    node: NodeId,
) -> Option<(usize, Rejection)> {
    for (plugin, rule) in registry.plugins.iter().enumerate() {
        if rule.plugin.filters(shape) {
            let mut found = None;
            let mut reject = |_: NodeId, rejection: Rejection| found = Some(rejection);
            let mut sieve = Sieve::new(vec![node], &mut reject);
            rule.plugin.filter(snapshot, shape, &mut sieve);
            if let Some(rejection) = found {
                return Some((plugin, rejection));
            }
        }
    }
    None
}
