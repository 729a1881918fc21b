//! Nodes and the pods on them, in columns: what decisions read. Events change
//! it in place, it is never rebuilt; a log of the changes lets cached work
//! catch up. It knows nothing of pods that wait, and decides nothing.

mod changes;

pub use changes::{Change, ChangeLog};

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::bits::NodeSet;
use crate::intern::{Interner, Symbol};
use crate::node::{NodeFacts, Taint};
use crate::pod::{Class, HostPort, PodKey};
use crate::resources::{Resources, Usage};
use crate::table::{Entry, Table};

/// Number of a node's row. Rows of removed nodes are used again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct NodeId(pub u32);

impl NodeId {
    /// Position in a column.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Number of a pod's row. Rows of removed pods are used again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PodId(u32);

/// A pod on a node, bound or assumed.
#[derive(Clone, Debug)]
pub struct PodRow {
    /// Namespace and name.
    pub key: PodKey,
    /// `metadata.uid`.
    pub uid: Arc<str>,
    /// Its class.
    pub class: Class,
    /// What it takes; differs from its class's while it is resized.
    pub usage: Arc<Usage>,
    /// `status.startTime` in microseconds since 1970; none while not started.
    pub start: Option<i64>,
    /// Deleted because a more important pod needs its place.
    pub preempted: bool,
    /// Its node.
    pub node: NodeId,
}

/// A pod to be put on a node.
#[derive(Clone, Debug)]
pub struct PodFacts {
    /// Namespace and name.
    pub key: PodKey,
    /// `metadata.uid`.
    pub uid: Arc<str>,
    /// Its class.
    pub class: Class,
    /// What it takes.
    pub usage: Arc<Usage>,
    /// `status.startTime` in microseconds since 1970.
    pub start: Option<i64>,
    /// Deleted because a more important pod needs its place.
    pub preempted: bool,
}

/// Named scalar resource of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scalar {
    /// Interned name.
    pub name: Symbol,
    /// Offered.
    pub allocatable: i64,
    /// Taken.
    pub used: i64,
}

/// The columns. Index with [`NodeId::index`]; rows that are not present hold
/// zeros and whatever pods claim to be on a node that does not exist (yet).
#[derive(Debug, Default)]
pub struct Columns {
    /// Names.
    pub name: Vec<Arc<str>>,
    /// The node's facts; none if no such node exists.
    pub facts: Vec<Option<Arc<NodeFacts>>>,
    /// Labels as interned pairs, sorted.
    pub labels: Vec<Vec<(Symbol, Symbol)>>,
    /// Taints, shared among nodes that have the same.
    pub taints: Vec<Option<Arc<Entry<Vec<Taint>>>>>,
    /// Milli-CPU offered.
    pub allocatable_cpu: Vec<i64>,
    /// Bytes of memory offered.
    pub allocatable_memory: Vec<i64>,
    /// Bytes of ephemeral storage offered.
    pub allocatable_storage: Vec<i64>,
    /// Pods allowed.
    pub allocatable_pods: Vec<i64>,
    /// Milli-CPU asked for by the pods there.
    pub used_cpu: Vec<i64>,
    /// Bytes of memory asked for.
    pub used_memory: Vec<i64>,
    /// Bytes of ephemeral storage asked for.
    pub used_storage: Vec<i64>,
    /// Pods there.
    pub used_pods: Vec<i64>,
    /// Milli-CPU with defaults, for scoring.
    pub scored_cpu: Vec<i64>,
    /// Memory with defaults, for scoring.
    pub scored_memory: Vec<i64>,
    /// Other resources.
    pub scalars: Vec<Vec<Scalar>>,
    /// Ports taken, once for each taker.
    pub ports: Vec<Vec<HostPort>>,
    /// Images by interned name, with their size in bytes, sorted.
    pub images: Vec<Vec<(Symbol, i64)>>,
    /// Pods there, in no order.
    pub pods: Vec<Vec<PodId>>,
}

/// How often the pods of a class are on each node.
#[derive(Debug)]
pub struct Placement {
    /// The class.
    pub class: Class,
    /// Pods on each node.
    pub nodes: HashMap<NodeId, u32>,
}

/// An image that some node has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ImageState {
    /// Bytes, as the first node that had it said.
    pub size: i64,
    /// Nodes that have it.
    pub nodes: u32,
}

/// Nodes and pods. See the module's documentation.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Names, label keys and values, resources, images.
    pub strings: Interner,
    /// One entry per row.
    pub columns: Columns,
    /// What changed, for those who keep derived work.
    pub log: ChangeLog,
    present: NodeSet,
    unschedulable: NodeSet,
    by_name: HashMap<Arc<str>, NodeId>,
    free_nodes: Vec<NodeId>,
    taint_sets: Table<Vec<Taint>>,
    images: HashMap<Symbol, ImageState>,
    pods: Vec<Option<PodRow>>,
    free_pods: Vec<PodId>,
    by_uid: HashMap<Arc<str>, PodId>,
    placements: HashMap<u64, Placement>,
    affinity_classes: BTreeSet<u64>,
}

impl Snapshot {
    /// Rows, present or not: the length of every column.
    pub fn rows(&self) -> usize {
        self.columns.name.len()
    }

    /// Nodes that exist.
    pub fn nodes(&self) -> &NodeSet {
        &self.present
    }

    /// Cordoned nodes.
    pub fn unschedulable(&self) -> &NodeSet {
        &self.unschedulable
    }

    /// The nodes that exist, ascending.
    pub fn node_ids(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.present.iter().map(|index| NodeId(index as u32))
    }

    /// The existing node of this name.
    pub fn node(&self, name: &str) -> Option<NodeId> {
        self.by_name.get(name).copied().filter(|id| self.present.contains(id.index()))
    }

    /// Facts of an existing node.
    pub fn facts(&self, node: NodeId) -> Option<&Arc<NodeFacts>> {
        self.columns.facts[node.index()].as_ref()
    }

    /// Interned value of a node's label, [`Symbol::NONE`] if absent.
    pub fn label(&self, node: NodeId, key: Symbol) -> Symbol {
        let labels = &self.columns.labels[node.index()];
        labels.binary_search_by_key(&key, |(key, _)| *key).map_or(Symbol::NONE, |found| labels[found].1)
    }

    /// State of an image, by its name with tag.
    pub fn image(&self, name: &str) -> Option<(Symbol, ImageState)> {
        let symbol = self.strings.find(name);
        self.images.get(&symbol).map(|state| (symbol, *state))
    }

    /// A pod on a node.
    pub fn pod(&self, id: PodId) -> &PodRow {
        self.pods[id.0 as usize].as_ref().expect("ids are taken from columns, which hold live pods only")
    }

    /// A pod on a node by its uid.
    pub fn pod_by_uid(&self, uid: &str) -> Option<&PodRow> {
        self.by_uid.get(uid).map(|id| self.pod(*id))
    }

    /// Pods on nodes.
    pub fn pod_count(&self) -> usize {
        self.by_uid.len()
    }

    /// Where the pods of each class are.
    pub fn placements(&self) -> impl Iterator<Item = &Placement> + '_ {
        self.placements.values()
    }

    /// The classes among them whose pods have affinity or anti-affinity terms.
    pub fn affinity_placements(&self) -> impl Iterator<Item = &Placement> + '_ {
        self.affinity_classes.iter().filter_map(|id| self.placements.get(id))
    }

    /// Adds a node or takes its new state.
    pub fn apply_node(&mut self, facts: Arc<NodeFacts>) {
        let id = self.row_of(&facts.name);
        let row = id.index();
        if self.columns.facts[row].as_ref() == Some(&facts) {
            return;
        }
        let added = self.present.set(row, true);
        self.unschedulable.set(row, facts.unschedulable);
        self.replace_labels(row, &facts);
        let images_changed = self.replace_images(row, &facts);
        self.replace_scalars(row, &facts.allocatable.resources);
        let columns = &mut self.columns;
        columns.taints[row] = Some(self.taint_sets.intern(facts.taints.clone()));
        columns.allocatable_cpu[row] = facts.allocatable.resources.milli_cpu;
        columns.allocatable_memory[row] = facts.allocatable.resources.memory;
        columns.allocatable_storage[row] = facts.allocatable.resources.ephemeral_storage;
        columns.allocatable_pods[row] = facts.allocatable.pods;
        columns.facts[row] = Some(facts);
        self.log.push(Change::Node(id));
        if added || images_changed {
            self.log.push(Change::Images);
        }
    }

    /// Removes a node. Pods that claim to be there stay known.
    pub fn remove_node(&mut self, name: &str) {
        let Some(id) = self.node(name) else { return };
        let row = id.index();
        let empty = NodeFacts::default();
        self.present.set(row, false);
        self.unschedulable.set(row, false);
        self.replace_labels(row, &empty);
        self.replace_images(row, &empty);
        self.replace_scalars(row, &empty.allocatable.resources);
        let columns = &mut self.columns;
        columns.taints[row] = None;
        columns.allocatable_cpu[row] = 0;
        columns.allocatable_memory[row] = 0;
        columns.allocatable_storage[row] = 0;
        columns.allocatable_pods[row] = 0;
        columns.facts[row] = None;
        self.log.push(Change::Node(id));
        self.log.push(Change::Images);
        self.free_row_if_unused(id);
    }

    /// Puts a pod on a node (existing or not) or takes its new state.
    pub fn apply_pod(&mut self, pod: PodFacts, node_name: &str) {
        if let Some(&id) = self.by_uid.get(&pod.uid) {
            let row = self.pod(id);
            let same_place = self.columns.name[row.node.index()].as_ref() == node_name;
            if same_place && row.class.id == pod.class.id && row.usage == pod.usage {
                let row = self.pods[id.0 as usize].as_mut().expect("by_uid holds live pods only");
                row.start = pod.start;
                row.preempted = pod.preempted;
                return;
            }
            self.remove_pod(&pod.uid);
        }
        let node = self.row_of(node_name);
        self.shift(&pod.class, &pod.usage, node, 1);
        self.log.push(Change::Pod { class: pod.class.clone(), node, added: true });
        let id = self.free_pods.pop().unwrap_or_else(|| {
            self.pods.push(None);
            PodId((self.pods.len() - 1) as u32)
        });
        self.columns.pods[node.index()].push(id);
        self.by_uid.insert(pod.uid.clone(), id);
        let PodFacts { key, uid, class, usage, start, preempted } = pod;
        self.pods[id.0 as usize] = Some(PodRow { key, uid, class, usage, start, preempted, node });
    }

    /// Takes a pod off its node; what it was, if it was there.
    pub fn remove_pod(&mut self, uid: &str) -> Option<PodRow> {
        let id = self.by_uid.remove(uid)?;
        let row = self.pods[id.0 as usize].take()?;
        self.free_pods.push(id);
        self.columns.pods[row.node.index()].retain(|other| *other != id);
        self.shift(&row.class, &row.usage, row.node, -1);
        self.log.push(Change::Pod { class: row.class.clone(), node: row.node, added: false });
        self.free_row_if_unused(row.node);
        Some(row)
    }

    /// Adds what a pod takes to a node's columns, or takes it off (`sign` -1).
    /// For trials: neither the log nor the list of pods changes, so whoever
    /// calls it must undo it before the next event.
    pub fn shift(&mut self, class: &Class, usage: &Usage, node: NodeId, sign: i64) {
        let row = node.index();
        let columns = &mut self.columns;
        columns.used_cpu[row] += sign * usage.requests.milli_cpu;
        columns.used_memory[row] += sign * usage.requests.memory;
        columns.used_storage[row] += sign * usage.requests.ephemeral_storage;
        columns.used_pods[row] += sign;
        columns.scored_cpu[row] += sign * usage.scored_milli_cpu;
        columns.scored_memory[row] += sign * usage.scored_memory;
        for (name, amount) in &usage.requests.scalars {
            self.shift_scalar(row, name, sign * amount);
        }
        let ports = &mut self.columns.ports[row];
        for port in &class.shape.0.ports {
            if sign > 0 {
                ports.push(port.clone());
            } else if let Some(found) = ports.iter().position(|taken| taken == port) {
                ports.swap_remove(found);
            }
        }
        self.shift_placement(class, node, sign);
    }

    fn shift_scalar(&mut self, row: usize, name: &str, amount: i64) {
        let symbol = self.strings.find(name);
        let scalars = &mut self.columns.scalars[row];
        match scalars.iter().position(|scalar| scalar.name == symbol) {
            Some(found) => {
                scalars[found].used += amount;
                if scalars[found].used == 0 && scalars[found].allocatable == 0 {
                    scalars.swap_remove(found);
                    self.strings.release(symbol);
                }
            }
            None => {
                let name = self.strings.acquire(name);
                scalars.push(Scalar { name, allocatable: 0, used: amount });
            }
        }
    }

    fn shift_placement(&mut self, class: &Class, node: NodeId, sign: i64) {
        let placement = self
            .placements
            .entry(class.id)
            .or_insert_with(|| Placement { class: class.clone(), nodes: HashMap::new() });
        let count = placement.nodes.entry(node).or_default();
        *count = count.wrapping_add_signed(sign as i32);
        if *count == 0 {
            placement.nodes.remove(&node);
        }
        if placement.nodes.is_empty() {
            self.placements.remove(&class.id);
            self.affinity_classes.remove(&class.id);
        } else if class.affinity.is_some() {
            self.affinity_classes.insert(class.id);
        }
    }

    fn row_of(&mut self, name: &str) -> NodeId {
        if let Some(&id) = self.by_name.get(name) {
            return id;
        }
        let name: Arc<str> = name.into();
        let id = self.free_nodes.pop().unwrap_or_else(|| {
            self.columns.push_row();
            NodeId((self.rows() - 1) as u32)
        });
        self.columns.name[id.index()] = name.clone();
        self.by_name.insert(name, id);
        id
    }

    fn free_row_if_unused(&mut self, id: NodeId) {
        let row = id.index();
        if !self.present.contains(row) && self.columns.pods[row].is_empty() {
            let name = std::mem::replace(&mut self.columns.name[row], "".into());
            self.by_name.remove(&name);
            self.free_nodes.push(id);
        }
    }

    fn replace_labels(&mut self, row: usize, facts: &NodeFacts) {
        let mut labels: Vec<_> =
            facts.labels.iter().map(|(key, value)| (self.strings.acquire(key), self.strings.acquire(value))).collect();
        labels.sort_unstable();
        for (key, value) in std::mem::replace(&mut self.columns.labels[row], labels) {
            self.strings.release(key);
            self.strings.release(value);
        }
    }

    fn replace_scalars(&mut self, row: usize, resources: &Resources) {
        let mut scalars = std::mem::take(&mut self.columns.scalars[row]);
        for scalar in &mut scalars {
            scalar.allocatable = 0;
        }
        for (name, amount) in &resources.scalars {
            let symbol = self.strings.find(name);
            match scalars.iter_mut().find(|scalar| scalar.name == symbol) {
                Some(scalar) => scalar.allocatable = *amount,
                None => scalars.push(Scalar { name: self.strings.acquire(name), allocatable: *amount, used: 0 }),
            }
        }
        scalars.retain(|scalar| {
            let used = scalar.allocatable != 0 || scalar.used != 0;
            if !used {
                self.strings.release(scalar.name);
            }
            used
        });
        self.columns.scalars[row] = scalars;
    }

    fn replace_images(&mut self, row: usize, facts: &NodeFacts) -> bool {
        let mut images: Vec<(Symbol, i64)> =
            facts.images.iter().map(|(name, size)| (self.strings.acquire(name), *size)).collect();
        images.sort_unstable();
        let mut previous = Symbol::NONE;
        images.retain(|(name, _)| {
            let repeated = *name == previous;
            if repeated {
                self.strings.release(*name);
            }
            previous = *name;
            !repeated
        });
        let changed = self.columns.images[row] != images;
        for (name, size) in &images {
            self.images.entry(*name).or_insert(ImageState { size: *size, nodes: 0 }).nodes += 1;
        }
        for (name, _) in std::mem::replace(&mut self.columns.images[row], images) {
            if let Some(state) = self.images.get_mut(&name) {
                state.nodes -= 1;
                if state.nodes == 0 {
                    self.images.remove(&name);
                }
            }
            self.strings.release(name);
        }
        changed
    }
}

impl Columns {
    fn push_row(&mut self) {
        self.name.push("".into());
        self.facts.push(None);
        self.labels.push(Vec::new());
        self.taints.push(None);
        self.allocatable_cpu.push(0);
        self.allocatable_memory.push(0);
        self.allocatable_storage.push(0);
        self.allocatable_pods.push(0);
        self.used_cpu.push(0);
        self.used_memory.push(0);
        self.used_storage.push(0);
        self.used_pods.push(0);
        self.scored_cpu.push(0);
        self.scored_memory.push(0);
        self.scalars.push(Vec::new());
        self.ports.push(Vec::new());
        self.images.push(Vec::new());
        self.pods.push(Vec::new());
    }
}
